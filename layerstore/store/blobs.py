"""Blobs: manifests and configs, kept byte for byte as they came, one file each.

Durable before any catalog commit that names them; verified on every read.
"""

from __future__ import annotations

import contextlib
import os
import stat

from layerstore.digest import Digest, parse_digest, sha256_digest
from layerstore.errors import FormatError, LimitExceededError, NotFoundError
from layerstore.light_typing import TYPE_CHECKING
from layerstore.linux.files import publish_bytes, read_file
from layerstore.store.failures import CorruptBlobError, storage_error, storage_errors

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from layerstore.store.paths import StorePaths

BLOB_MAX_BYTES = 4 * 1024 * 1024
"""Largest manifest or config accepted, as registries limit them."""


class BlobNotFoundError(NotFoundError):
    """The store holds no such manifest or config."""


def put_blob(paths: StorePaths, data: bytes, staging: str, *, named: Container[str] = ()) -> Digest:
    """Store a blob durably under its digest and return that; heals a damaged one.

    Args:
        paths: The store's.
        data: The blob.
        staging: A path below ``tmp/``.
        named: Digests of blobs that the catalog names already: their names are on disk.

    Raises:
        LimitExceededError: Larger than ``BLOB_MAX_BYTES``.
    """
    if len(data) > BLOB_MAX_BYTES:
        raise LimitExceededError(
            f"a manifest or config of {len(data)} bytes is over the limit of {BLOB_MAX_BYTES}"
        )
    digest = sha256_digest(data)
    if digest in named and has_sound_blob(paths, digest):
        return digest
    # One that nobody names is written again: its writer may have been killed before the name was
    # on disk, or been told that forcing it failed; once more may say yes then with nothing done.
    with storage_errors("write a manifest or config"):
        path = paths.blob(digest)
        if os.path.isdir(path) and not os.path.islink(path):  # a rename replaces all else
            aside = f"{os.path.basename(path)}.{os.urandom(4).hex()}"
            os.rename(path, f"{paths.quarantine}/{aside}")
        publish_bytes(data, staging=staging, target=path)
    return digest


def get_blob(paths: StorePaths, digest: str) -> bytes:
    """Return a blob's bytes after verifying them.

    Raises:
        BlobNotFoundError: Not in the store.
        CorruptBlobError: It does not match its digest.
    """
    path = paths.blob(digest)
    try:
        data = read_file(path, max_bytes=BLOB_MAX_BYTES)
    except FileNotFoundError as err:
        raise BlobNotFoundError(f"the store holds no blob {digest}") from err
    except OSError as err:
        if err.errno is None or not _is_regular(path):
            raise CorruptBlobError(f"blob {digest} is damaged: {err}") from err
        raise storage_error(err, f"read blob {digest}") from err
    if sha256_digest(data) != digest:
        raise CorruptBlobError(
            f"blob {digest} does not match its digest",
            hint="import or build the image again; 'layerstore check' names the images harmed",
        )
    return data


def _is_regular(path: str) -> bool:
    """Return whether a file, and no symlink to one, lies at ``path``."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def has_blob(paths: StorePaths, digest: str) -> bool:
    """Return whether a blob's file is there."""
    return os.path.isfile(paths.blob(digest))


def blob_size(paths: StorePaths, digest: str) -> int | None:
    """Return the bytes of a blob's file, or None if it is not there."""
    try:
        status = os.stat(paths.blob(digest))
    except FileNotFoundError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def has_sound_blob(paths: StorePaths, digest: str) -> bool:
    """Return whether a blob is there and matches its digest."""
    try:
        get_blob(paths, digest)
    except (BlobNotFoundError, CorruptBlobError):
        return False
    return True


def blob_digests(paths: StorePaths) -> Iterator[Digest]:
    """Yield the digest of every blob file, sorted; other file names are passed over."""
    for name in sorted(os.listdir(paths.blobs)):
        with contextlib.suppress(FormatError):
            yield parse_digest("sha256:" + name)
