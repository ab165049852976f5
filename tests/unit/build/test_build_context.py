"""The build context: nothing outside it is read, nothing in it blocks or changes unseen."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from layerstore.build.context import Context
from layerstore.build.errors import BuildStepError
from layerstore.build.ignore import IgnoreRules
from layerstore.errors import InputError, NotFoundError, UnsafeContentError
from layerstore.formats.tree import Kind
from tests.support.build import builder  # noqa: F401

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.build import Builder


def test_links_out_of_the_context_lead_nowhere(builder: Builder) -> None:  # noqa: F811
    os.symlink("/etc/passwd", builder.context / "absolute")
    os.symlink("../../../../../../etc/passwd", builder.context / "relative")
    os.symlink("/etc", builder.context / "dir")
    for source in ("absolute", "relative", "dir/passwd"):
        with pytest.raises(BuildStepError, match="does not exist"):
            builder.build(f"FROM scratch\nCOPY {source} /x\n")
    files = builder.files(builder.build("FROM scratch\nCOPY . /x\n"))
    assert files["x/absolute"].target == b"/etc/passwd"


def test_pipes_and_devices_are_refused_unopened(builder: Builder) -> None:  # noqa: F811
    builder.write({"d/ok": "ok"})
    os.mkfifo(builder.context / "d" / "pipe")
    with pytest.raises(BuildStepError, match="d/pipe in the build context is a named pipe"):
        builder.build("FROM scratch\nCOPY d /x\n")
    builder.build("FROM scratch\nCOPY d/ok /x\n")
    builder.write({".dockerignore": "**/pipe\n"})
    builder.build("FROM scratch\nCOPY d /x\n")


def test_sockets_do_not_exist(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.chdir(builder.context)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("sock")
    builder.write({"a": "A"})
    files = builder.files(builder.build("FROM scratch\nCOPY . /x\n"))
    assert set(files) == {"", "x", "x/a"}


def test_odd_names_survive(builder: Builder) -> None:  # noqa: F811
    names = [b"\xff\xfe", b"new\nline", b"-x", b"$(x)", b"a:b", b"*", b"n" * 255]
    for name in names:
        (builder.context / os.fsdecode(name)).write_bytes(name)
    files = builder.files(builder.build("FROM scratch\nCOPY . /x\n"))
    for name in names:
        assert files[f"x/{os.fsdecode(name)}"].content == name


def test_names_of_whiteouts_are_refused(builder: Builder) -> None:  # noqa: F811
    builder.write({".wh.x": "x"})
    with pytest.raises(UnsafeContentError, match=r"Dockerfile:2:1.*\.wh\."):
        builder.build("FROM scratch\nCOPY . /x\n")


def test_user_xattrs_stay_behind(builder: Builder) -> None:  # noqa: F811
    builder.write({"a": "A"})
    try:
        os.setxattr(builder.context / "a", "user.note", b"private")
    except OSError:
        pytest.skip("the file system of the tests has no user xattrs")
    result = builder.build("FROM scratch\nCOPY a /a\n")
    from layerstore.image.trees.stack import load_root, lookup

    node = lookup(load_root(builder.store, result.image.layers), b"a")
    assert node is not None
    assert node.entry.xattrs == ()


@pytest.mark.parametrize(("size", "room"), [(5, 4), (5, 0), (3 << 20, 100 << 20)])
def test_a_file_that_changes_between_hashing_and_copying(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, room: int
) -> None:
    monkeypatch.setattr("layerstore.build.context.KEPT_MAX_BYTES", room)
    (tmp_path / "a").write_bytes(b"1" * size)
    with Context(tmp_path, IgnoreRules(), now_ns=0) as context:
        node = context.tree().children()[b"a"]
        node.content_digest()
        status = os.stat(tmp_path / "a")
        (tmp_path / "a").write_bytes(b"2" * size)
        os.utime(tmp_path / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
        opener = node.opener()
        assert opener is not None
        with pytest.raises(InputError, match="a changed while"), opener() as file:
            file.read(size)


def test_what_was_hashed_is_copied_if_it_was_kept(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"hashed")
    with Context(tmp_path, IgnoreRules(), now_ns=0) as context:
        node = context.tree().children()[b"a"]
        digest = node.content_digest()
        (tmp_path / "a").unlink()
        for _ in range(2):  # by two stages
            opener = node.opener()
            assert opener is not None
            with opener() as file:
                assert file.read() == b"hashed"
        assert node.content_digest() == digest


def test_a_file_that_is_swapped_or_grows(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"first")
    (tmp_path / "b").write_bytes(b"swap!")
    with Context(tmp_path, IgnoreRules(), now_ns=0) as context:
        node = context.tree().children()[b"a"]
        os.rename(tmp_path / "b", tmp_path / "a")
        with pytest.raises(InputError, match="changed while"):
            node.content_digest()
        other = context.list(b"")[b"a"]
        with (tmp_path / "a").open("ab") as file:
            file.write(b"more")
        with pytest.raises(InputError, match="changed while"):
            other.content_digest()


def test_a_file_that_becomes_a_link(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"first")
    (tmp_path / "secret").write_bytes(b"first")
    with Context(tmp_path, IgnoreRules(), now_ns=0) as context:
        node = context.tree().children()[b"a"]
        (tmp_path / "a").unlink()
        os.symlink("secret", tmp_path / "a")
        with pytest.raises(InputError):
            node.content_digest()


def test_contexts_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        Context(tmp_path / "absent", IgnoreRules(), now_ns=0)
    (tmp_path / "file").touch()
    with pytest.raises(NotFoundError):
        Context(tmp_path / "file", IgnoreRules(), now_ns=0)
    os.symlink("/proc/self", tmp_path / "proc")
    with pytest.raises(UnsafeContentError):
        Context(tmp_path / "proc", IgnoreRules(), now_ns=0)


def test_a_linked_context_is_a_context(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").touch()
    os.symlink("real", tmp_path / "link")
    with Context(tmp_path / "link", IgnoreRules(), now_ns=0) as context:
        assert set(context.tree().children()) == {b"a"}
        assert context.tree().entry.kind is Kind.DIR


def test_very_deep_directories_are_a_limit_not_a_crash(builder: Builder) -> None:  # noqa: F811
    here = os.open(builder.context, os.O_RDONLY)
    for _ in range(400):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with pytest.raises(UnsafeContentError, match="more than 250 directories deep"):
        builder.build("FROM scratch\nCOPY . /x\n")
