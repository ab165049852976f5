from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec
import pytest

from layerstore.digest import blake3_id
from layerstore.linux import removal
from layerstore.linux.locks import FileLock, is_held
from layerstore.store.batch_reader import BatchReader
from layerstore.store.catalog.catalog import Catalog
from layerstore.store.check.check import check
from layerstore.store.collect import sweep
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.collect.sweep import oldest_lease_epoch
from layerstore.store.failures import DanglingReferenceError, GcRunningError
from layerstore.store.locks.leases import unlisted_lease
from layerstore.store.records import CacheRecord
from layerstore.store.references import layer_chunks
from layerstore.store.store import Store
from tests.support.store import (
    add_image,
    assert_sound,
    blobs_of,
    diff_id_of,
    disk_bytes,
    noise,
    put_image,
    put_layer,
    put_unpublished_layer,
    read_image,
    text,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

KEEP = {b"keep/%d" % n: text(n, 5_000) for n in range(20)}
DROP = {b"drop/%d" % n: noise(n, 50_000) for n in range(20)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def collect(store: Store, **options: object) -> int:
    """Collect and hold the plan to its word, to the byte."""
    before = disk_bytes(store.root)
    plan = plan_gc(store, **options)  # type: ignore[arg-type]
    assert disk_bytes(store.root) == before, "a plan changes nothing"
    report = execute(plan)
    assert report.freed_bytes == plan.freed_bytes
    assert before - disk_bytes(store.root) == plan.freed_bytes
    assert report.deferred_bytes == plan.deferred_bytes
    return report.freed_bytes


def test_nothing_is_collected_from_a_store_in_full_use(root: Path) -> None:
    add_image(root, "web", KEEP, DROP)
    with Store.open(root) as store:
        assert collect(store) == 0
    assert_sound(root, {"web": [KEEP, DROP]})


def test_an_untagged_image_goes_with_everything_only_it_needs(root: Path) -> None:
    add_image(root, "keep", KEEP)
    add_image(root, "drop", KEEP, DROP)
    with Store.open(root) as store:
        drop = store.resolve("drop")
        store.untag("drop")
        assert store.resolve(drop.image_id) == drop, "visible until gc"
        assert collect(store) > 20 * 50_000
        assert len(store.images()) == 1
        assert len(list(store.layers())) == 1
        assert not store.has_blob(drop.image_id)
        assert not store.has_blob(drop.manifest_digest)
        assert collect(store) == 0
    assert_sound(root, {"keep": [KEEP]})


def test_a_half_dead_pack_is_rewritten(root: Path) -> None:
    with Store.open(root, create=True) as store, store.begin("test") as session:
        for files in (KEEP, DROP):  # one pack: nothing is flushed between the two
            put_unpublished_layer(session, files)
        put_image(session, KEEP, names=["keep"])
        put_image(session, DROP, names=["drop"])
    assert len(list((root / "packs").rglob("*.pack"))) == 2
    with Store.open(root) as store:
        store.untag("drop")
        plan = plan_gc(store)
        assert plan.sparse_packs
        assert plan.written_bytes > 0
        assert collect(store) > 19 * 50_000
        packs = sum(row.size for row in store.catalog.pack_rows())
        assert packs < 60_000
        assert collect(store) == 0
    assert_sound(root, {"keep": [KEEP]})


def test_everything_dead_leaves_an_empty_store(root: Path) -> None:
    add_image(root, "a", KEEP)
    add_image(root, "b", DROP)
    with Store.open(root) as store:
        store.untag("a")
        store.untag("b")
        collect(store)
        assert disk_bytes(root) == 0
        assert store.catalog.pack_rows() == []
    add_image(root, "a", KEEP)
    assert_sound(root, {"a": [KEEP]})


def test_the_build_cache_keeps_its_layers_unless_told_otherwise(root: Path) -> None:
    with Store.open(root, create=True) as store:
        with store.begin("test") as session:
            layer = put_layer(session, DROP).diff_id
            session.cache_put(CacheRecord("step", layer, b"", 0))
            session.cache_put(CacheRecord("none", None, b"", 1))
        assert collect(store) == 0
        assert store.cache_get("step") is not None
        plan = plan_gc(store, keep_cache=False)
        assert plan.cache_keys == ("step",)
        assert collect(store, keep_cache=False) > 0
        assert store.cache_get("step") is None
        assert store.cache_get("none") is not None
        assert disk_bytes(root) == 0


def test_a_mounted_view_keeps_its_layers(root: Path) -> None:
    image = add_image(root, "web", KEEP)
    with Store.open(root) as store:
        store.untag("web")
        view = root / "views" / "v1.json"
        view.write_text(json.dumps({"image_id": image.image_id, "layers": list(image.layers)}))
        assert collect(store) == 0
        assert read_image(store, image.image_id) == [KEEP]
        view.write_text("{torn")
        plan = plan_gc(store)
        with pytest.raises(DanglingReferenceError, match=r"v1\.json"):
            execute(plan)
        view.unlink()
        assert collect(store) > 0


def test_a_session_protects_what_it_wrote_and_published(root: Path) -> None:
    with Store.open(root, create=True) as store:
        with store.begin("build") as session:
            record = put_layer(session, KEEP)
            unpublished = put_unpublished_layer(session, DROP)
            session._finish_packs()
            assert collect(store) == 0
            session.publish_layer(unpublished)
            assert collect(store) == 0
            ids = [record.diff_id, unpublished.diff_id]
            image = session.publish_image(*blobs_of(ids), ids)
            assert collect(store) == 0
            assert read_image(store, image.image_id) == [KEEP, DROP]
        assert collect(store) > 0, "nothing names it and nobody is at work"


def test_a_session_gets_back_what_it_found_and_gc_took(root: Path) -> None:
    add_image(root, "old", DROP)
    with Store.open(root) as store, Store.open(root) as other:
        with store.begin("build") as session:
            unpublished = put_unpublished_layer(session, DROP)
            assert session.stats.new_bytes == 0
            other.untag("old")
            plan = plan_gc(other)
            report = execute(plan)
            assert plan.deferred_bytes > 0
            assert report.deferred_bytes == plan.deferred_bytes
            assert not other.has_chunk(unpublished.tree[0][1])
            execute(plan_gc(other))
            session.publish_layer(unpublished)
            ids = [unpublished.diff_id]
            session.publish_image(*blobs_of(ids), ids, names=["new"])
        collect(other)
    assert_sound(root, {"new": [DROP]})


def test_a_session_gets_back_what_gc_moved(root: Path) -> None:
    with Store.open(root, create=True) as store, store.begin("test") as session:
        put_unpublished_layer(session, {**KEEP, **DROP})
        put_image(session, KEEP, names=["keep"])
        put_image(session, DROP, names=["drop"])
    with Store.open(root) as store, Store.open(root) as other:
        with store.begin("build") as session:
            unpublished = put_unpublished_layer(session, DROP)
            other.untag("drop")
            assert plan_gc(other).sparse_packs
            execute(plan_gc(other))
            assert read_image(store, "keep") == [KEEP]
            session.publish_layer(unpublished)
            ids = [unpublished.diff_id]
            session.publish_image(*blobs_of(ids), ids, names=["new"])
        assert_sound(root, {"keep": [KEEP], "new": [DROP]})
        collect(other)
    assert_sound(root, {"keep": [KEEP], "new": [DROP]})


def test_a_reader_follows_chunks_that_gc_moves(root: Path) -> None:
    with Store.open(root, create=True) as store, store.begin("test") as session:
        put_unpublished_layer(session, {**KEEP, **DROP})
        put_image(session, KEEP, names=["keep"])
        put_image(session, DROP, names=["drop"])
    with Store.open(root) as reader, Store.open(root) as store:
        place = reader.catalog.locate(reader.layer(reader.resolve("keep").layers[0]).tree[0][1])
        store.untag("drop")
        execute(plan_gc(store))
        assert place is not None
        assert not os.path.exists(reader.paths.pack(place.pack_id))
        assert read_image(reader, "keep") == [KEEP]


def test_what_is_published_between_plan_and_execution_is_kept(root: Path) -> None:
    add_image(root, "drop", DROP)
    with Store.open(root) as store:
        image = store.resolve("drop")
        store.untag("drop")
        plan = plan_gc(store)
        assert plan.images == (image.image_id,)
        store.tag("saved", image.image_id)
        with store.begin("test") as session:
            put_image(session, KEEP, names=["new"])
        report = execute(plan)
        assert report.images == 0
        assert report.freed_bytes == 0
    assert_sound(root, {"saved": [DROP], "new": [KEEP]})


def test_gc_deletes_nothing_while_a_reference_dangles(root: Path) -> None:
    add_image(root, "web", KEEP)
    add_image(root, "drop", DROP)
    with Store.open(root) as store:
        store.untag("drop")
        record = store.layer(store.resolve("web").layers[0])
        with store.catalog.write() as connection:
            connection.execute("DELETE FROM chunks WHERE id = ?", (record.tree[0][1],))
        before = disk_bytes(root)
        plan = plan_gc(store)
        assert any("cannot be read" in why for why in plan.dangling)
        with pytest.raises(DanglingReferenceError) as caught:
            execute(plan)
        assert caught.value.hint
        assert disk_bytes(root) == before


def test_gc_refuses_when_a_config_is_gone(root: Path) -> None:
    image = add_image(root, "web", KEEP)
    with Store.open(root) as store:
        os.unlink(store.paths.blob(image.image_id))
        with pytest.raises(DanglingReferenceError, match="blob"):
            execute(plan_gc(store))


def test_leftovers_of_dead_leases_go_and_of_living_ones_stay(root: Path) -> None:
    add_image(root, "web", KEEP)
    (root / "tmp" / "lease-0011223344556677.1.pack").write_bytes(b"x" * 1000)
    (root / "tmp" / "lease-0011223344556677.scratch" / "deep").mkdir(parents=True)
    (root / "tmp" / "lease-0011223344556677.scratch" / "deep" / "f").write_bytes(b"y" * 10)
    (root / "tmp" / "somebody-elses").write_bytes(b"z")
    (root / "locks" / "lease-0011223344556677").write_bytes(b"")
    orphan = root / "packs" / "ab" / ("ab" * 32 + ".pack")
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"o" * 77)
    with Store.open(root) as store:
        with store.begin("alive") as session:
            scratch = session.temporary("mine")
            with open(scratch, "wb") as file:
                file.write(b"m" * 5)
            assert collect(store) == 1000 + 10 + 77
            assert os.path.exists(scratch)
        assert collect(store) == 5
    assert [path.name for path in (root / "tmp").iterdir()] == ["somebody-elses"]
    assert list((root / "locks").glob("lease-*")) == []


def test_only_one_gc_at_a_time(root: Path) -> None:
    add_image(root, "web", KEEP)
    with Store.open(root) as store, FileLock(store.paths.gc_lock):
        with pytest.raises(GcRunningError):
            execute(plan_gc(store))
        with pytest.raises(GcRunningError):
            check(store, read_data=False)


def test_a_damaged_half_empty_pack_is_left_alone(root: Path) -> None:
    with Store.open(root, create=True) as store, store.begin("test") as session:
        put_unpublished_layer(session, {**KEEP, **DROP})
        put_image(session, KEEP, names=["keep"])
        put_image(session, DROP, names=["drop"])
    with Store.open(root) as store:
        store.untag("drop")
        (pack,) = [row for row in store.catalog.pack_rows() if row.size > 500_000]
        path = store.paths.pack(pack.pack_id)
        place = store.catalog.locate(store.layer(store.resolve("keep").layers[0]).tree[0][1])
        assert place is not None
        block = next(b for b in store.catalog.block_rows() if b.kind == 1)
        with open(path, "r+b") as file:
            file.seek(block.offset + 100)
            file.write(b"\xff\x00\xff\x00")
        plan = plan_gc(store)
        assert plan.damaged_packs == (pack.pack_id,)
        execute(plan)
        assert os.path.exists(path)


def test_a_catalog_older_than_the_log_costs_no_data(root: Path) -> None:
    add_image(root, "old", KEEP)
    with Store.open(root) as store, store.catalog.write():
        copy = (root / "catalog.sqlite").read_bytes()
        wal = root / "catalog.sqlite-wal"
        old_wal = wal.read_bytes() if wal.exists() else None
    add_image(root, "new", DROP)
    (root / "catalog.sqlite").write_bytes(copy)
    if old_wal is not None:
        wal.write_bytes(old_wal)
    with Store.open(root) as store:
        assert "new:latest" not in store.tags()
        execute(plan_gc(store))
        store.rebuild_catalog()
    assert_sound(root, {"old": [KEEP], "new": [DROP]})


def test_a_layer_described_anew_since_the_plan_keeps_what_it_needs_now(root: Path) -> None:
    add_image(root, "keep", KEEP)
    add_image(root, "drop", DROP)
    with Store.open(root) as store:
        store.untag("drop")
        plan = plan_gc(store)
        with store.begin("the same tar, cut in another way") as session:
            record = put_unpublished_layer(session, DROP)
            session.publish_layer(msgspec.structs.replace(record, diff_id=diff_id_of(KEEP)))
        execute(plan)
    assert_sound(root, {"keep": [DROP]})


def test_remains_of_a_dead_build_go_however_deep_and_guarded(root: Path) -> None:
    add_image(root, "keep", KEEP)
    scratch = root / "tmp" / "lease-0123456789abcdef.build"
    scratch.mkdir()
    here = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(2500):
        os.mkdir("a-directory", dir_fd=here)
        below = os.open("a-directory", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, dir_fd=here))
    os.close(here)
    (scratch / "guarded").write_bytes(b"four")
    subprocess.run(["chattr", "+i", scratch / "guarded"], check=False, capture_output=True)
    with Store.open(root) as store:
        assert execute(plan_gc(store)).freed_bytes == 4
    assert list((root / "tmp").iterdir()) == []


