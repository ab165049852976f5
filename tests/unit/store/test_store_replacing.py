"""A rebuilt catalog takes the old one's place, whoever is killed, opens or lets go meanwhile."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest

from layerstore.store.catalog import catalog_file, replacing
from layerstore.store.catalog.catalog import Catalog
from layerstore.store.collect import gc
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.failures import ReadOnlyStoreError
from layerstore.store.paths import StorePaths
from layerstore.store.rebuild.config_again import make_config_again
from layerstore.store.rebuild.rebuild import rebuild_catalog
from layerstore.store.sharing import access_mismatches
from layerstore.store.store import Store
from tests.support.store import Files, add_image, assert_sound, noise, text

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from pathlib import Path

A: Files = {b"a/%d" % n: text(n, 9_000) for n in range(8)}
B: Files = {b"b": noise(1, 60_000)}


class KilledError(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add_image(tmp_path / "store", "a", A)
    add_image(tmp_path / "store", "b", B)
    return tmp_path / "store"


def leave_it_begun(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rebuild, and be killed once the new catalog has a name."""

    def stop(paths: StorePaths) -> None:
        if os.path.exists(paths.rebuilt):
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(replacing, "finish_replacement", stop)
        with pytest.raises(KilledError):
            rebuild_catalog(str(root))
    assert (root / "catalog.rebuilt").exists()


def inode(root: Path, name: str = "catalog.sqlite") -> int:
    return (root / name).stat().st_ino


def look_at_files(_: Path, store: Store) -> None:
    with store.catalog.between_writers():
        pass


def collect(root: Path, _: Store) -> None:
    with Store.open(root) as other:
        execute(plan_gc(other))


