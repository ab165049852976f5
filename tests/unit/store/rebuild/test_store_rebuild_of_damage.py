"""An index that is made again over damaged packs knows what the old one knew of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from layerstore.formats.pack import ItemKind
from layerstore.image.repairing import repair_store
from layerstore.store.check.check import check
from layerstore.store.packs.pack_reader import read_footer
from layerstore.store.rebuild.rebuild import rebuild_catalog
from layerstore.store.store import Store
from tests.support.store import (
    add_image,
    add_version,
    assert_sound,
    noise,
    read_image,
    text,
    versions,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ONE = {f"a/{n}".encode(): text(n, 9_000) for n in range(30)} | {b"big": noise(1, 600_000)}
TWO = {b"b/%d" % n: noise(n, 40_000) for n in range(10)}


def longer(pack: Path) -> None:
    with pack.open("ab") as file:
        file.write(b"more than there was")


def without_end(pack: Path) -> None:
    os.truncate(pack, pack.stat().st_size - 8)


def zeroed_end(pack: Path) -> None:
    size = pack.stat().st_size
    with pack.open("r+b") as file:
        file.seek(size - 60)
        file.write(bytes(60))


def packs(root: Path) -> list[Path]:
    return sorted((root / "packs").rglob("*.pack"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "store"
    add_image(root, "one:1", ONE)
    add_image(root, "two:1", TWO)
    old, new = versions(2, files=1)
    add_version(root, "app:1", old)
    add_version(root, "app:2", new)
    return root


@pytest.mark.parametrize("damage", [longer, without_end, zeroed_end])
def test_nothing_is_lost_by_making_the_index_before_a_repair(
    root: Path, damage: Callable[[Path], None]
) -> None:
    names = ["app:1", "app:2", "one:1", "two:1"]
    with Store.open(root) as store:
        before = {name: read_image(store, name) for name in names}
    assert len(packs(root)) >= 4
    for pack in packs(root):
        damage(pack)
    with Store.open(root) as store:
        report = store.rebuild_catalog()
        assert len(report.damaged_packs) == len(packs(root))
        assert all("kept for repair" in loss for loss in report.losses)
        assert sorted(store.tags()) == names
        assert not check(store, read_data=True).ok
    assert repair_store(str(root), (), dry_run=False).ok
    assert_sound(root, before)


def test_without_an_old_index_such_packs_are_told_as_lost(root: Path) -> None:
    longer(packs(root)[0])
    for left in root.glob("catalog.sqlite*"):
        left.unlink()
    (loss,) = rebuild_catalog(str(root)).damaged_packs.values()
    assert "kept for repair" not in loss


def test_an_empty_pack_has_no_rows(root: Path) -> None:
    os.truncate(packs(root)[0], 0)
    (loss,) = rebuild_catalog(str(root)).damaged_packs.values()
    assert "kept for repair" not in loss
    with Store.open(root) as store:
        assert len(store.catalog.pack_rows()) == len(packs(root)) - 1


def test_a_damaged_record_of_a_layer_is_taken_from_the_old_index(root: Path) -> None:
    for pack in packs(root):
        with pack.open("rb") as file:
            blocks = read_footer(file.fileno())
        for block in blocks:
            if block.kind is ItemKind.LAYER:
                with pack.open("r+b") as file:
                    file.seek(block.offset)
                    file.write(bytes(block.stored_length))
    with Store.open(root) as store:
        report = store.rebuild_catalog()
        assert report.lost_layers == 0
        assert read_image(store, "one:1")
        assert sorted(store.tags()) == ["app:1", "app:2", "one:1", "two:1"]


def test_bytes_that_nobody_needs_stay_nameless(root: Path) -> None:
    """What of a block is in no use has no row, before and after."""
    with Store.open(root) as store:
        with store.catalog.write() as connection:
            (first,) = connection.execute("SELECT id FROM chunks ORDER BY id LIMIT 1").fetchone()
            connection.execute("DELETE FROM chunks WHERE id = ?", (first,))
        count = len(store.catalog.chunk_rows())
        for pack in packs(root):
            longer(pack)
        store.rebuild_catalog()
        assert len(store.catalog.chunk_rows()) == count
        assert not store.catalog.has_chunk(b"")


def test_a_pack_that_gc_had_replaced_is_not_taken_back(root: Path) -> None:
    with Store.open(root) as store:
        with store.catalog.write() as connection:
            connection.execute("UPDATE packs SET retired = 1")
        longer(packs(root)[0])
        assert "kept for repair" not in store.rebuild_catalog().losses[0]
