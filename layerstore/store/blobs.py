"""Blobs: manifests and configs, kept byte for byte as they came, one file each.

Durable before any catalog commit that names them; verified on every read.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from layerstore.digest import Digest, parse_digest, sha256_digest
from layerstore.errors import FormatError, LimitExceededError, NotFoundError
from layerstore.linux.files import publish_bytes, read_file
from layerstore.store.failures import CorruptBlobError, storage_error, storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.store.paths import StorePaths

BLOB_MAX_BYTES = 4 * 1024 * 1024
"""Largest manifest or config accepted, as registries limit them."""


class BlobNotFoundError(NotFoundError):
    """The store holds no such manifest or config."""


def put_blob(paths: StorePaths, data: bytes, staging: str) -> Digest:
    """Store a blob durably under its digest and return that; heals a damaged one.

    Raises:
        LimitExceededError: Larger than ``BLOB_MAX_BYTES``.
    """
    if len(data) > BLOB_MAX_BYTES:
        raise LimitExceededError(
            f"a manifest or config of {len(data)} bytes is over the limit of {BLOB_MAX_BYTES}"
        )
    digest = sha256_digest(data)
    if not has_sound_blob(paths, digest):
        with storage_errors("write a manifest or config"):
            path = paths.blob(digest)
            if os.path.isdir(path) and not os.path.islink(path):  # a rename replaces all else
                aside = f"{os.path.basename(path)}.{os.urandom(4).hex()}"
                os.rename(path, f"{paths.quarantine}/{aside}")
            publish_bytes(data, staging=staging, target=paths.blob(digest))
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
        # A symlink, even one to a file, is damage that storing the blob anew heals.
        if err.errno in {None, errno.ELOOP} or not os.path.isfile(path):