WAYS: dict[str, Callable[[Path, Store], object]] = {
    "opening": lambda root, _: Store.open(root).close(),
    "writing": lambda _, store: store.tag("c", store.resolve("a").image_id),
    "scanning": lambda _, store: list(store.catalog.scan_chunks()),
    "looking at files": look_at_files,
    "collecting": collect,
    "rebuilding": lambda root, _: rebuild_catalog(str(root)),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_next_finishes_it(root: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(root) as store:
        store.tag("a2", store.resolve("a").image_id)  # so that the old one has a log
        leave_it_begun(root, monkeypatch)
        new = inode(root, "catalog.rebuilt")
        WAYS[way](root, store)
        assert not (root / "catalog.rebuilt").exists()
        assert (inode(root) == new) == (way != "rebuilding")
    assert_sound(root, {"a": [A], "b": [B], "a2": [A]})


def test_a_repair_of_the_config_finishes_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It opens the catalog under the lock that finishing takes."""
    leave_it_begun(root, monkeypatch)
    (root / "config.toml").write_text("nothing")
    assert make_config_again(str(root))
    assert not (root / "catalog.rebuilt").exists()
    assert_sound(root, {"a": [A], "b": [B]})


def test_whoever_holds_the_lock_may_open(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_it_begun(root, monkeypatch)
    paths = StorePaths(str(root))
    with replacing.catalog_alone(paths):
        Catalog(paths).close()
    assert_sound(root, {"a": [A], "b": [B]})


def test_where_nothing_can_be_written_it_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    leave_it_begun(root, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(catalog_file, "FileLock", refuse)
        with pytest.raises(ReadOnlyStoreError, match="a rebuild of the catalog was interrupted"):
            Store.open(root)
    assert_sound(root, {"a": [A], "b": [B]})


def test_who_opens_meanwhile_gets_the_new_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log would lie beside the new catalog, and hold what is none of its pages."""
    connect = catalog_file._connect
    before = inode(root)

    def slowly(path: str, *, immutable: bool = False) -> sqlite3.Connection:
        connection = connect(path, immutable=immutable)
        if inode(root) == before:
            monkeypatch.setattr(catalog_file, "_connect", connect)
            rebuild_catalog(str(root))
        return connection

    monkeypatch.setattr(catalog_file, "_connect", slowly)
    with Store.open(root) as store:
        assert inode(root) != before
        assert store.catalog._identity[1] == inode(root)
        store.tag("c", store.resolve("a").image_id)
    assert_sound(root, {"a": [A], "b": [B], "c": [A]})


def test_who_opens_between_log_and_catalog_waits(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename
    found: list[int] = []

    def look() -> None:
        with Store.open(root) as store:
            found.append(store.catalog._identity[1])

    asking = threading.Thread(target=look)

    def renaming(source: str, target: str) -> None:
        if source.endswith("catalog.rebuilt"):
            asking.start()
            asking.join(0.3)
            assert found == []
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", renaming)
        rebuild_catalog(str(root))
    asking.join(60)
    assert found == [inode(root)]


def test_who_lets_go_of_the_old_one_meanwhile_leaves_logs_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last to let go copies the log and removes it by its name, which is the new one's soon."""
    before = (root / "catalog.sqlite").read_bytes()
    other = Store.open(root)
    other.tag("late", other.resolve("a").image_id)
    rename = os.rename

    def renaming(source: str, target: str) -> None:
        if source.endswith("catalog.rebuilt"):
            other.close()
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", renaming)
        rebuild_catalog(str(root))
    (kept,) = (root / "quarantine").glob("catalog-*/catalog.sqlite")
    assert kept.read_bytes() == before
    assert_sound(root, {"a": [A], "b": [B], "late": [A]})


def test_the_old_one_is_kept_with_its_log(root: Path) -> None:
    """So that what it alone knew can be looked up in it."""
    import sqlite3

    with Store.open(root) as store:
        with store.catalog.write() as connection:
            connection.execute("INSERT INTO build_cache VALUES ('step:x', NULL, x'', 0, x'')")
        rebuild_catalog(str(root))
    (kept,) = (root / "quarantine").glob("catalog-*/catalog.sqlite")
    connection = sqlite3.connect(kept)
    assert connection.execute("SELECT key FROM build_cache").fetchall() == [("step:x",)]
    connection.close()


@pytest.mark.parametrize("name", ["catalog.sqlite-wal", "catalog.sqlite-journal"])
def test_what_lies_beside_is_never_the_new_ones(root: Path, name: str) -> None:
    (root / name).mkdir()
    rebuild_catalog(str(root))
    assert not (root / name).exists()
    assert [path.name.startswith(name) for path in (root / "quarantine").glob(f"{name}*")] == [True]
    assert_sound(root, {"a": [A], "b": [B]})


def test_a_new_catalog_is_as_private_as_the_store(root: Path) -> None:
    rebuild_catalog(str(root))
    with Store.open(root) as store:
        assert list(access_mismatches(store.paths, shared=False)) == []


def test_it_counts_on_names_that_are_on_disk(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack whose writer was killed before it was forced has no row, and gets one."""
    fsync, rename = os.fsync, os.rename
    forced: set[str] = set()
    before: set[str] = set()

    def forcing(fd: int) -> None:
        fsync(fd)
        forced.add(os.readlink(f"/proc/self/fd/{fd}"))

    def renaming(source: str, target: str) -> None:
        if target == f"{root}/catalog.rebuilt":
            before.update(forced)
        rename(source, target)

    monkeypatch.setattr(os, "fsync", forcing)
    monkeypatch.setattr(os, "rename", renaming)
    rebuild_catalog(str(root))
    of_packs = {str(path.parent) for path in (root / "packs").rglob("*.pack")}
    assert of_packs
    assert before >= {f"{root}/packs", f"{root}/blobs/sha256", *of_packs}


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_plan_of_before_a_rebuild_is_made_anew(
    root: Path, monkeypatch: pytest.MonkeyPatch, is_killed: bool
) -> None:
    """Packs have other numbers then, by which the plan counts what is alive in them."""
    planned: list[Store] = []
    plan_anew = gc._plan

    def plan(store: Store, *args: object) -> gc.GcPlan:
        planned.append(store)
        return plan_anew(store, *args)  # type: ignore[arg-type]

    with Store.open(root) as store:
        store.untag("b")
        made = plan_gc(store)
        if is_killed:
            leave_it_begun(root, monkeypatch)
        else:
            rebuild_catalog(str(root))
        monkeypatch.setattr(gc, "_plan", plan)
        report = execute(made)
        assert planned == [store]
        assert report.images == 1
        assert set(store.tags()) == {"a:latest"}
    assert_sound(root, {"a": [A]})
