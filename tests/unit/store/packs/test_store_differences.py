"""Blocks that are differences: bounds, what keeps their bases, and what damage does."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from layerstore.errors import IntegrityError
from layerstore.formats.pack import DEPTH_MAX, PREFIX_MAX_BYTES
from layerstore.image.layers.similar import SimilarFiles
from layerstore.image.repairing import repair_store
from layerstore.store import reading
from layerstore.store.catalog.catalog import Catalog
from layerstore.store.check.check import check
from layerstore.store.check.findings import Problem
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.packs.differences import COST_MAX_BYTES, WRITE_DEPTH_MAX
from layerstore.store.rebuild.rebuild import rebuild_catalog
from layerstore.store.store import Store
from layerstore.store.writing import soundness
from tests.support.store import (
    add_image,
    add_version,
    assert_sound,
    blobs_of,
    disk_bytes,
    noise,
    put_layer,
    put_unpublished_layer,
    read_image,
    versions,
)

if TYPE_CHECKING:
    from pathlib import Path

    from layerstore.digest import ChunkId
    from layerstore.store.records import LayerRecord
    from layerstore.store.writing.session import WriteSession
    from tests.support.store import Files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def depths(root: Path) -> set[int]:
    with Store.open(root) as store:
        return {row.depth for row in store.catalog.block_rows()}


def pack_bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in (root / "packs").rglob("*.pack"))


def test_a_similar_file_costs_its_difference(root: Path) -> None:
    one, two = versions(2)
    add_version(root, "app:1", one)
    before = pack_bytes(root)
    add_version(root, "app:2", two)
    assert pack_bytes(root) - before < sum(map(len, two.values())) / 20
    assert depths(root) == {0, 1}
    assert_sound(root, {"app:1": [one], "app:2": [two]})


def test_depth_and_cost_stay_bounded_over_many_versions(root: Path) -> None:
    many = versions(7, size=900_000)
    for number, files in enumerate(many):
        add_version(root, f"app:{number}", files)
    assert max(depths(root)) == WRITE_DEPTH_MAX
    with Store.open(root) as store:
        assert all(row.cost <= COST_MAX_BYTES for row in store.catalog.block_rows())
    single = sum(map(len, many[0].values()))
    assert pack_bytes(root) < 1.5 * single, "each further version is small"
    assert_sound(root, {f"app:{n}": [files] for n, files in enumerate(many)})


def test_small_files_share_one_difference(root: Path) -> None:
    one = {b"d/%d" % n: noise(n, 5_000) for n in range(40)}
    two = {path: data[:2_000] + b"changed" + data[2_000:] for path, data in one.items()}
    add_version(root, "app:1", one)
    add_version(root, "app:2", two)
    with Store.open(root) as store:
        deep = [row for row in store.catalog.block_rows() if row.depth]
        assert len(deep) == 1
        assert deep[0].stored_length < 10_000
    assert_sound(root, {"app:1": [one], "app:2": [two]})


def test_what_does_not_resemble_stands_alone(root: Path) -> None:
    one = {b"f": noise(1, 200_000)}
    two = {b"f": noise(2, 200_000)}
    add_version(root, "app:1", one)
    add_version(root, "app:2", two)
    assert depths(root) == {0}
    assert_sound(root, {"app:1": [one], "app:2": [two]})


def test_gc_keeps_bases_until_the_last_difference_goes(root: Path) -> None:
    one, two, three = versions(3)
    for name, files in (("app:1", one), ("app:2", two), ("app:3", three)):
        add_version(root, name, files)
    with Store.open(root) as store:
        for name in ("app:1", "app:2"):
            store.untag(name)
            plan = plan_gc(store)
            assert not plan.dangling
            before = disk_bytes(root)
            execute(plan)
            assert before - disk_bytes(root) == plan.freed_bytes
            assert read_image(store, "app:3") == [three]
    assert_sound(root, {"app:3": [three]})
    with Store.open(root) as store:
        store.untag("app:3")
        execute(plan_gc(store))
        assert store.catalog.pack_rows() == []
        assert store.catalog.base_rows() == []
    assert disk_bytes(root) == 0


def test_rewriting_a_sparse_pack_writes_differences_out(root: Path) -> None:
    one = {b"d/%d" % n: noise(n, 60_000) for n in range(20)}
    two = {path: data + b"!" * 100 for path, data in one.items()}
    add_version(root, "app:1", one)
    with Store.open(root) as store, store.begin("test") as session:
        like = SimilarFiles(store)
        wide = {path: data for n, (path, data) in enumerate(two.items()) if n % 5}
        narrow = {path: data for path, data in two.items() if path not in wide}
        extra = {b"x/%d" % n: noise(100 + n, 60_000) for n in range(10)}
        put_unpublished_layer(session, {**wide, **extra}, like)
        kept = put_layer(session, narrow, like)
        session.publish_image(*blobs_of([kept.diff_id]), [kept.diff_id], names=["keep"])
    with Store.open(root) as store:
        plan = plan_gc(store)
        assert plan.sparse_packs
        execute(plan)
    assert_sound(root, {"app:1": [one], "keep": [narrow]})


def test_a_base_collected_before_publishing_is_taken_back(root: Path) -> None:
    one, two = versions(2)
    add_version(root, "app:1", one)
    with Store.open(root) as store, store.begin("test") as session:
        record = put_unpublished_layer(session, two, SimilarFiles(store))
        session._finish_packs()
        assert session._bases
        # Retired, its rows gone; the file stays for this session's sake.
        with Store.open(root) as other, other.catalog.write() as connection:
            connection.execute("DELETE FROM tags")
            connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'epoch'")
            old = "SELECT pack FROM packs WHERE lease IS NULL"
            for table in ("chunks", "blocks", "bases"):
                connection.execute(f"DELETE FROM {table} WHERE pack IN ({old})")
            connection.execute(
                "UPDATE packs SET retired = (SELECT value FROM meta WHERE key = 'epoch')"
                " WHERE lease IS NULL"
            )
        session.publish_layer(record)
        diff_id = record.diff_id
        session.publish_image(*blobs_of([diff_id]), [diff_id], names=["app:2"])
    with Store.open(root) as store:
        assert read_image(store, "app:2") == [two]


def test_gc_spares_the_bases_of_running_sessions(root: Path) -> None:
    one, two = versions(2)
    add_version(root, "app:1", one)
    with Store.open(root) as store, store.begin("test") as session:
        record = put_unpublished_layer(session, two, SimilarFiles(store))
        session._finish_packs()
        store.untag("app:1")
        with Store.open(root) as other:
            execute(plan_gc(other))
        session.publish_layer(record)
        diff_id = record.diff_id
        session.publish_image(*blobs_of([diff_id]), [diff_id], names=["app:2"])
    assert_sound(root, {"app:2": [two]})


WHOLE = 200_000
"""Size of files that are one chunk each: versions share no chunk, whose pack would come along."""

BIG = {b"big": noise(5, 3_000_000)}
"""Keeps a pack in use, whatever else in it dies."""


def add_version_beside(root: Path, name: str, files: Files, *, beside: str) -> None:
    """Add a version whose pack holds another image as well, which is much larger."""
    with Store.open(root) as store, store.begin("test") as session:
        big = put_unpublished_layer(session, BIG)
        mine = put_layer(session, files, SimilarFiles(store))
        session.publish_layer(big)
        for image, record in ((name, mine), (beside, big)):
            diff_id = record.diff_id
            session.publish_image(*blobs_of([diff_id]), [diff_id], names=[image])


def untag_and_collect(root: Path, *names: str) -> None:
    with Store.open(root) as store:
        for name in names:
            store.untag(name)
        execute(plan_gc(store))


def in_use(store: Store) -> list[bool]:
    return [row.retired is None for row in store.catalog.pack_rows()]


def publish(session: WriteSession, record: LayerRecord, name: str) -> None:
    session.publish_layer(record)
    session.publish_image(*blobs_of([record.diff_id]), [record.diff_id], names=[name])


def test_bases_of_a_difference_that_was_found_are_taken_back(root: Path) -> None:
    one, two = versions(2, size=WHOLE)
    add_version(root, "app:1", one)
    add_version_beside(root, "app:2", two, beside="big")
    with Store.open(root) as store, store.begin("test") as session:
        record = put_unpublished_layer(session, two, SimilarFiles(store))
        assert session.stats.new_chunks == 0
        untag_and_collect(root, "app:1", "app:2")
        assert in_use(store) == [False, True, True]
        publish(session, record, "app:2")
    with Store.open(root) as store:
        execute(plan_gc(store))
    assert_sound(root, {"app:2": [two], "big": [BIG]})


def test_bases_of_bases_are_taken_back(root: Path) -> None:
    one, two, three = versions(3, size=WHOLE)
    add_version(root, "app:1", one)
    add_version_beside(root, "app:2", two, beside="big")
    add_version(root, "app:3", three)
    assert depths(root) == {0, 1, 2}
    with Store.open(root) as store, store.begin("test") as session:
        record = put_unpublished_layer(session, three, SimilarFiles(store))
        assert session.stats.new_chunks == 0
        untag_and_collect(root, "app:1", "app:2", "app:3")
        assert in_use(store) == [False, True, True, False]
        publish(session, record, "app:3")
    with Store.open(root) as store:
        execute(plan_gc(store))
    assert_sound(root, {"app:3": [three], "big": [BIG]})


def test_a_pack_is_taken_back_although_a_dead_difference_in_it_lost_its_base(root: Path) -> None:
    one, two = versions(2, size=WHOLE)
    add_version(root, "app:1", one)
    add_version_beside(root, "app:2", two, beside="big")
    untag_and_collect(root, "app:1", "app:2")
    with Store.open(root) as store, store.begin("test") as session:
        record = put_unpublished_layer(session, BIG)
        assert session.stats.new_chunks == 0
        untag_and_collect(root, "big")
        publish(session, record, "big")
        execute(plan_gc(store))  # the session lives, and keeps bases of all it holds that are there
    with Store.open(root) as store:
        assert read_image(store, "big") == [BIG]


@pytest.mark.parametrize("read_data", [False, True])
def test_a_dead_difference_that_lost_its_base_is_no_damage(root: Path, *, read_data: bool) -> None:
    one, two = versions(2, size=WHOLE)
    add_version(root, "app:1", one)
    add_version_beside(root, "app:2", two, beside="big")
    untag_and_collect(root, "app:1", "app:2")
    with Store.open(root) as store:
        (lost,) = [store.catalog.missing({base for _, _, base in store.catalog.base_rows()})]
        assert lost, "the pack did not stay, or its bases did"
        report = check(store, read_data=read_data)
        assert report.findings == ()
        assert report.lost_items | report.dependent_items == frozenset()
    add_version(root, "app:2", two)
    assert_sound(root, {"app:2": [two], "big": [BIG]})


def test_a_base_of_a_base_that_is_needed_is_told_when_it_is_lost(root: Path) -> None:
    one, two, three = versions(3, size=WHOLE)
    add_version(root, "app:1", one)
    add_version_beside(root, "app:2", two, beside="big")
    add_version(root, "app:3", three)
    with Store.open(root) as store:
        base = {base for _, _, base in store.catalog.base_rows()}
        base &= {row.chunk_id for row in store.catalog.scan_chunks() if row.pack == 1}
        store.untag("app:1")
        store.untag("app:2")
        execute(plan_gc(store))
        with store.catalog.write() as connection:
            connection.executemany("DELETE FROM chunks WHERE id = ?", [(b,) for b in base])
        report = check(store, read_data=False)
        needed = {b for _, _, b in store.catalog.base_rows()} - base
        assert base == report.lost_items
        assert needed <= report.dependent_items


def test_a_bit_of_a_dead_difference_without_base_is_told(root: Path) -> None:
    """It cannot be decoded, but its pack can be hashed."""
    one, two = versions(2, size=WHOLE)
    add_version(root, "app:1", one)
    add_version_beside(root, "app:2", two, beside="big")
    untag_and_collect(root, "app:1", "app:2")
    with Store.open(root) as store:
        (deep,) = [row for row in store.catalog.block_rows() if row.depth]
        (pack,) = [row for row in store.catalog.pack_rows() if row.pack == deep.pack]
        path = store.paths.pack(pack.pack_id)
    with open(path, "r+b") as file:
        file.seek(deep.offset + 20)
        byte = file.read(1)[0]
        file.seek(deep.offset + 20)
        file.write(bytes((byte ^ 1,)))
    with Store.open(root) as store:
        (finding,) = check(store, read_data=True).findings
        assert finding.problem is Problem.PACK_DAMAGED
    assert repair_store(str(root), [], dry_run=False).ok
    assert_sound(root, {"big": [BIG]})


def test_naming_the_packs_of_bases_reads_none(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = versions(3, size=WHOLE)
    add_version(root, "app:1", one)
    add_version(root, "app:2", two)
    with Store.open(root) as store, store.begin("test") as session:
        put_layer(session, three, SimilarFiles(store))
        decoded: list[object] = []
        for name in ("_check_block", "_check_hash"):
            monkeypatch.setattr(soundness, name, lambda *what: decoded.append(what))
        relied_on = session.packs_relied_on()
        assert depths(root) == {0, 1, 2}
        assert relied_on == {row.pack_id for row in store.catalog.pack_rows()}
        assert decoded == []


def test_a_damaged_base_is_found_with_everything_that_needs_it(root: Path) -> None:
    one, two = versions(2)
    other = {b"other": noise(9, 10_000)}
    first = add_version(root, "app:1", one)
    base = next((root / "packs").rglob("*.pack"))
    second = add_version(root, "app:2", two)
    add_image(root, "other", other)
    data = bytearray(base.read_bytes())
    data[1_000] ^= 1
    base.write_bytes(data)
    with Store.open(root) as store:
        report = check(store, read_data=True)
        assert Problem.BLOCK_DAMAGED in {finding.problem for finding in report.findings}
        harmed = {image for finding in report.findings for image in finding.images}
        assert harmed == {first.image_id, second.image_id}
        with pytest.raises(IntegrityError):
            read_image(store, "app:2")
        assert read_image(store, "other") == [other]


def test_ingest_beside_a_damaged_base_stands_alone(root: Path) -> None:
    one, two = versions(2, size=200_000, files=1)
    add_version(root, "app:1", one)
    base = next((root / "packs").rglob("*.pack"))
    data = bytearray(base.read_bytes())
    data[1_000] ^= 1
    base.write_bytes(data)
    add_version(root, "app:2", two)
    assert depths(root) == {0}
    with Store.open(root) as store:
        assert read_image(store, "app:2") == [two]


def test_a_rebuilt_catalog_reads_the_same(root: Path) -> None:
    many = versions(4)
    for number, files in enumerate(many):
        add_version(root, f"app:{number}", files)
    with Store.open(root) as store:
        before = (
            [row[1:] for row in store.catalog.block_rows()],
            sorted(store.catalog.base_rows()),
        )
    rebuild_catalog(str(root))
    assert_sound(root, {f"app:{n}": [files] for n, files in enumerate(many)})
    with Store.open(root) as store:
        assert len(store.catalog.block_rows()) == len(before[0])
        assert len(store.catalog.base_rows()) == len(before[1])


def test_a_rebuilt_catalog_prefers_what_stands_alone(root: Path, tmp_path: Path) -> None:
    """Two stores hold the same files, each the other's as a difference; one gets all packs."""
    one, two = versions(2)
    add_version(root, "app:1", one)
    add_version(root, "app:2", two)
    other = tmp_path / "other"
    add_version(other, "app:2", two)
    add_version(other, "app:1", one)
    for pack in (other / "packs").rglob("*.pack"):
        target = root / "packs" / pack.parent.name
        target.mkdir(mode=0o700, exist_ok=True)
        shutil.copy(pack, target / pack.name)
        os.chmod(target / pack.name, 0o600)
    rebuild_catalog(str(root))
    with Store.open(root) as store:
        assert read_image(store, "app:1") == [one]
        assert read_image(store, "app:2") == [two]
        rows = {(row.pack, row.block): row.depth for row in store.catalog.block_rows()}
        assert {rows[row.pack, row.block] for row in store.catalog.scan_chunks()} == {0}


