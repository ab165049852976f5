"""OCI layouts saved here, read by skopeo and umoci; exported tars, read by GNU tar.

Capabilities: peers (skopeo, umoci, GNU tar), root (owners and devices when unpacking).
"""

import json
import os
import shutil
import subprocess

import pytest

from tests.support.cli import Cli
from tests.support.trees import compare_trees, make_odd_tree

pytestmark = [pytest.mark.peers, pytest.mark.root]


def require(*tools: str) -> None:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("needs root: unpacking restores owners and devices")


def run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, check=False)
    assert done.returncode == 0, (command, done.stderr.decode())
    return done.stdout.decode()


@pytest.fixture
def odd(tmp_path):
    """A store with an image of everything odd, and the tree it came from."""
    require()
    tree = tmp_path / "tree"
    tree.mkdir()
    make_odd_tree(tree)
    # umoci takes an empty pax value for an absent one, and keeps GNU tar's %3D in names.
    for name in ("user.empty", "user.with=equals\nand newline"):
        os.removexattr(tree / "xattrs" / "user", name)
    cli = Cli(tmp_path / "store")
    cli.ok("import", tree, "-t", "odd:1", "-c", 'CMD ["sh"]', "-c", "HEALTHCHECK CMD true")
    return cli, tree


def config_of(cli: Cli) -> dict:
    return cli.ok("inspect", "odd:1").json()[0]


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_skopeo_reads_and_copies_a_layout(odd, tmp_path, compression):
    require("skopeo")
    cli, _ = odd
    cli.ok("save", "odd:1", "-o", tmp_path / "layout", "--compression", compression)
    told = json.loads(run("skopeo", "inspect", f"oci:{tmp_path}/layout:1"))
    assert (told["Os"], told["Architecture"]) == ("linux", config_of(cli)["Architecture"])
    # Copying makes skopeo check every digest, and that each layer has its diff ID.
    run("skopeo", "copy", f"oci:{tmp_path}/layout:1", f"dir:{tmp_path}/copy")
    config = json.loads(run("skopeo", "inspect", "--config", "--raw", f"oci:{tmp_path}/layout:1"))
    assert config["rootfs"]["diff_ids"] == config_of(cli)["RootFS"]["Layers"]
    if compression != "zstd":  # docker's own format has no media type for it
        run("skopeo", "copy", f"oci:{tmp_path}/layout:1", f"docker-archive:{tmp_path}/d.tar:x:1")


def test_skopeo_reads_an_archive(odd, tmp_path):
    require("skopeo")
    cli, _ = odd
    cli.ok("save", "odd:1", "-o", tmp_path / "archive.tar")
    assert json.loads(run("skopeo", "inspect", f"oci-archive:{tmp_path}/archive.tar:1"))["Layers"]
    run("skopeo", "copy", f"oci-archive:{tmp_path}/archive.tar:1", f"dir:{tmp_path}/copy")


def test_skopeo_verifies_what_it_reads(odd, tmp_path):
    """The checks above mean something: a flipped bit in a blob is noticed."""
    require("skopeo")
    cli, _ = odd
    cli.ok("save", "odd:1", "-o", tmp_path / "layout")
    blobs = tmp_path / "layout" / "blobs" / "sha256"
    largest = max(blobs.iterdir(), key=lambda path: path.stat().st_size)
    damaged = bytearray(largest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    largest.write_bytes(damaged)
    copy = ["skopeo", "copy", f"oci:{tmp_path}/layout:1", f"dir:{tmp_path}/copy"]
    assert subprocess.run(copy, capture_output=True, check=False).returncode != 0


def test_umoci_unpacks_the_same_tree(odd, tmp_path):
    require("umoci")
    cli, tree = odd
    cli.ok("save", "odd:1", "-o", tmp_path / "layout")
    run("umoci", "unpack", "--image", f"{tmp_path}/layout:1", tmp_path / "bundle")
    assert "\n".join(compare_trees(tree, tmp_path / "bundle" / "rootfs")) == ""
    spec = json.loads((tmp_path / "bundle" / "config.json").read_text())
    assert spec["process"]["args"] == ["sh"]


def test_gnu_tar_unpacks_the_same_tree(odd, tmp_path):
    require("tar")
    cli, tree = odd
    cli.ok("export", "odd:1", "-o", tmp_path / "rootfs.tar")
    (tmp_path / "unpacked").mkdir()
    run(
        *("tar", "-C", tmp_path / "unpacked", "--numeric-owner", "--xattrs", "--xattrs-include=*"),
        *("--same-owner", "-xpf", tmp_path / "rootfs.tar"),
    )
    assert "\n".join(compare_trees(tree, tmp_path / "unpacked", holes=True)) == ""
