"""The catalog's database: connections, transactions, the lock that every write takes.

Every write transaction and every checkpoint runs under an exclusive flock on
``locks/catalog``, so that SQLite's own locks are never contended between writers and no
checkpoint runs beside a write (SQLite before 3.51.3 can corrupt a WAL when they meet).
A :class:`CatalogFile` may be shared by threads; after a fork the child gets its own
connection. What the tables mean is said by :mod:`layerstore.store.catalog.catalog`.

Crash behaviour: a transaction is wholly in or absent (WAL, synchronous=FULL).
On the fast path: nothing heavy is imported. Normative: docs/format/catalog.md.
"""

from __future__ import annotations

import _sqlite3  # without sqlite3, whose converters of dates import datetime: 1 ms
import _thread
import contextlib
import os
import stat

from layerstore.errors import UnsupportedVersionError
from layerstore.light_typing import TYPE_CHECKING
from layerstore.linux.files import open_private
from layerstore.linux.locks import FileLock
from layerstore.store.catalog.schema import (
    APPLICATION_ID,
    CATALOG_VERSION,
    INITIAL_META,
    SCHEMA,
    SCHEMA_1,
    VIEWS_OF_1,
)
from layerstore.store.failures import (
    FULL_HINT,
    NO_ROOM_FOR_SHM,
    SQLITE_ERRORS,
    CatalogDamagedError,
    ReadOnlyStoreError,
    StoreFullError,
    UpgradeNeededError,
    catalog_error,
    storage_errors,
)

if TYPE_CHECKING:
    import sqlite3
    import threading
    from collections.abc import Iterator, Sequence
    from typing import Self

    from layerstore.store.paths import StorePaths

BUSY_TIMEOUT_S = 60.0
LOOKUP_MAX = 500
"""Ids in one lookup: SQLite takes 999 parameters in its oldest form."""
# A checkpoint copies the WAL into the database: often enough to keep it small,
# seldom enough that most commits do not pay for it.
CHECKPOINT_WAL_BYTES = 4 * 1024 * 1024

_SCAN_ROWS = 8192
_OPENINGS_MAX = 16
"""Rebuilds that may take the catalog's place while it is being opened."""

_PRAGMAS = ("synchronous=FULL", "mmap_size=0", "trusted_schema=OFF", "wal_autocheckpoint=0")

# SQLite must not run destructors of another process's connection: they would drop
# that process's POSIX locks. Connections found after a fork end here for ever.
_FOREIGN_CONNECTIONS: list[sqlite3.Connection] = []


def _uri(path: str, options: str) -> str:
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return f"file:{quoted}?{options}"


def _refuse_links(path: str) -> None:
    """Refuse a database, or a log of it, that is no file: SQLite would write through a symlink."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(os.lstat(path + suffix).st_mode):
                raise CatalogDamagedError(f"{path}{suffix} is not a regular file")


def _connect(path: str, *, immutable: bool = False) -> sqlite3.Connection:
    """Open a connection; ``immutable`` needs no shared memory file and sees no log."""
    options = "mode=rw"
    if immutable or os.statvfs(path).f_flag & os.ST_RDONLY:
        wal = path + "-wal"
        if os.path.exists(wal) and os.stat(wal).st_size:
            raise CatalogDamagedError(
                "the catalog has changes in its log that cannot be read from a full or "
                "read-only file system"
            )
        options = "mode=ro&immutable=1"
    connection = _sqlite3.connect(
        _uri(path, options),
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def _is_for_want_of_room(err: Exception, path: str) -> bool:
    """Return whether SQLite could not make a file beside the database: no blocks, no inodes."""
    name = getattr(err, "sqlite_errorname", None)
    if name == "SQLITE_CANTOPEN":
        status = os.statvfs(path)
        return status.f_files > 0 and status.f_favail == 0
    return name in NO_ROOM_FOR_SHM


def _check_schema(connection: sqlite3.Connection) -> int:
    """Refuse a database that is not our catalog; return its version, an older one made readable."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise CatalogDamagedError("catalog.sqlite is not a layerstore catalog")
    if version > CATALOG_VERSION:
        raise UnsupportedVersionError(
            f"the catalog has version {version}, this layerstore knows up to {CATALOG_VERSION}",
            hint="use the newer layerstore that wrote this store",
        )
    rows = connection.execute(
        "SELECT type, name, sql FROM sqlite_schema WHERE sql != ''"
    ).fetchall()
    if not {sql for _, _, sql in rows}.issuperset(_SCHEMAS.get(version, ("no such version",))):
        raise CatalogDamagedError("the catalog's tables are not those of its version")
    for kind, name, _ in rows:
        # They would run or answer in place of what our own statements mean.
        if kind in ("trigger", "view"):
            raise CatalogDamagedError(f"the catalog has a {kind} {name[:100]!r}, which is not ours")
    if version < CATALOG_VERSION:
        connection.execute("PRAGMA temp_store=MEMORY")
        for statement in VIEWS_OF_1:
            connection.execute(statement)
    return int(version)


