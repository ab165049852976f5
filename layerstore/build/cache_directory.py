"""Build caches in a directory: an OCI image layout whose manifests are caches.

Written like any layout of ours: blobs first, hashed while they are written and forced to disk,
``index.json`` last. A write that dies leaves the cache as it was, plus blobs that the next one
removes. Whoever else writes here waits (a flock of the directory); who reads does not, and
may find a blob gone, which is a miss.

Reading believes nothing: documents and blobs are compared with their digests, paths are made
of checked digests only and no symlink is followed below the directory.

Format: docs/format/build-cache.md, "Exported caches".
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from msgspec import structs

from layerstore.digest import hex_of
from layerstore.errors import (
    FormatError,
    InputError,
    IntegrityError,
    StorageError,
    UnsafeContentError,
)
from layerstore.formats import build_cache, oci
from layerstore.formats.build_cache import CachedStep, CacheLayer
from layerstore.image.exchange.blob_files import BlobFile, Compression, compressed
from layerstore.image.exchange.sending import MEDIA_TYPES
from layerstore.image.layouts.layout import INDEX_FILE, LAYOUT_FILE, open_layout, replace_index
from layerstore.image.trees.export_layer import verified_tar
from layerstore.linux.files import fsync_directory, read_file
from layerstore.store.records import CacheRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from layerstore.digest import DiffId, Digest
    from layerstore.store.store import Store

DEFAULT_TAG = "latest"
_DOCUMENT_MAX_BYTES = 4 << 20
_HASH_BYTES = 1 << 20
_HEX_DIGITS = 64


class _Cache(NamedTuple):
    """One cache of a directory, decoded."""

    steps: dict[str, CachedStep]
    layers: dict[DiffId, oci.Descriptor]


class DirectorySource:
    """Reads steps and layers of a cache in a directory.

    Args:
        location: The directory.
        tag: Which of its caches.
    """

    def __init__(self, location: str, tag: str = DEFAULT_TAG) -> None:
        self.location = location
        self._tag = tag
        self._cache: _Cache | None = None

    def find(self, key: str) -> CacheRecord | None:
        """Return what the cache claims of a step.

        Raises:
            NotFoundError: There is no cache.
            IntegrityError: It is damaged.
        """
        step = self._read().steps.get(key)
        return None if step is None else CacheRecord(key, step.layer, b"", step.created)

    @contextlib.contextmanager
    def open_layer(self, diff_id: DiffId) -> Iterator[BinaryIO]:
        """Give a stream of a layer's tar, compressed; the caller compares the diff ID.

        Raises:
            IntegrityError: It is not there, or has another size than the cache says.
        """
        blob = self._read().layers[diff_id]
        try:
            fd = os.open(_blob_path(self.location, blob.digest), _READ_FLAGS)
        except OSError as err:
            raise IntegrityError(f"its blob {blob.digest} cannot be read: {err.strerror}") from err
        with open(fd, "rb") as stream:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size != blob.size:
                raise IntegrityError(f"its blob {blob.digest} does not have {blob.size} bytes")
            yield stream

    def close(self) -> None:
        """Keep nothing open: there is nothing."""

    def _read(self) -> _Cache:
        if self._cache is None:
            index = _read_index(self.location)
            entry = next((each for each in index.manifests if _tag_of(each) == self._tag), None)
            if entry is None:
                raise InputError(f"there is no cache {self._tag!r} in {self.location}")
            self._cache = _load(self.location, entry)
        return self._cache


def write_directory(
    store: Store,
    location: str,
    steps: Sequence[CachedStep],
    *,
    tag: str = DEFAULT_TAG,
    compression: Compression = "zstd",
) -> None:
    """Make a cache of steps in a directory, durably; a cache of the same tag is replaced.

    Layers that lie there already are kept as they are, if they are whole.

    Args:
        store: Has the steps' layers.
        location: The directory; made when absent.
        steps: What the cache says.
        tag: The cache's name in the directory.
        compression: Of new layers.

    Raises:
        OutputTakenError: It holds something else.
        StorageError: It cannot be written.
        IntegrityError: Stored layers are damaged; the cache is as it was.
    """
    try:
        _refuse_links(location)
        open_layout(location)
        with _locked(location):
            # Others may have written meanwhile; what counts is what is there under the lock.
            index = open_layout(location)
            before = _known_layers(location, index)
            layers = [
                _put_layer(store, location, diff_id, before, compression)
                for diff_id in sorted({step.layer for step in steps if step.layer is not None})
            ]
            config = build_cache.encode_config(steps, layers)
            manifest = build_cache.encode_manifest(config, layers)
            for raw in (config, manifest):
                _put(location, raw)
            fsync_directory(f"{location}/blobs/sha256")
            replace_index(
                location, _with_tag(index, oci.describe(manifest, oci.MANIFEST_TYPE), tag)
            )
            _remove_unused(location)
    except OSError as err:
        reason = os.strerror(err.errno) if err.errno else str(err)
        raise StorageError(
            f"could not write the build cache {location}: {reason}",
            hint="the image is stored; free space there or choose another place",
        ) from err


_READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def _refuse_links(location: str) -> None:
    """Refuse a directory from strangers that would have us write or wait elsewhere."""
    for name, is_kind in (
        ("blobs", stat.S_ISDIR),
        ("blobs/sha256", stat.S_ISDIR),
        (LAYOUT_FILE, stat.S_ISREG),
        (INDEX_FILE, stat.S_ISREG),
    ):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if not is_kind(os.lstat(f"{location}/{name}").st_mode):
                raise UnsafeContentError(
                    f"{location}/{name} is not what a build cache has there",
                    hint="choose another directory",
                )


@contextlib.contextmanager
def _locked(location: str) -> Iterator[None]:
    fd = os.open(location, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: two may write at once
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _blob_path(location: str, digest: Digest) -> str:
    if not digest.startswith("sha256:"):
        raise FormatError(f"{digest[:100]} is no sha256 digest")
    return f"{location}/blobs/sha256/{hex_of(digest)}"


def _read_index(location: str) -> oci.Index:
    try:
        read_file(f"{location}/{LAYOUT_FILE}", max_bytes=_DOCUMENT_MAX_BYTES)
        raw = read_file(f"{location}/{INDEX_FILE}", max_bytes=_DOCUMENT_MAX_BYTES)
    except OSError as err:
        if err.errno in (errno.ENOENT, errno.ENOTDIR):
            raise InputError(f"there is no build cache in {location}") from err
        raise StorageError(f"cannot read the build cache {location}: {err}") from err
    return oci.decode_index(raw, media_type=oci.INDEX_TYPE)


def _document(location: str, descriptor: oci.Descriptor) -> bytes:
    try:
        raw = read_file(_blob_path(location, descriptor.digest), max_bytes=_DOCUMENT_MAX_BYTES)
    except OSError as err:
        raise IntegrityError(f"blob {descriptor.digest} of {location}: {err}") from err
    oci.verify(raw, descriptor)
    return raw


def _load(location: str, entry: oci.Descriptor) -> _Cache:
    config, blobs = build_cache.decode_manifest(_document(location, entry))
    return _Cache(*build_cache.decode_config(_document(location, config), blobs))


def _tag_of(entry: oci.Descriptor) -> str:
    return entry.annotations.get(oci.REF_NAME, DEFAULT_TAG)


def _with_tag(index: oci.Index, entry: oci.Descriptor, tag: str) -> oci.Index:
    kept = tuple(each for each in index.manifests if _tag_of(each) != tag)
    named = structs.replace(entry, annotations={oci.REF_NAME: tag})
    return structs.replace(index, manifests=(*kept, named))


def _known_layers(location: str, index: oci.Index) -> dict[DiffId, oci.Descriptor]:
    """Return the layers that caches of ours in the directory have."""
    known: dict[DiffId, oci.Descriptor] = {}
    for entry in index.manifests:
        with contextlib.suppress(IntegrityError):  # damaged, or of another program
            known.update(_load(location, entry).layers)
    return known


def _put_layer(
    store: Store,
    location: str,
    diff_id: DiffId,
    before: dict[DiffId, oci.Descriptor],
    compression: Compression,
) -> CacheLayer:
    known = before.get(diff_id)
    if known is not None and _is_whole(location, known):
        return CacheLayer(diff_id, known)
    with BlobFile(f"{location}/blobs/sha256") as blob:
        for piece in compressed(verified_tar(store, diff_id), compression):
            blob.write(piece)
        digest = blob.publish()
    descriptor = oci.Descriptor(media_type=MEDIA_TYPES[compression], digest=digest, size=blob.size)
    return CacheLayer(diff_id, descriptor)


def _is_whole(location: str, blob: oci.Descriptor) -> bool:
    """Return whether a blob's bytes are there; reading is quicker than compressing again."""
    import hashlib

    hasher = hashlib.sha256()
    try:
        with open(os.open(_blob_path(location, blob.digest), _READ_FLAGS), "rb") as stream:
            if os.fstat(stream.fileno()).st_size != blob.size:
                return False
            while piece := stream.read(_HASH_BYTES):
                hasher.update(piece)
    except (OSError, FormatError):
        return False
    return f"sha256:{hasher.hexdigest()}" == blob.digest


def _put(location: str, raw: bytes) -> None:
    with BlobFile(f"{location}/blobs/sha256") as blob:
        blob.write(raw)
        blob.publish()


def _remove_unused(location: str) -> None:
    """Remove blobs that no cache names any more, unless something here is not ours."""
    used: set[str] = set()
    for entry in _read_index(location).manifests:
        try:
            config, blobs = build_cache.decode_manifest(_document(location, entry))
        except IntegrityError:
            return
        used.update(hex_of(each.digest) for each in (entry, config, *blobs))
    folder = f"{location}/blobs/sha256"
    for name in os.listdir(folder):
        if name not in used and (len(name) == _HEX_DIGITS or name.endswith(".part")):
            with contextlib.suppress(OSError):
                os.unlink(f"{folder}/{name}")
