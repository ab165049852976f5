"""What rebuilding the catalog makes of a names.log that is lost or is no file."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from layerstore.errors import StorageError
from layerstore.store import blobs, pack_reader
from layerstore.store.check import check
from layerstore.store.gc import plan_gc
from layerstore.store.rebuild import rebuild_catalog
from layerstore.store.store import Store
from tests.support.store import add_image, assert_sound, noise

if TYPE_CHECKING:
    from pathlib import Path

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

    for module, name, stub in (
        (blobs, "read_file", failing),
        (pack_reader, "read_at", failing_at),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, stub)
            with pytest.raises(StorageError):
                rebuild_catalog(str(root))
        assert_sound(root, {"a:1": [FILES]})
    rebuild_catalog(str(root))
    assert_sound(root, {"a:1": [FILES]})
