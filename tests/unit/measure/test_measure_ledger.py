"""The ledger of small stores: every byte once, and the right owner for it."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from layerstore.measure.attribution import attribute
from layerstore.measure.inventory import ChunkReader, take_inventory
from layerstore.measure.ledger import (
    Owner,
    assert_exact,
    take_ledger,
)
from layerstore.measure.removing import freed_by_removing
from layerstore.store.collect.gc import plan_gc
from layerstore.store.records import CacheRecord
from layerstore.store.store import Store
from tests.support.measure import build, noise, put_image, put_layer

BASE = {b"bin/%d" % n: noise(n, 9000 + n) for n in range(40)} | {b"big": noise("big", 2_500_000)}
APP = {b"app/%d" % n: noise(("app", n), 20_000) for n in range(10)}
OTHER = {b"srv/%d" % n: noise(("srv", n), 30_000) for n in range(10)}


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store", create=True) as store:
        yield store


def du(path) -> int:
    done = subprocess.run(["du", "-s", "-B1", path], capture_output=True, check=True, text=True)
    return int(done.stdout.split()[0])


def ledger_of_all(store):
    ledger = take_ledger(store)
    assert_exact(ledger)
    assert ledger.disk_size == du(store.root)
    return ledger


def test_an_empty_store_is_overhead_alone(store):
    ledger = ledger_of_all(store)
    owners = {part.owner for part in ledger.parts}
    assert owners <= {Owner.CATALOG, Owner.CONFIG, Owner.NAMES, Owner.LOCKS, Owner.RESERVE}
    assert ledger.images == ()


def test_shared_and_exclusive_bytes_follow_the_images(store):
    build(store, "one", BASE, APP, created=1)
    alone = ledger_of_all(store)
    assert alone.size_of(Owner.SHARED) == 0
    build(store, "two", BASE, OTHER, created=2)
    both = ledger_of_all(store)
    assert both.size_of(Owner.SHARED) > both.size_of(Owner.EXCLUSIVE) > 0
    one, two = both.images
    assert (one.names, two.names) == (("one:latest",), ("two:latest",))
    # 10 files of 20,000 and of 30,000 bytes, of which half is noise
    assert 100_000 < one.exclusive_size < 110_000
    assert 150_000 < two.exclusive_size < 160_000
    assert one.shared_size == two.shared_size > 1_250_000


def test_dropping_a_name_makes_exactly_the_foretold_bytes_unreferenced(store):
    one = build(store, "one", BASE, APP, created=1)
    two = build(store, "two", BASE, OTHER, created=2)
    before = ledger_of_all(store)
    inventory = take_inventory(store)
    attribution = attribute(inventory, ChunkReader(store, inventory))
    freed = freed_by_removing(inventory, attribution, [one.image_id])
    assert freed == before.images[0].exclusive_size == before.images[0].freed_size
    both = freed_by_removing(inventory, attribution, [one.image_id, two.image_id])
    store.untag("one")
    after = ledger_of_all(store)
    assert after.size_of(Owner.UNREFERENCED) - before.size_of(Owner.UNREFERENCED) == freed
    store.untag("two")
    assert ledger_of_all(store).size_of(Owner.UNREFERENCED) == both


def test_the_build_cache_owns_what_no_image_needs(store):
    with store.begin("test") as session:
        base, step = put_layer(session, BASE), put_layer(session, APP)
        put_image(session, [base], "base")
        session.cache_put(CacheRecord("key", step, b"", 0.0))
    ledger = ledger_of_all(store)
    assert 100_000 < ledger.size_of(Owner.CACHE) < 110_000
    assert ledger.size_of(Owner.UNREFERENCED) == 0
    store.cache_drop(["key"])
    freed = ledger_of_all(store)
    assert freed.size_of(Owner.CACHE) == 0
    assert freed.size_of(Owner.UNREFERENCED) == ledger.size_of(Owner.CACHE)


def test_a_living_session_holds_its_layers(store):
    with store.begin("test") as session:
        put_layer(session, APP)
        assert ledger_of_all(store).size_of(Owner.HELD) > 100_000
    ended = ledger_of_all(store)
    assert ended.size_of(Owner.HELD) == 0
    assert ended.size_of(Owner.UNREFERENCED) > 100_000


def test_a_view_holds_its_layers_and_writable_layers_are_counted(store):
    image = build(store, "one", APP)
    record = store.root / "views" / "v1.json"
    record.write_text(json.dumps({"image_id": image.image_id, "layers": image.layers}))
    upper = store.root / "uppers" / "v1" / "upper"
    upper.mkdir(parents=True)
    (upper / "file").write_bytes(b"x" * 5000)
    os.link(upper / "file", upper / "link")
    with open(upper / "sparse", "wb") as file:
        file.truncate(50_000_000)
    store.untag("one")
    ledger = ledger_of_all(store)
    assert ledger.size_of(Owner.HELD) > 100_000
    assert ledger.size_of(Owner.WRITABLE) == 50_005_000
    assert ledger.writable[0].name == "v1"
    assert ledger.writable[0].disk_size == du(store.root / "uppers" / "v1")
    assert ledger.slack < 0  # the sparse file outweighs everything else
    record.unlink()
    assert ledger_of_all(store).size_of(Owner.HELD) == 0


def test_a_lower_of_several_containers_holds_its_layers_as_gc_says(store):
    image = build(store, "one", APP)
    record = store.root / "views" / "lower-1.json"
    value = {"kind": "lower", "image_id": None, "layers": image.layers, "backend": "kernel"}
    record.write_text(json.dumps(value))
    store.remove_image(image.image_id)
    ledger = ledger_of_all(store)
    assert ledger.size_of(Owner.HELD) > 100_000
    assert plan_gc(store).freed_bytes == ledger.size_of(Owner.UNREFERENCED)  # config and manifest
    record.unlink()
    assert ledger_of_all(store).size_of(Owner.HELD) == 0
    assert plan_gc(store).freed_bytes > 100_000


def test_strange_files_are_counted_as_other_or_unreferenced(store):
    build(store, "one", APP)
    (store.root / "notes.txt").write_bytes(b"x" * 123)
    (store.root / "packs" / "left-over").write_bytes(b"x" * 456)
    (store.root / "blobs" / "sha256" / "ab").write_bytes(b"x" * 44)
    ledger = ledger_of_all(store)
    assert ledger.size_of(Owner.OTHER) == 123
    assert ledger.size_of(Owner.UNREFERENCED) == 500


@pytest.mark.timeout(60)
def test_a_record_of_a_view_that_is_no_file_is_not_waited_for(store):
    build(store, "one", BASE, created=1)
    os.mkfifo(f"{store.paths.views}/0123456789ab.json")
    assert [image.names for image in ledger_of_all(store).images] == [("one:latest",)]


def test_a_missing_or_cut_pack_does_not_break_the_sum(store):
    build(store, "one", BASE)
    build(store, "two", OTHER)
    first, second = sorted((store.root / "packs").glob("*/*.pack"))
    first.unlink()
    os.truncate(second, 5000)
    store.reader.close()  # forget what was read before the damage
    ledger = ledger_of_all(store)
    assert len(ledger.unreadable_layers) == 2
    assert ledger.size_of(Owner.UNREFERENCED) == 5000
    assert ledger.size_of(Owner.SHARED) == ledger.size_of(Owner.EXCLUSIVE) == 0
