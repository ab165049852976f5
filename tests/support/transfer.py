"""Images that travel: small ones with true diff IDs, made of files, imported or built."""

from __future__ import annotations

import io
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from layerstore.formats.bundle import BaseImage
from layerstore.formats.oci_config import ImageConfig
from layerstore.formats.tree import Entry, Kind
from layerstore.image.images import create_image
from layerstore.image.layers.ingest_tar import ingest_tar
from layerstore.image.layers.layer_item import LayerItem
from layerstore.image.layers.layer_writer import write_layer
from layerstore.image.transfer.having import NOTHING, Having, having_images
from layerstore.image.transfer.loading import LoadReport, load_bundle
from layerstore.image.transfer.saving import SavedImage, save_bundle
from tests.support import tars
from tests.support.store import Files, read_layer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.records import LayerRecord
    from layerstore.store.store import Store
    from layerstore.store.writing.session import WriteSession

LEVEL = 3
"""Of zstd: tests are about what comes back."""


def put_tar_layer(session: WriteSession, files: Files) -> LayerRecord:
    """Import files as a tar: the layer has a recipe."""
    members = [tars.member(path, data) for path, data in sorted(files.items())]
    return ingest_tar(session, io.BytesIO(b"".join(members) + tars.END))


def put_built_layer(session: WriteSession, files: Files) -> LayerRecord:
    """Write files as a build does: the tar is made of the tree."""
    items = [
        LayerItem(Entry(path, Kind.FILE, 0o644, size=len(data)), open=partial(io.BytesIO, data))
        for path, data in files.items()
    ]
    return write_layer(session, session.store, items)


def add_image(store: Store, name: str, *layers: Files, built: bool = False) -> ImageRecord:
    """Add an image of layers of files."""
    put = put_built_layer if built else put_tar_layer
    with store.begin("test") as session:
        diff_ids = [put(session, files).diff_id for files in layers]
        config = ImageConfig(architecture="amd64", os="linux")
        return create_image(
            session, config, diff_ids, (), names=[name], created="2026-01-01T00:00:00Z"
        )


def base_of(image: ImageRecord) -> BaseImage:
    return BaseImage(image.image_id, tuple(image.layers), ("base:1",))


def bundle_of(
    store: Store,
    images: Sequence[tuple[str, ImageRecord]],
    since: Sequence[ImageRecord] = (),
    having: Having | None = None,
) -> bytes:
    """Return the bundle of images for somebody who has those of ``since``, or ``having``."""
    out = io.BytesIO()
    found = having or (having_images(store, since) if since else NOTHING)
    saved = [SavedImage(image, (name,)) for name, image in images]
    bases = [base_of(image) for image in since]
    save_bundle(store, saved, lambda: nullcontext(out), having=found, bases=bases, level=LEVEL)
    return out.getvalue()


def load(store: Store, bundle: bytes) -> LoadReport:
    return load_bundle(store, io.BytesIO(bundle).read)


def same_image(sender: Store, receiver: Store, image: ImageRecord) -> None:
    """Both stores have the image, with the same layers down to the bytes of their trees."""
    there = receiver.image(image.image_id)
    assert there.layers == image.layers
    assert there.manifest_digest == image.manifest_digest
    for diff_id in image.layers:
        assert receiver.layer(diff_id) == sender.layer(diff_id)
        assert read_layer(receiver, diff_id) == read_layer(sender, diff_id)
