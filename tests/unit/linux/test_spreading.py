"""Directories whose children lie apart."""

from __future__ import annotations

import array
import fcntl
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from layerstore.linux import spreading
from layerstore.linux.spreading import make_apart, spread_children

if TYPE_CHECKING:
    from pathlib import Path

_FS_IOC_GETFLAGS = 0x80086601
_FS_TOPDIR_FL = 0x20000


def flags_of(directory: Path) -> int:
    flags = array.array("l", [0])
    fd = os.open(directory, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _FS_IOC_GETFLAGS, flags)
    finally:
        os.close(fd)
    return flags[0]


def test_the_directory_is_marked_and_its_other_flags_stay(tmp_path: Path) -> None:
    try:
        before = flags_of(tmp_path)
    except OSError:
        pytest.skip("this file system has no flags")
    spread_children(str(tmp_path))
    after = flags_of(tmp_path)
    if after == before:
        pytest.skip("this file system does not know FS_TOPDIR_FL")
    assert after == before | _FS_TOPDIR_FL
    spread_children(str(tmp_path))
    assert flags_of(tmp_path) == after


def test_file_systems_without_flags_are_left_alone() -> None:
    assert not spread_children("/proc/self")


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        spread_children(str(tmp_path / "nowhere"))


def test_one_directory_is_made_and_no_other_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_apart(str(tmp_path / "first"))
    # No group is fresh enough: every place is tried, and the best is taken.
    monkeypatch.setattr(spreading, "_FRESH_INODES", -1)
    make_apart(str(tmp_path / "second"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]
    assert all(path.is_dir() and not list(path.iterdir()) for path in tmp_path.iterdir())


def test_the_group_with_the_first_free_inode_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = iter([8192 + 2804, 3 * 8192 + 700, 5 * 8192 + 901])

    def stat(path: str) -> SimpleNamespace:
        made[path] = next(places)
        return SimpleNamespace(st_ino=made[path])

    made: dict[str, int] = {}
    kept: list[str] = []
    monkeypatch.setattr(spreading, "_TRIES", 3)
    monkeypatch.setattr(spreading.os, "stat", stat)
    monkeypatch.setattr(spreading.os, "rename", lambda old, _: kept.append(old))
    make_apart(str(tmp_path / "scratch"))
    assert [made[name] for name in kept] == [3 * 8192 + 700]


@pytest.mark.parametrize(
    ("first", "child", "is_taken"),
    [
        (8192, 8192 + 1, True),
        (8192, 8192 + 96, False),  # deleted long ago, those behind it were not
        (8192, 2 * 8192 + 1, False),  # what comes next goes elsewhere
    ],
)
def test_the_first_children_tell_what_the_directory_alone_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int, child: int, is_taken: bool
) -> None:
    scratch = str(tmp_path / "scratch")

    def stat(path: str) -> SimpleNamespace:
        os.lstat(path)  # there it is
        place = first if path == scratch else child
        if path.startswith(f"{scratch}.1"):
            place = 9 * 8192 + 2
        return SimpleNamespace(st_ino=place + 1)

    renamed: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(spreading, "_TRIES", 2)
        patched.setattr(spreading.os, "stat", stat)
        patched.setattr(spreading.os, "rename", lambda old, _: renamed.append(old))
        make_apart(scratch)
    assert renamed == ([] if is_taken else [f"{scratch}.1"])
    assert not any(list(path.iterdir()) for path in tmp_path.iterdir())


def test_a_taken_name_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        make_apart(str(tmp_path))
