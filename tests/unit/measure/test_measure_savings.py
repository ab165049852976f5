"""The comparison of schemes on small stores whose sizes can be worked out by hand."""

from __future__ import annotations

import json

import msgspec
import pytest

from layerstore.errors import InputError, NotFoundError
from layerstore.measure.df import df_images_table, df_table, ledger_table, take_df
from layerstore.measure.ledger import Owner
from layerstore.measure.savings import Scheme, take_savings
from layerstore.measure.savings_report import images_table, schemes_chart, schemes_table
from layerstore.measure.table import Table, chart_lines, columns, table_lines
from layerstore.store.store import Store
from tests.support.measure import build, noise, put_image, put_layer

BASE = {b"bin/%d" % n: noise(n, 9000) for n in range(40)}
APP = {b"app/%d" % n: noise(("app", n), 20_000) for n in range(10)}
SAME = {b"copy/%d" % n: noise(n, 9000) for n in range(40)}


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store", create=True) as store:
        yield store


def test_each_scheme_counts_what_its_name_says(store):
    build(store, "one", BASE, APP, created=1)
    build(store, "two", BASE, SAME, created=2)
    savings = take_savings(store, copies=3)
    base, app = 40 * 12288, 10 * 20480
    # A full copy has a root directory and bin, app or copy beside its files.
    one, two = base + app + 3 * 4096, base + base + 3 * 4096
    assert [row.copy_size for row in savings.images] == [one, two]
    assert savings.size_of(Scheme.FULL_COPIES) == 3 * (one + two)
    assert savings.size_of(Scheme.PLAIN_LAYERS) == base + app + base
    assert savings.size_of(Scheme.WHOLE_FILES) == base + app
    assert savings.size_of(Scheme.CHUNKS) == savings.unique_size == 40 * 9000 + 10 * 20_000
    assert savings.containers == 6
    assert savings.logical_size == 3 * (40 * 9000 + 10 * 20_000 + 80 * 9000)


def test_with_nothing_else_in_the_store_stored_is_the_whole_disk(store):
    build(store, "one", BASE, APP, created=1)
    build(store, "two", BASE, SAME, created=2)
    disk = take_df(store).disk_size  # first: what it remembers is on the disk, too
    savings = take_savings(store)
    assert savings.size_of(Scheme.STORED) == disk
    assert savings.not_counted_size == savings.writable_size == 0
    assert savings.saved(Scheme.CHUNKS) == savings.unique_size - disk
    assert savings.ratio(Scheme.FULL_COPIES) == savings.size_of(Scheme.FULL_COPIES) / disk


def test_what_images_add_sums_to_what_they_hold(store):
    build(store, "one", BASE, APP, created=1)
    build(store, "two", BASE, SAME, created=2)
    first, second = take_savings(store).images
    assert (first.names, second.names) == (("one:latest",), ("two:latest",))
    assert first.added_size == first.exclusive_size + first.shared_size
    assert second.added_size == second.exclusive_size  # contents and base were there
    turned = take_savings(store, ["two", "one"]).images
    assert turned[0].added_size == second.exclusive_size + second.shared_size
    assert sum(i.added_size for i in turned) == first.added_size + second.added_size


def test_a_selection_leaves_the_rest_out_and_says_so(store):
    build(store, "one", BASE, APP, created=1)
    alone = take_savings(store)
    build(store, "two", SAME, {b"x": noise("x", 300_000)}, created=2)
    (store.root / "uppers" / "v").mkdir()
    (store.root / "uppers" / "v" / "f").write_bytes(b"x" * 100_000)
    disk = take_df(store).disk_size
    chosen = take_savings(store, ["one", "one:latest"])
    assert len(chosen.images) == 1
    assert chosen.stored_content_size == alone.stored_content_size
    assert chosen.size_of(Scheme.FULL_COPIES) == alone.size_of(Scheme.FULL_COPIES)
    assert chosen.not_counted_size > 150_000
    assert chosen.writable_size >= 100_000
    total = chosen.size_of(Scheme.STORED) + chosen.not_counted_size + chosen.writable_size
    assert total == disk


def test_the_same_layer_over_another_parent_is_unpacked_again_by_docker(store):
    with store.begin("test") as session:
        base, app, other = (put_layer(session, f) for f in (BASE, APP, {b"o": b"o"}))
        put_image(session, [base, app], "one", created=1)
        put_image(session, [other, app], "two", created=2)
    savings = take_savings(store)
    base_size, app_size, other_size = 40 * 12288, 10 * 20480, 4096
    assert savings.size_of(Scheme.PLAIN_LAYERS) == base_size + other_size + 2 * app_size


def test_mounted_views_are_counted_as_containers(store):
    one = build(store, "one", BASE, created=1)
    build(store, "two", APP, created=2)
    for number in range(3):
        upper = store.root / "uppers" / f"v{number}"
        upper.mkdir()
        view = {"image_id": one.image_id, "layers": one.layers, "upper": str(upper)}
        (store.root / "views" / f"{number}.json").write_text(json.dumps(view))
    (store.root / "views" / "torn.json").write_text('{"image_')
    savings = take_savings(store, copies=None)
    assert [(row.names, row.copies) for row in savings.images] == [(("one:latest",), 3)]
    assert [row.copies for row in take_savings(store, ["two", "one"], copies=None).images] == [0, 3]
    rows = {row.kind: row for row in take_df(store).rows}
    assert (rows["Images"].count, rows["Images"].active) == (2, 1)
    assert (rows["Writable layers"].count, rows["Writable layers"].active) == (3, 3)


