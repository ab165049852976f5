"""The table of chunks that gc marks in, against sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerstore.store.collect.compaction import copy_batch, copy_bound
from layerstore.store.collect.item_table import ItemTable, PackItems
from layerstore.store.failures import CatalogDamagedError
from layerstore.store.store import Store
from tests.support.store import add_version, noise, put_image, text

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path):
    with Store.open(tmp_path / "store", create=True) as store:
        with store.begin("one") as session:
            put_image(session, {b"%d" % n: noise(n, 3_000) for n in range(60)}, names=["a"])
        with store.begin("two") as session:
            put_image(session, {b"%d" % n: text(n, 9_000) for n in range(50)}, names=["b"])
        yield store


def load(store: Store) -> ItemTable:
    with store.catalog.pinned() as catalog:
        return ItemTable.load(catalog)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_marks_are_those_of_a_set(tmp_path_factory, data) -> None:
    root = tmp_path_factory.getbasetemp() / "shared-table"
    with Store.open(root, create=True) as store:
        if not store.tags():
            for name in ("a", "b"):
                with store.begin(name) as session:
                    files = {b"%d" % n: noise(f"{name}{n}", 2_000) for n in range(40)}
                    put_image(session, files, names=[name])
        rows = {row.chunk_id: row for row in store.catalog.scan_chunks()}
        known = sorted(rows)
        chosen = set(data.draw(st.lists(st.sampled_from(known), max_size=60)))
        strangers = {noise(f"none{n}", 32) for n in range(data.draw(st.integers(0, 3)))}
        table = load(store)
        assert len(table) == len(rows)
        assert table.mark([*chosen, *strangers]) == strangers
        assert table.mark(chosen) == set()
        blocks = {(b.pack, b.block): b for b in store.catalog.block_rows()}
        for index, pack in enumerate(table.packs):
            here = {i for i in chosen if rows[i].pack == pack.pack}
            assert table.marked[index] == len(here)
            living = PackItems(table, index).alive
            assert {i for i in known if i in living} == here
            share = sum(
                rows[i].length
                * blocks[pack.pack, rows[i].block].stored_length
                / blocks[pack.pack, rows[i].block].raw_length
                for i in here
            )
            assert table.living_share(index) == pytest.approx(share)
            touched = {rows[i].block for i in here}
            whole = sum(blocks[pack.pack, block].stored_length for block in touched)
            assert table.copy_bound(index) == whole
            assert table.living_counts(index) == (len(touched), len(here))
        for item_id in known:
            assert table.pack_numbers(item_id) == {rows[item_id].pack}


def test_a_clone_grows_by_itself(store: Store) -> None:
    table = load(store)
    ids = [row.chunk_id for row in store.catalog.scan_chunks()]
    table.mark(ids[:5])
    other = table.clone()
    other.mark(ids)
    assert sum(table.marked) == 5
    assert sum(other.marked) == len(ids)
    assert other.living_stored > table.living_stored


def test_ids_that_begin_alike_are_marked_together(store: Store) -> None:
    """A prefix met twice must keep both rows: forgetting one would lose data."""
    ids = [row.chunk_id for row in store.catalog.scan_chunks()]
    first, second = (
        ids[0],
        next(
            row.chunk_id
            for row in store.catalog.scan_chunks()
            if row.pack != store.catalog.locate(ids[0]).pack
        ),
    )
    twin = first[:8] + second[8:]
    with store.catalog.write() as connection:
        connection.execute("UPDATE chunks SET id = ? WHERE id = ?", (twin, second))
    table = load(store)
    assert table.mark([first]) == set()
    assert sum(table.marked) == 2
    assert len(table.pack_numbers(first)) == 2
    assert all(twin in PackItems(table, index).alive for index in range(2) if table.marked[index])


def test_what_came_later_is_not_absent(store: Store) -> None:
    table = load(store)
    stranger = noise("later", 32)
    assert table.mark([stranger]) == {stranger}
    table.add_later([stranger])
    assert table.mark([stranger]) == set()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE chunks SET pack = 99 WHERE id = (SELECT min(id) FROM chunks)",
        "UPDATE chunks SET block = 99 WHERE id = (SELECT min(id) FROM chunks)",
        "UPDATE chunks SET block = -1 WHERE id = (SELECT min(id) FROM chunks)",
        "UPDATE chunks SET id = x'00' WHERE id = (SELECT min(id) FROM chunks)",
        "DELETE FROM blocks WHERE pack = 1 AND block = 0",
        "UPDATE blocks SET raw = 0 WHERE pack = 1 AND block = 0",
        "INSERT INTO bases VALUES (1, 77, 0, x'00112233445566778899')",
        "INSERT INTO bases VALUES (77, 0, 0, x'00112233445566778899')",
    ],
)
def test_rows_that_make_no_sense_are_damage(store: Store, damage: str) -> None:
    with store.catalog.write() as connection:
        connection.execute(damage)
    with pytest.raises(CatalogDamagedError):
        load(store)


def test_a_bound_counts_the_ids_of_bases(tmp_path: Path) -> None:
    """A copy of one difference against hundreds of files is mostly its list of bases."""
    one = {b"d/%03d" % n: noise(n, 1_100) for n in range(400)}
    two = {path: data[:500] + b"!" + data[500:] for path, data in one.items()}
    add_version(tmp_path / "store", "app:1", one)
    add_version(tmp_path / "store", "app:2", two)
    with Store.open(tmp_path / "store") as store:
        table = load(store)
        table.mark(row.chunk_id for row in store.catalog.scan_chunks())
        for index, pack in enumerate(table.packs):
            copies = copy_batch(store, table, [pack], None)
            assert copies.staying == {pack.pack_id}, "a whole pack comes out the same"
            assert pack.size <= copy_bound(table, index)
            assert table.living_bases(index) == sum(
                row[0] == pack.pack for row in store.catalog.base_rows()
            )
        assert sum(table.living_bases(index) for index in range(len(table.packs))) == 400


def test_what_is_measured_is_what_is_written_and_whole_blocks_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_version(tmp_path / "store", "app:1", {b"a/%d" % n: noise(n, 9_000) for n in range(300)})
    add_version(tmp_path / "store", "app:2", {b"b/%d" % n: noise(-n, 700) for n in range(1, 50)})
    with Store.open(tmp_path / "store") as store:
        table = load(store)
        rows = list(store.catalog.scan_chunks())
        dead = {row.chunk_id for row in rows if (row.pack, row.block) == rows[0][1:3]}
        dead -= {rows[0].chunk_id}  # of one block a single item lives
        table.mark(row.chunk_id for row in rows if row.chunk_id not in dead)
        read = []
        frame = store.reader.frame
        monkeypatch.setattr(store.reader, "frame", lambda *at: read.append(at) or frame(*at))
        measured = copy_batch(store, table, table.packs, None)
        assert len(read) == 1
        store.reader.close()
        numbers = iter(range(99))
        written = copy_batch(
            store, table, table.packs, lambda: str(tmp_path / f"{next(numbers)}.pack")
        )
        assert [pack.blocks for pack in measured.packs] == [pack.blocks for pack in written.packs]
        assert [pack.size for pack in measured.packs] == [pack.size for pack in written.packs]
        for pack in written.packs:
            assert pack.staged is not None
            pack.staged.discard()