_SCHEMAS = {1: SCHEMA_1, CATALOG_VERSION: SCHEMA}


class CatalogFile:
    """An open database. See the module for locking; close it when done."""

    def __init__(self, paths: StorePaths) -> None:
        """Open the catalog of an existing store.

        Raises:
            CatalogDamagedError: It is missing or not usable.
            UnsupportedVersionError: It was written by a newer layerstore.
        """
        self.paths = paths
        self.version = CATALOG_VERSION
        self._mutex = _thread.RLock()
        self._connection: sqlite3.Connection | None = None
        self._pid = 0
        self._identity = (0, 0)
        self._writing = False
        self._pinned = False
        self._frozen: tuple[int, int] | None = None
        self._open()

    @classmethod
    def create(cls, paths: StorePaths) -> Self:
        """Make the catalog file if it is not there, with its tables, and open it.

        The caller holds the catalog lock.
        """
        with storage_errors("make the catalog"):
            os.close(open_private(paths.catalog, os.O_RDWR | os.O_CREAT))
        try:
            connection = _sqlite3.connect(_uri(paths.catalog, "mode=rw"), uri=True)
            with contextlib.closing(connection):
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=FULL")
                create_tables(connection)
        except SQLITE_ERRORS as err:
            raise catalog_error(err) from err
        return cls(paths)

    @contextlib.contextmanager
    def pinned(self) -> Iterator[Self]:
        """Lend a catalog that shows one state, whatever others commit meanwhile; read only.

        For one thread. SQLite's log grows while it is held.
        """
        catalog = type(self)(self.paths)
        try:
            catalog.query("BEGIN")
            catalog.query("SELECT count(*) FROM meta")  # the state is that of the first read
            catalog._pinned = True
            yield catalog
        finally:
            catalog.close()

    def _open(self) -> None:
        """Open the catalog that is in place, and is still when its log is open, too.

        Whoever opens the old one while a rebuild takes its place would otherwise make a log
        beside the new one, and go on reading both as one.
        """
        for left in reversed(range(_OPENINGS_MAX)):
            if os.path.exists(self.paths.rebuilt):
                self._finish_replacement()
            _refuse_links(self.paths.catalog)
            try:
                status = os.stat(self.paths.catalog)
            except FileNotFoundError as err:
                raise CatalogDamagedError(f"{self.paths.catalog} is missing") from err
            try:
                connection = self._connected(status)
            except CatalogDamagedError:
                if not left or self._is_in_place(status):
                    raise
                continue
            # Not for ever: there are file systems on which a file has another number each time.
            if not left or self._is_in_place(status):
                break
            connection.close()
        self._connection = connection
        self._pid = os.getpid()
        self._identity = (status.st_dev, status.st_ino)

    def _finish_replacement(self) -> None:
        """Finish what a killed rebuild began, or wait for one that is at it."""
        try:
            self._catalog_lock().close()
        except ReadOnlyStoreError as err:
            raise ReadOnlyStoreError(
                "a rebuild of the catalog was interrupted, and can only be finished where the "
                f"store can be written: {err.message}",
                hint=err.hint,
            ) from err

    def _is_in_place(self, status: os.stat_result) -> bool:
        """Return whether the file with this status is the catalog, and is to stay it."""
        try:
            now = os.stat(self.paths.catalog)
        except FileNotFoundError:
            return False
        same = (now.st_dev, now.st_ino) == (status.st_dev, status.st_ino)
        return same and not os.path.exists(self.paths.rebuilt)

    def _connected(self, status: os.stat_result) -> sqlite3.Connection:
        """Return a connection to the catalog that has read from it, and so has its log open.

        Args:
            status: Of the catalog's file before it is opened.
        """
        self._frozen = None
        try:
            return self._checked(immutable=False)
        except SQLITE_ERRORS as err:
            if not _is_for_want_of_room(err, self.paths.catalog):
                raise catalog_error(err) from err
            # The disk is full: no other process has the catalog open (the shared memory
            # file would be there), so it can be read as it is until it changes.
            self._frozen = (status.st_mtime_ns, status.st_size)
            return self._checked(immutable=True)

    def close(self) -> None:
        """Close the connection; harmless when closed before."""
        with self._guard():
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def _checked(self, *, immutable: bool) -> sqlite3.Connection:
        connection = _connect(self.paths.catalog, immutable=immutable)
        try:
            self.version = _check_schema(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _guard(self) -> threading.RLock:
        """Return this process's mutex, leaving the parent's things alone after a fork."""
        if self._pid != os.getpid():
            if self._connection is not None:
                _FOREIGN_CONNECTIONS.append(self._connection)
                self._connection = None
            self._mutex = _thread.RLock()
            self._writing = False
            self._pid = os.getpid()
        return self._mutex

    def _live(self) -> sqlite3.Connection:
        if self._frozen is not None:
            status = os.stat(self.paths.catalog)
            changed = self._frozen != (status.st_mtime_ns, status.st_size)
            # Within a transaction another's log changes nothing: the file is what it was.
            within = self._connection is not None and self._connection.in_transaction
            if changed or (not within and os.path.exists(self.paths.catalog + "-wal")):
                self.close()
        if self._connection is None:
            self._open()
        assert self._connection is not None
        return self._connection

    def reopen_if_replaced(self) -> None:
        """Open the catalog again if a rebuild put another file in its place."""
        with self._guard():
            try:
                status = os.stat(self.paths.catalog)
            except FileNotFoundError as err:
                raise CatalogDamagedError(f"{self.paths.catalog} is missing") from err
            busy = self._writing or self._pinned
            if self._identity != (status.st_dev, status.st_ino) and not busy:
                self.close()
                self._open()

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Run a reading statement and return all rows.

        Raises:
            CatalogDamagedError: The database is malformed.
        """
        with self._guard():
            try:
                return self._live().execute(sql, parameters).fetchall()
            except SQLITE_ERRORS as err:
                raise catalog_error(err) from err

    def one(self, sql: str, parameters: Sequence[object] = ()) -> tuple[object, ...] | None:
        """Run a reading statement and return its first row, or None."""
        rows = self.query(sql, parameters)
        return rows[0] if rows else None

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Run one write transaction under the catalog lock; durable when the block is left.

        An exception inside undoes everything. Not reentrant. Keep it short: other
        writers of every process wait.

        Raises:
            StoreFullError: The disk is full; nothing of the transaction remains.
            ReadOnlyStoreError: The store may not be written.
        """
        with self._guard(), self._catalog_lock():
            if self._writing:
                raise AssertionError("catalog write transactions do not nest")
            self.reopen_if_replaced()
            self._thaw()
            connection = self._live()
            if self.version < CATALOG_VERSION:
                raise UpgradeNeededError(self.version)
            self._writing = True
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
                self._checkpoint_if_large(connection)
            except SQLITE_ERRORS as err:
                self._roll_back(connection)
                raise catalog_error(err) from err
            except BaseException:
                self._roll_back(connection)
                raise
            finally:
                self._writing = False

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every writer of every process out for a moment, without a transaction."""
        with self._guard(), self._catalog_lock():
            self.reopen_if_replaced()
            yield

    def _thaw(self) -> None:
        """Get a writable connection if the disk was full when this one was made."""
        if self._frozen is not None:
            self.close()
            self._open()
        if self._frozen is not None:
            raise StoreFullError(
                "could not write the catalog: no space left on device", hint=FULL_HINT
            )

    def _catalog_lock(self) -> FileLock:
        """Wait for the catalog lock, behind those who wait already; the catalog is in place then.

        flock(2) wakes all waiters, and who just let go may be quicker than any of them: a
        gc that takes turn after turn would keep the others out. Whoever is next holds
        ``locks/next`` while it waits, so it waits for one transaction and no more.
        """
        with storage_errors("lock the catalog"), FileLock(self.paths.next_lock):
            lock = FileLock(self.paths.catalog_lock)
        if os.path.exists(self.paths.rebuilt):
            from layerstore.store.catalog.replacing import (
                finish_replacement,  # lazily: after a kill only
            )

            try:
                finish_replacement(self.paths)
            except BaseException:
                lock.close()
                raise
        return lock

    @staticmethod
    def _roll_back(connection: sqlite3.Connection) -> None:
        if connection.in_transaction:
            with contextlib.suppress(_sqlite3.Error):
                connection.execute("ROLLBACK")

    def _checkpoint_if_large(self, connection: sqlite3.Connection) -> None:
        try:
            size = os.stat(self.paths.catalog + "-wal").st_size
        except FileNotFoundError:
            return
        if size <= CHECKPOINT_WAL_BYTES:
            return
        # TRUNCATE: a log keeps its length otherwise, and every later commit would come here.
        # The commit is durable already: a full disk here must not look like a failure. Nor
        # may it wait, under the lock, for a reader: a plan or a check reads for minutes.
        with contextlib.suppress(_sqlite3.OperationalError):
            connection.execute("PRAGMA busy_timeout=0")
            try:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_S * 1000:.0f}")

    @contextlib.contextmanager
    def between_writers(self) -> Iterator[None]:
        """Keep writers out for a moment, for looking at files that they write with their rows.

        Where the store cannot be written there is nobody to keep out.
        """
        with self._guard():
            try:
                lock = self._catalog_lock()
            except ReadOnlyStoreError:
                yield
                return
            with lock:
                yield

    def scan(self, sql: str) -> Iterator[list[tuple[object, ...]]]:
        """Yield the rows of a reading statement, some at a time, all of one state.

        Reads through a connection of its own unless the catalog is pinned.
        """
        try:
            if self._pinned:
                yield from _batches(self._live().execute(sql))
                return
            with contextlib.closing(type(self)(self.paths)) as other:
                yield from _batches(other._live().execute(sql))
        except SQLITE_ERRORS as err:
            raise catalog_error(err) from err

    def _each(
        self, sql: str, ids: Sequence[bytes], column: str = "id", condition: str = ""
    ) -> Iterator[tuple[object, ...]]:
        """Yield the rows of a statement for those ids that are there, looked up in parts."""
        for start in range(0, len(ids), LOOKUP_MAX):
            some = ids[start : start + LOOKUP_MAX]
            marks = ",".join("?" * len(some))
            yield from self.query(f"{sql} WHERE {column} IN ({marks}){condition}", some)


def _batches(cursor: sqlite3.Cursor) -> Iterator[list[tuple[object, ...]]]:
    while rows := cursor.fetchmany(_SCAN_ROWS):
        yield rows


def create_tables(connection: sqlite3.Connection) -> None:
    """Write the schema into an empty database; does nothing when it is complete.

    One transaction, and user_version inside it: a crash leaves an empty file or a catalog
    where the caller chose a journal.
    """
    if connection.execute("PRAGMA user_version").fetchone() == (CATALOG_VERSION,):
        return
    connection.isolation_level = None
    connection.execute("BEGIN IMMEDIATE")
    for statement in SCHEMA:
        connection.execute(statement)
    connection.executemany("INSERT INTO meta VALUES (?, ?)", INITIAL_META)
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version={CATALOG_VERSION}")
    connection.execute("COMMIT")
