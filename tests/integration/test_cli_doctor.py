"""The doctor tells by trial what works, and what to do about the rest; it leaves nothing."""

from __future__ import annotations

import os

import pytest

from tests.support.cli import Cli

KERNEL = ("EROFS from a file", "overlay with data-only layers", "data-only layers, metacopy off")
ELSEWHERE = (
    "overlay in a user namespace",
    "id-mapped mounts",
    "packs mounted in place",
    "lazy views by the kernel",
)


@pytest.fixture
def cli(tmp_path):
    return Cli(tmp_path / "store")


def test_every_ability_has_a_reason_and_a_remedy(cli, tmp_path):
    cli.ok("init")
    found = {item["name"]: item for item in cli.ok("doctor", "--json").json()}
    for name in (*KERNEL, *ELSEWHERE, "/dev/fuse", "store"):
        assert found[name]["reason"]
        assert found[name]["works"] == (not found[name]["remedy"])
    assert os.listdir(tmp_path / "store" / "tmp") == []
    table = cli.ok("doctor").out
    assert all(name in table for name in found)


@pytest.mark.skipif(os.geteuid() != 0, reason="the kernel's own views are root's")
def test_it_says_what_mount_finds(cli, tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "f").write_text("content")
    cli.ok("import", tmp_path / "tree", "-t", "a:1")
    view = tmp_path / "view"
    view.mkdir()
    found = {item["name"]: item["works"] for item in cli.ok("doctor", "--json").json()}
    able = found["EROFS from a file"] and found["overlay with data-only layers"]
    record = cli.ok("mount", "a:1", view, "--json").json()
    assert record["backend"] == ("kernel" if able else "fuse")
    cli.ok("umount", view)


def test_what_is_installed_and_cannot_be_loaded_is_missing(cli, tmp_path):
    name = "Go's gzip layers made again"
    found = {item["name"]: item for item in cli.ok("doctor", "--json").json()}
    assert found[name]["works"]
    assert found[name]["reason"].endswith(", which loads")
    (tmp_path / "numba.py").write_text("import os; os.kill(os.getpid(), 4)\n")
    broken = {
        item["name"]: item for item in cli.ok("doctor", "--json", PYTHONPATH=str(tmp_path)).json()
    }
    assert not broken[name]["works"]
    assert "cannot be loaded: exit status -4" in broken[name]["reason"]
    assert "their originals are kept" in broken[name]["remedy"]


def test_a_store_that_is_not_there_yet_is_no_trouble(cli, tmp_path):
    found = {item["name"]: item for item in cli.ok("doctor", "--json").json()}
    assert found["store"]["works"]
    assert not (tmp_path / "store").exists()


def test_known_holes_of_a_runtime_are_named(cli, tmp_path):
    runtime = tmp_path / "runc"
    runtime.write_text("#!/bin/sh\necho runc version 1.1.11\n")
    runtime.chmod(0o755)
    found = {
        item["name"]: item
        for item in cli.ok("doctor", "--json", LAYERSTORE_RUNTIME=str(runtime)).json()
    }
    fixes = found["fixes of runc"]
    assert not fixes["works"]
    assert f"{runtime} 1.1.11: lacks" in fixes["reason"]
    assert "CVE-2024-21626 (WORKDIR leads to the host)" in fixes["reason"]
    assert "runc 1.3.6 or 1.4.3" in fixes["remedy"]


@pytest.mark.parametrize(
    ("version", "verdict"), [("1.1.11", "missing"), ("1.2.0", "warning"), ("9.0.0", "ok")]
)
def test_holes_that_a_build_need_not_fear_are_a_warning(cli, tmp_path, version, verdict):
    runtime = tmp_path / "runc"
    runtime.write_text(f"#!/bin/sh\necho runc version {version}\n")
    runtime.chmod(0o755)
    out = cli.ok("doctor", LAYERSTORE_RUNTIME=str(runtime)).out
    (line,) = (line for line in out.splitlines() if "fixes of runc" in line)
    assert line.split()[0] == verdict
