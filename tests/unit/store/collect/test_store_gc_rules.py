"""gc that people steer: keep rules, size caps, last uses, copies, explanations."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from layerstore.errors import NotFoundError
from layerstore.store.check.check import check
from layerstore.store.collect import compaction
from layerstore.store.collect.compaction import MERGE_COUNT
from layerstore.store.collect.explain import explain
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.collect.retention import KeepRules
from layerstore.store.failures import DanglingReferenceError
from layerstore.store.names.names import AmbiguousIdError
from layerstore.store.names.usage import image_uses, note_image_use, step_uses
from layerstore.store.records import CacheRecord
from layerstore.store.store import Store
from tests.support.store import (
    add_image,
    add_version,
    assert_sound,
    blobs_of,
    disk_bytes,
    noise,
    put_image,
    put_layer,
    put_unpublished_layer,
)

if TYPE_CHECKING:
    from pathlib import Path

    from layerstore.store.writing.session import WriteSession

DAY = 86400.0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def files_of(name: str, size: int = 30_000) -> dict[bytes, bytes]:
    return {name.encode(): noise(name, size)}


def used_days_ago(store: Store, name: str, days: float) -> None:
    moment = time.time() - days * DAY
    os.utime(store.paths.blob(store.resolve(name).image_id), (moment, moment))


def collect(store: Store, **options: object) -> int:
    """Collect and hold the plan to its word, to the byte."""
    before = disk_bytes(store.root)
    plan = plan_gc(store, **options)  # type: ignore[arg-type]
    report = execute(plan)
    assert before - disk_bytes(store.root) == plan.freed_bytes == report.freed_bytes
    assert report.names == len(plan.dropped.names)
    assert disk_bytes(store.root) == plan.size_after
    return report.freed_bytes


def names_after(root: Path, **rules: object) -> list[str]:
    with Store.open(root) as store:
        collect(store, keep=KeepRules(**rules))  # type: ignore[arg-type]
        assert check(store, read_data=True).ok
        return sorted(store.tags())


def test_rules_remove_names_and_what_only_they_kept(root: Path) -> None:
    for name, days in (("app:1", 50), ("app:2", 40), ("app:3", 1), ("db:1", 60)):
        add_image(root, name, files_of(name))
        with Store.open(root) as store:
            used_days_ago(store, name, days)
    assert names_after(root, keep_last=2) == ["app:2", "app:3", "db:1"]
    assert names_after(root, keep_within_s=45 * DAY, keep_tags=("db:*",)) == [
        "app:2",
        "app:3",
        "db:1",
    ]
    assert names_after(root, keep_within_s=45 * DAY) == ["app:2", "app:3"]
    assert_sound(root, {"app:2": [files_of("app:2")], "app:3": [files_of("app:3")]})


def test_what_is_mounted_or_held_keeps_its_name(root: Path) -> None:
    for name in ("old:1", "held:1", "new:1"):
        add_image(root, name, files_of(name))
    with Store.open(root) as store:
        for name in ("old:1", "held:1"):
            used_days_ago(store, name, 80)
        image = store.resolve("old:1")
        view = root / "views" / "v1.json"
        view.write_text(json.dumps({"image_id": image.image_id, "layers": list(image.layers)}))
        with Store.open(root) as other, other.begin("build") as session:
            put_image(session, files_of("held:1"))
            used_days_ago(store, "held:1", 80)
            plan = plan_gc(store, keep=KeepRules(keep_within_s=DAY))
            assert plan.dropped.names == ()
        view.unlink()
        plan = plan_gc(store, keep=KeepRules(keep_within_s=DAY))
        assert [named.name for named in plan.dropped.names] == ["held:1", "old:1"]


@pytest.mark.parametrize("change", ["use", "pin", "move", "mount"])
def test_what_is_used_since_the_plan_keeps_its_name(root: Path, change: str) -> None:
    for name in ("old:1", "new:1"):
        add_image(root, name, files_of(name))
    with Store.open(root) as store:
        used_days_ago(store, "old:1", 80)
        plan = plan_gc(store, keep=KeepRules(keep_within_s=DAY))
        assert len(plan.dropped.names) == 1
        image = store.resolve("old:1")
        if change == "use":
            note_image_use(store.paths, image.image_id)
        elif change == "pin":
            store.pin("old:1")
        elif change == "move":
            store.tag("old:1", store.resolve("new:1").image_id)
        else:
            record = {"image_id": image.image_id, "layers": list(image.layers)}
            (root / "views" / "v1.json").write_text(json.dumps(record))
        assert execute(plan).names == 0
        assert "old:1" in store.tags()
        assert check(store, read_data=True).ok


def add_step(session: WriteSession, key: str, created: float, size: int = 30_000) -> None:
    layer = put_layer(session, files_of(key, size)).diff_id
    session.cache_put(CacheRecord(key, layer, b"", created))


def test_steps_not_used_for_long_are_forgotten(root: Path) -> None:
    now = time.time()
    with Store.open(root, create=True) as store:
        with store.begin("build") as session:
            for key, days in (("a", 50), ("b", 40), ("c", 0)):
                add_step(session, key, now - days * DAY)
            session.note_step_use("a")
        assert step_uses(store.catalog)["a"] == pytest.approx(now, abs=3600)
        collect(store, keep=KeepRules(keep_cache_within_s=30 * DAY))
        assert sorted(record.key for record in store.cache_records()) == ["a", "c"]
        assert check(store, read_data=True).ok
        collect(store, keep_cache=False)
        assert store.catalog.query("SELECT * FROM step_uses") == []


def test_a_cap_takes_the_longest_unused_steps_first_and_no_names(root: Path) -> None:
    now = time.time()
    with Store.open(root, create=True) as store:
        for number in range(6):
            with store.begin("build") as session:
                add_step(session, f"s{number}", now - number * DAY, 100_000)
        add_image(root, "web:1", files_of("web", 100_000))
        full = disk_bytes(root)
        collect(store, keep=KeepRules(max_size=full))
        assert len(store.cache_records()) == 6
        collect(store, keep=KeepRules(max_size=full - 150_000))
        assert disk_bytes(root) <= full - 150_000
        assert sorted(record.key for record in store.cache_records()) == ["s0", "s1", "s2", "s3"]
        collect(store, keep=KeepRules(max_size=1000))
        assert store.cache_records() == []
        assert list(store.tags()) == ["web:1"]
        assert plan_gc(store, keep=KeepRules(max_size=1000)).size_after > 100_000


def test_a_cap_takes_names_that_no_rule_keeps_after_the_cache(root: Path) -> None:
    with Store.open(root, create=True) as store:
        with store.begin("build") as session:
            add_step(session, "step", time.time(), 100_000)
        for number in range(4):
            add_image(root, f"app:{number}", files_of(f"app{number}", 100_000))
            used_days_ago(store, f"app:{number}", 10 + number)
        rules = KeepRules(max_size=450_000, keep_last=1)
        collect(store, keep=rules)
        assert store.cache_records() == []
        assert sorted(store.tags()) == ["app:0", "app:1", "app:2", "app:3"]
        collect(store, keep=rules._replace(max_size=250_000))
        assert sorted(store.tags()) == ["app:0", "app:1"]
        collect(store, keep=rules._replace(max_size=0))
        assert sorted(store.tags()) == ["app:0"]
        assert check(store, read_data=True).ok


def test_a_cap_copies_before_it_gives_up(root: Path) -> None:
    """A pack with a sixth dead stays normally; under a cap its dead bytes go first."""
    parts = {n: files_of(f"part{n}", 60_000) for n in range(6)}
    with Store.open(root, create=True) as store, store.begin("build") as session:
        records = [put_unpublished_layer(session, files) for files in parts.values()]
        for number, record in enumerate(records):
            session.publish_layer(record)
            session.cache_put(CacheRecord(f"s{number}", record.diff_id, b"", time.time()))
    with Store.open(root) as store:
        store.cache_drop(["s3"])
        before = disk_bytes(root)
        assert plan_gc(store).freed_bytes < 30_000
        collect(store, keep=KeepRules(max_size=before - 50_000))
        assert len(store.cache_records()) == 5


def test_uses_are_recorded_where_images_are_used(root: Path) -> None:
    image = add_image(root, "web:1", files_of("web"))
    with Store.open(root) as store:
        used_days_ago(store, "web:1", 80)
        store.tag("again:1", image.image_id)
        uses = image_uses(store.paths, [image.image_id, "sha256:" + "0" * 64])
        assert list(uses) == [image.image_id]
        os.utime(store.paths.blob(image.image_id), (-5, -5))
        assert image_uses(store.paths, [image.image_id]) == {}
        note_image_use(store.paths, image.image_id)
        assert uses[image.image_id] == pytest.approx(time.time(), abs=3600)


# -- copies


def test_many_small_packs_become_one(root: Path) -> None:
    with Store.open(root, create=True) as store:
        for number in range(MERGE_COUNT):
            with store.begin("build") as session:
                add_step(session, f"s{number}", float(number))
            plan = plan_gc(store)
            assert bool(plan.sparse_packs) == (number == MERGE_COUNT - 1)
        assert collect(store) > 0, "headers and padding"
        assert len(store.catalog.pack_rows()) == 1
        assert collect(store) == 0
        assert check(store, read_data=True).ok
        assert len(list(store.layers())) == MERGE_COUNT


def sparse_store(root: Path, packs: int) -> None:
    """Packs of which a half is dead, 200 kB each."""
    with Store.open(root, create=True) as store:
        for number in range(packs):
            with store.begin("build") as session:
                dead = put_unpublished_layer(session, files_of(f"dead{number}", 100_000))
                alive = put_unpublished_layer(session, files_of(f"alive{number}", 100_000))
                session.publish_layer(alive)
                session.cache_put(CacheRecord(f"s{number}", alive.diff_id, b"", 0))
                assert dead.diff_id != alive.diff_id


def test_copies_never_take_more_than_the_bound(root: Path, monkeypatch) -> None:
    sparse_store(root, 6)
    most = [disk_bytes(root)]
    publish = compaction.publish_copies

    def watched(*arguments: object) -> None:
        most.append(disk_bytes(root))
        publish(*arguments)
        most.append(disk_bytes(root))

    monkeypatch.setattr("layerstore.store.collect.collection.publish_copies", watched)
    with Store.open(root) as store:
        plan = plan_gc(store, max_extra_bytes=450_000)
        assert [len(batch.packs) for batch in plan.batches] == [2, 2, 2]
        assert max(batch.bound for batch in plan.batches) <= 450_000
        collect(store, max_extra_bytes=450_000)
        assert max(most) - most[0] <= 450_000
        assert check(store, read_data=True).ok


def test_a_batch_holds_few_items(root: Path, monkeypatch) -> None:
    """Packs of many tiny chunks would fill memory long before the disk."""
    sparse_store(root, 3)
    with Store.open(root) as store:
        assert [len(batch.packs) for batch in plan_gc(store).batches] == [3]
        monkeypatch.setattr(compaction, "BATCH_ITEMS", 3)
        assert [len(batch.packs) for batch in plan_gc(store).batches] == [1, 1, 1]
        assert collect(store) > 250_000
        assert check(store, read_data=True).ok


def test_no_room_for_a_copy_means_no_copy(root: Path) -> None:
    sparse_store(root, 2)
    with Store.open(root) as store:
        assert plan_gc(store, max_extra_bytes=50_000).sparse_packs == ()
        assert collect(store, max_extra_bytes=50_000) == 0
        assert collect(store) > 150_000


def test_copies_stay_within_the_bound_while_nothing_can_be_freed(root: Path) -> None:
    """A session that lives keeps retired packs on disk: one batch, and no more after it."""
    sparse_store(root, 4)
    before = disk_bytes(root)
    with Store.open(root) as store, store.begin("build"):
        for _ in range(3):
            with Store.open(root) as other:
                execute(plan_gc(other, max_extra_bytes=250_000))
            assert disk_bytes(root) - before <= 250_000
    with Store.open(root) as store:
        collect(store)
        assert check(store, read_data=True).ok
        assert disk_bytes(root) < before


def test_a_pack_whose_copy_is_itself_stays(root: Path) -> None:
    """With everything to be copied, a pack that lives wholly would replace itself."""
    add_image(root, "web:1", files_of("web"))
    with Store.open(root) as store:
        assert plan_gc(store, rewrite_dead_fraction=0.0).sparse_packs == ()
        assert collect(store, rewrite_dead_fraction=0.0) == 0
    assert_sound(root, {"web:1": [files_of("web")]})


def test_a_collection_between_plan_and_execution_is_noticed(root: Path) -> None:
    sparse_store(root, 2)
    add_image(root, "web:1", files_of("web"))
    with Store.open(root) as store:
        store.cache_drop(["s0"])
        plan = plan_gc(store)
        execute(plan_gc(store))
        with store.begin("build") as session:
            put_image(session, files_of("dead0", 100_000), names=["back:1"])
        execute(plan)
        assert check(store, read_data=True).ok
    assert_sound(root, {"back:1": [files_of("dead0", 100_000)], "web:1": [files_of("web")]})


def test_an_interrupted_giving_back_goes_on(root: Path, monkeypatch) -> None:
    """Killed while rows of a retired pack are deleted: the next collection deletes the rest."""
    add_image(root, "keep:1", files_of("keep"))
    with Store.open(root, create=True) as store:
        with store.begin("waste") as session:
            for number in range(600):
                session.put_bytes(noise(f"waste{number}", 64))
            session._finish_packs()
        rows = store.catalog.one("SELECT count(*) FROM chunks")
        calls = []

        def dying(*arguments: object) -> None:
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("layerstore.store.locks.pacing.Pace.begin", dying)
            with pytest.raises(KeyboardInterrupt):
                execute(plan_gc(store))
        left = store.catalog.one("SELECT count(*) FROM chunks")
        assert rows is not None
        assert left is not None
        assert 0 < left[0] < rows[0]  # type: ignore[operator]
        assert check(store, read_data=True).ok
        execute(plan_gc(store))
        assert store.catalog.one("SELECT count(*) FROM packs WHERE retired IS NOT NULL") == (0,)
        assert check(store, read_data=True).ok
    assert_sound(root, {"keep:1": [files_of("keep")]})


def test_a_chunk_of_a_retired_pack_is_stored_anew(root: Path) -> None:
    """Its row still points into the retired pack, which must not count as having it."""
    add_image(root, "old:1", files_of("same"))
    with Store.open(root) as store, Store.open(root) as other:
        with store.begin("holds retired packs on disk"):
            other.untag("old:1")
            execute(plan_gc(other))
            assert other.catalog.one("SELECT count(*) FROM packs WHERE retired IS NOT NULL") == (1,)
            with other.begin("later") as session:
                put_image(session, files_of("same"), names=["new:1"])
                assert session.stats.new_bytes > 0
        execute(plan_gc(other))
    assert_sound(root, {"new:1": [files_of("same")]})


def test_a_second_copy_that_outlives_the_first_is_no_damage(root: Path) -> None:
    """Two sessions stored the same at once; the pack whose copy had the row goes."""
    with Store.open(root, create=True) as store, Store.open(root) as other:
        with store.begin("one") as one, other.begin("two") as two:
            same = put_unpublished_layer(one, files_of("same"))
            put_unpublished_layer(two, files_of("same"))
            big = put_unpublished_layer(two, files_of("big", 400_000))
            two._settle()
            one.publish_layer(same)
            two.publish_layer(big)
            two.publish_image(*blobs_of([big.diff_id]), [big.diff_id], names=["big:1"])
        collect(store)
        assert check(store, read_data=True).ok
        with store.begin("again") as session:
            put_image(session, files_of("same"), names=["same:1"])
        assert check(store, read_data=True).ok
    assert_sound(root, {"same:1": [files_of("same")], "big:1": [files_of("big", 400_000)]})


# -- explanations


def test_why_an_image_is_kept(root: Path) -> None:
    image = add_image(root, "web:1", files_of("base"), files_of("own"))
    add_image(root, "db:1", files_of("base"))
    with Store.open(root) as store:
        store.tag("web:2", image.image_id)
        store.pin("web:2")
        with store.begin("build it") as session:
            session.cache_put(CacheRecord("0123456789abcdef", image.layers[1], b"", 0))
            session.hold_layers([image.layers[0]])
            found = explain(store, "web:1")
        assert found.kind == "image"
        assert [reason.why for reason in found.reasons] == [
            "name web:1",
            "name web:2, which is pinned",
        ]
        assert found.reasons[0].remedy == "layerstore rm web:1"
        base, own = found.layers
        assert any("running 'build it'" in reason.why for reason in base.reasons)
        assert "name db:1" in [reason.why for reason in base.reasons]
        assert "build step 0123456789ab" in [reason.why for reason in own.reasons]
        assert {pack.alone for pack in found.packs} == {False}
        store.cache_drop(["0123456789abcdef"])
        assert [pack.alone for pack in explain(store, "web:1").packs] == [False, True]
        for name in ("web:1", "web:2"):
            store.untag(name, force=True)
        assert explain(store, image.image_id).reasons == ()


def test_why_layers_and_packs_are_kept(root: Path) -> None:
    image = add_image(root, "web:1", files_of("own"))
    with Store.open(root) as store:
        layer = explain(store, image.layers[0])
        assert (layer.kind, [r.why for r in layer.reasons]) == ("layer", ["name web:1"])
        (pack,) = store.catalog.pack_rows()
        found = explain(store, pack.pack_id.hex()[:10])
        assert found.kind == "pack"
        assert [kept.diff_id for kept in found.layers] == list(image.layers)
        assert 0 < found.packs[0].living <= pack.size
        with pytest.raises(NotFoundError, match="no image, layer or pack"):
            explain(store, "feedfeed")


def test_a_pack_of_bases_is_kept_by_who_hangs_on_them(root: Path) -> None:
    one = {b"d/%d" % n: noise(n, 60_000) for n in range(5)}
    base = add_version(root, "app:1", one)
    image = add_version(root, "app:2", {path: data + b"!" for path, data in one.items()})
    with Store.open(root) as store:
        store.remove_image(base.image_id)
        execute(plan_gc(store))
        assert {row.depth for row in store.catalog.block_rows()} == {0, 1}
        first = min(store.catalog.pack_rows(), key=lambda row: row.pack)
        found = explain(store, first.pack_id.hex()[:12])
        assert [kept.diff_id for kept in found.layers] == list(image.layers)


def test_a_question_that_is_not_clear_says_so(root: Path) -> None:
    add_image(root, "web:1", files_of("own"))
    with Store.open(root) as store:
        with store.catalog.write() as connection:
            for last in "01":
                row = (f"sha256:{'ab' * 31}0{last}", b"", b"")
                connection.execute("INSERT INTO layers VALUES (?, ?, ?)", row)
        with pytest.raises(AmbiguousIdError, match="several layers or packs"):
            explain(store, "abababab")
        with store.catalog.write() as connection:
            connection.execute("DELETE FROM images")
        with pytest.raises(DanglingReferenceError, match="which the store lacks"):
            explain(store, "web:1")
