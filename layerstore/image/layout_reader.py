"""Images out of an OCI layout directory, which may be anybody's.

Blobs are opened below the directory without following a link, read to the size that their
descriptor claims, and compared with its digest. Layers that the store has are not read at all.

Source: OCI image-layout and image-spec.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Self, cast

from layerstore.errors import FormatError, InputError, IntegrityError, NotFoundError
from layerstore.formats import oci
from layerstore.formats.oci_config import decode_config
from layerstore.linux.files import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    openat2,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from layerstore.digest import DiffId
    from layerstore.formats.oci_config import ImageConfig
    from layerstore.store.session import WriteSession
    from layerstore.store.store import Store

_DOCUMENT_MAX_BYTES = 4 << 20
_INDEX_DEPTH = 3
_READ_BYTES = 1 << 20
_RESOLVE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS


class LayoutImage(NamedTuple):
    """An image of a layout: its config, and where its layers are."""

    config: ImageConfig
    layers: tuple[oci.Descriptor, ...]


class LayoutReader:
    """An open layout; use it in a ``with`` block.

    Raises:
        NotFoundError: There is no such directory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as err:
            raise NotFoundError(f"{path} is no OCI layout: {err.strerror}") from err

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def image(self, tag: str, digest: str, serves: Callable[[oci.Platform], bool]) -> LayoutImage:
        """Return an image by its manifest's digest, else by its tag, else the only one.

        Args:
            tag: Without a digest: of ``org.opencontainers.image.ref.name``, which may be a name.
            digest: Of a manifest or an index, empty for none.
            serves: Which platform will do, where there are several.

        Raises:
            NotFoundError: No such image.
            FormatError: Not a layout.
            IntegrityError: A blob is not what its descriptor says.
        """
        index = oci.decode_index(self._file(b"index.json"))
        descriptor = self._chosen(index, tag, digest)
        for _ in range(_INDEX_DEPTH):
            if descriptor.media_type in oci.MANIFEST_TYPES:
                return self._image(descriptor)
            below = oci.decode_index(self._document(descriptor), media_type=descriptor.media_type)
            descriptor = self._for_platform(below, serves)
        raise FormatError(f"{self._path}: indexes are nested more than {_INDEX_DEPTH} deep")

    def open_layer(self, descriptor: oci.Descriptor) -> _Checked:
        """Return a layer's bytes, as they lie there, to be read to the end."""
        return _Checked(self._open(_blob(descriptor)), descriptor)

    def _chosen(self, index: oci.Index, tag: str, digest: str) -> oci.Descriptor:
        if digest:
            found = [each for each in index.manifests if each.digest == digest]
        else:
            found = [each for each in index.manifests if _is_named(each, tag)]
            if not found and len(index.manifests) == 1:
                found = list(index.manifests)
        if not found:
            wanted = digest or f"tag {tag!r}"
            raise NotFoundError(
                f"the OCI layout {self._path} has no image of {wanted}",
                hint="oci-layout://DIR:TAG or oci-layout://DIR@sha256:DIGEST",
            )
        return found[0]

    def _for_platform(
        self, index: oci.Index, serves: Callable[[oci.Platform], bool]
    ) -> oci.Descriptor:
        for descriptor in index.manifests:
            if descriptor.platform is None or serves(descriptor.platform):
                return descriptor
        raise NotFoundError(f"the OCI layout {self._path} has no image for this platform")

    def _image(self, descriptor: oci.Descriptor) -> LayoutImage:
        manifest = oci.decode_manifest(self._document(descriptor), media_type=descriptor.media_type)
        config = decode_config(self._document(manifest.config))
        oci.check_pair(manifest, config)
        return LayoutImage(config, manifest.layers)

    def _document(self, descriptor: oci.Descriptor) -> bytes:
        raw = self._file(_blob(descriptor))
        oci.verify(raw, descriptor)
        return raw

    def _file(self, name: bytes) -> bytes:
        with os.fdopen(self._open(name), "rb") as file:
            raw = file.read(_DOCUMENT_MAX_BYTES + 1)
        if len(raw) > _DOCUMENT_MAX_BYTES:
            raise InputError(f"{self._path}/{os.fsdecode(name)} is larger than 4 MiB")
        return raw

    def _open(self, name: bytes) -> int:
        flags = os.O_RDONLY | os.O_NONBLOCK
        try:
            descriptor = openat2(self._fd, name, flags, resolve=_RESOLVE)
        except OSError as err:
            where = f"{self._path}/{os.fsdecode(name)}"
            raise NotFoundError(f"cannot read {where}: {err.strerror}") from err
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise InputError(f"{self._path}/{os.fsdecode(name)} is not a file")
        return descriptor


class _Checked:
    """A layer's bytes, counted and hashed while they are read."""

    def __init__(self, fd: int, descriptor: oci.Descriptor) -> None:
        self._file = os.fdopen(fd, "rb")
        self._descriptor = descriptor
        self._left = descriptor.size
        self._hash = hashlib.new(descriptor.digest.partition(":")[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        piece = self._file.read(min(size, self._left))
        self._left -= len(piece)
        self._hash.update(piece)
        return piece

    def finish(self) -> None:
        """Read what is left, and compare.

        Raises:
            IntegrityError: Size or digest differ.
        """
        while self.read(_READ_BYTES):
            pass
        is_longer = bool(self._file.read(1))
        hexadecimal = self._descriptor.digest.partition(":")[2]
        if self._left or is_longer or self._hash.hexdigest() != hexadecimal:
            raise IntegrityError(f"blob {self._descriptor.digest} is not what its descriptor says")


def adopt_layers(
    session: WriteSession, store: Store, reader: LayoutReader, image: LayoutImage
) -> None:
    """Bring an image's layers into the store, and hold them until the session ends.

    Raises:
        IntegrityError: A layer is not the one that the config names.
        FormatError: A layer is no tar, or one that means several things.
    """
    from layerstore.image.ingest_tar import ingest_tar

    for diff_id, descriptor in zip(image.config.diff_ids, image.layers, strict=True):
        if store.has_layer(diff_id):
            with contextlib.suppress(NotFoundError):  # gc was faster
                session.hold_layers([diff_id])
                continue
        with reader.open_layer(descriptor) as stream:
            record = ingest_tar(session, cast("BinaryIO", stream))
            stream.finish()
        _check(descriptor, record.diff_id, diff_id)


def _check(descriptor: oci.Descriptor, found: DiffId, wanted: DiffId) -> None:
    if found != wanted:
        raise IntegrityError(
            f"the layer {descriptor.digest} has the diff ID {found}, its config says {wanted}"
        )


def _blob(descriptor: oci.Descriptor) -> bytes:
    algorithm, _, hexadecimal = descriptor.digest.partition(":")
    return f"blobs/{algorithm}/{hexadecimal}".encode("ascii")


def _is_named(descriptor: oci.Descriptor, tag: str) -> bool:
    name = descriptor.annotations.get(oci.REF_NAME, "")
    return bool(tag) and (name == tag or name.endswith(f":{tag}"))
