"""df and savings on a real Debian store, with writable views mounted, held to du.

Capabilities: fuse (/dev/fuse), root (overlay mounts), network (mmdebstrap) or
``LAYERSTORE_TEST_BASE``.
"""

from __future__ import annotations

import os
import subprocess

import pytest

from layerstore.store.store import Store
from tests.support.cli import Cli
from tests.support.debian_base import debian_base_tar

SHARED_MEMORY_BYTES = 64 * 1024
"""At most what SQLite's -shm and -wal take while a command has the catalog open, and not after."""

pytestmark = [pytest.mark.fuse, pytest.mark.root, pytest.mark.network]


def du(path) -> int:
    command = ["du", "-s", "-x", "-B1", path]
    return int(subprocess.run(command, capture_output=True, check=True).stdout.split()[0])


@pytest.fixture
def cli(tmp_path):
    if not os.path.exists("/dev/fuse") or os.geteuid() != 0:
        pytest.skip("needs root and /dev/fuse")
    cli = Cli(tmp_path / "store")
    yield cli
    cli("umount", "--all", "--lazy")


@pytest.fixture
def trees(tmp_path):
    """A Debian base and the same with a few packages' worth of changes, as plain directories."""
    base, app = tmp_path / "base", tmp_path / "app"
    base.mkdir()
    options = ["--numeric-owner", "--xattrs", "--xattrs-include=*", "-p"]
    subprocess.run(["tar", "-C", base, *options, "-xf", debian_base_tar()], check=True)
    subprocess.run(["cp", "-a", base, app], check=True)
    for number in range(50):
        (app / "opt" / f"file-{number}").write_bytes(os.urandom(10_000))
    subprocess.run(["rm", "-r", app / "usr" / "share" / "doc"], check=True)
    return base, app


def assert_exact(cli) -> dict:
    usage = cli.ok("df", "--json").json()
    ledger = usage["ledger"]
    assert sum(part["size"] for part in ledger["parts"]) == ledger["file_size"]
    assert ledger["file_size"] + ledger["slack"] == ledger["disk_size"] == usage["disk_size"]
    assert sum(row["size"] for row in usage["rows"]) + usage["slack"] == usage["disk_size"]
    return usage


def test_every_byte_of_a_real_store_has_an_owner(cli, trees, tmp_path):
    base, app = trees
    cli.ok("import", base, "-t", "base:1")
    cli.ok("import", app, "-t", "app:1")
    with Store.open(cli.store) as store:
        store.images()  # SQLite's shared memory file is there while anybody has the catalog open
        assert assert_exact(cli)["disk_size"] == du(cli.store)

    views = [tmp_path / f"view-{number}" for number in range(4)]
    for number, view in enumerate(views):
        view.mkdir()
        cli.ok("mount", "--rw", ("base:1", "app:1")[number % 2], view)
        (view / "etc" / "hostname").write_text(f"container-{number}\n")
        (view / "var" / "data").write_bytes(os.urandom(300_000))
    usage = assert_exact(cli)
    rows = {row["kind"]: row for row in usage["rows"]}
    assert (rows["Images"]["count"], rows["Images"]["active"]) == (2, 2)
    assert (rows["Writable layers"]["count"], rows["Writable layers"]["active"]) == (4, 4)
    assert rows["Writable layers"]["size"] >= 4 * 300_000

    savings = cli.ok("savings", "--mounted", "--json").json()
    assert savings["containers"] == 4
    sizes = {item["scheme"]: item["size"] for item in savings["schemes"]}
    assert sizes["full_copies"] > sizes["plain_layers"] > sizes["whole_files"] >= sizes["chunks"]
    assert sizes["stored"] < sizes["chunks"] / 2
    assert (
        sizes["stored"] + savings["not_counted_size"] + savings["writable_size"]
        == usage["disk_size"]
    )

    # The model of a full copy against full copies that exist.
    for row, tree in zip(savings["images"], (base, app), strict=True):
        assert 0.998 < row["copy_size"] / du(tree) <= 1

    assert [image["freed_size"] for image in usage["ledger"]["images"]] == [0, 0]  # views hold
    cli.ok("umount", "--all")
    images = assert_exact(cli)["ledger"]["images"]
    foretold = {image["names"][0]: image["freed_size"] for image in images}
    assert foretold["app:1"] > 500_000
    cli.ok("rm", "app:1")
    usage = assert_exact(cli)
    rows = {row["kind"]: row for row in usage["rows"]}
    freed = rows.get("Unreferenced", {"size": 0})["size"]
    assert freed in (0, foretold["app:1"])  # rm may collect at once
    before = du(cli.store)
    cli.ok("gc", "--keep-unpacked-within", "0s")
    usage = assert_exact(cli)
    assert usage["reclaimable"] == 0
    assert usage["disk_size"] - SHARED_MEMORY_BYTES <= du(cli.store) < before


def test_packages_have_the_files_that_dpkg_lists(cli, trees):
    base, app = trees
    cli.ok("import", base, "-t", "base:1")
    cli.ok("import", app, "-t", "app:1")
    usage = cli.ok("df", "--by", "package", "base:1", "--json").json()
    assert sum(row["share_size"] for row in usage["rows"]) == usage["contents_size"]
    parts = usage["contents_size"] + usage["metadata_size"] + usage["rest_size"]
    assert parts == usage["disk_size"]
    assert usage["left_out"] == []
    counted = {row["name"].partition(" ")[0]: row["files"] for row in usage["rows"]}
    info = base / "var" / "lib" / "dpkg" / "info"
    for package in ("coreutils", "bash", "dpkg", "tar"):
        # Through the links of a merged /usr, which is the host's way of asking the same.
        listed = {
            os.path.realpath(os.path.dirname(f"{base}{line}")) + "/" + os.path.basename(line)
            for line in (info / f"{package}.list").read_text().splitlines()
        }
        files = {path for path in listed if os.path.isfile(path) and not os.path.islink(path)}
        inodes = {os.stat(path).st_ino for path in files}  # further names are no files of a layer
        assert counted[package] == len(inodes), package
    both = cli.ok("df", "--by", "package", "--json").json()
    assert both["contents_size"] > usage["contents_size"]


def test_the_tables_read_well(cli, tmp_path):
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc" / "motd").write_bytes(b"hello\n" * 20_000)
    cli.ok("import", tree, "-t", "web:1")
    lines = cli.ok("df", "-v").lines
    assert lines[0].split() == ["TYPE", "COUNT", "ACTIVE", "SIZE", "RECLAIMABLE"]
    assert any(line.startswith("On disk") for line in lines)
    assert any(line.startswith("web:1") for line in lines)
    out = cli.ok("savings", "--copies", "10").out
    assert "1 image as 10 containers" in out
    assert "full copies (virtual machines)" in out
    assert "█" in out
    assert max(map(len, out.splitlines())) <= 120
    cli.fails(2, "savings", "--copies", "2", "--mounted")
    cli.fails(3, "savings", "absent:1")