def test_a_difference_against_too_much_is_an_error(root: Path) -> None:
    """A hostile catalog lists whatever it likes: a read stays within bounds."""
    one, two = versions(2)
    add_version(root, "app:1", one)
    add_version(root, "app:2", two)
    add_image(root, "large", {b"%d" % n: noise(n, 900_000) for n in range(6)})
    with Store.open(root) as store:
        with store.catalog.write() as connection:
            row = connection.execute("SELECT pack, block FROM bases LIMIT 1").fetchone()
            large = connection.execute(
                "SELECT id FROM chunks WHERE pack = (SELECT max(pack) FROM packs)"
            ).fetchall()
            connection.executemany(
                "INSERT INTO bases VALUES (?, ?, ?, ?)",
                [(*row, 100 + at, *item_id) for at, item_id in enumerate(large)],
            )
        with pytest.raises(IntegrityError, match=f"more than {PREFIX_MAX_BYTES} bytes"):
            read_image(store, "app:2")


@pytest.mark.parametrize("image", ["app:1", "app:2"])
def test_a_depth_that_is_wrong_about_bases_is_found(root: Path, image: str) -> None:
    """Readers ask the depth whether there are bases; as a number it is advice."""
    one, two = versions(2)
    add_version(root, "app:1", one)
    add_version(root, "app:2", two)
    with Store.open(root) as store:
        with store.catalog.write() as connection:
            connection.execute("UPDATE blocks SET depth = 1 - depth")
        with pytest.raises(IntegrityError):
            read_image(store, image)
        problems = {finding.problem for finding in check(store, read_data=False).findings}
        assert Problem.CATALOG_DIFFERS in problems


