"""A blob whose place something else took is damaged, and storing it again heals it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from layerstore.linux.files import fsync_directory, publish_bytes
from layerstore.store import blobs, config
from layerstore.store.failures import CorruptBlobError
from layerstore.store.packs import commit
from layerstore.store.store import Store
from tests.support.store import add_image, assert_sound

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

FILES = {b"f": b"content"}


def test_a_symlink_in_place_of_a_blob_is_healed(tmp_path: Path) -> None:
    root = tmp_path / "store"
    image = add_image(root, "a:1", FILES)
    blob = root / "blobs/sha256" / image.image_id.removeprefix("sha256:")
    blob.unlink()
    blob.symlink_to("/etc/passwd")
    with Store.open(root) as store, pytest.raises(CorruptBlobError):
        store.get_blob(image.image_id)
    add_image(root, "a:1", FILES)
    assert not blob.is_symlink()
    assert_sound(root, {"a:1": [FILES]})


class Flushed:
    """Notes which directories a module flushes, and flushes them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> None:
        self.paths: list[str] = []
        for module in modules:
            monkeypatch.setattr(module, "fsync_directory", self)

    def __call__(self, path: str) -> None:
        fsync_directory(path)
        self.paths.append(path)


def test_a_blob_that_nobody_names_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer may have been killed before the flush; what the catalog names is on disk."""
    root = tmp_path / "store"
    image = add_image(root, "a:1", FILES)
    written: list[str] = []

    def publish(data: bytes, *, staging: str, target: str) -> None:
        publish_bytes(data, staging=staging, target=target)
        written.append(target)

    monkeypatch.setattr(blobs, "publish_bytes", publish)
    with Store.open(root) as store:
        for _ in range(2):
            digest = blobs.put_blob(store.paths, b"left", store.paths.temporary("x", "blob"))
        assert written == [store.paths.blob(digest)] * 2
        blobs.put_blob(store.paths, b"left", store.paths.temporary("x", "blob"), named=[digest])
        assert add_image(root, "a:1", FILES) == image
    assert len(written) == 2


def test_an_empty_directory_of_packs_has_its_name_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "store"
    with Store.open(root, create=True) as store:
        flushed = Flushed(monkeypatch, commit)
        for number in range(256):
            (root / "packs" / f"{number:02x}").mkdir(mode=0o700)
        add_image(root, "a:1", FILES)
        assert flushed.paths == [store.paths.packs] * sum(1 for _ in root.glob("packs/*/*.pack"))
    assert_sound(root, {"a:1": [FILES]})


def test_so_have_those_of_a_store_whose_making_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "store"
    for name in ("packs", "blobs", "blobs/sha256"):
        (root / name).mkdir(parents=True, mode=0o700)
    root.chmod(0o700)
    flushed = Flushed(monkeypatch, config)
    Store.open(root, create=True).close()
    assert {str(root), str(root / "blobs")} <= set(flushed.paths)
    add_image(root, "a:1", FILES)
    assert_sound(root, {"a:1": [FILES]})
