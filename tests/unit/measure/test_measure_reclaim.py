"""What df says that gc frees where all is needed is told by the tables of packs, and is right."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from layerstore.image.optimize import contents_in_order
from layerstore.measure import df, reclaim
from layerstore.store.collect import compaction
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.packs import pack_writer
from layerstore.store.rewriting.optimize import optimize
from layerstore.store.store import Store
from tests.support.measure import noise, put_image, put_layer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from layerstore.store.catalog.rows import PackRow

ENOUGH = compaction.MERGE_COUNT + 2


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", create=True) as store:
        yield store


@pytest.fixture
def no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes the collector's plan fails the test."""

    def planned(*_: object) -> None:
        raise AssertionError("the plan was made")

    monkeypatch.setattr(reclaim, "_planned", planned)


def publish(store: Store, numbers: range, files: int = 3, size: int = 5_000) -> None:
    """Publish an image for each number, each in a pack of its own."""
    for number in numbers:
        with store.begin("small") as session:
            own = {b"f%d" % n: noise((number, n), size + number) for n in range(files)}
            put_image(session, [put_layer(session, own)], f"app-{number}:1", created=number % 28)


def said_and_done(store: Store, *, beside: bool = False) -> int:
    """Compare what df says with the plan and with what is done; return it."""
    with store.begin("beside") if beside else contextlib.nullcontext():
        said = df.take_df(store)
        plan = plan_gc(store)
        assert said.doubt == ""
        assert (said.reclaimable, said.deferred) == (plan.freed_bytes, plan.deferred_bytes)
        report = execute(plan_gc(store, measure=False))
        assert (said.reclaimable, said.deferred) == (report.freed_bytes, report.deferred_bytes)
    return said.reclaimable


@pytest.mark.usefixtures("no_plan")
def test_small_packs_are_merged(store: Store) -> None:
    publish(store, range(ENOUGH))
    assert said_and_done(store) > 0


@pytest.mark.usefixtures("no_plan")
def test_beside_a_running_command_copies_come_first(store: Store) -> None:
    publish(store, range(ENOUGH))
    assert said_and_done(store, beside=True) < 0


@pytest.mark.usefixtures("no_plan")
@pytest.mark.parametrize("items", [1, 3, 4, 5, 6, 7, 11])
def test_packs_that_are_full_of_items(
    store: Store, monkeypatch: pytest.MonkeyPatch, items: int
) -> None:
    """New packs end amid old ones, where those end, and one comes out as what it was."""
    monkeypatch.setattr(pack_writer, "PACK_ITEMS", items)
    publish(store, range(ENOUGH))
    said_and_done(store)


@pytest.mark.usefixtures("no_plan")
def test_packs_with_differences(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    content = noise("old", 200_000)
    for number in range(2 * ENOUGH):
        with store.begin("version") as session:
            layer = put_layer(session, {b"f": content[:-9] + b"%9d" % number})
            put_image(session, [layer], f"version-{number}:1", created=number % 28)
    monkeypatch.setattr(pack_writer, "PACK_ITEMS", 2)
    optimize(store, contents_in_order(store), level=3)
    assert store.catalog.base_rows()
    execute(plan_gc(store, measure=False))
    assert len(store.catalog.pack_rows()) >= compaction.MERGE_COUNT
    monkeypatch.undo()
    monkeypatch.setattr(reclaim, "_planned", None)
    plan = plan_gc(store)
    assert df.take_df(store).reclaimable == plan.freed_bytes > 0


@pytest.mark.usefixtures("no_plan")
def test_packs_that_are_full_of_bytes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(store, range(ENOUGH))
    monkeypatch.setattr(pack_writer, "PACK_TARGET_BYTES", 40_000)
    said_and_done(store)


@pytest.mark.usefixtures("no_plan")
@pytest.mark.parametrize("room", [1_000, 30_000, 70_000])
@pytest.mark.parametrize("beside", [False, True])
def test_batches_on_a_disk_with_little_room(
    store: Store, monkeypatch: pytest.MonkeyPatch, room: int, beside: bool
) -> None:
    monkeypatch.setattr("layerstore.store.collect.gc.MAX_EXTRA_BYTES", room)
    publish(store, range(ENOUGH))
    said_and_done(store, beside=beside)


@pytest.mark.usefixtures("no_plan")
def test_packs_of_several_efforts_and_sizes(store: Store) -> None:
    publish(store, range(ENOUGH))
    publish(store, range(100, 100 + ENOUGH), files=2, size=400_000)
    with store.catalog.write() as connection:
        connection.execute("UPDATE packs SET effort = 19 WHERE pack % 2")
    plan = plan_gc(store)
    assert df.take_df(store).reclaimable == plan.freed_bytes


def test_a_pack_whose_table_is_damaged_is_left_to_the_plan(store: Store) -> None:
    publish(store, range(ENOUGH))
    row = store.catalog.pack_rows()[3]
    damage(store, row, row.size - 100)
    plan = plan_gc(store)
    assert plan.damaged_packs == (row.pack_id,)
    assert df.take_df(store).reclaimable == plan.freed_bytes > 0


def damage(store: Store, row: PackRow, at: int) -> None:
    with open(store.paths.pack(row.pack_id), "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes((byte[0] ^ 1,)))


def test_what_lacks_a_manifest_frees_nothing(store: Store) -> None:
    publish(store, range(ENOUGH))
    os.unlink(store.paths.blob(store.images()[2].manifest_digest))
    said = df.take_df(store)
    assert said.reclaimable == 0
    assert "dangle" in said.doubt


def test_a_chunk_of_no_layer_is_found_however_small_its_share(store: Store) -> None:
    """One byte of a block that compresses well: its share of the stored bytes is none."""
    publish(store, range(ENOUGH))
    with store.begin("waste") as session:
        session.put_bytes(b"x")
        put_image(session, [put_layer(session, {b"f": bytes(900_000)})], "last:1")
    said_and_done(store)


def test_a_record_from_memory_is_what_was_said(store: Store) -> None:
    publish(store, range(ENOUGH))
    said = df.take_df(store)
    assert os.path.exists(f"{store.paths.measured}/gc")
    assert df.take_df(store).reclaimable == said.reclaimable
