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


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Has an entry for every plan of the collector that df made."""
    made: list[int] = []
    planned = reclaim._planned

    def counted(store: Store, key: bytes) -> object:
        made.append(1)
        return planned(store, key)

    monkeypatch.setattr(reclaim, "_planned", counted)
    return made


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


@pytest.mark.usefixtures("no_plan")
@pytest.mark.parametrize("is_remembered", [False, True])
@pytest.mark.parametrize("images", [3, ENOUGH])
def test_packs_that_nothing_needs_go_whole(store: Store, images: int, is_remembered: bool) -> None:
    publish(store, range(images))
    if is_remembered:
        df.take_df(store)
    sizes = {row.size for row in store.catalog.pack_rows()}
    store.untag("app-1:1")
    assert said_and_done(store) >= min(sizes)
    assert df.take_df(store).reclaimable == 0


@pytest.mark.usefixtures("no_plan")
def test_an_image_of_layers_that_others_need_is_a_config_and_a_manifest(store: Store) -> None:
    publish(store, range(ENOUGH))
    first = store.resolve("app-0:1")
    with store.begin("again") as session:
        again = put_image(session, list(first.layers), "again:1", created=27)
    freed = df.take_df(store).reclaimable
    store.untag("again:1")
    blobs = (again.image_id, again.manifest_digest)
    size = sum(os.path.getsize(store.paths.blob(digest)) for digest in blobs)
    assert said_and_done(store) == freed + size


@pytest.mark.usefixtures("no_plan")
def test_what_was_published_since_the_sums_were_remembered_goes_whole(store: Store) -> None:
    publish(store, range(ENOUGH))
    df.take_df(store)
    publish(store, range(50, 52))
    store.untag("app-50:1")
    said_and_done(store)


def test_a_pack_that_lives_in_part_is_left_to_the_plan(store: Store, plans: list[int]) -> None:
    publish(store, range(ENOUGH))
    with store.begin("what nothing needs in the pack of a layer") as session:
        session.put_bytes(noise("waste", 5_000))
        put_image(session, [put_layer(session, {b"f": noise("needed", 90_000)})], "last:1")
    store.untag("app-1:1")
    assert said_and_done(store) > 0
    assert plans


def test_what_goes_beside_a_running_command_is_left_to_the_plan(
    store: Store, plans: list[int]
) -> None:
    publish(store, range(ENOUGH))
    store.untag("app-1:1")
    said_and_done(store, beside=True)
    assert plans


def test_files_that_nobody_knows_are_left_to_the_plan(store: Store, plans: list[int]) -> None:
    publish(store, range(3))
    store.untag("app-1:1")
    name = "ab" * 32
    path = store.root / "packs" / "ab" / f"{name}.pack"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(5000))
    assert said_and_done(store) > 5000
    assert plans


def test_a_pin_keeps_what_has_no_name(store: Store) -> None:
    publish(store, range(ENOUGH))
    store.pin(store.resolve("app-1:1").image_id)
    freed = df.take_df(store).reclaimable
    store.untag("app-1:1")
    assert said_and_done(store) == freed