def test_remains_that_somebody_else_removes_meanwhile_are_no_failure(root: Path) -> None:
    add_image(root, "keep", KEEP)
    ended = threading.Event()

    def reaper() -> None:
        for number in range(60):
            scratch = root / "tmp" / f"lease-{number:016x}.build"
            for name in ("a/b", "c/d", "e/f"):
                (scratch / name).mkdir(parents=True, exist_ok=True)
            shutil.rmtree(scratch, ignore_errors=True)
        ended.set()

    with Store.open(root) as store, ThreadPoolExecutor() as pool:
        work = pool.submit(reaper)
        while not ended.is_set() and not work.done():
            execute(plan_gc(store))
        with contextlib.suppress(FileNotFoundError):  # gc was quicker than its mkdir
            work.result()


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EACCES, errno.EPERM])
def test_remains_that_cannot_be_removed_are_not_said_to_be_freed(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Something is mounted below them, or they are another member's of a shared store."""
    add_image(root, "keep", KEEP)
    remains = root / "tmp" / "lease-0123456789abcdef.build"
    remains.mkdir()
    (remains / "f").write_bytes(b"x" * 1000)

    def refused(path: str) -> None:
        raise OSError(number, os.strerror(number), path)

    with Store.open(root) as store:
        monkeypatch.setattr(removal, "remove_tree", refused)
        assert execute(plan_gc(store)).freed_bytes == 0
        monkeypatch.undo()
        assert execute(plan_gc(store)).freed_bytes == 1000


def test_a_lease_without_a_row_keeps_its_files_until_it_ends(root: Path) -> None:
    add_image(root, "web", KEEP)
    with Store.open(root) as store:
        with unlisted_lease(store.catalog) as lease_id:
            mine = store.paths.temporary(lease_id, "objects-")
            with open(mine, "wb") as file:
                file.write(b"m" * 5)
            assert store.catalog.query("SELECT * FROM leases") == []
            assert oldest_lease_epoch(store.catalog, own_lease=None) is None
            assert collect(store) == 0
            assert os.path.exists(mine)
        assert list((root / "locks").glob("lease-*")) == []
        assert collect(store) == 5


def test_what_is_written_under_the_catalog_lock_is_not_taken_meanwhile(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manifest that is written anew lies in ``tmp/`` for a moment, and no lease speaks for it."""
    add_image(root, "keep", KEEP)
    locked: dict[str, bool] = {}

    with Store.open(root) as store:
        for name in ("lease-index.0a", f"lease-{'ab' * 8}.0a", f"lease-files-{'ab' * 8}.0a"):
            (root / "tmp" / name).write_bytes(b"12345")

        def remove(path: str) -> None:
            locked[os.path.basename(path)] = is_held(store.paths.catalog_lock)
            os.unlink(path)

        monkeypatch.setattr(sweep, "remove_leftover", remove)
        assert collect(store) == 15
    assert locked == {
        "lease-index.0a": True,
        f"lease-{'ab' * 8}.0a": False,
        f"lease-files-{'ab' * 8}.0a": False,
    }


def test_a_lease_whose_row_was_lost_counts_as_the_oldest(root: Path) -> None:
    add_image(root, "drop", DROP)
    with Store.open(root) as store:
        with FileLock(store.paths.lease("0" * 16)):
            assert oldest_lease_epoch(store.catalog, own_lease=None) == 0
            store.untag("drop")
            assert plan_gc(store).deferred_bytes > 0
        assert collect(store) > 0


def test_unpacking_keeps_no_pack_and_follows_what_gc_moves(root: Path) -> None:
    with Store.open(root, create=True) as store, store.begin("test") as session:
        put_unpublished_layer(session, {**KEEP, **DROP})
        put_image(session, KEEP, names=["keep"])
        put_image(session, DROP, names=["drop"])
    with Store.open(root) as reader, Store.open(root) as store:
        layer = reader.layer(reader.resolve("keep").layers[0])
        chunks = layer_chunks(layer, reader.read_refs)
        reader.reader.close()  # of what was read to know them, nothing stays in memory
        store.untag("drop")
        with unlisted_lease(reader.catalog):
            batch = BatchReader(reader, chunks)
            assert collect(store) > 0
            packs = {place.pack_id for place in batch.places.values()}
            assert not any(os.path.exists(store.paths.pack(pack_id)) for pack_id in packs)
            read = {name: batch.read(name, length) for name, length in chunks.items()}
        assert {blake3_id(data) for data in read.values()} == read.keys()


def test_asking_who_holds_a_lease_stops_nobody_from_beginning_one(root: Path) -> None:
    add_image(root, "keep", KEEP)
    ended = threading.Event()

    def ask() -> None:
        with Store.open(root) as store:
            while not ended.is_set():
                oldest_lease_epoch(store.catalog, own_lease=None)

    with Store.open(root) as store, ThreadPoolExecutor() as pool:
        work = [pool.submit(ask) for _ in range(2)]
        try:
            for _ in range(300):
                store.begin("short").close()
        finally:
            ended.set()
        for each in work:
            each.result()


def test_a_copy_that_is_there_already_keeps_what_was_copied_into_it(tmp_path: Path) -> None:
    """The living part of two packs may come out as one of them, which also holds the other's."""
    root = tmp_path / "store"
    both, dead, more = noise(1, 20_000), noise(2, 20_000), noise(3, 20_000)
    with (
        Store.open(root, create=True) as store,
        store.begin("one") as one,
        store.begin("two") as two,
    ):
        for session, second in ((one, dead), (two, more)):
            session.put_chunk(both)
            session.put_chunk(second)
            session._settle()  # so that neither knows of the other's
        one.flush()
        two.flush()
        assert len(store.catalog.pack_rows()) == 2
        put_image(two, {b"both": both, b"more": more}, names=["kept"])
    with Store.open(root) as store:
        report = execute(plan_gc(store))
        assert report.packs_rewritten == 1
    assert_sound(root, {"kept": [{b"both": both, b"more": more}]})


def test_after_a_collection_publishing_looks_things_up_before_others_wait(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[bool, int]] = []
    real = Catalog.missing

    def missing(catalog: Catalog, chunk_ids: Iterable[bytes]) -> set[bytes]:
        ids = list(chunk_ids)
        asked.append((catalog._writing, len(ids)))
        return real(catalog, ids)

    add_image(root, "drop", DROP)
    with Store.open(root) as store, store.begin("test") as session:
        record = put_unpublished_layer(session, KEEP)
        session.flush()
        with Store.open(root) as other:
            other.untag("drop")
            assert execute(plan_gc(other)).packs_removed == 0, "a lease may need it"
        monkeypatch.setattr(Catalog, "missing", missing)
        session.publish_layer(record)
        diff_id = record.diff_id
        session.publish_image(*blobs_of([diff_id]), [diff_id], names=["kept"])
    assert max(count for writing, count in asked if not writing) > len(KEEP)
    assert max(count for writing, count in asked if writing) < len(KEEP) // 2
    assert_sound(root, {"kept": [KEEP]})
