"""A place for images in memory: source and destination at once."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from layerstore.digest import Digest, sha256_digest
from layerstore.errors import NotFoundError
from layerstore.formats import oci

if TYPE_CHECKING:
    from collections.abc import Iterable

    from layerstore.image.exchange.exchange import Document


class MemoryPlace:
    name = "memory"
    is_remote = False
    has_originals = True

    def __init__(self) -> None:
        self.documents: dict[str, Document] = {}
        self.blobs: dict[Digest, bytes] = {}

    def document(self, reference: str) -> Document:
        try:
            return self.documents[reference]
        except KeyError as err:
            raise NotFoundError(f"no {reference}") from err

    def open_blob(self, descriptor: oci.Descriptor) -> io.BytesIO:
        try:
            return io.BytesIO(self.blobs[descriptor.digest])
        except KeyError as err:
            raise NotFoundError(f"no {descriptor.digest}") from err

    def has_blob(self, descriptor: oci.Descriptor) -> bool:
        return descriptor.digest in self.blobs

    def put_blob(
        self, pieces: Iterable[bytes], media_type: str, expected: oci.Descriptor | None = None
    ) -> oci.Descriptor:
        raw = b"".join(pieces)
        self.blobs[sha256_digest(raw)] = raw
        return oci.describe(raw, media_type)

    def put_document(self, document: Document, reference: str | None) -> None:
        self.documents[document.digest] = document
        if reference:
            self.documents[reference] = document
