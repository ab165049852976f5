"""The catalog: an SQLite index over packs, layers, images, tags, leases and build cache.

It owns every SQL statement that other floors need; packs and blobs are not its
business. It is an index: everything except leases and build cache can be made
again from packs, blobs and names.log (:mod:`layerstore.store.rebuild`).

Locking: every write transaction and every checkpoint runs under an exclusive
flock on ``locks/catalog``, so that SQLite's own locks are never contended between
writers and no checkpoint runs beside a write (SQLite before 3.51.3 can corrupt a
WAL when they meet). A :class:`Catalog` may be shared by threads; after a fork the
child gets its own connection.

Crash behaviour: a transaction is wholly in or absent (WAL, synchronous=FULL).
On the fast path: nothing heavy is imported. Normative: docs/format/catalog.md.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import threading
from typing import TYPE_CHECKING, NamedTuple

from layerstore.digest import ID_BYTES, ChunkId, DiffId, Digest, ImageId, PackId
from layerstore.errors import UnsupportedVersionError
from layerstore.linux.files import PRIVATE_DIR, is_shared, make_private_dir, open_private
from layerstore.linux.locks import FileLock
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
from layerstore.store.schema import (
    APPLICATION_ID,
    CATALOG_VERSION,
    INITIAL_META,
    SCHEMA,
    SCHEMA_1,
    VIEWS_OF_1,
)
from layerstore.store.seals import seal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from layerstore.store.paths import StorePaths

BUSY_TIMEOUT_S = 60.0
LOOKUP_MAX = 500
"""Ids in one lookup: SQLite takes 999 parameters in its oldest form."""
# A checkpoint copies the WAL into the database: often enough to keep it small,
# seldom enough that most commits do not pay for it.
CHECKPOINT_WAL_BYTES = 4 * 1024 * 1024
# A log keeps its length: cut what a very large transaction left.
LARGE_WAL_BYTES = 64 * 1024 * 1024

IN_USE = "pack NOT IN (SELECT pack FROM packs WHERE retired IS NOT NULL)"
"""What rows of ``chunks`` and ``blocks`` must meet: those of retired packs count as absent."""

_SCAN_ROWS = 8192

_PRAGMAS = ("synchronous=FULL", "mmap_size=0", "trusted_schema=OFF", "wal_autocheckpoint=0")

# SQLite must not run destructors of another process's connection: they would drop
# that process's POSIX locks. Connections found after a fork end here for ever.
_FOREIGN_CONNECTIONS: list[sqlite3.Connection] = []


class ImageRecord(NamedTuple):
    """An image as the catalog knows it.

    Attributes:
        created: RFC 3339 time of the image's config, or "".
        layers: Diff ids, lowest first.
        size: Sum of the layers' regular file bytes.
    """

    image_id: ImageId
    manifest_digest: Digest
    created: str
    layers: tuple[DiffId, ...]
    size: int


class ChunkPlace(NamedTuple):
    """Where a chunk's plain bytes are: a slice of a decoded block of a pack.

    Attributes:
        pack: The pack's number in the catalog.
        depth: 0 when the block stands alone; else it is a difference, and
            :meth:`Catalog.bases` lists what against.
        cost: Plain bytes to decode for reading the chunk.
        kind: What the block holds, a number of :class:`layerstore.formats.pack.ItemKind`.
    """

    pack_id: PackId
    pack: int
    block: int
    block_offset: int
    stored_length: int
    raw_length: int
    offset: int
    length: int
    depth: int
    cost: int
    kind: int


class ChunkRow(NamedTuple):
    """One row of the chunk index: ``offset`` and ``length`` are plain bytes in the block."""

    chunk_id: ChunkId
    pack: int
    block: int
    offset: int
    length: int


class BlockRow(NamedTuple):
    """One block: where it lies in its pack file, its size before compression, its depth."""

    pack: int
    block: int
    offset: int
    stored_length: int
    raw_length: int
    kind: int
    depth: int
    cost: int


class PackRow(NamedTuple):
    """One pack file.

    Attributes:
        retired: The epoch at which gc took it out of use, or None.
        lease: Who is writing, or None.
        effort: How hard its writer tried to make it small: 0 for ingest.
    """

    pack: int
    pack_id: PackId
    size: int
    retired: int | None
    lease: str | None
    effort: int


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
    connection = sqlite3.connect(
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


class Catalog:
    """An open catalog. See the module for locking; close it when done."""

    def __init__(self, paths: StorePaths) -> None:
        """Open the catalog of an existing store.

        Raises:
            CatalogDamagedError: It is missing or not usable.
            UnsupportedVersionError: It was written by a newer layerstore.
        """
        self.paths = paths
        self.version = CATALOG_VERSION
        self._mutex = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._pid = 0
        self._identity = (0, 0)
        self._writing = False
        self._pinned = False
        self._frozen: tuple[int, int] | None = None
        self._open()

    @classmethod
    def create(cls, paths: StorePaths) -> Catalog:
        """Make the catalog file if it is not there, with its tables, and open it.

        The caller holds the catalog lock.
        """
        with storage_errors("make the catalog"):
            os.close(open_private(paths.catalog, os.O_RDWR | os.O_CREAT))
        try:
            connection = sqlite3.connect(_uri(paths.catalog, "mode=rw"), uri=True)
            with contextlib.closing(connection):
                _create_tables(connection)
        except SQLITE_ERRORS as err:
            raise catalog_error(err) from err
        return cls(paths)

    @contextlib.contextmanager
    def pinned(self) -> Iterator[Catalog]:
        """Lend a catalog that shows one state, whatever others commit meanwhile; read only.

        For one thread. SQLite's log grows while it is held.
        """
        catalog = Catalog(self.paths)
        try:
            catalog.query("BEGIN")
            catalog.query("SELECT count(*) FROM meta")  # the state is that of the first read
            catalog._pinned = True
            yield catalog
        finally:
            catalog.close()

    def _open(self) -> None:
        _refuse_links(self.paths.catalog)
        try:
            status = os.stat(self.paths.catalog)
        except FileNotFoundError as err:
            raise CatalogDamagedError(f"{self.paths.catalog} is missing") from err
        self._frozen = None
        try:
            connection = self._checked(immutable=False)
        except SQLITE_ERRORS as err:
            if not _is_for_want_of_room(err, self.paths.catalog):
                raise catalog_error(err) from err
            # The disk is full: no other process has the catalog open (the shared memory
            # file would be there), so it can be read as it is until it changes.
            self._frozen = (status.st_mtime_ns, status.st_size)
            connection = self._checked(immutable=True)
        self._connection = connection
        self._pid = os.getpid()
        self._identity = (status.st_dev, status.st_ino)

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
            self._mutex = threading.RLock()
            self._writing = False
            self._pid = os.getpid()
        return self._mutex

    def _live(self) -> sqlite3.Connection:
        if self._frozen is not None:
            status = os.stat(self.paths.catalog)
            changed = self._frozen != (status.st_mtime_ns, status.st_size)
            if changed or os.path.exists(self.paths.catalog + "-wal"):
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
        """Wait for the catalog lock, behind those who wait already.

        flock(2) wakes all waiters, and who just let go may be quicker than any of them: a
        gc that takes turn after turn would keep the others out. Whoever is next holds
        ``locks/next`` while it waits, so it waits for one transaction and no more.
        """
        with storage_errors("lock the catalog"), FileLock(self.paths.next_lock):
            return FileLock(self.paths.catalog_lock)

    @staticmethod
    def _roll_back(connection: sqlite3.Connection) -> None:
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")

    def _checkpoint_if_large(self, connection: sqlite3.Connection) -> None:
        try:
            size = os.stat(self.paths.catalog + "-wal").st_size
        except FileNotFoundError:
            return
        if size <= CHECKPOINT_WAL_BYTES:
            return
        kind = "TRUNCATE" if size > LARGE_WAL_BYTES else "PASSIVE"
        # The commit is durable already: a full disk here must not look like a failure. Nor
        # may it wait, under the lock, for a reader: a plan or a check reads for minutes.
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA busy_timeout=0")
            try:
                connection.execute(f"PRAGMA wal_checkpoint({kind})").fetchall()
            finally:
                connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_S * 1000:.0f}")

    # -- images and tags

    def images(self) -> list[ImageRecord]:
        """Return every image, newest first by its config's time."""
        layers: dict[str, list[DiffId]] = {}
        for image_id, diff_id in self.query(
            "SELECT image_id, diff_id FROM image_layers ORDER BY image_id, position"
        ):
            layers.setdefault(str(image_id), []).append(DiffId(Digest(str(diff_id))))
        rows = self.query(
            "SELECT image_id, manifest_digest, created, size, seal FROM images"
            " ORDER BY created DESC, image_id"
        )
        return [_image(row, layers.get(str(row[0]), [])) for row in rows]

    def image(self, image_id: str) -> ImageRecord | None:
        """Return one image by its full id."""
        row = self.one(
            "SELECT image_id, manifest_digest, created, size, seal FROM images WHERE image_id = ?",
            (image_id,),
        )
        if row is None:
            return None
        layers = self.query(
            "SELECT diff_id FROM image_layers WHERE image_id = ? ORDER BY position", (image_id,)
        )
        return _image(row, [DiffId(Digest(str(diff_id))) for (diff_id,) in layers])

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

    def image_after_writers(self, image_id: str) -> ImageRecord | None:
        """Return one image as it is once the write transaction under way, if any, has ended.

        Who makes a root for the garbage collector (a view's record) outside the catalog
        asks this afterwards: a collection that did not see the root has committed by
        now, and one that comes later will see it.
        """
        with self._guard(), self._catalog_lock():
            return self.image(image_id)

    def image_ids(self, prefix: str, limit: int = 3) -> list[ImageId]:
        """Return ids of images whose id or manifest digest begins with ``prefix``."""
        rows = self.query(
            "SELECT image_id FROM images WHERE substr(image_id, 1, ?1) = ?2"
            " OR (?1 = 71 AND manifest_digest = ?2) LIMIT ?3",
            (len(prefix), prefix, limit),
        )
        return [ImageId(Digest(str(row[0]))) for row in rows]

    def tags(self) -> dict[str, ImageId]:
        """Return every name with its image, sorted by name."""
        rows = self.query("SELECT name, image_id, seal FROM tags ORDER BY name")
        return {str(name): _tagged(name, image_id, found) for name, image_id, found in rows}

    def tag(self, name: str) -> ImageId | None:
        """Return the image that a normalized name points at."""
        row = self.one("SELECT name, image_id, seal FROM tags WHERE name = ?", (name,))
        return _tagged(*row) if row else None

    # -- layers

    def layer(self, diff_id: str) -> bytes | None:
        """Return a layer's encoded record, which matches the id of its item.

        Raises:
            CatalogDamagedError: It does not.
        """
        row = self.one("SELECT item, record FROM layers WHERE diff_id = ?", (diff_id,))
        return _layer_record(diff_id, *row) if row is not None else None

    def layers(self) -> list[tuple[DiffId, bytes]]:
        """Return every layer's id and encoded record, sorted by id."""
        rows = self.query("SELECT diff_id, item, record FROM layers ORDER BY diff_id")
        return [
            (DiffId(Digest(str(diff_id))), _layer_record(diff_id, item, record))
            for diff_id, item, record in rows
        ]

    # -- chunks

    def locate(self, chunk_id: bytes) -> ChunkPlace | None:
        """Return where a chunk (or a layer item) lies, or None."""
        row = self.one(f"SELECT {_PLACE} WHERE c.id = ?", (chunk_id,))
        return _place(row) if row is not None else None

    def places(self, chunk_ids: Iterable[bytes]) -> dict[ChunkId, ChunkPlace]:
        """Return where each of ``chunk_ids`` lies that a committed pack holds."""
        rows = self._each(f"SELECT c.id, {_PLACE}", list(chunk_ids), "c.id")
        return {ChunkId(row[0]): _place(row[1:]) for row in rows}  # type: ignore[arg-type]

    def bases(self, pack: int, block: int) -> list[ChunkId]:
        """Return what a block is a difference against, in order; nothing if it stands alone.

        Raises:
            CatalogDamagedError: What it lists are no ids.
        """
        rows = self.query(
            "SELECT id FROM bases WHERE pack = ? AND block = ? ORDER BY position", (pack, block)
        )
        ids = [row[0] for row in rows]
        if not all(isinstance(base, bytes) and len(base) == ID_BYTES for base in ids):
            raise CatalogDamagedError("the catalog's bases of a block make no sense")
        return ids  # type: ignore[return-value]

    def base_rows(self) -> list[tuple[int, int, ChunkId]]:
        """Return pack, block and base of every difference in use, in order."""
        return self.query(
            f"SELECT pack, block, id FROM bases WHERE {IN_USE} ORDER BY pack, block, position"  # noqa: S608 -- a constant
        )  # type: ignore[return-value]

    def has_chunk(self, chunk_id: bytes) -> bool:
        """Return whether a committed pack holds a chunk."""
        with self._guard():
            try:
                cursor = self._live().execute(
                    "SELECT 1 FROM chunks c JOIN packs p ON p.pack = c.pack"
                    " WHERE c.id = ? AND p.retired IS NULL",
                    (chunk_id,),
                )
                return cursor.fetchone() is not None
            except SQLITE_ERRORS as err:
                raise catalog_error(err) from err

    def missing(self, chunk_ids: Iterable[bytes]) -> set[bytes]:
        """Return those of ``chunk_ids`` that no committed pack holds."""
        wanted = list(chunk_ids)
        held = self._each("SELECT id FROM chunks", wanted, condition=f" AND {IN_USE}")
        return set(wanted) - {row[0] for row in held}

    def chunk_places(self, chunk_ids: Sequence[bytes]) -> dict[bytes, ChunkRow]:
        """Return the rows of those of ``chunk_ids`` that the index has in packs in use."""
        sql = "SELECT id, pack, block, offset, length FROM chunks"
        rows = self._each(sql, chunk_ids, condition=f" AND {IN_USE}")
        return {row[0]: ChunkRow(*row) for row in rows}  # type: ignore[misc, arg-type]

    def _each(
        self, sql: str, ids: Sequence[bytes], column: str = "id", condition: str = ""
    ) -> Iterator[tuple[object, ...]]:
        """Yield the rows of a statement for those ids that are there, looked up in parts."""
        for start in range(0, len(ids), LOOKUP_MAX):
            some = ids[start : start + LOOKUP_MAX]
            marks = ",".join("?" * len(some))
            yield from self.query(f"{sql} WHERE {column} IN ({marks}){condition}", some)

    def scan_chunks(self) -> Iterator[ChunkRow]:
        """Yield the whole chunk index in order of id, as it is now, in little memory.

        Reads through a connection of its own: what is published meanwhile is not seen.
        """
        sql = f"SELECT id, pack, block, offset, length FROM chunks WHERE {IN_USE} ORDER BY id"  # noqa: S608 -- a constant
        for rows in self.scan(sql):
            yield from map(ChunkRow._make, rows)

    def scan(self, sql: str) -> Iterator[list[tuple[object, ...]]]:
        """Yield the rows of a reading statement, some at a time, all of one state.

        Reads through a connection of its own unless the catalog is pinned.
        """
        try:
            if self._pinned:
                yield from _batches(self._live().execute(sql))
                return
            with contextlib.closing(_connect(self.paths.catalog)) as connection:
                yield from _batches(connection.execute(sql))
        except SQLITE_ERRORS as err:
            raise catalog_error(err) from err

    def chunk_rows(self) -> list[ChunkRow]:
        """Return the whole chunk index in order of position: pack, block, offset."""
        return sorted(self.scan_chunks(), key=lambda row: row[1:])

    def block_rows(self) -> list[BlockRow]:
        """Return every block of every pack in use."""
        rows = self.query(
            "SELECT pack, block, offset, stored, raw, kind, depth, cost FROM blocks"  # noqa: S608 -- a constant
            f" WHERE {IN_USE} ORDER BY pack, block"
        )
        return [BlockRow(*row) for row in rows]  # type: ignore[arg-type]

    def blocks_of(self, pack_id: PackId) -> dict[int, BlockRow]:
        """Return the blocks of one pack by their numbers."""
        rows = self.query(
            "SELECT b.pack, block, offset, stored, raw, kind, depth, cost FROM blocks b"
            " JOIN packs p ON p.pack = b.pack WHERE p.id = ?",
            (pack_id,),
        )
        return {row[1]: BlockRow(*row) for row in rows}  # type: ignore[arg-type, misc]

    def pack_row(self, pack_id: PackId) -> PackRow | None:
        """Return one pack, or None when it is no more."""
        row = self.one(
            "SELECT pack, id, size, retired, lease, effort FROM packs WHERE id = ?", (pack_id,)
        )
        return PackRow(*row) if row is not None else None  # type: ignore[arg-type]

    def pack_rows(self) -> list[PackRow]:
        """Return every pack, retired ones too."""
        rows = self.query("SELECT pack, id, size, retired, lease, effort FROM packs ORDER BY pack")
        return [PackRow(*row) for row in rows]  # type: ignore[arg-type]

    def epoch(self) -> int:
        """Return how often gc has taken packs out of use: leases begin in an epoch."""
        row = self.one("SELECT value FROM meta WHERE key = 'epoch'")
        if row is None or not isinstance(row[0], int):
            raise CatalogDamagedError("the catalog has no epoch")
        return row[0]