def test_bad_questions_are_refused(store):
    build(store, "one", BASE)
    with pytest.raises(NotFoundError):
        take_savings(store, ["absent"])
    with pytest.raises(InputError):
        take_savings(store, copies=-1)


def test_an_empty_store_saves_nothing_and_says_it(store):
    savings = take_savings(store)
    assert [item.size for item in savings.schemes] == [0] * 5
    assert savings.ratio(Scheme.FULL_COPIES) == 0
    assert table_lines(schemes_table(savings))
    assert chart_lines(schemes_chart(savings))
    assert table_lines(images_table(savings))


def test_tables_tell_tags_and_digests_only_of_what_has_none(store):
    digest = "sha256:" + "0" * 64
    with store.begin("test") as session:
        put_image(session, [put_layer(session, APP)], "web:1", f"web@{digest}", created=1)
        put_image(session, [put_layer(session, BASE)], f"base@{digest}", created=2)
    for table in (images_table(take_savings(store)), df_images_table(take_df(store))):
        assert [row[0] for row in table.rows] == ["web:1", f"base@{digest}"]
    assert take_savings(store).images[0].names == ("web:1", f"web@{digest}")  # --json has all


def test_tables_tell_a_few_of_many_names(store):
    names = [f"web:{number}" for number in range(100, 120)]
    with store.begin("test") as session:
        put_image(session, [put_layer(session, APP)], *names, created=1)
    told = "web:100, web:101, web:102 and 17 more"
    savings, usage = take_savings(store), take_df(store)
    for table in (images_table(savings), df_images_table(usage)):
        assert [row[0] for row in table.rows] == [told]
    assert list(savings.images[0].names) == list(usage.ledger.images[0].names) == names


def test_records_survive_json(store):
    build(store, "one", BASE)
    for value in (take_savings(store), take_df(store)):
        text = json.dumps(msgspec.to_builtins(value))
        assert msgspec.json.decode(text, type=type(value)) == value


def test_the_ledger_says_nothing_of_gc_where_everything_is_needed(store):
    build(store, "one", BASE, APP, created=1)
    assert ledger_table(take_df(store).ledger).notes == ()


def test_df_rows_and_slack_add_up(store):
    build(store, "one", BASE, APP, created=1)
    store.untag("one")
    build(store, "two", BASE, created=2)
    usage = take_df(store)
    assert sum(row.size for row in usage.rows) + usage.slack == usage.disk_size
    rows = {row.kind: row for row in usage.rows}
    assert (rows["Images"].count, rows["Images"].active) == (1, 0)
    assert rows["Unreferenced"].reclaimable == usage.ledger.size_of(Owner.UNREFERENCED) > 90_000
    assert usage.reclaimable > rows["Unreferenced"].reclaimable, "a whole pack goes, framing too"
    head, *_ = table_lines(df_table(usage))
    assert head.split() == ["TYPE", "COUNT", "ACTIVE", "SIZE", "RECLAIMABLE"]
    assert "two:latest" in "\n".join(table_lines(df_images_table(usage)))
    total, note = table_lines(ledger_table(usage.ledger))[-2:]
    assert f"{usage.disk_size:,}" in total
    assert "gc --compact" in note


def test_cache_mounts_are_a_row_of_their_own_and_no_overhead_of_images(store):
    build(store, "one", BASE, APP, created=1)
    assert take_df(store).ledger.size_of(Owner.MOUNTS) == 0
    before = take_savings(store)
    for name, size in (("a", 3_000_000), ("b", 5000)):
        data = store.root / "cache-mounts" / name / "data"
        data.mkdir(parents=True)
        (data / "f").write_bytes(b"x" * size)
    savings, usage = take_savings(store), take_df(store)
    for scheme in Scheme:
        assert savings.size_of(scheme) == before.size_of(scheme)
    assert savings.not_counted_size == usage.disk_size - savings.size_of(Scheme.STORED) > 3_005_000
    (row,) = (row for row in usage.rows if row.kind == "Cache mounts")
    assert (row.count, row.active, row.size, row.reclaimable) == (2, None, 3_005_000, 0)
    assert usage.droppable == 3_005_000
    assert "gc --all frees at most 3MB more" in "\n".join(table_lines(df_table(usage)))
    assert usage.ledger.size_of(Owner.MOUNTS) == row.size
    assert sum(row.size for row in usage.rows) + usage.slack == usage.disk_size


def test_columns_stay_straight_beside_names_that_are_shown_as_escapes():
    rows = (("plain", "1"), ("esc\x1b[31m", "22"), ("\udcff\nname", "3"))
    head, *shown = table_lines(Table("", columns(["NAME"], ["SIZE"]), rows))
    assert {len(line) for line in shown} == {len(head)}
    assert shown[1].startswith("esc\\x1b[31m ")
