"""Stores of every format version, made once by the layerstore of their time."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from layerstore.errors import UnsupportedVersionError
from layerstore.linux.locks import FileLock
from layerstore.store.check.check import check
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.collect.retire import retire_packs
from layerstore.store.config import FORMAT_VERSION
from layerstore.store.failures import GcRunningError, UpgradeNeededError
from layerstore.store.paths import StorePaths
from layerstore.store.rebuild.upgrade import CannotUndoError, StoreInUseError, undo_upgrade, upgrade
from layerstore.store.store import Store
from tests.golden.stores.make import contents
from tests.support.killing import killed
from tests.support.store import noise, put_image

STORES = Path(__file__).parent / "stores"
VERSIONS = range(1, FORMAT_VERSION + 1)


def unpacked(version: int, where: Path) -> Path:
    """The store of a format version, unpacked."""
    archive = STORES / f"format-{version}.tar.xz"
    subprocess.run(["tar", "-C", str(where), "-xJf", str(archive)], check=True)
    return where / f"format-{version}"


def held(version: int) -> dict[str, object]:
    """What that store holds, as its own layerstore read it."""
    found: dict[str, object] = json.loads((STORES / f"format-{version}.json").read_text())
    return found


def test_there_is_a_store_of_every_version_and_they_are_small() -> None:
    archives = sorted(STORES.glob("format-*.tar.xz"))
    assert [path.name for path in archives] == [f"format-{version}.tar.xz" for version in VERSIONS]
    assert all(path.stat().st_size < 100_000 for path in archives)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_store_of_any_version_reads_as_it_was_written(tmp_path: Path, version: int) -> None:
    root = unpacked(version, tmp_path)
    before = snapshot(root)
    with Store.open(root) as store:
        assert contents(store) == held(version)
        report = check(store, read_data=True)
        assert report.ok
        assert report.findings == ()
    assert snapshot(root) == before


def snapshot(root: Path) -> dict[str, bytes]:
    """Every file but those that locks and readers of the catalog need."""
    aside = {"locks", "catalog.sqlite-wal", "catalog.sqlite-shm"}
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and aside.isdisjoint((path.name, path.parent.name))
    }


def written(root: Path) -> None:
    """Import something and collect garbage, as a command would."""
    with Store.open(root) as store:
        with store.begin("test") as session:
            put_image(session, {b"fresh": noise(5, 5_000)}, names=["fresh"])
        execute(plan_gc(store))


@pytest.mark.parametrize("version", VERSIONS)
def test_an_older_store_is_not_written_before_it_is_upgraded(tmp_path: Path, version: int) -> None:
    root = unpacked(version, tmp_path)
    if version == FORMAT_VERSION:
        written(root)
        return
    before = snapshot(root)
    with Store.open(root) as store:
        image = store.images()[0].image_id
        for write in (
            lambda: store.begin("test"),
            lambda: store.tag("x", image),
            lambda: store.untag("base:1"),
            lambda: store.remove_image(image),
            lambda: store.cache_drop(["step-1"]),
            lambda: execute(plan_gc(store)),
            lambda: store.rebuild_catalog(),
        ):
            with pytest.raises(UpgradeNeededError) as caught:
                write()
            assert "layerstore upgrade" in (caught.value.hint or "")
    assert snapshot(root) == before


@pytest.mark.parametrize("version", VERSIONS)
def test_a_store_of_any_version_can_be_upgraded_used_and_rebuilt(
    tmp_path: Path, version: int
) -> None:
    root = unpacked(version, tmp_path)
    paths = StorePaths(str(root))
    planned = upgrade(paths, dry_run=True)
    assert planned.changed == (version < FORMAT_VERSION)
    assert upgrade(paths) == planned
    assert not upgrade(paths).changed
    with Store.open(root) as store:
        assert contents(store) == held(version)
        assert check(store, read_data=True).findings == ()
        store.rebuild_catalog()
        rebuilt = contents(store)
        assert {**rebuilt, "build_cache": held(version)["build_cache"]} == held(version)
        assert check(store, read_data=True).findings == ()
    written(root)
    with Store.open(root) as store:
        assert contents(store)["layers"].items() >= held(version)["layers"].items()  # type: ignore[attr-defined]
        assert check(store, read_data=True).ok


def test_the_way_back_leads_to_the_very_same_store(tmp_path: Path) -> None:
    root = unpacked(1, tmp_path)
    paths = StorePaths(str(root))
    before = snapshot(root)
    tables = dump(root)
    upgrade(paths)
    assert undo_upgrade(paths, dry_run=True).changed
    undo_upgrade(paths)
    assert not undo_upgrade(paths).changed
    after = snapshot(root)
    assert dump(root) == tables
    del before["catalog.sqlite"], after["catalog.sqlite"]
    assert after == before
    with Store.open(root) as store:
        assert contents(store) == held(1)


def dump(root: Path) -> list[str]:
    """The catalog as SQL, whatever its pages look like."""
    with contextlib.closing(sqlite3.connect(root / "catalog.sqlite")) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        return [f"version {version}", *sorted(connection.iterdump())]


def test_what_was_written_since_stands_in_the_way_back_and_is_named(tmp_path: Path) -> None:
    root = unpacked(1, tmp_path)
    paths = StorePaths(str(root))
    upgrade(paths)
    written(root)
    before = snapshot(root)
    with pytest.raises(CannotUndoError, match="were written in format 2"):
        undo_upgrade(paths)
    assert snapshot(root) == before
    written(root)


def test_tagging_does_not_stand_in_the_way_back(tmp_path: Path) -> None:
    root = unpacked(1, tmp_path)
    paths = StorePaths(str(root))
    upgrade(paths)
    with Store.open(root) as store:
        store.tag("another:1", store.resolve("base:1").image_id)
    undo_upgrade(paths)
    with Store.open(root) as store:
        assert "another:1" in store.tags()


def test_the_way_back_leaves_no_rows_of_packs_out_of_use(tmp_path: Path) -> None:
    """Format 1 believes every row of a chunk; these say nothing to format 2."""
    root = unpacked(1, tmp_path)
    upgrade(StorePaths(str(root)))
    with Store.open(root) as store, store.catalog.write() as connection:
        (pack,) = connection.execute("SELECT min(pack) FROM packs").fetchone()
        retire_packs(connection, [pack])
        rows = "SELECT count(*) FROM chunks WHERE pack = ?"
        assert connection.execute(rows, (pack,)).fetchone() > (0,)
    undo_upgrade(StorePaths(str(root)))
    with contextlib.closing(sqlite3.connect(root / "catalog.sqlite")) as connection:
        assert connection.execute(rows, (pack,)).fetchone() == (0,)


@pytest.mark.parametrize("undo", [False, True])
def test_a_kill_at_any_step_is_completed_either_way(tmp_path: Path, undo: bool) -> None:
    whole = unpacked(1, tmp_path)
    if undo:
        upgrade(StorePaths(str(whole)))
    verb = undo_upgrade if undo else upgrade
    for step in range(1, 60):
        root = tmp_path / f"{step}"
        shutil.copytree(whole, root)
        paths = StorePaths(str(root))
        dead = killed(lambda paths=paths: verb(paths), step, after=step % 2 == 0)  # type: ignore[misc]
        with Store.open(root) as store:
            assert contents(store) == held(1), step  # readable in between
        finish = verb if step % 3 else (upgrade if undo else undo_upgrade)
        finish(paths)
        with Store.open(root) as store:
            assert store.config.format == store.catalog.version
            assert contents(store) == held(1), step
        upgrade(paths)
        written(root)
        if not dead:
            return
    pytest.fail("the steps were not seen to their end")


def test_nothing_is_upgraded_beside_a_command_at_work(tmp_path: Path) -> None:
    root = unpacked(1, tmp_path)
    paths = StorePaths(str(root))
    with FileLock(paths.lease("0123456789abcdef")), pytest.raises(StoreInUseError):
        upgrade(paths)
    with FileLock(paths.gc_lock), pytest.raises(GcRunningError):
        upgrade(paths)
    upgrade(paths)


def test_a_reader_goes_on_across_an_upgrade(tmp_path: Path) -> None:
    """What a mounted view's server does: one connection, opened before."""
    root = unpacked(1, tmp_path)
    with Store.open(root) as store:
        assert contents(store) == held(1)
        upgrade(StorePaths(str(root)))
        assert contents(store) == held(1)
        undo_upgrade(StorePaths(str(root)))
        assert contents(store) == held(1)


def test_the_way_back_waits_for_mounted_views(tmp_path: Path) -> None:
    """Their servers read the tables of this version."""
    root = unpacked(1, tmp_path)
    paths = StorePaths(str(root))
    upgrade(paths)
    (root / "views" / "v.json").write_text("{}")
    with pytest.raises(StoreInUseError, match="mounted"):
        undo_upgrade(paths)


def test_a_newer_store_is_refused(tmp_path: Path) -> None:
    root = unpacked(FORMAT_VERSION, tmp_path)
    config = root / "config.toml"
    newer = f"format = {FORMAT_VERSION + 1}"
    config.write_text(config.read_text().replace(f"format = {FORMAT_VERSION}", newer))
    for use in (lambda: Store.open(root), lambda: upgrade(StorePaths(str(root)))):
        with pytest.raises(UnsupportedVersionError):
            use()
