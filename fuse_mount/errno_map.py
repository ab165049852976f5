"""Which errno a failure becomes at the FUSE boundary: one table.

What is not in the table is a fault of ours or of the disk: EIO, and the caller
of :func:`errno_for` is told to log it.
"""

from __future__ import annotations

import errno

from layerstore.errors import (
    ConflictError,
    IntegrityError,
    NotFoundError,
    StorageError,
    UnsafeContentError,
)
from layerstore.vfs.view import (
    NameTooLongError,
    NoSuchPathError,
    NoSuchXattrError,
    NotADirectoryInViewError,
    OffsetBeyondError,
    WrongKindError,
)

_TABLE: tuple[tuple[type[BaseException], int], ...] = (
    (NameTooLongError, errno.ENAMETOOLONG),
    (NoSuchPathError, errno.ENOENT),
    (NoSuchXattrError, errno.ENODATA),
    (NotADirectoryInViewError, errno.ENOTDIR),
    (WrongKindError, errno.EINVAL),
    (OffsetBeyondError, errno.ENXIO),
    (IntegrityError, errno.EIO),
    (UnsafeContentError, errno.EIO),
    (StorageError, errno.EIO),
    # A chunk or layer that is gone: the file exists, its store does not hold it any more.
    (NotFoundError, errno.ESTALE),
    (ConflictError, errno.EBUSY),
    (MemoryError, errno.ENOMEM),
)

QUIET = frozenset(
    {
        errno.ENOENT,
        errno.ENAMETOOLONG,
        errno.ENODATA,
        errno.ENOTDIR,
        errno.EINVAL,
        errno.EROFS,
        errno.ENXIO,
    }
)
"""Answers that are part of normal life and not worth a line in a log."""


def errno_for(error: BaseException) -> int:
    """Return the positive errno that stands for ``error``."""
    for kind, code in _TABLE:
        if isinstance(error, kind):
            return code
    if isinstance(error, OSError) and error.errno and error.errno in QUIET:
        return error.errno
    return errno.EIO
