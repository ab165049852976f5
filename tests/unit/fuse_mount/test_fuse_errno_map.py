import errno

import pytest

from fuse_mount.errno_map import QUIET, errno_for
from layerstore.errors import (
    ConflictError,
    FormatError,
    IntegrityError,
    LayerstoreError,
    NotFoundError,
    StorageError,
    UnsafeContentError,
)
from layerstore.vfs.view import (
    NoSuchPathError,
    NoSuchXattrError,
    NotADirectoryInViewError,
    WrongKindError,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NoSuchPathError("x"), errno.ENOENT),
        (NoSuchXattrError("x"), errno.ENODATA),
        (NotADirectoryInViewError("x"), errno.ENOTDIR),
        (WrongKindError("x"), errno.EINVAL),
        (IntegrityError("x"), errno.EIO),
        (FormatError("x"), errno.EIO),
        (UnsafeContentError("x"), errno.EIO),
        (StorageError("x"), errno.EIO),
        (NotFoundError("chunk"), errno.ESTALE),
        (ConflictError("x"), errno.EBUSY),
        (LayerstoreError("x"), errno.EIO),
        (MemoryError(), errno.ENOMEM),
        (OSError(errno.EROFS, "x"), errno.EROFS),
        (OSError(errno.ENOSPC, "x"), errno.EIO),
        (OSError("no number"), errno.EIO),
        (ValueError("x"), errno.EIO),
        (KeyboardInterrupt(), errno.EIO),
    ],
)
def test_every_failure_has_its_number(error: BaseException, code: int):
    assert errno_for(error) == code


def test_damage_is_never_quiet():
    assert errno.EIO not in QUIET
    assert errno.ESTALE not in QUIET
