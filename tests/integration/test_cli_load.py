"""load, save, export and originals as people run them."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
import zstandard

from tests.support.cli import Cli
from tests.support.layouts import Layout, tar_of
from tests.support.store import noise, text
from tests.support.trees import compare_trees, make_odd_tree

if TYPE_CHECKING:
    from pathlib import Path

LAYER = tar_of({"bin/sh": text(1, 200_000), "big": noise(1, 90_000)})


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    made = Layout(tmp_path / "layout")
    return made.finish(("docker.io/library/web:1", made.image([LAYER], "go")))


def test_originals_are_listed_and_go_with_consent(cli: Cli, layout: Path, tmp_path: Path) -> None:
    (loaded,) = cli.ok("load", "-i", layout, "--json").json()["images"]
    assert loaded["names"] == ["web:1"]
    (held,) = cli.ok("originals", "--json").json()
    assert held["digest"] == loaded["documents"][0]
    assert held["layers"] == "kept"
    assert held["kept_bytes"] == loaded["kept_bytes"] > 90_000
    before = next(
        row for row in cli.ok("df", "--json").json()["rows"] if row["kind"] == "Originals"
    )
    assert before["count"] == 1
    assert held["digest"] in cli.ok("originals", "drop", "web:1", "--dry-run").out
    assert cli.ok("originals", "--json").json() == [held]
    dropped = cli.ok("originals", "drop", "web:1")
    assert dropped.out == f"web:1: can no longer leave as {held['digest']}\n"
    assert cli.ok("originals", "--json").json() == []
    cli.ok("gc")
    rows = cli.ok("df", "--json").json()["rows"]
    assert next(row for row in rows if row["kind"] == "Originals")["size"] == 0
    assert cli.ok("check", "--read-data").out.startswith("ok")
    cli.ok("save", "web:1", "-o", tmp_path / "out")
    (entry,) = json.loads((tmp_path / "out" / "index.json").read_bytes())["manifests"]
    assert entry["digest"] != held["digest"]
    assert "originals ls" in cli.fails(2, "originals", "drop")
    cli.fails(2, "originals", "frob")
    cli.fails(3, "originals", "drop", "absent:1")


def test_platforms_of_one_name_that_are_left_out_are_told(cli: Cli, tmp_path: Path) -> None:
    flat = Layout(tmp_path / "flat")
    images = [flat.image([LAYER], "none", architecture=each) for each in ("s390x", "riscv64")]
    flat.finish(*(("docker.io/library/web:1", each) for each in images))
    assert "--platform names another" in cli.fails(3, "load", "-i", flat.root)
    loaded = cli.ok("load", "-i", flat.root, "--platform", "linux/riscv64")
    assert loaded.out == "Loaded image: web:1\n"
    assert "web:1 is there for linux/s390x, too, which is left out" in loaded.err
    again = cli.ok("load", "-i", flat.root, "--platform", "linux/s390x", "--json").json()
    (image,) = again["images"]
    assert (image["documents"], image["left_out"]) == ([images[0]["digest"]], ["linux/riscv64"])
    everything = cli.ok("load", "-i", flat.root, "--all-platforms")
    assert "left out" not in everything.err
    target = tmp_path / "copied"
    cli.ok("copy", "-a", f"oci:{flat.root}:1", f"oci:{target}:1")
    (entry,) = json.loads((target / "index.json").read_bytes())["manifests"]
    index = json.loads((target / "blobs" / "sha256" / entry["digest"][7:]).read_bytes())
    assert [each["digest"] for each in index["manifests"]] == [each["digest"] for each in images]


def test_what_is_remembered_may_be_chosen(cli: Cli, layout: Path) -> None:
    cli.ok("load", "-i", layout, LAYERSTORE_ORIGINALS="drop")
    assert cli.ok("originals", "--json").json() == []
    cli.ok("load", "-i", layout, "--originals", "keep")
    assert len(cli.ok("originals", "--json").json()) == 1
    assert "auto, keep, drop" in cli.fails(2, "load", "-i", layout, "--originals", "some")


def test_saved_to_stdout_and_loaded_from_stdin(cli: Cli, layout: Path, tmp_path: Path) -> None:
    cli.ok("load", "-i", layout)
    saved = subprocess.run(
        cli.command("save", "web:1"), env=cli.environment(), capture_output=True, check=True
    ).stdout
    other = Cli(tmp_path / "other")
    for stream in (saved, gzip.compress(saved), zstandard.compress(saved)):
        assert other.ok("load", stdin=stream).lines == ["Loaded image: web:1"]
    assert (
        other.ok("images", "--json").json()[0]["id"] == cli.ok("images", "--json").json()[0]["id"]
    )


def test_names_with_digests_are_taken(cli: Cli, layout: Path) -> None:
    (loaded,) = cli.ok("load", "-i", layout, "--json").json()["images"]
    digest = loaded["documents"][0]
    assert cli.ok("inspect", f"web@{digest}").json()[0]["Id"] == loaded["id"]
    assert cli.ok("inspect", digest).json()[0]["Origins"] == [digest]


def test_what_is_no_image_is_refused_without_a_trace(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").mkdir()
    (tmp_path / "rootfs.tar").write_bytes(LAYER)
    for code, name in ((3, "absent"), (10, "text"), (3, "empty"), (10, "rootfs.tar")):
        cli.fails(code, "load", "-i", tmp_path / name)
    assert "layerstore import" in cli.fails(10, "load", "-i", tmp_path / "rootfs.tar")
    cli.fails(10, "load", stdin=b"")
    assert cli.ok("images", "--json").json() == []
    assert os.listdir(tmp_path / "store" / "tmp") == []


@pytest.mark.parametrize(
    ("name", "option"),
    [("r.tar.gz", ""), ("r.tgz", ""), ("r.tar.zst", ""), ("r", "gzip"), ("r", "none")],
)
def test_exported_tars_are_compressed(
    cli: Cli, layout: Path, tmp_path: Path, name: str, option: str
) -> None:
    cli.ok("load", "-i", layout)
    cli.ok("export", "web:1", "-o", tmp_path / "plain.tar")
    out = tmp_path / name
    cli.ok("export", "web:1", "-o", out, *(("--compression", option) if option else ()))
    raw = out.read_bytes()
    if name.endswith(".zst"):
        raw = zstandard.ZstdDecompressor().decompressobj().decompress(raw)
    elif option != "none":
        raw = gzip.decompress(raw)
    assert raw == (tmp_path / "plain.tar").read_bytes()
    cli.fails(2, "export", "web:1", "-o", out, "--compression", "lz4")
    with tarfile.open(tmp_path / "plain.tar") as archive:
        assert sorted(archive.getnames()) == [".", "big", "bin", "bin/sh"]


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar.zst"])
def test_saved_archives_are_compressed_as_their_names_say(
    cli: Cli, layout: Path, tmp_path: Path, name: str
) -> None:
    cli.ok("load", "-i", layout)
    for words in ((), ("--format", "oci-archive")):
        cli.ok("save", "web:1", "-o", tmp_path / "plain.tar", *words)
        cli.ok("save", "web:1", "-o", tmp_path / name, *words)
        raw = (tmp_path / name).read_bytes()
        if name.endswith(".zst"):
            raw = zstandard.ZstdDecompressor().decompressobj().decompress(raw)
        else:
            raw = gzip.decompress(raw)
        assert raw == (tmp_path / "plain.tar").read_bytes()
    other = Cli(tmp_path / "other")
    assert other.ok("load", "-i", tmp_path / name).lines == ["Loaded image: web:1"]
    (tmp_path / "made.tgz").mkdir()
    cli.ok("save", "web:1", "-o", tmp_path / "made.tgz")
    assert (tmp_path / "made.tgz" / "index.json").exists()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")
def test_exported_directories_are_the_tree(cli: Cli, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    make_odd_tree(tree)
    cli.ok("import", tree, "-t", "odd:1")
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", f"{tmp_path}/new/"):
        cli.ok("export", "odd:1", "-o", out)
        assert "\n".join(compare_trees(tree, tmp_path / str(out).rstrip("/"), holes=True)) == ""
    assert "not an empty directory" in cli.fails(4, "export", "odd:1", "-o", tmp_path / "empty")
    assert "not compressed" in cli.fails(
        2, "export", "odd:1", "-o", tmp_path / "empty", "--compression", "gzip"
    )
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]
