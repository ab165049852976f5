from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from layerstore.store.check.check import check
from layerstore.store.check.findings import Problem
from layerstore.store.check.repair import execute_repair, plan_repair
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.failures import CorruptPackError
from layerstore.store.rebuild.rebuild import rebuild_catalog
from layerstore.store.store import Store
from tests.support.damage import flip, pack_of
from tests.support.store import (
    add_image,
    assert_sound,
    blobs_of,
    noise,
    put_unpublished_layer,
    read_image,
    text,
)

if TYPE_CHECKING:
    from collections.abc import Callable

A = {b"a/%d" % n: text(n, 5_000) for n in range(20)} | {b"a/big": noise(7, 700_000)}
B = {b"b/%d" % n: noise(n, 50_000) for n in range(20)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "store"
    add_image(root, "a", A)
    add_image(root, "b", B)
    return root


def snapshot(root: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_mode, path.read_bytes())
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "gc"
    }


@pytest.mark.parametrize("read_data", [False, True])
def test_a_sound_store_has_no_findings_and_stays_as_it_is(root: Path, read_data: bool) -> None:
    before = snapshot(root)
    with Store.open(root) as store:
        report = check(store, read_data=read_data)
    assert report.ok
    assert report.findings == ()
    assert report.scope == ("all bytes read" if read_data else "structure only")
    assert (report.packs, report.layers, report.images, report.blobs) == (2, 2, 2, 4)
    assert snapshot(root) == before


