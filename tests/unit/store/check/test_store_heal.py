"""Putting the same content again heals what is damaged, without being asked."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from layerstore.image.layers.similar import SimilarFiles
from layerstore.store.check.check import check
from layerstore.store.check.findings import Problem
from layerstore.store.failures import CorruptPackError
from layerstore.store.references import layer_chunks
from layerstore.store.store import Store
from layerstore.store.writing import soundness
from tests.support.damage import flip, pack_of
from tests.support.store import (
    add_image,
    add_version,
    assert_sound,
    noise,
    put_image,
    put_layer,
    read_image,
    text,
    versions,
)

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


def test_a_damaged_base_heals_by_itself_and_by_what_needs_it(tmp_path: Path) -> None:
    """A difference is only as sound as its base, and heals alone or through it."""
    one, two = versions(2)
    for again in (one, two):
        root = tmp_path / f"{again is one}"
        add_version(root, "app:1", one)
        add_version(root, "app:2", two)
        assert max_depth(root) == 1
        damage_base(root)
        with Store.open(root) as store:
            with pytest.raises(CorruptPackError):
                read_image(store, "app:2")
            report = check(store, read_data=True)
            problems = {finding.problem for finding in report.findings}
            assert problems >= {Problem.BLOCK_DAMAGED, Problem.BASE_DAMAGED}
            assert not report.dependent_items.isdisjoint(needed_by(store, "app:2"))
            structure = check(store, read_data=False)
            assert structure.ok
        add_version(root, "again", again)
        with Store.open(root) as store:
            assert read_image(store, "app:2") == [two]
            assert read_image(store, "again") == [again]
            if again is one:
                assert read_image(store, "app:1") == [one]
                assert check(store, read_data=True).ok
        add_version(root, "once-more", one)
        assert_sound(root, {"app:1": [one], "app:2": [two], "again": [again]})


def test_what_heals_is_no_difference_against_what_needs_it(tmp_path: Path) -> None:
    """Else the two would need each other for ever."""
    one, two = versions(2)
    root = tmp_path / "store"
    add_version(root, "app:1", one)
    add_version(root, "app:2", two)
    damage_base(root)
    with Store.open(root) as store, store.begin("again") as session:
        # Asked what resembles it, everybody names the newer version, which needs it.
        layer = store.resolve("app:2").layers[:1]
        put_layer(session, one, SimilarFiles(store, layer))
        assert session.stats.healed_chunks > 0
    assert max_depth(root) == 1
    assert_sound(root, {"app:1": [one], "app:2": [two]})


def test_a_lost_base_without_any_row_is_found_by_the_structure_alone(tmp_path: Path) -> None:
    one, two = versions(2)
    root = tmp_path / "store"
    add_version(root, "app:1", one)
    add_version(root, "app:2", two)
    with Store.open(root) as store:
        base = store.catalog.base_rows()[0][2]
        with store.catalog.write() as connection:
            connection.execute("DELETE FROM chunks WHERE id = ?", (base,))
            connection.execute("DELETE FROM images WHERE image_id = ?", (image_of(store, "app:1"),))
            connection.execute("DELETE FROM tags WHERE name = 'app:1'")
        report = check(store, read_data=False)
        harmed = [
            finding for finding in report.findings if image_of(store, "app:2") in finding.images
        ]
        assert {finding.problem for finding in harmed} >= {Problem.BASE_DAMAGED}
        assert base in report.lost_items


def test_a_rebuilt_catalog_reads_the_healed_copy(root: Path) -> None:
    flip(pack_of(root, "a"), 60)
    with Store.open(root) as store, store.begin("again") as session:
        put_image(session, {b"lone": noise(77, 5_000), **A}, names=["a2"])
        assert session.stats.healed_chunks > 0
    for attempt in range(2):  # whatever the order of the packs' names
        with Store.open(root) as store:
            report = store.rebuild_catalog()
            assert report.damaged_packs == {}
            assert read_image(store, "a") == [A], attempt
            assert check(store, read_data=True).ok


def image_of(store: Store, name: str) -> str:
    return store.resolve(name).image_id


def needed_by(store: Store, name: str) -> set[bytes]:
    return {
        chunk_id
        for diff_id in store.resolve(name).layers
        for chunk_id in layer_chunks(store.layer(diff_id), store.read_refs)
    }


def max_depth(root: Path) -> int:
    with Store.open(root) as store:
        return max(row.depth for row in store.catalog.block_rows())


def damage_base(root: Path) -> None:
    """Flip a bit in the block of something that others are differences against."""
    with Store.open(root) as store:
        place = store.catalog.locate(store.catalog.base_rows()[0][2])
        assert place is not None
        path = Path(store.paths.pack(place.pack_id))
    flip(path, place.block_offset + place.stored_length // 2)


@pytest.mark.parametrize("name", ["gone", "empty", "zeros", "symlink", "directory", "fifo"])
def test_a_damaged_config_comes_back_with_its_image(root: Path, name: str) -> None:
    with Store.open(root) as store:
        path = Path(store.paths.blob(store.resolve("a").image_id))
    DAMAGES[name](path)
    add_image(root, "a", A)
    assert_sound(root, {"a": [A], "b": [B]})


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


def test_a_bit_flipped_anywhere_is_healed_by_importing_again(tmp_path: Path) -> None:
    """In packs of every kind: content, differences, trees, layer records, tables."""
    whole = tmp_path / "whole"
    images = {f"v:{n}": files for n, files in enumerate(versions(3, size=150_000, files=2))}
    images["a:1"] = {path: A[path] for path in list(A)[:8]}
    for name, files in images.items():
        add_version(whole, name, files)
    packs = sorted(whole.rglob("*.pack"))
    sizes = [pack.stat().st_size for pack in packs]
    for turn, at in enumerate(range(37, sum(sizes), sum(sizes) // 40)):
        root = tmp_path / f"{turn}"
        shutil.copytree(whole, root)
        offset, number = at, 0
        while offset >= sizes[number]:
            offset, number = offset - sizes[number], number + 1
        flip(root / packs[number].relative_to(whole), offset)
        for name, files in images.items():
            add_version(root, name, files)
        with Store.open(root) as store:
            for name, files in images.items():
                assert read_image(store, name) == [files], at
            # Padding is nobody's: it is found, and repair's to heal.
            bad = [f for f in check(store, read_data=True).findings if f.is_error]
            assert all("although every chunk" in finding.message for finding in bad), bad
        shutil.rmtree(root)
