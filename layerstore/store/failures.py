"""What can go wrong in a store: the leaves of the error tree and their translation.

On the fast path: imports next to nothing.
"""

from __future__ import annotations

import _sqlite3  # see .catalog_file
import contextlib
import errno
import os

from layerstore.errors import (
    ConflictError,
    IntegrityError,
    NotFoundError,
    StorageError,
)
from layerstore.light_typing import TYPE_CHECKING
from layerstore.linux.locks import LockBusyError

if TYPE_CHECKING:
    from collections.abc import Iterator


class StoreFullError(StorageError):
    """No space, quota or inodes are left where the store lies. Nothing was harmed."""


class ReadOnlyStoreError(StorageError):
    """The store may not be written: a read-only file system or missing permission."""


class UpgradeNeededError(ReadOnlyStoreError):
    """The store has an older format: it may be read as it is, and written once upgraded."""

    def __init__(self, version: int) -> None:
        super().__init__(
            f"the store has format {version}, which this layerstore reads but does not write",
            hint="run 'layerstore upgrade' once; reading and mounting work without it",
        )


class ShortSourceError(StorageError):
    """A file gave fewer bytes than it promised: it shrank while it was read."""


class ChunkNotFoundError(NotFoundError):
    """No committed pack holds the chunk."""


class LayerNotFoundError(NotFoundError):
    """The store holds no such layer."""


class ImageNotFoundError(NotFoundError):
    """The store holds no such image."""


class CorruptPackError(IntegrityError):
    """A pack is damaged or missing.

    Attributes:
        pack: The pack's id in hex.
        offset: Byte offset of the damaged part in the pack file.
    """

    def __init__(self, message: str, *, pack: str, offset: int) -> None:
        super().__init__(
            f"{message} (pack {pack[:16]}, offset {offset})",
            hint="run 'layerstore check --read-data' to see what is harmed, then import or "
            "build that again, or 'layerstore repair' with --from and a copy",
        )
        self.pack = pack
        self.offset = offset

    @property
    def is_of_the_medium(self) -> bool:
        """Whether the medium did not give the bytes, which it may the next time."""
        cause = self.__cause__
        return isinstance(cause, OSError) and cause.errno in MEDIUM_FAILURES


class CorruptBlobError(IntegrityError):
    """A stored manifest or config does not match its digest."""


class CatalogDamagedError(IntegrityError):
    """The catalog is missing or unusable. It is an index and can be rebuilt."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            hint="nothing is lost: run 'layerstore check --rebuild-index' to make it again "
            "from the packs",
        )


class DanglingReferenceError(IntegrityError):
    """Something points at what is not there; nothing may be deleted in this state."""


class GcRunningError(ConflictError):
    """Another garbage collection is at work in this store."""


class StoreExistsError(ConflictError):
    """The directory holds something that is not a store."""


FULL_HINT = (
    "the store is unharmed; free a few MB outside of it, then run 'layerstore gc' or try again"
)
MEDIUM_FAILURES = frozenset({errno.EIO, errno.EUCLEAN, errno.EBADMSG})
"""The medium fails, or the file system found its own checksums wrong."""

PACK_DAMAGE = MEDIUM_FAILURES | {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}
"""What opening or reading a pack can answer that means damage: that, or it is gone or no file."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_OWNER_HINT = "run as the owner of the store, or choose another with --store"
_NO_MODES_HINT = (
    f"{_OWNER_HINT}; where that is you, the file system keeps no modes (vfat, exFAT): put the "
    "store on one that does, such as ext4"
)
_READ_ONLY_HINT = (
    "its file system is mounted read-only: look into dmesg for why, mount it writable, "
    "or choose another store with --store"
)
_REFUSED_HINTS = {
    errno.EROFS: _READ_ONLY_HINT,
    errno.EACCES: _OWNER_HINT,
    errno.EPERM: _NO_MODES_HINT,
}


def storage_error(err: OSError, doing: str) -> StorageError:
    """Return the store's word for a failed system call while ``doing`` something."""
    reason = os.strerror(err.errno) if err.errno else str(err)
    if err.errno in _FULL:
        return StoreFullError(
            f"could not {doing}: {reason}",
            hint=FULL_HINT,
        )
    if err.errno in _REFUSED_HINTS:
        return ReadOnlyStoreError(
            f"could not {doing}: {reason}",
            hint=_REFUSED_HINTS[err.errno],
        )
    return StorageError(f"could not {doing}: {reason}")


NO_ROOM_FOR_SHM = frozenset({"SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_SHMOPEN"})
"""What SQLite says when it cannot make the 32 KiB file that its readers share."""


@contextlib.contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Turn OSError inside the block into the store's storage errors; a busy lock is none."""
    try:
        yield
    except LockBusyError:
        raise
    except OSError as err:
        raise storage_error(err, doing) from err


_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_TOOBIG")
"""The last of a length in a damaged row: none of ours comes near the limit."""

_NO_TEXT = "Could not decode to UTF-8"
"""Begins the module's own OperationalError for text in a row that is none."""

SQLITE_ERRORS = (_sqlite3.Error, UnicodeDecodeError)
"""What the sqlite3 module raises: decoding errors too, when a damaged page holds text."""


def catalog_error(err: Exception) -> StorageError | CatalogDamagedError | AssertionError:
    """Return the store's word for a failed catalog statement.

    A statement that nothing on a disk can make fail in this way is a mistake of ours: nobody is
    to be told then that the catalog is damaged, and to make it again.

    Source: Modules/_sqlite of CPython 3.11 to 3.13, which raises ProgrammingError by itself, for
    closed databases, foreign threads and wrong bindings, and InterfaceError for those and for
    SQLITE_MISUSE and SQLITE_RANGE; never for what SQLite says of a file's content.
    """
    if isinstance(err, _sqlite3.ProgrammingError | _sqlite3.InterfaceError):
        return AssertionError(f"the catalog was asked wrongly: {err}")
    name = getattr(err, "sqlite_errorname", None) or ""
    if name == "SQLITE_FULL" or name in NO_ROOM_FOR_SHM:
        return StoreFullError(
            "could not write the catalog: no space left on device",
            hint=FULL_HINT,
        )
    if name.startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_CANTOPEN")):
        return ReadOnlyStoreError(
            f"could not write the catalog: {err}",
            hint=_OWNER_HINT,
        )
    if (
        name.startswith(_DAMAGE)
        or str(err).startswith(_NO_TEXT)
        or isinstance(err, _sqlite3.IntegrityError | UnicodeDecodeError)
    ):
        return CatalogDamagedError(f"the catalog is damaged: {err}")
    return StorageError(f"the catalog failed: {err}")
