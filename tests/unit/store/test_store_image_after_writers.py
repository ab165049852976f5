"""A question about an image waits for the write transaction under way."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from layerstore.store.catalog.catalog import Catalog
from layerstore.store.store import Store
from tests.support.store import add_image

if TYPE_CHECKING:
    from pathlib import Path


def test_it_sees_what_a_transaction_under_way_commits(tmp_path: Path) -> None:
    image = add_image(tmp_path / "store", "app:1", {b"file": b"content"})
    with Store.open(tmp_path / "store") as store:
        other, bystander = Catalog(store.paths), Catalog(store.paths)
        answers: list[object] = []
        with other.write() as connection:
            asking = threading.Thread(
                target=lambda: answers.append(store.catalog.image_after_writers(image.image_id))
            )
            asking.start()
            asking.join(0.2)
            assert answers == []  # a plain look would have said that the image is there
            assert bystander.image(image.image_id) == image
            connection.execute("DELETE FROM images WHERE image_id = ?", (image.image_id,))
        asking.join()
        other.close()
        bystander.close()
        assert answers == [None]
