"""Images out of an OCI layout, which may be anybody's.

Blobs are opened below the directory without following a link. The same layout may lie in an
archive (:mod:`layerstore.image.layouts.archive_file`).

Source: OCI image-layout and image-spec.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from typing import TYPE_CHECKING, Protocol, Self

from layerstore.digest import parse_digest
from layerstore.errors import (
    FormatError,
    InputError,
    LayerstoreError,
    LimitExceededError,
    NotFoundError,
)
from layerstore.formats import oci, strict_json
from layerstore.formats.oci_config import decode_config
from layerstore.formats.reference import DEFAULT_TAG, ReferenceSyntaxError, full_name
from layerstore.image.exchange.exchange import Document, read_blob, read_document
from layerstore.image.images import platform_of
from layerstore.image.layouts.flat_layout import FlatIndex, flat_indexes, with_indexes
from layerstore.linux.files import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    openat2,
)

if TYPE_CHECKING:
    from pathlib import Path

    from layerstore.image.exchange.exchange import BlobReader

_DOCUMENT_MAX_BYTES = strict_json.MAX_DOCUMENT_BYTES
_RESOLVE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS


class Files(Protocol):
    """The files of a layout."""

    def open(self, name: bytes) -> BlobReader:
        """Return a file's bytes.

        Raises:
            NotFoundError: There is no such file.
        """

    def close(self) -> None:
        """Let go of them; harmless when repeated."""


class LayoutReader:
    """An open layout, a source of images; use it in a ``with`` block.

    Args:
        place: Its directory, or its files where they lie elsewhere.
        name: What messages call it.

    Raises:
        NotFoundError: There is no such directory.
    """

    is_remote = False
    has_originals = True

    def __init__(self, place: Path | Files, name: str = "") -> None:
        self.name = name or f"the OCI layout {place}"
        self._files: Files = _Directory(place) if isinstance(place, os.PathLike) else place
        self._flat: dict[str, FlatIndex] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def entries(self) -> tuple[oci.Descriptor, ...]:
        """Return what index.json lists.

        Raises:
            NotFoundError: There is no index.json.
            FormatError: It is no index.
        """
        # A layout's index need not say what it is (OCI image-layout, "index.json File").
        try:
            raw = self._file(b"index.json")
        except NotFoundError as err:
            raise NotFoundError(f"{self.name} is none: it has no index.json") from err
        return oci.decode_index(raw, media_type=oci.INDEX_TYPE).manifests

    def listed(self) -> tuple[oci.Descriptor, ...]:
        """Return what index.json lists, with one index for manifests of one name.

        That is where they differ in their platform alone: see
        :mod:`layerstore.image.layouts.flat_layout`.

        Raises:
            NotFoundError: There is no index.json.
            FormatError: It is no index.
        """
        entries = self.entries()
        made = flat_indexes(entries, self._platform_of)
        self._flat = {each.descriptor.digest: each for each in made}
        return with_indexes(entries, made)

    def flat_images(self, digest: str) -> tuple[oci.Descriptor, ...]:
        """Return the manifests for which :meth:`listed` has an index; none for any other."""
        flat = self._flat.get(digest)
        return () if flat is None else flat.images

    def _platform_of(self, entry: oci.Descriptor) -> oci.Platform | None:
        """Return what a manifest is for by its config; what is wrong with it is told elsewhere."""
        try:
            raw = read_document(self, entry).raw
            manifest = oci.decode_manifest(raw, media_type=entry.media_type)
            return platform_of(decode_config(read_blob(self, manifest.config)))
        except LayerstoreError:
            return None

    def document(self, reference: str) -> Document:
        """Return a manifest or index: by its digest or by its tag.

        A tag is that of ``org.opencontainers.image.ref.name``, which may be a whole name, or the
        whole name is in an annotation of its own. The only
        one is found without a tag, too, and as ``latest``, which is what no tag means elsewhere.
        Several manifests of one name are the index that :meth:`listed` has of them.

        Raises:
            NotFoundError: No such image.
            FormatError: Not a layout.
            IntegrityError: It is not what index.json says.
        """
        if reference in self._flat:
            return Document(self._flat[reference].raw, oci.INDEX_TYPE)
        if reference.startswith("sha256:"):
            raw = self._file(_blob(parse_digest(reference)))
            return Document(raw, _type_of(raw))
        entries = self.listed()
        found = [each for each in entries if _is_named(each, reference)]
        if not found and len(entries) == 1 and reference in ("", DEFAULT_TAG):
            found = list(entries)
        if not found:
            raise NotFoundError(
                f"{self.name} has no image of tag {reference!r}",
                hint="its index.json lists what there is",
            )
        if found[0].digest in self._flat:
            return self.document(found[0].digest)
        raw = self._file(_blob(found[0].digest))
        oci.verify(raw, found[0])
        return Document(raw, found[0].media_type)

    def open_blob(self, descriptor: oci.Descriptor) -> BlobReader:
        """Return a blob's bytes, as they lie there.

        Raises:
            NotFoundError: No such blob.
        """
        return self._files.open(_blob(descriptor.digest))

    def _file(self, name: bytes) -> bytes:
        file = self._files.open(name)
        with contextlib.closing(file):
            raw = read_all(file, _DOCUMENT_MAX_BYTES)
        if raw is None:
            raise LimitExceededError(
                f"{self.name}: {os.fsdecode(name)} has more bytes than the limit of "
                f"{_DOCUMENT_MAX_BYTES}"
            )
        return raw


def read_all(file: BlobReader, limit_bytes: int) -> bytes | None:
    """Return a file's bytes, or None when it has more than so many."""
    pieces: list[bytes] = []
    left = limit_bytes + 1
    while left and (piece := file.read(left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces) if left else None


class _Directory:
    """The files below a directory, none of them through a link."""

    def __init__(self, path: os.PathLike[str]) -> None:
        self._path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as err:
            raise NotFoundError(f"{path} is no OCI layout: {err.strerror}") from err

    def open(self, name: bytes) -> io.FileIO:
        flags = os.O_RDONLY | os.O_NONBLOCK
        where = f"{self._path}/{os.fsdecode(name)}"
        try:
            descriptor = openat2(self._fd, name, flags, resolve=_RESOLVE)
        except OSError as err:
            raise NotFoundError(f"cannot read {where}: {err.strerror}") from err
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise InputError(f"{where} is not a file")
        return io.FileIO(descriptor)

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


def _type_of(raw: bytes) -> str:
    """Return what a document that is named by nothing but its digest says that it is.

    Raises:
        FormatError: Nothing.
    """
    document = strict_json.decode(raw, "image document")
    media_type = document.get("mediaType") if isinstance(document, dict) else None
    if not isinstance(media_type, str):
        raise FormatError("an image document does not say what it is: it has no mediaType")
    return media_type


def _blob(digest: str) -> bytes:
    algorithm, _, hexadecimal = digest.partition(":")
    return f"blobs/{algorithm}/{hexadecimal}".encode("ascii")


def _is_named(descriptor: oci.Descriptor, reference: str) -> bool:
    name = descriptor.annotations.get(oci.REF_NAME, "")
    if reference and (name == reference or name.endswith(f":{reference}")):
        return True
    if ":" not in reference:  # a tag alone
        return False
    with contextlib.suppress(ReferenceSyntaxError):
        return descriptor.annotations.get(oci.CONTAINERD_NAME) == full_name(reference)
    return False
