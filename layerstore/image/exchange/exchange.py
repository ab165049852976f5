"""Places that images come from and go to, and how what they give is verified.

A source gives bytes by reference and by descriptor and is believed in nothing; a destination
takes bytes whose digest may be known only when the last of them was written. Everything that
moves images (``load``, ``save``, ``pull``, ``push``, ``copy``) is written against these two
protocols; directories, archives, registries and daemons implement them.

Source: OCI distribution spec, "Pulling" and "Pushing"; OCI image spec, descriptor.md.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from msgspec import structs

from layerstore.digest import sha256_digest
from layerstore.errors import IntegrityError, LimitExceededError
from layerstore.formats import oci
from layerstore.formats.strict_json import MAX_DOCUMENT_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from layerstore.digest import Digest

READ_BYTES = 1 << 20
"""Asked of a blob at once."""


class Document(NamedTuple):
    """A manifest or an index, byte for byte as somebody made it.

    Attributes:
        raw: At most 4 MiB.
        media_type: What the descriptor or the server calls it.
        platform: What a layout's index says of it; only of images on their way out.
    """

    raw: bytes
    media_type: str
    platform: oci.Platform | None = None

    @property
    def digest(self) -> Digest:
        """The document's name among its kind."""
        return sha256_digest(self.raw)

    @property
    def descriptor(self) -> oci.Descriptor:
        """What points to the document."""
        return structs.replace(oci.describe(self.raw, self.media_type), platform=self.platform)


class BlobReader(Protocol):
    """An open blob, of one thread."""

    def read(self, size: int, /) -> bytes:
        """Return 1 to ``size`` bytes, none at the end."""

    def close(self) -> None:
        """Let go of it; harmless when repeated."""


class ImageSource(Protocol):
    """A place that images come from. Used by several threads at once.

    Nothing that it gives is believed: callers go through :func:`read_document`,
    :func:`read_blob` and :class:`VerifiedBlob`.

    """

    @property
    def name(self) -> str:
        """What messages call it: ``the OCI layout DIR``."""

    @property
    def is_remote(self) -> bool:
        """Whether to read a blob a second time costs as much as the first time."""

    @property
    def has_originals(self) -> bool:
        """Whether its manifests are somebody's, to be kept byte for byte.

        Those of an archive without manifests were made up from its configs.
        """

    def document(self, reference: str) -> Document:
        """Return a manifest or an index by its tag or its digest; "" for the only one.

        Raises:
            NotFoundError: There is none, or "" could mean several.
        """

    def open_blob(self, descriptor: oci.Descriptor) -> BlobReader:
        """Return the bytes of a config or a layer as they lie there.

        Raises:
            NotFoundError: There is no such blob.
        """


class ImageDestination(Protocol):
    """A place that images go to. A blob before the manifest that names it, then the index."""

    def has_blob(self, descriptor: oci.Descriptor) -> bool:
        """Return whether a blob is there already, or was brought there by asking."""

    def put_blob(
        self, pieces: Iterable[bytes], media_type: str, expected: oci.Descriptor | None = None
    ) -> oci.Descriptor:
        """Write a blob and return what it turned out to be.

        Success means that it lies there whole under its digest.

        Args:
            pieces: Its bytes.
            media_type: For the descriptor that is returned.
            expected: What it must turn out to be, where that is known before.

        Raises:
            IntegrityError: It is not ``expected``; nothing of it stays.
        """

    def put_document(self, document: Document, reference: str | None) -> None:
        """Write a manifest or an index whose blobs are there.

        Args:
            document: Its bytes go as they are.
            reference: The tag or familiar name that means it from now on; "" for an image
                without a name; None for what only another document names.
        """


class VerifiedBlob:
    """A blob's bytes, counted and hashed while they are read; use it in a ``with`` block."""

    def __init__(self, reader: BlobReader, descriptor: oci.Descriptor) -> None:
        self._reader = reader
        self._descriptor = descriptor
        self._left = descriptor.size
        self._hash = hashlib.new(descriptor.digest.partition(":")[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def read(self, size: int) -> bytes:
        """Return the next bytes, never more than the descriptor says there are."""
        piece = self._reader.read(min(size, self._left)) if self._left else b""
        self._left -= len(piece)
        self._hash.update(piece)
        return piece

    def finish(self) -> None:
        """Read what is left, and compare.

        Raises:
            IntegrityError: Size or digest differ.
        """
        while self.read(READ_BYTES):
            pass
        is_longer = bool(self._reader.read(1))
        hexadecimal = self._descriptor.digest.partition(":")[2]
        if self._left or is_longer or self._hash.hexdigest() != hexadecimal:
            raise IntegrityError(f"blob {self._descriptor.digest} is not what its descriptor says")


def read_blob(source: ImageSource, descriptor: oci.Descriptor) -> bytes:
    """Return a config, verified.

    Raises:
        NotFoundError: There is no such blob.
        LimitExceededError: Its descriptor says that it is larger than 4 MiB.
        IntegrityError: It is not what its descriptor says.
    """
    _refuse_large(descriptor)
    with VerifiedBlob(source.open_blob(descriptor), descriptor) as blob:
        pieces = []
        while piece := blob.read(READ_BYTES):
            pieces.append(piece)
        blob.finish()
    return b"".join(pieces)


def read_document(source: ImageSource, descriptor: oci.Descriptor) -> Document:
    """Return the manifest or index that an index names, verified.

    Raises:
        NotFoundError: There is no such document.
        LimitExceededError: Its descriptor says that it is larger than 4 MiB.
        IntegrityError: It is not what its descriptor says.
    """
    _refuse_large(descriptor)
    document = source.document(descriptor.digest)
    oci.verify(document.raw, descriptor)
    return Document(document.raw, descriptor.media_type)


def _refuse_large(descriptor: oci.Descriptor) -> None:
    if descriptor.size > MAX_DOCUMENT_BYTES:
        raise LimitExceededError(
            f"blob {descriptor.digest} has {descriptor.size} bytes, more than the limit of "
            f"{MAX_DOCUMENT_BYTES} for manifests and configs"
        )
