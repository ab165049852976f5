"""Leases: who is at work in a store, so that gc leaves their things alone.

A lease is a row in the catalog, which remembers the epoch it began in, and a
lock file ``locks/lease-<id>`` held by flock for as long as the process lives. No
clocks: a lease lives exactly as long as its flock is held, a killed or stopped
process included. Both are made under the catalog lock, so whoever holds that
lock never sees half a lease. Who holds nothing by it may have the lock file alone, under
a name that says so.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from layerstore.linux.files import remove_if_present
from layerstore.linux.locks import FileLock, is_held
from layerstore.printable import printable
from layerstore.store.failures import storage_errors
from layerstore.store.paths import LEASE_PREFIX

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator

    from layerstore.store.catalog.catalog import Catalog
    from layerstore.store.paths import StorePaths


UNLISTED: Final = "files-"
"""Begins the ids of leases that keep their files in ``tmp/`` and nothing else."""

_ID_BYTES: Final = 8
_DIGITS = frozenset("0123456789abcdef")


class Lease:
    """A living lease of this process. Close it to let gc have its leavings."""

    __slots__ = ("_catalog", "_lock", "epoch", "lease_id")

    def __init__(self, catalog: Catalog, purpose: str) -> None:
        """Begin a lease; durable when this returns."""
        self._catalog = catalog
        self.lease_id = os.urandom(_ID_BYTES).hex()
        lock: FileLock | None = None
        try:
            with catalog.write() as connection:
                with storage_errors("begin a lease"):
                    # Nobody else holds it for longer than it takes to ask who does.
                    lock = FileLock(catalog.paths.lease(self.lease_id))
                row = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
                self.epoch = int(row[0])
                connection.execute(
                    "INSERT INTO leases VALUES (?, ?, ?, ?, ?)",
                    # Purposes name files, whose names need not be text.
                    (self.lease_id, printable(purpose), os.getpid(), self.epoch, time.time()),
                )
        except BaseException:
            if lock is not None:
                lock.close()
                remove_if_present(lock.path)
            raise
        self._lock = lock

    def close(self, last_words: Callable[[sqlite3.Connection], None] | None = None) -> None:
        """End the lease: its rows go, then its file.

        Args:
            last_words: Writes what may as well be written in the same transaction.
        """
        try:
            with self._catalog.write() as connection:
                if last_words is not None:
                    last_words(connection)
                drop_lease_rows(connection, self.lease_id)
        finally:
            self._lock.close()
            with storage_errors("end a lease"):
                remove_if_present(self._lock.path)


@contextlib.contextmanager
def unlisted_lease(catalog: Catalog) -> Iterator[str]:
    """Keep gc from files in ``tmp/``; yields the lease's id.

    For who holds neither images nor layers by it, and reads chunks by asking again where they
    are when a pack has gone: its row would be forced to the disk twice, which may take longer
    than the work, and no retired pack has to stay for its sake.
    """
    lease_id = UNLISTED + os.urandom(_ID_BYTES).hex()
    # gc removes lease files that nobody holds under this lock, and would do so before we hold ours.
    with catalog.locked(), storage_errors("begin a lease"):
        lock = FileLock(catalog.paths.lease(lease_id))
    try:
        yield lease_id
    finally:
        lock.close()
        with storage_errors("end a lease"):
            remove_if_present(lock.path)


class LeaseRow(NamedTuple):
    """A lease as the catalog has it."""

    lease_id: str
    purpose: str
    pid: int
    epoch: int
    created: float


def live_leases(catalog: Catalog) -> list[LeaseRow]:
    """Return the leases whose holders live."""
    rows = catalog.query("SELECT lease, purpose, pid, epoch, created FROM leases ORDER BY lease")
    leases = [LeaseRow(*row) for row in rows]  # type: ignore[arg-type]
    return [row for row in leases if is_held(catalog.paths.lease(row.lease_id))]


def lock_file_ids(paths: StorePaths) -> list[str]:
    """Return the ids of all lease files, living or dead."""
    names = sorted(os.listdir(paths.locks))
    return [name.removeprefix(LEASE_PREFIX) for name in names if name.startswith(LEASE_PREFIX)]


def is_lease_id(text: str) -> bool:
    """Return whether a lease may have had this id.

    Other names in ``tmp/`` are of files that are there under the catalog lock alone.
    """
    digits = text.removeprefix(UNLISTED)
    return len(digits) == 2 * _ID_BYTES and _DIGITS.issuperset(digits)


def drop_lease_rows(connection: sqlite3.Connection, lease_id: str) -> None:
    """Forget a lease inside a write transaction; its packs are judged by their use from now on."""
    connection.execute("DELETE FROM lease_holds WHERE lease = ?", (lease_id,))
    connection.execute("DELETE FROM leases WHERE lease = ?", (lease_id,))
    connection.execute("UPDATE packs SET lease = NULL WHERE lease = ?", (lease_id,))


def hold(connection: sqlite3.Connection, lease_id: str, kind: str, ids: Iterable[str]) -> None:
    """Make images or layers roots for as long as the lease lives."""
    connection.executemany(
        "INSERT OR IGNORE INTO lease_holds VALUES (?, ?, ?)",
        [(lease_id, kind, name) for name in ids],
    )
