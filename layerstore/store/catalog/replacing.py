"""Putting a rebuilt catalog in the old one's place, so that a kill at any instant leaves one.

A catalog is a database and the log beside it: two names, which no call replaces at once, and
SQLite replays a log into whatever database lies beside it. So the new database, whole and on
disk, first gets the name ``catalog.rebuilt``. From then on it is the catalog; what is left to do
needs no room and may be done any number of times, and whoever opens the store, or takes the
catalog lock, does it before anything else (:func:`finish_replacement`). Normative:
docs/format/catalog.md, "Replacement".
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import stat
from typing import TYPE_CHECKING

from layerstore.linux.files import fsync_directory, make_private_dir
from layerstore.linux.locks import FileLock
from layerstore.store.failures import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.store.paths import StorePaths

QUARANTINED_CATALOG = "catalog-"
_BESIDE = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a database under names that follow from its own."""

_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})

_LETTING_GO_S = 60.0
"""How long somebody may take who copies the old catalog's log at this moment."""


@contextlib.contextmanager
def catalog_alone(paths: StorePaths) -> Iterator[None]:
    """Hold the catalog lock, with the catalog in its place.

    For whoever opens a catalog under the lock: opening one whose replacement was killed takes it.

    Raises:
        OSError: It cannot be locked.
        StorageError: What was killed cannot be finished.
    """
    with FileLock(paths.catalog_lock):
        finish_replacement(paths)
        yield


def replace_catalog(paths: StorePaths, draft: str) -> None:
    """Let the database ``draft`` take the catalog's place; the old one goes to ``quarantine/``.

    Durable when it returns. If it fails, or is killed, the catalog is the old one or the new one;
    which of them, the next who opens the store decides by what is on disk.

    Args:
        paths: The store's; the caller holds the catalog lock, and keeps gc away.
        draft: Whole, forced to disk, without a log, and on the store's file system.

    Raises:
        OSError: The disk is full or failed.
    """
    _keep_old(paths)
    os.rename(draft, paths.rebuilt)
    finish_replacement(paths)


def finish_replacement(paths: StorePaths) -> None:
    """Do what is left of a replacement; nothing where none was begun.

    Args:
        paths: The store's; the caller holds the catalog lock.

    Raises:
        StorageError: The disk failed, or the store cannot be written. The next may try again.
    """
    if not os.path.exists(paths.rebuilt):
        return
    with storage_errors("finish a rebuild of the catalog"), _held_open(paths):
        # Its maker may have been killed before. A log that went without the new name being on disk
        # would cost the old catalog its last commits.
        fsync_directory(paths.root)
        for suffix in _BESIDE:
            _clear_away(paths, paths.catalog + suffix)
        if not _is_file(paths.catalog):
            _clear_away(paths, paths.catalog)
        # Before the new database has the name, not after: a power cut may keep either alone.
        fsync_directory(paths.root)
        os.rename(paths.rebuilt, paths.catalog)
        fsync_directory(paths.root)


def _is_file(path: str) -> bool:
    """Return whether a file, and no symlink to one, lies there."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _held_open(paths: StorePaths) -> Iterator[None]:
    """Keep others who let go of the old catalog from doing anything to its log.

    SQLite's last connection to a database copies the log into it and removes the log *by its name*,
    which may be that of the new catalog's log by then. It does not while another one
    is open; nor once the database has lost its name.
    """
    strange = [
        suffix
        for suffix in _BESIDE
        if os.path.lexists(paths.catalog + suffix) and not _is_file(paths.catalog + suffix)
    ]
    with contextlib.ExitStack() as stack:
        if _is_file(paths.catalog) and not strange:
            with contextlib.suppress(sqlite3.Error):  # what cannot be opened is nobody's
                connection = sqlite3.connect(paths.catalog, _LETTING_GO_S, isolation_level=None)
                stack.enter_context(contextlib.closing(connection))
                connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        yield


def _clear_away(paths: StorePaths, path: str) -> None:
    """Remove a file of the old catalog, which is kept already; move aside what is no file."""
    if _is_file(path):
        os.unlink(path)
    elif os.path.lexists(path):
        os.rename(path, f"{paths.quarantine}/{os.path.basename(path)}.{os.urandom(4).hex()}")


def _keep_old(paths: StorePaths) -> None:
    """Give the old catalog, with its log, names in quarantine."""
    keep = f"{paths.quarantine}/{QUARANTINED_CATALOG}{os.urandom(4).hex()}"
    # The log first: if its last user copies it into the database meanwhile, the copy has it twice
    # and not never.
    for suffix in ("-wal", ""):
        if _is_file(paths.catalog + suffix):
            make_private_dir(keep)
            with contextlib.suppress(FileNotFoundError):
                _keep_too(paths.catalog + suffix, f"{keep}/catalog.sqlite{suffix}")
    if os.path.isdir(keep):
        fsync_directory(keep)


def _keep_too(path: str, target: str) -> None:
    """Give a file a second name, or a copy where the file system has no hard links."""
    try:
        os.link(path, target)
    except OSError as err:
        if err.errno not in _NO_HARD_LINKS:
            raise
        shutil.copyfile(path, target)
