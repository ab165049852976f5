"""Remembered sums: used while they are true, made anew when they are not, missed by nobody."""

from __future__ import annotations

import os

import pytest

from layerstore.image.optimize import contents_in_order
from layerstore.measure import remembered, summary
from layerstore.measure.ledger import take_ledger
from layerstore.measure.summary import take_summarised
from layerstore.store.check.check import check
from layerstore.store.check.repair import execute_repair, plan_repair
from layerstore.store.rewriting.optimize import optimize
from layerstore.store.store import Store
from tests.support.measure import assert_sums_are_true, build, noise

BASE = {b"bin/%d" % n: noise(n, 9000 + n) for n in range(20)}
APP = {b"app/%d" % n: noise(("app", n), 20_000) for n in range(5)}


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store", create=True) as store:
        build(store, "one", BASE, APP, created=1)
        yield store


def refuse(*_):
    raise AssertionError("the index was read")


def record_of(store):
    return store.root / "measured" / "sums"


def test_the_index_is_not_read_again_while_only_names_change(store, monkeypatch):
    before = take_ledger(store)
    monkeypatch.setattr(summary, "with_rows", refuse)
    store.tag("two", store.tags()["one:latest"])
    assert take_ledger(store).images[0].exclusive_size == before.images[0].exclusive_size
    store.untag("one")
    store.untag("two")
    assert take_ledger(store).images == ()


def test_a_new_layer_is_seen(store, monkeypatch):
    take_ledger(store)
    build(store, "two", BASE, created=2)
    assert_sums_are_true(store)
    monkeypatch.setattr(summary, "with_rows", refuse)
    assert len(take_ledger(store).images) == 2


def test_layers_that_are_added_are_summed_alone(store, monkeypatch):
    take_ledger(store)
    monkeypatch.setattr(summary, "with_rows", refuse)
    some_of_base = {path: BASE[path] for path in sorted(BASE)[3:9]}
    build(store, "two", some_of_base, {b"new": noise("new", 50_000)}, created=2)
    take_summarised(store)
    build(store, "three", {**some_of_base, **APP}, created=3)
    build(store, "four", {b"bin/7": BASE[b"bin/7"]}, APP, created=4)
    take_summarised(store)
    monkeypatch.undo()
    assert_sums_are_true(store)


def test_layers_over_differences_are_summed_alone(tmp_path, monkeypatch):
    with Store.open(tmp_path / "s", create=True) as store:
        content = noise("old", 200_000)
        build(store, "old", {b"f": content}, created=1)
        build(store, "new", {b"f": content[:90_000] + b"x" * 9 + content[90_000:]}, created=2)
        optimize(store, contents_in_order(store), level=3)
        assert store.catalog.base_rows()
        take_ledger(store)
        store.untag("old")
        monkeypatch.setattr(summary, "with_rows", refuse)
        tail = {b"g": content[:90_000] + b"x" * 9 + content[90_000:], b"h": b"more"}
        build(store, "again", tail, created=3)
        take_summarised(store)
        monkeypatch.undo()
        assert_sums_are_true(store)


def test_nothing_is_added_to_sums_of_layers_that_lacked_something(store):
    take_ledger(store)
    with store.catalog.write() as connection:  # as if a pack had been lost with its rows
        connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'epoch'")
        connection.execute("DELETE FROM chunks WHERE length = 20000")
    store.reader.close()
    sums = take_summarised(store).sums
    assert sums is not None
    assert sums.runs is None
    build(store, "two", APP, created=2)  # stores them again: old layers need what is new
    assert_sums_are_true(store)


@pytest.mark.parametrize("damage", [b"", b"LSSUMS\0\1", b"x" * 500])
def test_a_damaged_record_is_none(store, damage):
    before = take_ledger(store)
    whole = record_of(store).read_bytes()
    record_of(store).write_bytes(damage)
    assert take_ledger(store) == before
    assert record_of(store).read_bytes() == whole


def test_a_record_with_a_sum_that_means_nothing_is_none(store):
    before = take_ledger(store)
    for body in (b"\xc0", b"\x94\xc4\x00\x90\x80\x91\x95\x91\x07\x00\x00\x00\x00"):
        record_of(store).write_bytes(summary.SEAL.closed(body))
        assert take_ledger(store) == before


def test_a_record_that_points_past_its_layers_is_none(store):
    sums = take_summarised(store).sums
    stamp = take_summarised(store).stamp
    record = summary._Record(
        stamp, [], [], dict(sums.stored), [([5], 1, 1, 1, 1)], summary.msgspec.Raw(b"\xc0")
    )
    record_of(store).write_bytes(summary.SEAL.closed(summary.msgspec.msgpack.encode(record)))
    assert_sums_are_true(store)


def test_nothing_is_remembered_of_layers_that_cannot_be_read(store):
    for pack in store.root.glob("packs/*/*.pack"):
        os.truncate(pack, 100)
    store.reader.close()  # forget what was read before the damage
    assert take_ledger(store).unreadable_layers
    assert not record_of(store).exists()


def test_a_pack_that_goes_after_it_was_remembered_is_missed(store):
    assert not take_ledger(store).unreadable_layers
    for pack in store.root.glob("packs/*/*.pack"):
        pack.unlink()
    store.reader.close()
    lost = take_ledger(store)
    assert lost.unreadable_layers
    assert lost.images[0].exclusive_size < 2000  # its config and manifest


def test_sums_are_true_after_a_repair_and_after_a_catalog_is_made_anew(store):
    build(store, "two", {b"other": noise("other", 300_000)}, created=2)
    first = take_summarised(store).stamp
    largest = max(store.root.glob("packs/*/*.pack"), key=lambda pack: pack.stat().st_size)
    whole = largest.read_bytes()
    largest.write_bytes(whole[:2000] + b"\xff" * 500 + whole[2500:])
    store.reader.close()
    assert execute_repair(plan_repair(store, check(store, read_data=True))).packs == 1
    assert take_summarised(store).stamp != first
    assert_sums_are_true(store)
    repaired = take_summarised(store)
    store.rebuild_catalog()
    assert take_summarised(store).stamp != repaired.stamp
    assert_sums_are_true(store)


def test_what_takes_too_much_room_is_not_kept(store, monkeypatch):
    monkeypatch.setattr(summary, "SEAL", summary.SEAL._replace(max_bytes=100))
    take_ledger(store)
    assert not record_of(store).exists()


def test_a_store_that_may_only_be_read_is_not_written(store, monkeypatch):
    store.config = store.config._replace(writable=False)
    monkeypatch.setattr(remembered, "write_record", refuse)
    assert take_ledger(store).images