def test_a_read_decodes_a_bounded_amount(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = versions(2, size=300_000)
    add_version(root, "app:1", one)
    add_version(root, "app:2", two)
    with Store.open(root) as store:
        costs = [row.cost for row in store.catalog.block_rows() if row.depth]
    monkeypatch.setattr(reading, "DECODE_MAX_BYTES", max(costs) - 1)
    with Store.open(root) as store:
        with pytest.raises(IntegrityError, match="of other blocks"):
            read_image(store, "app:2")
        assert read_image(store, "app:1") == [one]


def test_bases_are_looked_up_once_a_block(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = {b"d/%d" % n: noise(n, 5_000) for n in range(40)}
    two = {path: data[:2_000] + b"changed" + data[2_000:] for path, data in one.items()}
    add_version(root, "app:1", one)
    add_version(root, "app:2", two)
    asked: list[int] = []
    real = Catalog.bases

    def bases(catalog: Catalog, pack: int, block: int) -> list[ChunkId]:
        asked.append(block)
        return real(catalog, pack, block)

    monkeypatch.setattr(Catalog, "bases", bases)
    with Store.open(root) as store:
        assert read_image(store, "app:2") == [two]
    assert len(asked) == 1


def test_a_cycle_in_a_damaged_catalog_is_an_error(root: Path) -> None:
    one, two = versions(2)
    add_version(root, "app:1", one)
    add_version(root, "app:2", two)
    with Store.open(root) as store:
        with store.catalog.write() as connection:
            row = connection.execute("SELECT pack, block, id FROM bases LIMIT 1").fetchone()
            inside = connection.execute(
                "SELECT id FROM chunks WHERE pack = ? AND block = ?", row[:2]
            ).fetchone()
            connection.execute("UPDATE bases SET id = ? WHERE pack = ? AND block = ?"
                               " AND position = 0", (*inside, *row[:2]))  # fmt: skip
        with pytest.raises(IntegrityError, match=f"nest deeper than {DEPTH_MAX}"):
            read_image(store, "app:2")
