"""What rebuilding the catalog makes of a names.log that is lost or is no file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from layerstore.errors import StorageError
from layerstore.store import blobs
from layerstore.store.check.check import check
from layerstore.store.collect.gc import plan_gc
from layerstore.store.packs import pack_reader
from layerstore.store.rebuild.rebuild import rebuild_catalog
from layerstore.store.store import Store
from tests.support.store import add_image, assert_sound, noise

FILES = {b"f": noise(1, 5_000)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add_image(tmp_path / "store", "a:1", FILES)
    return tmp_path / "store"


def test_names_of_a_sound_catalog_outlive_the_log(root: Path) -> None:
    (root / "names.log").unlink()
    with Store.open(root) as store:
        store.rebuild_catalog()
        assert plan_gc(store).images == ()
        store.tag("b:1", store.resolve("a:1").image_id)
        # The next change of a name wrote all of them: now the log alone is enough.
        store.rebuild_catalog()
        assert set(store.tags()) == {"a:1", "b:1"}
    assert_sound(root, {"a:1": [FILES]})


@pytest.mark.parametrize("kind", ["pipe", "symlink", "directory"])
def test_a_log_that_is_no_file_is_told_and_not_opened(root: Path, kind: str) -> None:
    path = root / "names.log"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "symlink":
        path.symlink_to("/etc/passwd")
    else:
        path.mkdir()
    with Store.open(root) as store:
        problems = {str(finding.problem) for finding in check(store, read_data=False).findings}
        assert "names-log-damaged" in problems
        assert plan_gc(store).images == ()
        store.rebuild_catalog()
        assert set(store.tags()) == {"a:1"}


def test_a_disk_that_fails_for_a_moment_costs_no_image(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: str, *, max_bytes: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    def failing_at(fd: int, size: int, offset: int) -> bytes:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def bad_sector(fd: int, size: int, offset: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for module, name, stub in (
        (blobs, "read_file", failing),
        (pack_reader, "read_at", failing_at),
        (pack_reader, "read_at", bad_sector),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, stub)
            with pytest.raises(StorageError):
                rebuild_catalog(str(root))
        assert_sound(root, {"a:1": [FILES]})
    rebuild_catalog(str(root))
    assert_sound(root, {"a:1": [FILES]})


@pytest.mark.parametrize("where", ["footer", "layer"])
def test_a_rebuild_names_what_is_lost(root: Path, where: str) -> None:
    with Store.open(root) as store:
        image = store.resolve("a:1")
        (diff_id,) = image.layers
        (item,) = store.catalog.query("SELECT item FROM layers WHERE diff_id = ?", (diff_id,))
        place = store.catalog.locate(item[0])  # type: ignore[arg-type]
        assert place is not None
        path = Path(store.paths.pack(place.pack_id))
    data = bytearray(path.read_bytes())
    data[len(data) - 1 if where == "footer" else place.block_offset + 20] ^= 1
    path.write_bytes(data)
    for known in root.glob("catalog.sqlite*"):
        known.unlink()  # which would tell what the pack does not
    report = rebuild_catalog(str(root))
    assert report.lost_names == {"a:1": image.image_id}
    assert (len(report.damaged_packs), report.lost_layers) == (
        (1, 0) if where == "footer" else (0, 1)
    )
    assert len(report.losses) == 2
    add_image(root, "a:1", FILES)
    assert_sound(root, {"a:1": [FILES]})
