"""A full or read-only disk: a typed error, nothing lost, and it goes on afterwards.

On tmpfs, through the library; on a real ext4 and by the command line: test_full_ext4.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from layerstore.store.check.check import check
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.failures import ReadOnlyStoreError, StoreFullError
from layerstore.store.store import Store
from tests.support.store import add_image, assert_sound, noise, read_image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEEP = {b"keep": noise(1, 200_000)}
BIG = {b"big/%d" % n: noise(50 + n, 300_000) for n in range(20)}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    libc = ctypes.CDLL(None, use_errno=True)
    place = tmp_path / "disk"
    place.mkdir()
    if libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, b"size=8m,nr_inodes=400") != 0:
        pytest.skip(f"cannot mount a tmpfs: {os.strerror(ctypes.get_errno())}")
    try:
        yield place
    finally:
        libc.umount2(os.fsencode(place), 2)


@pytest.mark.root
def test_a_full_disk_is_said_and_survived(small_disk: Path) -> None:
    root = small_disk / "store"
    add_image(root, "keep", KEEP)
    ballast = small_disk / "ballast"
    for free in (0, 4096, 16_384, 65_536, 300_000, 1_000_000, 3_000_000):
        fill(ballast, small_disk, free)
        with pytest.raises(StoreFullError) as caught:
            add_image(root, "big", BIG)
        assert "gc" in (caught.value.hint or "")
        with Store.open(root) as store:
            assert read_image(store, "keep") == [KEEP]
            assert "big:latest" not in store.tags()
        assert [p for p in (root / "tmp").iterdir() if p.suffix == ".pack"] == []
        ballast.unlink()
        with Store.open(root) as store:
            execute(plan_gc(store))
        assert_sound(root, {"keep": [KEEP]})
    add_image(root, "big", BIG)
    assert_sound(root, {"keep": [KEEP], "big": [BIG]})


@pytest.mark.root
@pytest.mark.parametrize("free", [0, 4096, 100_000, 400_000])
def test_rm_and_gc_on_a_full_disk_free_it(small_disk: Path, free: int) -> None:
    root = small_disk / "store"
    add_image(root, "keep", KEEP)
    add_image(root, "big", BIG)
    fill(small_disk / "ballast", small_disk, free)
    with Store.open(root) as store:
        store.untag("big")
        assert execute(plan_gc(store)).freed_bytes > 5_000_000
    assert_sound(root, {"keep": [KEEP]})
    assert os.stat(root / "reserve" / "space").st_size > 0, "set aside again"


@pytest.mark.root
def test_gc_without_inodes_frees_some(small_disk: Path) -> None:
    root = small_disk / "store"
    add_image(root, "keep", KEEP)
    add_image(root, "big", BIG)
    others = small_disk / "others"
    others.mkdir()
    with contextlib.suppress(OSError):
        for number in range(400):
            (others / str(number)).touch()
    assert os.statvfs(small_disk).f_favail == 0
    with Store.open(root) as store:
        store.untag("big")
        assert execute(plan_gc(store)).freed_bytes > 5_000_000
    shutil.rmtree(others)
    assert_sound(root, {"keep": [KEEP]})


@pytest.mark.root
def test_a_new_store_without_inodes_is_checked_and_collected(small_disk: Path) -> None:
    """Nobody has locked it before."""
    root = small_disk / "store"
    add_image(root, "keep", KEEP)
    with contextlib.suppress(OSError):
        for number in range(400):
            (small_disk / str(number)).touch()
    assert os.statvfs(small_disk).f_favail == 0
    with Store.open(root) as store:
        assert check(store, read_data=True).findings == ()
        execute(plan_gc(store))
    for path in small_disk.glob("[0-9]*"):
        path.unlink()
    assert_sound(root, {"keep": [KEEP]})


def fill(ballast: Path, disk: Path, free: int) -> None:
    """Fill the disk until only ``free`` bytes are left."""
    with open(ballast, "wb") as file:
        left = os.statvfs(disk)
        size = left.f_bavail * left.f_frsize - free
        with contextlib.suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, max(size, 1))


@pytest.mark.root
def test_a_read_only_store_reads_and_says_why_it_does_not_write(small_disk: Path) -> None:
    root = small_disk / "store"
    add_image(root, "keep", KEEP)
    libc = ctypes.CDLL(None, use_errno=True)
    ms_remount, ms_rdonly = 32, 1
    assert libc.mount(None, os.fsencode(small_disk), None, ms_remount | ms_rdonly, None) == 0
    try:
        with Store.open(root) as store:
            assert read_image(store, "keep") == [KEEP]
            from layerstore.store.check.check import check

            assert check(store, read_data=True).ok
            assert plan_gc(store).freed_bytes == 0
            with pytest.raises(ReadOnlyStoreError) as caught:
                store.begin("test")
            assert caught.value.hint
            with pytest.raises(ReadOnlyStoreError):
                store.untag("keep")
    finally:
        assert libc.mount(None, os.fsencode(small_disk), None, ms_remount, None) == 0
