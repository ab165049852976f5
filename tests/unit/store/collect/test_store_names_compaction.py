"""names.log is kept short by gc: nothing that it says is lost, whatever happens on the way."""

from __future__ import annotations

import errno
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from layerstore.errors import StorageError
from layerstore.store.collect import names_compaction
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.collect.names_compaction import compact_names
from layerstore.store.names import names_log
from layerstore.store.rebuild.rebuild import rebuild_catalog
from layerstore.store.store import Store
from tests.support.store import add_image, assert_sound, disk_bytes

if TYPE_CHECKING:
    from pathlib import Path

FILES = {b"f": b"x"}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store whose log has long histories of few names."""
    monkeypatch.setattr(names_compaction, "COMPACT_MIN_BYTES", 4_000)
    root = tmp_path / "store"
    image = add_image(root, "web", FILES)
    with Store.open(root) as store:
        for number in range(60):
            store.tag("web:next", image.image_id)
            store.tag(f"web:{number % 3}", image.image_id)
            store.untag("web:next")
        store.pin("web:1")
        store.pin(image.image_id)
    return root


def size(root: Path) -> int:
    return (root / "names.log").stat().st_size


def collect(root: Path) -> None:
    with Store.open(root) as store:
        execute(plan_gc(store))


def agrees(root: Path) -> bool:
    """Whether the catalog and names.log say the same, asked by a rebuild and by the next change."""
    with Store.open(root) as store:
        tags, pins = store.tags(), store.pins()
        before = size(root)
        store.tag("probe", next(iter(tags.values())))
        appended = size(root) - before
        store.untag("probe")
    rebuild_catalog(str(root))
    with Store.open(root) as store:
        return (store.tags(), store.pins()) == (tags, pins) and appended < 200


def test_gc_shortens_a_log_and_nothing_is_forgotten(root: Path) -> None:
    before = size(root)
    with Store.open(root) as store:
        tags, pins = store.tags(), store.pins()
        plan = plan_gc(store)
        execute(plan)
        assert size(root) < before / 4
        assert (store.tags(), store.pins()) == (tags, pins)
        short = (root / "names.log").read_bytes()
        execute(plan_gc(store))
        assert (root / "names.log").read_bytes() == short, "not again before it has grown"
    assert agrees(root)
    assert disk_bytes(root) == sum(
        p.stat().st_size for p in (root / "packs").rglob("*.pack")
    ) + sum(p.stat().st_size for p in (root / "blobs").rglob("*") if p.is_file())
    assert_sound(root, {"web:1": [FILES]})


def test_a_log_that_says_little_more_than_needed_stays(root: Path, monkeypatch) -> None:
    monkeypatch.setattr(names_compaction, "COMPACT_FACTOR", 100)
    before = (root / "names.log").read_bytes()
    collect(root)
    assert (root / "names.log").read_bytes() == before


def test_names_of_lost_images_stay_for_a_repair(root: Path) -> None:
    """A rebuild that missed layers leaves names in the log alone; repair goes by them."""
    lost = "sha256:" + "7" * 64
    names_log.append(str(root / "names.log"), [("tag", "web:1", lost), ("tag", "gone:1", lost)])
    rebuild_catalog(str(root))
    with Store.open(root) as store:
        assert compact_names(store)
        logged = names_log.fold(store.paths.names_log)
        assert logged is not None
        assert logged.names == {**store.tags(), "web:1": lost, "gone:1": lost}
    assert agrees(root)


@pytest.mark.parametrize("torn", [False, True])
def test_a_change_since_the_log_was_read_is_not_lost(root: Path, monkeypatch, torn: bool) -> None:
    fold = names_log.fold

    def fold_beside_a_writer(path: str) -> names_log.Named | None:
        found = fold(path)
        if torn:  # the append of a writer that was killed before its commit
            names_log.append(path, [("tag", "late:1", "sha256:" + "7" * 64)])
        else:
            with Store.open(root) as other:
                other.tag("late", other.resolve("web:1").image_id)
        return found

    monkeypatch.setattr(names_log, "fold", fold_beside_a_writer)
    before = size(root)
    with Store.open(root) as store:
        assert not compact_names(store)
        assert size(root) > before
        assert ("late:latest" in store.tags()) is not torn
    monkeypatch.undo()
    assert list((root / "tmp").iterdir()) == []
    assert torn or agrees(root)


def test_killed_between_the_rename_and_the_commit(root: Path, monkeypatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with Store.open(root) as store:
        tags = store.tags()
        monkeypatch.setattr(names_compaction, "record_stamp", killed)
        with pytest.raises(KeyboardInterrupt):
            compact_names(store)
        monkeypatch.undo()
        assert names_log.stamp(store.paths.names_log).log_id
        assert store.tags() == tags
    shutil.copytree(root, root.with_name("copy"))
    rebuild_catalog(str(root.with_name("copy")))
    with Store.open(root.with_name("copy")) as copy:
        assert copy.tags() == tags
    collect(root)
    with Store.open(root) as store:
        store.tag("next", store.resolve("web:1").image_id)
    assert agrees(root)
    assert_sound(root, {"web:1": [FILES], "next": [FILES]})


def test_an_old_catalog_is_not_taken_for_the_log_s_because_of_an_equal_size(root: Path) -> None:
    """Sizes grow within one log only: a compacted log may reach any size again."""
    with Store.open(root) as store:
        assert compact_names(store)
        path = store.paths.names_log
        new = names_log.stamp(path)
        with store.catalog.write() as connection:  # the catalog of a backup
            connection.execute("UPDATE meta SET value = 'another' WHERE key = 'names_log_id'")
        store.tag("late", store.resolve("web:1").image_id)
        records = names_log.read_log(path).records
        assert ("reset",) in records[1 + records.index(("log", new.log_id)) + 1 :]
    assert agrees(root)


def test_on_a_full_disk_the_log_stays_as_it_is(root: Path, monkeypatch) -> None:
    before = (root / "names.log").read_bytes()
    write = names_compaction.StagedFile.write

    def fail(number: int) -> None:
        def failing(self: names_compaction.StagedFile, data: bytes) -> None:
            write(self, data[:100])
            self.discard()
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(names_compaction.StagedFile, "write", failing)

    with Store.open(root) as store:
        fail(errno.ENOSPC)
        execute(plan_gc(store))
        fail(errno.EIO)
        with pytest.raises(StorageError, match=r"compact names\.log"):
            execute(plan_gc(store))
    assert (root / "names.log").read_bytes() == before
    assert list((root / "tmp").iterdir()) == []


def test_what_is_no_log_is_left_alone(root: Path) -> None:
    (root / "names.log").write_bytes(b"x" * 200_000)
    with Store.open(root) as store:
        assert not compact_names(store)
    (root / "names.log").unlink()
    (root / "names.log").symlink_to("/dev/zero")
    with Store.open(root) as store:
        assert not compact_names(store)
        assert names_log.fold(store.paths.names_log) is None
