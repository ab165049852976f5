"""Stored bytes by file, layer, directory and image: parts add up, whatever the keys."""

from __future__ import annotations

import os

import pytest

from layerstore.image.layers.similar import SimilarFiles
from layerstore.measure.charges import take_charges
from layerstore.measure.ledger import Owner, take_ledger
from layerstore.measure.table import table_lines
from layerstore.measure.usage_by import By, Sort, take_usage_by, usage_by_table
from layerstore.store.store import Store
from tests.support.measure import build, noise
from tests.support.store import blobs_of
from tests.support.store import noise as plain_noise
from tests.support.store import put_layer as put_similar

BASE = {b"usr/bin/%d" % n: noise(n, 9000 + n) for n in range(10)} | {
    b"usr/lib/big": noise("big", 2_500_000)
}
APP = {b"app/%d" % n: noise(("app", n), 20_000) for n in range(5)}
COPY = {b"srv/copy": noise(("app", 0), 20_000), b"srv/own": noise("own", 30_000)}


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store", create=True) as store:
        build(store, "one", BASE, APP, created=1)
        build(store, "two", BASE, COPY, created=2)
        build(store, "old", {b"gone": noise("gone", 40_000)}, created=3)
        store.untag("old")
        yield store


def contents_of(ledger):
    return sum(map(ledger.size_of, (Owner.EXCLUSIVE, Owner.SHARED, Owner.ORIGINALS)))


def test_the_parts_are_what_the_ledger_says_of_file_contents(store):
    charges = take_charges(store)
    assert charges.contents_size == contents_of(take_ledger(store))
    assert charges.metadata_size == take_ledger(store).size_of(Owner.METADATA)
    for key in (
        lambda layer, _: layer,
        lambda _, file: file.path,
        lambda _, file: file.path.partition(b"/")[0],
        lambda _, file: file.size % 3,
        lambda *_: None,
    ):
        rows = charges.rows(key)
        assert sum(row.share_size for row in rows.values()) == charges.contents_size
        assert all(row.exclusive_size <= row.share_size <= row.stored_size for row in rows.values())
    assert rows[None].exclusive_size == charges.contents_size


def test_what_two_files_share_is_neithers_alone(store):
    files = {(len(f.images), f.path): f for f in take_charges(store).of_files()}
    first, copy, own = files[1, b"app/0"], files[1, b"srv/copy"], files[1, b"srv/own"]
    assert first.holding.exclusive_size == copy.holding.exclusive_size == 0
    assert first.holding.shared_size == copy.holding.shared_size > 9_000
    assert abs(first.holding.share_size - copy.holding.share_size) <= 1
    assert own.holding.exclusive_size == own.holding.share_size > 14_000
    big = files[2, b"usr/lib/big"]  # one layer, two images
    assert big.holding.exclusive_size == big.holding.stored_size > 1_200_000
    assert (1, b"gone") not in files


def test_images_share_what_the_ledger_says_they_share(store):
    ledger = take_ledger(store)
    rows = take_charges(store).rows_by_image()
    assert [*rows] == [image.image_id for image in ledger.images]
    assert sum(row.exclusive_size for row in rows.values()) == ledger.size_of(Owner.EXCLUSIVE)
    for row in rows.values():
        assert row.shared_size == ledger.size_of(Owner.SHARED)


def test_a_selection_shares_nothing_with_those_outside(store):
    chosen = take_charges(store, ["two"])
    rows = chosen.rows(lambda _, file: file.path)
    assert b"app/0" not in rows
    assert rows[b"srv/copy"].shared_size == 0
    assert chosen.contents_size == sum(row.exclusive_size for row in rows.values())
    by_id = take_charges(store, ["two", "two:latest", "one"])
    assert len(by_id.images) == 2
    assert by_id.contents_size == take_charges(store).contents_size


