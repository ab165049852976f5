"""A blob whose place something else took is damaged, and storing it again heals it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from layerstore.store.failures import CorruptBlobError
from layerstore.store.store import Store
from tests.support.store import add_image, assert_sound

if TYPE_CHECKING:
    from pathlib import Path

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
