"""A source that asks whether an image may come in before any blob of it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from layerstore.digest import Digest
    from layerstore.formats import oci
    from layerstore.image.exchange.exchange import BlobReader, Document, ImageSource


class GatedSource:
    """See the module; for one image.

    Args:
        source: Has the image.
        permit: Told the digest of the image's manifest and of the indexes that led to it, the
            lowest first; raises if that may not come in.
    """

    def __init__(self, source: ImageSource, permit: Callable[[Sequence[Digest]], None]) -> None:
        self._source = source
        self._permit = permit
        self._documents: list[Digest] = []
        self._asked = False
        self.name = source.name
        self.is_remote = source.is_remote
        self.has_originals = source.has_originals

    def document(self, reference: str) -> Document:
        """Return a manifest or an index, and note that it led to the image."""
        document = self._source.document(reference)
        if not self._asked:
            self._documents.insert(0, document.digest)
        return document

    def open_blob(self, descriptor: oci.Descriptor) -> BlobReader:
        """Return a blob's bytes, once the image may come in."""
        if not self._asked:
            self._permit(self._documents)
            self._asked = True
        return self._source.open_blob(descriptor)