def test_who_needs_a_difference_needs_what_it_is_against(tmp_path):
    first = plain_noise("v", 60_000)
    second = bytearray(first)
    second[5_000:5_200] = plain_noise("w", 200)
    with Store.open(tmp_path / "store", create=True) as store:
        for name, content in (("one:1", first), ("two:1", bytes(second))):
            with store.begin("version") as session:
                layer = put_similar(session, {b"lib": content}, SimilarFiles(store))
                session.publish_image(*blobs_of([layer.diff_id]), [layer.diff_id], names=[name])
        assert store.catalog.base_rows()
        charges = take_charges(store)
        one, two = charges.rows(lambda layer, _: layer).values()
        assert sorted((one.exclusive_size > 0, two.exclusive_size > 0)) == [False, True]
        assert one.shared_size == two.shared_size > 50_000
        alone = take_charges(store, ["two:1"])
        assert alone.contents_size == charges.contents_size


@pytest.mark.parametrize("by", list(By))
def test_every_table_adds_up_to_the_disk(store, by):
    ledger = take_ledger(store)  # first: what it remembers is on the disk, too
    usage = take_usage_by(store, by)
    assert usage.disk_size == ledger.disk_size
    assert sum(row.share_size for row in usage.rows) == usage.contents_size
    assert usage.contents_size + usage.metadata_size + usage.rest_size == usage.disk_size
    assert usage.contents_size == contents_of(ledger)
    sizes = [row.share_size for row in usage.rows]
    assert sizes == sorted(sizes, reverse=True)
    few = take_usage_by(store, by, limit=1)
    assert few.rows == usage.rows[:1]
    assert few.more_rows == len(usage.rows) - 1
    assert few.rows[0].share_size + few.more_share_size == usage.contents_size
    lines = table_lines(usage_by_table(few))
    assert lines[-1].startswith("On disk")
    assert any("File contents" in line for line in lines)


def test_directories_are_cut_at_their_depth_and_merge_layers(store):
    rows = {row.name: row for row in take_usage_by(store, By.DIRECTORY, depth=1).rows}
    assert rows.keys() == {"/usr", "/app", "/srv"}
    assert (rows["/usr"].files, rows["/usr"].layers) == (11, 1)
    deep = {row.name for row in take_usage_by(store, By.DIRECTORY, depth=9).rows}
    assert deep == {"/usr/bin", "/usr/lib", "/app", "/srv"}
    assert [row.name for row in take_usage_by(store, By.DIRECTORY, depth=0).rows] == ["/"]


def test_rows_sort_by_what_is_asked(store):
    names = [row.name for row in take_usage_by(store, By.FILE, sort=Sort.NAME).rows]
    assert names == sorted(names)
    sizes = [row.size for row in take_usage_by(store, By.FILE, sort=Sort.SIZE).rows]
    assert sizes == sorted(sizes, reverse=True)


def test_an_image_of_many_names_tells_a_few_of_them_in_the_table(store):
    (first, *_) = store.images()
    for number in range(100, 120):
        store.tag(f"web:{number}", first.image_id)
    usage = take_usage_by(store, By.IMAGE)
    (row,) = [row for row in usage.rows if row.detail == first.image_id]
    assert len(row.name.split(", ")) >= 20
    (cell,) = [line[0] for line in usage_by_table(usage).rows if " more" in line[0]]
    assert cell.endswith(f" and {len(row.name.split(', ')) - 3} more")


def test_layers_that_cannot_be_read_have_no_rows_and_are_told(store):
    for pack in store.root.glob("packs/*/*.pack"):
        os.truncate(pack, 100)
    store.reader.close()
    usage = take_usage_by(store, By.FILE)
    assert usage.rows == ()
    assert len(usage.unreadable_layers) == 4
    assert "cannot be read" in table_lines(usage_by_table(usage))[-1]


def test_an_empty_store_has_no_rows(tmp_path):
    with Store.open(tmp_path / "empty", create=True) as store:
        usage = take_usage_by(store, By.LAYER)
    assert usage.rows == ()
    assert usage.rest_size == usage.disk_size
