"""A name whose flush failed may stay: nobody was promised it, and nobody counts on it."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from layerstore.errors import StorageError
from layerstore.store.check.check import check
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.store import Store
from tests.support.store import Files, add_image, assert_sound, noise, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

A: Files = {b"a/%d" % n: text(n, 9_000) for n in range(8)}
B: Files = {b"b": noise(1, 60_000)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add_image(tmp_path / "store", "a", A)
    return tmp_path / "store"


def place_of(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


@contextmanager
def failing_once(monkeypatch: pytest.MonkeyPatch, fails: Callable[[str], bool]) -> Iterator[None]:
    """Let the first flush of a place of a kind fail; what is flushed next says yes, as on Linux."""
    real = os.fsync
    left = [True]

    def fsync(fd: int) -> None:
        if left and fails(place_of(fd)):
            left.clear()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield
    assert not left, "nothing was flushed that could fail"


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Note what gets a name."""
    real = os.rename
    named: list[str] = []

    def rename(source: str, target: str) -> None:
        real(source, target)
        named.append(str(target))

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        yield named


def packs(root: Path) -> set[str]:
    return {str(path) for path in (root / "packs").rglob("*.pack")}


def blobs(root: Path) -> set[str]:
    return {str(path) for path in (root / "blobs/sha256").iterdir()}


def test_the_name_of_a_pack_stays_and_is_garbage(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = packs(root)
    with (
        failing_once(monkeypatch, lambda place: place.startswith(f"{root}/packs/")),
        pytest.raises(StorageError, match="could not publish a pack"),
    ):
        add_image(root, "b", B)
    left = packs(root) - before
    assert len(left) == 1
    with Store.open(root) as store:
        assert set(store.tags()) == {"a:latest"}
        assert check(store, read_data=True).ok
    with watched(monkeypatch) as named:
        add_image(root, "b", B)
    assert left <= set(named), "it was taken for what is on disk"
    assert_sound(root, {"a": [A], "b": [B]})


def test_gc_takes_a_pack_that_nobody_names(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = packs(root)
    with (
        failing_once(monkeypatch, lambda place: place.startswith(f"{root}/packs/")),
        pytest.raises(StorageError),
    ):
        add_image(root, "b", B)
    with Store.open(root) as store:
        execute(plan_gc(store))
    assert packs(root) == before
    assert_sound(root, {"a": [A]})


def test_blobs_that_nobody_names_are_written_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = blobs(root)
    with (
        failing_once(monkeypatch, lambda place: place == f"{root}/blobs/sha256"),
        pytest.raises(StorageError, match="could not write a manifest or config"),
    ):
        add_image(root, "b", B)
    left = blobs(root) - before
    assert left
    with watched(monkeypatch) as named:
        add_image(root, "b", B)
    assert left <= set(named), "it was taken for what is on disk"
    assert_sound(root, {"a": [A], "b": [B]})


def test_blobs_that_an_image_names_are_not(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with watched(monkeypatch) as named:
        add_image(root, "again", A)
    assert not blobs(root) & set(named)


def test_an_empty_directory_of_packs_is_made_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set((root / "packs").iterdir())
    with (
        failing_once(monkeypatch, lambda place: place == f"{root}/packs"),
        pytest.raises(StorageError),
    ):
        add_image(root, "b", B)
    (left,) = set((root / "packs").iterdir()) - before
    mode = left.stat().st_mode
    with watched(monkeypatch) as named:
        add_image(root, "b", B)
    assert str(left) in named
    assert left.stat().st_mode == mode
    assert list((root / "tmp").iterdir()) == []
    assert_sound(root, {"a": [A], "b": [B]})


def test_a_log_of_names_whose_name_is_not_on_disk_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "store"
    Store.open(root, create=True).close()
    log = root / "names.log"
    with (
        failing_once(monkeypatch, lambda place: place == str(root) and log.exists()),
        pytest.raises(StorageError, match=r"could not write names\.log"),
    ):
        add_image(root, "a", A)
    assert not log.exists()
    add_image(root, "a", A)
    assert_sound(root, {"a": [A]})


@pytest.mark.parametrize("is_there", [False, True])
def test_a_log_has_its_name_before_it_has_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    """Whoever finds something in it does not force its name any more."""
    root = tmp_path / "store"
    Store.open(root, create=True).close()
    log = root / "names.log"
    if is_there:  # of somebody who was killed
        log.touch(0o600)
    real = os.fsync
    sizes: list[int] = []

    def fsync(fd: int) -> None:
        if place_of(fd) == str(root) and log.exists():
            sizes.append(log.stat().st_size)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    add_image(root, "a", A)
    assert sizes[:1] == [0]


def test_lines_that_were_not_forced_go(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are right in memory and may be zeros on disk, before those that come next."""
    log = root / "names.log"
    before = log.read_bytes()
    with (
        failing_once(monkeypatch, lambda place: place == str(log)),
        pytest.raises(StorageError, match=r"could not write names\.log"),
        Store.open(root) as store,
    ):
        store.tag("b", store.resolve("a").image_id)
    assert log.read_bytes() == before
    with Store.open(root) as store:
        store.tag("c", store.resolve("a").image_id)
        assert set(store.tags()) == {"a:latest", "c:latest"}
        store.rebuild_catalog()
        assert set(store.tags()) == {"a:latest", "c:latest"}
    assert_sound(root, {"a": [A], "c": [A]})
