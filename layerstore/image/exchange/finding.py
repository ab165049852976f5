"""Images of a source: which one a reference means, by its index and for which platform.

Everything is verified as it is read: size and digest against the descriptor that led to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import LimitExceededError, NotFoundError
from layerstore.formats import oci
from layerstore.formats.oci_config import decode_config
from layerstore.formats.tar_limits import Limits, exceeded
from layerstore.image.exchange.exchange import Document, read_blob, read_document

if TYPE_CHECKING:
    from collections.abc import Callable

    from layerstore.digest import Digest
    from layerstore.formats.oci_config import ImageConfig
    from layerstore.image.exchange.exchange import ImageSource

_DOCUMENTS_MAX_BYTES = 64 << 20
"""Of an index and all that it lists: they are in memory together."""


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
        FormatError: A document is malformed.
        LimitExceededError: Indexes are nested deeper than three.
        IntegrityError: Something is not what its descriptor says.
    """
    document = source.document(reference)
    above: tuple[Document, ...] = ()
    for _ in range(oci.INDEX_DEPTH + 1):
        if document.media_type in oci.MANIFEST_TYPES:
            return _found(source, (document, *above))
        index = oci.decode_index(document.raw, media_type=document.media_type)
        above = (document, *above)
        document = read_document(source, _for_platform(source, index, serves))
    raise _too_deep(source)


class FoundIndex(NamedTuple):
    """All images that a reference means, and what lies beside them.

    Attributes:
        images: In the order of the index, each once.
        below: Indexes that the index lists.
        beside: Attestation manifests of the index, their configs and their layers.
    """

    images: tuple[FoundImage, ...]
    below: tuple[Document, ...] = ()
    beside: tuple[Document, ...] = ()


def find_all(source: ImageSource, reference: str) -> FoundIndex:
    """Return the images of all platforms that a reference means.

    Raises:
        NotFoundError: There is none, or one that the index lists is not there.
        FormatError: A document is malformed.
        LimitExceededError: Indexes are nested deeper than three, or the documents together are
            larger than 64 MiB.
        IntegrityError: Something is not what its descriptor says.
    """
    finder = _Finder(source)
    finder.visit(source.document(reference), ())
    if not finder.images:
        raise NotFoundError(f"{source.name}: the index lists no image")
    return FoundIndex(tuple(finder.images), tuple(finder.below), tuple(finder.beside))


class _Finder:
    """Follows an index down to everything that it lists, each once, however often it is listed."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source
        self._bytes = 0
        self._seen: set[Digest] = set()
        self.images: list[FoundImage] = []
        self.below: list[Document] = []
        self.beside: list[Document] = []

    def visit(self, document: Document, above: tuple[Document, ...]) -> None:
        self._charge(document)
        if document.media_type in oci.MANIFEST_TYPES:
            self.images.append(_found(self._source, (document, *above)))
            return
        if len(above) == oci.INDEX_DEPTH:
            raise _too_deep(self._source)
        index = oci.decode_index(document.raw, media_type=document.media_type)
        if above:
            self.below.append(document)
        for descriptor in index.manifests:
            if descriptor.digest in self._seen:
                continue
            self._seen.add(descriptor.digest)
            if oci.is_attestation(descriptor):
                self._take_attestation(read_document(self._source, descriptor))
            elif descriptor.media_type in (*oci.MANIFEST_TYPES, *oci.INDEX_TYPES):
                self.visit(read_document(self._source, descriptor), (document, *above))

    def _take_attestation(self, document: Document) -> None:
        """Keep a manifest that says something of another one, and what it says."""
        self._keep(document)
        plain = oci.decode_artifact(document.raw, media_type=document.media_type)
        for descriptor in (plain.config, *plain.layers):
            self._keep(Document(read_blob(self._source, descriptor), descriptor.media_type))

    def _keep(self, document: Document) -> None:
        self._charge(document)
        self.beside.append(document)

    def _charge(self, document: Document) -> None:
        self._bytes += len(document.raw)
        if self._bytes > _DOCUMENTS_MAX_BYTES:
            raise LimitExceededError(
                f"{self._source.name}: the index and what it lists has more than "
                f"{_DOCUMENTS_MAX_BYTES} bytes of documents"
            )


def _too_deep(source: ImageSource) -> LimitExceededError:
    return LimitExceededError(f"{source.name}: indexes are nested more than {oci.INDEX_DEPTH} deep")


def _for_platform(
    source: ImageSource, index: oci.Index, serves: Callable[[oci.Platform], bool]
) -> oci.Descriptor:
    for descriptor in index.manifests:
        if descriptor.platform is None or serves(descriptor.platform):
            return descriptor
    raise NotFoundError(
        f"{source.name} has no image for this platform", hint="--platform names another"
    )


def _found(source: ImageSource, documents: tuple[Document, ...]) -> FoundImage:
    manifest = oci.decode_manifest(documents[0].raw, media_type=documents[0].media_type)
    raw = read_blob(source, manifest.config)
    config = decode_config(raw)
    oci.check_pair(manifest, config)
    for layer in manifest.layers:
        if layer.size > (most := Limits().expanded_bytes):  # it would be on the disk first
            raise exceeded("expanded_bytes", layer.size, most, f"bytes of layer {layer.digest}")
    return FoundImage(documents, manifest, config, raw)
