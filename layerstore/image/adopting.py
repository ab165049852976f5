"""Images out of a source: which one is meant, and its layers into the store.

Everything is verified while it streams: size and digest against the descriptor, the diff ID
against the config. Layers that the store has are not read.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

from layerstore.errors import FormatError, IntegrityError, NotFoundError
from layerstore.formats import oci
from layerstore.formats.oci_config import decode_config
from layerstore.image.exchange import VerifiedBlob, read_blob, read_document

if TYPE_CHECKING:
    from collections.abc import Callable

    from layerstore.formats.oci_config import ImageConfig
    from layerstore.image.exchange import Document, ImageSource
    from layerstore.progress import Progress
    from layerstore.store.session import WriteSession

INDEX_DEPTH = 3
"""Indexes that may lie above a manifest."""


class FoundImage(NamedTuple):
    """An image of a source: its documents, and where its layers are.

    Attributes:
        documents: The manifest, and what led to it: the indexes, the lowest first.
        manifest: The first document, decoded.
        config: Decoded.
        raw_config: As it came: its digest is the image's id.
    """

    documents: tuple[Document, ...]
    manifest: oci.Manifest
    config: ImageConfig
    raw_config: bytes


def find_image(
    source: ImageSource, reference: str, serves: Callable[[oci.Platform], bool]
) -> FoundImage:
    """Return the image that a reference means.

    Args:
        source: Where to look.
        reference: A tag or a digest, of a manifest or an index; "" for the only image.
        serves: Which platform will do, where there are several.

    Raises:
        NotFoundError: There is none, or none for this platform.
        FormatError: A document is malformed, or indexes are nested deeper than three.
        IntegrityError: Something is not what its descriptor says.
    """
    document = source.document(reference)
    above: tuple[Document, ...] = ()
    for _ in range(INDEX_DEPTH + 1):
        if document.media_type in oci.MANIFEST_TYPES:
            return _found(source, (document, *above))
        index = oci.decode_index(document.raw, media_type=document.media_type)
        above = (document, *above)
        document = read_document(source, _for_platform(source, index, serves))
    raise FormatError(f"{source.name}: indexes are nested more than {INDEX_DEPTH} deep")


def _for_platform(
    source: ImageSource, index: oci.Index, serves: Callable[[oci.Platform], bool]
) -> oci.Descriptor:
    for descriptor in index.manifests:
        if descriptor.platform is None or serves(descriptor.platform):
            return descriptor
    raise NotFoundError(f"{source.name} has no image for this platform")


def _found(source: ImageSource, documents: tuple[Document, ...]) -> FoundImage:
    manifest = oci.decode_manifest(documents[0].raw, media_type=documents[0].media_type)
    raw = read_blob(source, manifest.config)
    config = decode_config(raw)
    oci.check_pair(manifest, config)
    return FoundImage(documents, manifest, config, raw)


def adopt_layers(
    session: WriteSession,
    source: ImageSource,
    image: FoundImage,
    *,
    progress: Progress | None = None,
) -> None:
    """Bring an image's layers into the store, and hold them until the session ends.

    Raises:
        IntegrityError: A layer is not the one that the config names.
        FormatError: A layer is no tar, or one that means several things.
    """
    from layerstore.image.ingest_tar import ingest_tar

    for diff_id, descriptor in zip(image.config.diff_ids, image.manifest.layers, strict=True):
        if session.store.has_layer(diff_id):
            with contextlib.suppress(NotFoundError):  # gc was faster
                session.hold_layers([diff_id])
                continue
        with VerifiedBlob(source.open_blob(descriptor), descriptor) as stream:
            record = ingest_tar(session, cast("BinaryIO", stream), progress=progress)
            stream.finish()
        if record.diff_id != diff_id:
            raise IntegrityError(
                f"the layer {descriptor.digest} has the diff ID {record.diff_id}, its config "
                f"says {diff_id}"
            )
