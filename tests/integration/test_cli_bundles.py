"""Bundles as people move them: files and pipes between two stores, with a Debian inside."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import Cli
from tests.support.debian_base import debian_base_tar

if TYPE_CHECKING:
    from pathlib import Path

FAST = ("--compression-level", "1", "-q")

pytestmark = [pytest.mark.root, pytest.mark.network]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cli, Cli]:
    """A sender with two versions of an image over Debian, and a receiver with the first."""
    root = tmp_path_factory.mktemp("bundles")
    sender, receiver = Cli(root / "sender"), Cli(root / "receiver")
    sender.ok("import", debian_base_tar(), "-t", "app:1")
    context = root / "context"
    context.mkdir()
    (context / "app.py").write_text("print('two')\n" * 500)
    (context / "Dockerfile").write_text(
        "FROM app:1\nCOPY app.py /srv/\n"
        'RUN sed -i s/root/toor/ /etc/passwd && echo "# two" >> /usr/share/perl5/Debconf/Db.pm\n'
    )
    sender.ok("build", context, "-t", "app:2")
    whole = sender.ok("save", "app:1", "--have", empty_list(root), *FAST, "-o", root / "whole")
    assert whole.out == ""
    loaded = receiver.ok("load", "-i", root / "whole")
    assert loaded.lines == ["Loaded image: app:1"]
    return sender, receiver


def empty_list(root: Path) -> Path:
    Cli(root / "empty").ok("init")
    Cli(root / "empty").ok("have", "-o", root / "nothing.list")
    return root / "nothing.list"


def rootfs(cli: Cli, image: str, target: Path) -> bytes:
    cli.ok("export", image, "-o", target)
    return target.read_bytes()


def test_a_version_goes_through_a_pipe(both: tuple[Cli, Cli], tmp_path: Path) -> None:
    sender, receiver = both
    command = sender.command("save", "app:2", "--since", "app:1", "-o", "-")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=sender.environment()
    ) as saving:
        assert saving.stdout is not None
        loaded = subprocess.run(
            receiver.command("load"),
            stdin=saving.stdout,
            capture_output=True,
            env=receiver.environment(),
            check=True,
        )
    assert saving.returncode == 0
    assert loaded.stdout == b"Loaded image: app:2\n"
    assert rootfs(receiver, "app:2", tmp_path / "a") == rootfs(sender, "app:2", tmp_path / "b")
    there, here = (cli.ok("inspect", "app:2").json() for cli in (receiver, sender))
    assert there == here
    receiver.ok("check", "--read-data")


def test_a_version_is_small(both: tuple[Cli, Cli], tmp_path: Path) -> None:
    sender, _ = both
    told = sender.ok("save", "app:2", "--since", "app:1", "-o", tmp_path / "b", "--json").json()
    assert told["size"] == (tmp_path / "b").stat().st_size < 64 * 1024


def test_a_list_of_an_image_stands_for_it(both: tuple[Cli, Cli], tmp_path: Path) -> None:
    """The receiver made its Debian itself: no image is the same, most content is."""
    sender, _ = both
    third = Cli(tmp_path / "third")
    third.ok("import", debian_base_tar(), "-t", "mine:1", "-c", "LABEL a=b")
    third.ok("have", "-o", tmp_path / "list")
    sender.ok("save", "app:2", "--have", tmp_path / "list", "-o", tmp_path / "bundle")
    assert (tmp_path / "bundle").stat().st_size < 64 * 1024
    third.ok("load", "-i", tmp_path / "bundle")
    third.ok("rm", "mine:1")
    third.ok("gc", "--all")
    assert rootfs(third, "app:2", tmp_path / "a") == rootfs(sender, "app:2", tmp_path / "b")


def test_gc_leaves_alone_what_is_being_saved(both: tuple[Cli, Cli], tmp_path: Path) -> None:
    sender, _ = both
    copy = Cli(tmp_path / "copy")
    subprocess.run(["cp", "-a", sender.store, copy.store], check=True)
    command = copy.command("save", "app:1", "--have", empty_list(tmp_path), *FAST, "-o", "-")
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=copy.environment()) as saving:
        assert saving.stdout is not None
        start = saving.stdout.read(64)  # the rest does not fit the pipe
        copy.ok("rm", "app:1", "app:2")
        copy.ok("gc", "--all")
        bundle = start + saving.stdout.read()
    assert saving.returncode == 0
    other = Cli(tmp_path / "other")
    other.ok("load", stdin=bundle)
    assert rootfs(other, "app:1", tmp_path / "a") == rootfs(sender, "app:1", tmp_path / "b")


def test_what_is_refused(both: tuple[Cli, Cli], tmp_path: Path) -> None:
    sender, _ = both
    bundle = tmp_path / "bundle"
    sender.ok("save", "app:2", "--since", "app:1", "-o", bundle)
    empty = Cli(tmp_path / "empty")
    said = empty.fails(3, "load", "-i", bundle)
    assert "app:1" in said
    assert "--have" in said
    assert empty.ok("images", "-q").out == ""
    assert "the archive ends inside of a header" in empty.fails(10, "load", stdin=b"what")
    assert "one of them" in sender.fails(
        2, "save", "app:2", "--since", "app:1", "--have", "x", "-o", bundle
    )
    assert "1 to 22" in sender.fails(
        2, "save", "app:2", "--since", "app:1", "--compression-level", "23", "-o", bundle
    )
    sender.fails(3, "save", "app:2", "--since", "none:1", "-o", bundle)
    sender.fails(3, "save", "app:2", "--have", tmp_path / "no list", "-o", bundle)
    sender.fails(3, "load", "-i", tmp_path / "no bundle")
    assert "layerstore have" in sender.fails(10, "save", "app:2", "--have", bundle, "-o", "-")
