"""Directories whose children lie apart."""

from __future__ import annotations

import array
import fcntl
import os
from typing import TYPE_CHECKING

import pytest

from layerstore.linux.spreading import spread_children

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
    spread_children("/proc/self")


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        spread_children(str(tmp_path / "nowhere"))