def _batches(cursor: sqlite3.Cursor) -> Iterator[list[tuple[object, ...]]]:
    while rows := cursor.fetchmany(_SCAN_ROWS):
        yield rows


_PLACE = (
    "p.id, c.pack, c.block, b.offset, b.stored, b.raw, c.offset, c.length, b.depth, b.cost,"
    " b.kind FROM chunks c JOIN blocks b ON b.pack = c.pack AND b.block = c.block"
    " JOIN packs p ON p.pack = c.pack AND p.retired IS NULL"
)


def _place(row: tuple[object, ...]) -> ChunkPlace:
    """Return a row of ``_PLACE`` after seeing that it makes sense."""
    pack_id, *numbers = row
    whole = isinstance(pack_id, bytes) and len(pack_id) == ID_BYTES
    if not whole or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise CatalogDamagedError("the catalog's place of a chunk makes no sense")
    return ChunkPlace(*row)  # type: ignore[arg-type]


def _layer_record(diff_id: object, item: object, record: object) -> bytes:
    from layerstore.store.records import layer_item_id  # lazily: the fast path reads no layers

    if not isinstance(record, bytes) or layer_item_id(record) != item:
        raise CatalogDamagedError(f"the catalog's record of layer {diff_id} is damaged")
    return record


def _image(row: tuple[object, ...], layers: Sequence[DiffId]) -> ImageRecord:
    image_id, manifest, created, size, found = row
    record = ImageRecord(
        ImageId(Digest(str(image_id))),
        Digest(str(manifest)),
        str(created),
        tuple(layers),
        size if isinstance(size, int) else -1,
    )
    if found != image_seal(record):
        raise CatalogDamagedError(
            f"the catalog lists something else of image {str(image_id)[:80]} than it was given"
        )
    return record


