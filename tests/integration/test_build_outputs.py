"""Where a build's result goes, as the command line shows it; read again by other tools."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile

import pytest

from tests.support.cli import Cli

EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}


@pytest.fixture
def cli(tmp_path):
    return Cli(tmp_path / "store")


@pytest.fixture
def context(tmp_path):
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "file").write_text("content\n")
    (folder / "Dockerfile").write_text(
        "FROM scratch\nCOPY file /dir/one\nCOPY file /two\nCOPY --chmod=600 file /dir/one\n"
        'CMD ["/two"]\n'
    )
    return folder


def members(archive):
    with tarfile.open(archive) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}


def test_a_tar_on_stdout_is_nothing_but_the_tar(cli, context, tmp_path):
    done = subprocess.run(
        cli.command("build", "-o", "-", "--iidfile", tmp_path / "id", context),
        env=cli.environment(EPOCH), capture_output=True, check=True,
    )  # fmt: skip
    (tmp_path / "out.tar").write_bytes(done.stdout)
    assert members(tmp_path / "out.tar") == {"dir/one": b"content\n", "two": b"content\n"}
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert max(member.mtime for member in tar) == 1_700_000_000
    assert (tmp_path / "id").read_text().startswith("sha256:")
    assert cli.ok("images", "--json").json() == []


def test_a_directory(cli, context, tmp_path):
    result = cli.ok("build", "-q", "-o", tmp_path / "out", context)
    assert result.out.startswith("sha256:")
    assert (tmp_path / "out" / "dir" / "one").read_text() == "content\n"
    assert os.stat(tmp_path / "out" / "dir" / "one").st_mode & 0o777 == 0o600
    assert cli.ok("images", "--json").json() == []


def test_layouts_and_archives_hold_the_image_of_the_store(cli, context, tmp_path):
    places = {kind: tmp_path / f"{kind}.tar" for kind in ("oci", "docker", "tar")}
    words = [w for kind, path in places.items() for w in ("-o", f"type={kind},dest={path}")]
    words += ["-o", f"type=oci,tar=false,dest={tmp_path / 'layout'}", "-o", "type=image,name=b:2"]
    image_id = cli.ok("build", "-t", "web:1", *words, context, **EPOCH).out.strip()
    assert {tuple(row["names"]) for row in cli.ok("images", "--json").json()} == {("b:2", "web:1")}
    cli.ok("save", "web:1", "-o", tmp_path / "saved.tar", "--format", "oci-archive")
    assert (tmp_path / "saved.tar").read_bytes() == places["oci"].read_bytes()
    (entry,) = json.loads(members(places["docker"])["manifest.json"])
    assert entry["Config"] == f"blobs/sha256/{image_id.removeprefix('sha256:')}"
    assert entry["RepoTags"] == ["docker.io/library/web:1"]
    assert all(layer in members(places["docker"]) for layer in entry["Layers"])
    assert sorted(os.listdir(tmp_path / "layout")) == ["blobs", "index.json", "oci-layout"]


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_skopeo_reads_them(cli, context, tmp_path):
    oci, docker = tmp_path / "oci.tar", tmp_path / "docker.tar"
    image_id = cli.ok(
        "build", "-t", "web:1", "-o", f"type=oci,dest={oci}", "-o", f"type=docker,dest={docker}",
        context,
    ).out.strip()  # fmt: skip
    for source in (f"oci-archive:{oci}:1", f"docker-archive:{docker}:web:1"):
        copy = tmp_path / "copy"
        command = ["skopeo", "--insecure-policy", "copy", source, f"dir:{copy}"]
        subprocess.run(command, check=True, capture_output=True)
        manifest = json.loads((copy / "manifest.json").read_text())
        assert manifest["config"]["digest"] == image_id
        shutil.rmtree(copy)


def test_files_for_scripts(cli, context, tmp_path):
    iid, meta = tmp_path / "id", tmp_path / "meta.json"
    layout = tmp_path / "layout"
    image_id = cli.ok(
        "build", "-t", "web:1", "-t", "host.example:5000/b:2", "--iidfile", iid,
        "--metadata-file", meta, "-o", f"type=oci,tar=false,dest={layout}", context,
    ).out.strip()  # fmt: skip
    assert iid.read_text() == image_id
    told = json.loads(meta.read_text())
    index = json.loads((layout / "index.json").read_text())
    assert told["containerimage.config.digest"] == image_id
    assert told["containerimage.digest"] == index["manifests"][0]["digest"]
    assert told["containerimage.descriptor"]["digest"] == told["containerimage.digest"]
    assert told["image.name"] == "docker.io/library/web:1,host.example:5000/b:2"
    (context / "Dockerfile").write_text("FROM scratch\nCOPY absent /\n")
    cli.fails(14, "build", "--iidfile", iid, "--metadata-file", meta, context)
    assert not iid.exists()
    assert not meta.exists()
    (context / "Dockerfile").write_text("FROM scratch\nCOPY file /\n")
    cli.ok("build", "-t", "c", "--metadata-file", meta, context)
    (row,) = cli.ok("inspect", "c").json()
    assert json.loads(meta.read_text())["containerimage.digest"] == row["ManifestDigest"]


def test_annotations_and_labels(cli, context, tmp_path):
    layout = tmp_path / "layout"
    cli.ok("build", "-t", "web:1", "--annotation", "a.b=c", "--label", "bare", context)
    (told,) = cli.ok("inspect", "web:1").json()
    assert told["Config"]["Labels"] == {"bare": ""}
    cli.ok("save", "web:1", "-o", layout)
    index = json.loads((layout / "index.json").read_text())
    digest = index["manifests"][0]["digest"].removeprefix("sha256:")
    manifest = json.loads((layout / "blobs" / "sha256" / digest).read_text())
    assert manifest["annotations"] == {"a.b": "c"}


def test_one_layer_instead_of_several(cli, context):
    cli.ok("build", "-t", "plain", context, **EPOCH)
    (context / "Dockerfile.more").write_text(
        "FROM plain\nCOPY file /new\nCOPY --chmod=640 file /two\nCOPY file /new\nLABEL a=b\n"
    )
    cli.ok("build", "-t", "more", "-f", context / "Dockerfile.more", context, **EPOCH)
    squash = ["-f", context / "Dockerfile.more", context]
    one = cli.ok("build", "--squash", "-t", "one", *squash, **EPOCH)
    everything = cli.ok("build", "--squash-all", "-t", "all", *squash, **EPOCH)
    layers = {
        name: cli.ok("inspect", name).json()[0]["RootFS"]["Layers"]
        for name in ("plain", "more", "one", "all")
    }
    assert [len(layers[name]) for name in ("plain", "more", "one", "all")] == [3, 6, 4, 1]
    assert layers["one"][:3] == layers["plain"]
    assert _rootfs(cli, "more") == _rootfs(cli, "one") == _rootfs(cli, "all")
    merged = cli.ok("history", "one", "--json").json()
    assert merged[0]["comment"].startswith("merge sha256:")
    assert [row["diff_id"] is not None for row in merged[:5]] == [True] + [False] * 4
    (root,) = [row for row in cli.ok("history", "all", "--json").json() if row["diff_id"]]
    assert root["comment"].startswith("create new from sha256:")
    # From the cache it is the same image.
    assert cli.ok("build", "--squash", *squash, **EPOCH).out == one.out
    assert cli.ok("build", "--squash-all", *squash, **EPOCH).out == everything.out


def _rootfs(cli, name):
    done = subprocess.run(
        cli.command("export", name), env=cli.environment(None), capture_output=True, check=True
    )
    return done.stdout


def test_refused_before_anything_runs(cli, context, tmp_path):
    (context / "Dockerfile").write_text("FROM scratch\nCOPY absent /\n")
    for words in (["type=oci,dest=/nowhere/x"], ["type=frob"], ["-", "-o", "type=oci"]):
        cli.fails(2, "build", "-o", *words, context)
    cli.fails(2, "build", "-o", "-", "--json", context)


def test_a_failed_build_leaves_what_was_there(cli, context, tmp_path):
    target = tmp_path / "x.tar"
    target.write_text("old")
    (context / "Dockerfile").write_text("FROM scratch\nCOPY absent /\n")
    cli.fails(14, "build", "-o", f"type=oci,dest={target}", context)
    assert target.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["context", "store", "x.tar"]
