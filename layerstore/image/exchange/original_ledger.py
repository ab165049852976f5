"""What a store remembers of how an image came, for people: listing it, and giving it up."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import LayerstoreError
from layerstore.formats import oci
from layerstore.formats.origins import Origins
from layerstore.store.names.origins import forget_origins

if TYPE_CHECKING:
    from collections.abc import Mapping

    from layerstore.digest import Digest
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store


class Held(NamedTuple):
    """A document that an image came under.

    Attributes:
        names: Of the image.
        state: Of its layers: ``made`` again from recipes, ``kept`` in part or whole, ``lost``
            if one is not to be had; empty for an index.
        kept: Bytes of kept compressed layers by their digests.
    """

    image_id: str
    names: tuple[str, ...]
    digest: Digest
    media_type: str
    state: str
    kept: Mapping[Digest, int]

    @property
    def kept_bytes(self) -> int:
        """Bytes that are kept for this document."""
        return sum(self.kept.values())

    @property
    def kind(self) -> str:
        """What it is, in a word."""
        if self.media_type in oci.INDEX_TYPES:
            return "index"
        return "manifest" if self.media_type in oci.MANIFEST_TYPES else "beside"


def held_by(store: Store, image: ImageRecord) -> list[Held]:
    """Return the documents that an image came under, with what is kept for each.

    Raises:
        IntegrityError: The image's own manifest is damaged.
    """
    origins = store.origins(image)
    names = tuple(name for name, image_id in store.tags().items() if image_id == image.image_id)
    found = []
    for digest, media_type in origins.documents.items():
        layers = _layers(store, image, digest, media_type)
        kept: dict[Digest, int] = {}
        state = "made" if layers is not None else ""
        for diff_id, layer in layers or ():
            encoding = origins.encodings.get(layer)
            if encoding is None:
                state = "lost" if layer != diff_id else state
            elif encoding.kept is not None:
                kept[layer] = encoding.size
        if kept and state != "lost":
            state = "kept"
        found.append(Held(image.image_id, names, digest, media_type, state, kept))
    return found


def _layers(
    store: Store, image: ImageRecord, digest: Digest, media_type: str
) -> list[tuple[str, Digest]] | None:
    """Return diff IDs and digests of a document's layers if it is a manifest of the image."""
    if media_type not in oci.MANIFEST_TYPES:
        return None
    try:
        manifest = oci.decode_manifest(store.get_blob(digest), media_type=media_type)
    except LayerstoreError:
        return None
    if manifest.config.digest != image.image_id:
        return None
    return [
        (diff_id, layer.digest)
        for diff_id, layer in zip(image.layers, manifest.layers, strict=False)
    ]


def drop_originals(
    store: Store, image: ImageRecord, *, kept_only: bool, dry_run: bool
) -> list[Held]:
    """Give up what is remembered of how an image came; its content stays.

    Args:
        store: The store.
        image: The image.
        kept_only: Only manifests for which compressed layers are kept: those that are made
            again from recipes cost next to nothing.
        dry_run: Only tell.

    Returns:
        What the image can no longer leave under.

    Raises:
        IntegrityError: The image's own manifest is damaged.
        StorageError: The store cannot be written.
    """
    held = held_by(store, image)
    going = [each for each in held if each.kept or not kept_only]
    if dry_run or not going:
        return going
    lost = {each.digest for each in going}

    def without(origins: Origins) -> Origins:
        documents = {d: t for d, t in origins.documents.items() if d not in lost}
        # What came in between keeps its recipes; a kept layer is what the consent is about.
        encodings = {d: e for d, e in origins.encodings.items() if documents and e.kept is None}
        return Origins(documents, encodings)

    forget_origins(store, image.image_id, without)
    return going