def image_seal(record: ImageRecord) -> bytes:
    """Return the seal of an image's row and of its rows in ``image_layers``."""
    return seal(
        "images",
        record.image_id,
        record.manifest_digest,
        record.created,
        record.size,
        *record.layers,
    )


def _tagged(name: object, image_id: object, found: object) -> ImageId:
    """Return the image of a row of ``tags`` after checking its seal."""
    if found != seal("tags", str(name), str(image_id)):
        raise CatalogDamagedError(f"the catalog's row of the name {str(name)[:300]!r} is damaged")
    return ImageId(Digest(str(image_id)))


def _create_tables(connection: sqlite3.Connection) -> None:
    """Write the schema into an empty database; does nothing when it is complete.

    One transaction, and user_version inside it: a crash leaves an empty file or a catalog.
    """
    if connection.execute("PRAGMA user_version").fetchone() == (CATALOG_VERSION,):
        return
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.isolation_level = None
    connection.execute("BEGIN IMMEDIATE")
    for statement in SCHEMA:
        connection.execute(statement)
    connection.executemany("INSERT INTO meta VALUES (?, ?)", INITIAL_META)
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version={CATALOG_VERSION}")
    connection.execute("COMMIT")


def make_store_directories(paths: StorePaths) -> None:
    """Make what is missing of a new store's directories, durably."""
    from layerstore.store.paths import DIRECTORIES

    # Not even in a shared directory is a store shared before somebody says so.
    if not make_private_dir(paths.root, inherit=False) and is_shared(paths.root):
        os.chmod(paths.root, PRIVATE_DIR)
    for name in DIRECTORIES:
        make_private_dir(f"{paths.root}/{name}")