def drop_row(sql: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        with Store.open(root) as store, store.catalog.write() as connection:
            connection.execute(sql)

    return damage


DAMAGES: dict[str, tuple[Callable[[Path], object], Problem, bool]] = {
    # name: what happens, what is found, whether reading the data is needed to see it
    "pack-gone": (lambda root: pack_of(root, "a").unlink(), Problem.PACK_MISSING, False),
    "pack-cut": (lambda root: os.truncate(pack_of(root, "a"), 5000), Problem.PACK_DAMAGED, False),
    "pack-empty": (lambda root: os.truncate(pack_of(root, "a"), 0), Problem.PACK_DAMAGED, False),
    "pack-header": (lambda root: flip(pack_of(root, "a"), 3), Problem.PACK_DAMAGED, False),
    "pack-block": (lambda root: flip(pack_of(root, "a"), 5000), Problem.BLOCK_DAMAGED, True),
    "pack-reserved": (lambda root: flip(pack_of(root, "a"), 28), Problem.PACK_DAMAGED, False),
    "chunk-row": (drop_row("DELETE FROM chunks"), Problem.CHUNK_MISSING, False),
    "moved-chunk": (drop_row("UPDATE chunks SET offset = 1"), Problem.CATALOG_DIFFERS, False),
    "layer-row": (drop_row("DELETE FROM layers"), Problem.LAYER_MISSING, False),
    "layer-record": (drop_row("UPDATE layers SET record = x'00'"), Problem.CATALOG_DIFFERS, False),
    "image-row": (drop_row("DELETE FROM images"), Problem.IMAGE_MISSING, False),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_named(root: Path, name: str) -> None:
    damage, problem, needs_reading = DAMAGES[name]
    damage(root)
    with Store.open(root) as store:
        quick = check(store, read_data=False)
        full = check(store, read_data=True)
        assert needs_reading or problem in {f.problem for f in quick.findings}
        found = [f for f in full.findings if f.problem is problem]
        assert found
        assert not full.ok
        assert all(f.message and f.where and f.remedy for f in full.findings)
        if name.startswith("pack-") and problem is not Problem.PACK_DAMAGED:
            assert store.resolve("a").image_id in found[0].images
            assert store.resolve("b").image_id not in found[0].images


def test_a_damaged_blob_is_found(root: Path) -> None:
    with Store.open(root) as store:
        image = store.resolve("a")
        flip(Path(store.paths.blob(image.image_id)), 3)
        os.unlink(store.paths.blob(image.manifest_digest))
        findings = check(store, read_data=False).findings
    assert {f.problem for f in findings} == {Problem.BLOB_DAMAGED, Problem.BLOB_MISSING}
    assert all(f.images == (image.image_id,) for f in findings)


def test_every_flipped_byte_of_a_pack_is_found_and_none_is_served(root: Path) -> None:
    path = pack_of(root, "a")
    original = path.read_bytes()
    step = len(original) // 150
    for offset in [*range(64), *range(64, len(original), step), len(original) - 1]:
        flip(path, offset)
        with Store.open(root) as store:
            with contextlib.suppress(CorruptPackError):
                assert read_image(store, "a") == [A], offset
            if offset % 3 == 0:
                assert not check(store, read_data=True).ok, offset
        path.write_bytes(original)
    assert_sound(root, {"a": [A], "b": [B]})


def test_leftovers_are_notes_not_errors(root: Path) -> None:
    orphan = root / "packs" / "ab" / ("ab" * 32 + ".pack")
    orphan.parent.mkdir(mode=0o700, exist_ok=True)
    orphan.touch(mode=0o600)
    orphan.write_bytes(b"x")
    with open(root / "names.log", "ab") as file:
        file.write(b"0123 torn")
    with Store.open(root) as store:
        report = check(store, read_data=True)
        assert report.ok
        assert {f.problem for f in report.findings} == {
            Problem.UNKNOWN_FILE,
            Problem.NAMES_LOG_DAMAGED,
        }
        store.tag("c", store.resolve("a").image_id)
        execute(plan_gc(store))
        assert [f.problem for f in check(store, read_data=True).findings] == [
            Problem.NAMES_LOG_DAMAGED
        ]


def test_a_rebuilt_catalog_says_the_same(root: Path) -> None:
    with Store.open(root) as store:
        store.tag("a2", store.resolve("a").image_id)
        store.tag("gone", store.resolve("a").image_id)
        store.untag("gone")
        before = (store.images(), store.tags(), list(store.layers()))
        chunks = {row.chunk_id for row in store.catalog.scan_chunks()}
    for path in root.glob("catalog.sqlite*"):
        path.unlink()
    report = rebuild_catalog(str(root))
    assert (report.packs, report.layers, report.images, report.tags) == (2, 2, 2, 3)
    assert report.damaged_packs == {}
    with Store.open(root) as store:
        assert (store.images(), store.tags(), list(store.layers())) == before
        assert {row.chunk_id for row in store.catalog.scan_chunks()} == chunks
        assert execute(plan_gc(store)).freed_bytes == 0
    assert_sound(root, {"a": [A], "b": [B], "a2": [A]})


def test_rebuilding_needs_no_hard_links(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:  # as FUSE file systems and exFAT do
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    before = (root / "catalog.sqlite").read_bytes()
    monkeypatch.setattr(os, "link", refuse)
    rebuild_catalog(str(root))
    (kept,) = (root / "quarantine").glob("*/catalog.sqlite")
    assert kept.read_bytes() == before
    with Store.open(root) as store:
        assert check(store, read_data=True).findings == ()


def test_an_open_store_notices_a_rebuilt_catalog(root: Path) -> None:
    with Store.open(root) as store, Store.open(root) as other:
        with store.begin("build") as session:
            other.rebuild_catalog()
            session.put_bytes(noise(77, 10_000))
            store.tag("x", store.resolve("a").image_id)
        assert "x:latest" in other.tags()
        assert len(list((root / "quarantine").iterdir())) == 1
    assert_sound(root, {"a": [A], "x": [A]})


def test_rebuilding_with_a_damaged_pack_keeps_the_rest(root: Path) -> None:
    os.truncate(pack_of(root, "b"), 100)
    with Store.open(root) as store:
        report = store.rebuild_catalog()
        assert len(report.damaged_packs) == 1
        assert read_image(store, "a") == [A]
        assert "b:latest" in store.tags()  # as before: damaged, and told by check
        harmed = check(store, read_data=True).harmed_layers
        assert harmed == set(store.resolve("b").layers)


@pytest.mark.parametrize("lost", ["tree", "content"])
def test_rebuilding_passes_over_what_gc_left_of_layers(tmp_path: Path, lost: str) -> None:
    """A record may lie in a pack that stays while what it needs went with another."""
    root = tmp_path / "store"
    with Store.open(root, create=True) as store, store.begin("test") as session:
        if lost == "content":
            session.put_bytes(A[b"a/big"])
            session.flush()
        gone = put_unpublished_layer(session, A)
        if lost == "tree":
            session.flush()
        stays = put_unpublished_layer(session, B)
        session.publish_layer(gone)  # its record goes where the other's content goes
        session.publish_layer(stays)
        session.publish_image(*blobs_of([stays.diff_id]), [stays.diff_id], names=["b"])
    with Store.open(root) as store:
        execute(plan_gc(store, rewrite_dead_fraction=1.0))
        report = store.rebuild_catalog()
        assert report.layers == 1
        assert [record.diff_id for record in store.layers()] == [stays.diff_id]
    assert_sound(root, {"b": [B]})


def test_rebuilding_keeps_what_a_session_has_published(root: Path) -> None:
    with Store.open(root) as store, store.begin("test") as session:
        record = put_unpublished_layer(session, {b"new": noise(5, 50_000)})
        session.publish_layer(record)
        store.rebuild_catalog()
        diff_id = record.diff_id
        session.publish_image(*blobs_of([diff_id]), [diff_id], names=["new"])
    assert_sound(root, {"a": [A], "b": [B], "new": [{b"new": noise(5, 50_000)}]})


@pytest.mark.parametrize("offset", [5, 5000, -10])
def test_repair_moves_damage_aside_and_the_next_import_heals(root: Path, offset: int) -> None:
    path = pack_of(root, "a")
    flip(path, offset if offset >= 0 else path.stat().st_size + offset)
    with Store.open(root) as store:
        plan = plan_repair(store, check(store, read_data=True))
        assert len(plan.packs) == 1
        assert plan.images == (store.resolve("a").image_id,)
        report = execute_repair(plan)
        assert report.packs == 1
        assert report.saved_chunks > 0  # the catalog knows where blocks lie, whatever else is hurt
        # Hurt beside its blocks alone, it comes out whole under its own name.
        assert (root / "quarantine" / path.name).exists() == (offset == 5000)
        assert read_image(store, "b") == [B]
    add_image(root, "a", A)
    assert_sound(root, {"a": [A], "b": [B]})
    with Store.open(root) as store:
        execute(plan_gc(store))
    assert_sound(root, {"a": [A], "b": [B]})


def test_repair_of_a_missing_pack(root: Path) -> None:
    pack_of(root, "b").unlink()
    with Store.open(root) as store:
        assert execute_repair(plan_repair(store, check(store, read_data=False))).packs == 1
    add_image(root, "b", B)
    assert_sound(root, {"a": [A], "b": [B]})
