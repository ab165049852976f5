"""Putting the same content again heals what is damaged, without being asked."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from layerstore.store import soundness
from layerstore.store.check import check
from layerstore.store.failures import CorruptPackError
from layerstore.store.store import Store
from tests.support.store import add_image, noise, put_image, read_image, text

if TYPE_CHECKING:
    from collections.abc import Callable

A = {b"a/%d" % n: text(n, 40_000) for n in range(60)} | {b"a/big": noise(7, 900_000)}
B = {b"b/%d" % n: noise(n, 50_000) for n in range(20)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "store"
    add_image(root, "a", A)
    add_image(root, "b", B)
    return root


def pack_of(root: Path, name: str) -> Path:
    with Store.open(root) as store:
        record = store.layer(store.resolve(name).layers[0])
        place = store.catalog.locate(record.tree[0][1])
        assert place is not None
        return Path(store.paths.pack(place.pack_id))


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def to_symlink(path: Path) -> None:
    target = path.with_name("elsewhere")
    path.rename(target)
    path.symlink_to(target)


def to_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def swap_blocks(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[40:2040], data[3040:5040] = data[3040:5040], data[40:2040]
    path.write_bytes(data)


def other_pack(path: Path) -> None:
    (other,) = (found for found in path.parents[1].glob("*/*.pack") if found != path)
    shutil.copy(other, path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut-by-one": lambda path: os.truncate(path, path.stat().st_size - 1),
    "empty": lambda path: os.truncate(path, 0),
    "longer": lambda path: os.truncate(path, path.stat().st_size + 4096),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "first-block": lambda path: flip(path, 60),
    "last-block": lambda path: flip(path, path.stat().st_size - 9000),
    "swapped": swap_blocks,
    "header": lambda path: flip(path, 3),
    "footer": lambda path: flip(path, path.stat().st_size - 300),
    "trailer": lambda path: flip(path, path.stat().st_size - 5),
    "other-pack": other_pack,
    "symlink": to_symlink,
    "directory": to_directory,
    "fifo": to_fifo,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_importing_again_heals(root: Path, name: str) -> None:
    path = pack_of(root, "a")
    DAMAGES[name](path)
    with Store.open(root) as store, store.begin("again") as session:
        put_image(session, A, names=["a"])
        assert session.stats.healed_chunks > 0
    with Store.open(root) as store:
        assert read_image(store, "a") == [A]
        assert read_image(store, "b") == [B]
        assert check(store, read_data=True).ok


def test_healing_writes_no_more_than_the_damaged_blocks(root: Path) -> None:
    flip(pack_of(root, "a"), 60)
    with Store.open(root) as store:
        (block,) = store.catalog.query("SELECT max(raw) FROM blocks WHERE offset = 32")[0]
        with store.begin("again") as session:
            put_image(session, A)
            stats = session.stats
    assert isinstance(block, int)
    assert 0 < stats.new_bytes <= block
    assert stats.healed_chunks == stats.new_chunks > 1


def test_a_chunk_alone_heals_the_images_of_others(root: Path) -> None:
    """Another image that shares the file brings its bytes back for both."""
    flip(pack_of(root, "a"), 60)
    with Store.open(root) as store:
        with pytest.raises(CorruptPackError):
            read_image(store, "a")
        with store.begin("other") as session:
            put_image(session, {**A, b"more": noise(1000, 9)}, names=["other"])
        assert read_image(store, "a") == [A]


def test_damage_while_a_session_is_open_is_seen_by_the_next(root: Path) -> None:
    with Store.open(root) as store:
        assert read_image(store, "a") == [A]  # packs are open and cached now
        pack_of(root, "a").unlink()
        with store.begin("again") as session:
            put_image(session, A)
        store.reader.close()
        assert read_image(store, "a") == [A]


def test_a_sound_store_is_read_once_and_nothing_is_written(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pack that is wholly reused is hashed after a small part was decoded."""
    calls: list[str] = []
    for name in ("_check_tables", "_check_hash", "_check_block"):
        real = getattr(soundness, name)

        def spy(*arguments: object, name: str = name, real=real) -> None:  # type: ignore[no-untyped-def]
            calls.append(name)
            real(*arguments)

        monkeypatch.setattr(soundness, name, spy)
    with Store.open(root) as store, store.begin("again") as session:
        put_image(session, A)
        assert session.stats.new_bytes == 0
    assert calls.count("_check_tables") == calls.count("_check_hash") == 1
    assert calls.count("_check_block") < 3


def test_a_medium_that_fails_counts_as_damage_and_other_errors_do_not(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from layerstore.errors import StorageError

    def failing(code: int) -> Callable[..., object]:
        def read(*_: object) -> object:
            raise OSError(code, os.strerror(code))

        return read

    with monkeypatch.context() as patch, Store.open(root) as store:
        patch.setattr(soundness, "read_at", failing(errno.EIO))
        with store.begin("again") as session:
            put_image(session, B)
            assert session.stats.healed_chunks > 0
        patch.setattr(soundness, "read_at", failing(errno.EMFILE))
        with store.begin("again") as session, pytest.raises(StorageError):
            put_image(session, A)
