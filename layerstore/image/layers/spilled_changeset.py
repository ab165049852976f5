"""A layer's entries in a scratch database, for layers too large to gather in memory.

The rules of :class:`~layerstore.image.layers.changeset_builder.LayerRules` are used as they are;
only what they look up lies in SQLite, in a file of the session's that is never forced
to disk and goes with it. Memory is that of SQLite's page cache, whatever the layer's size.

Contents are numbered in the order in which their entries came, as a tar has them. In the end
each number belongs to an entry of the tree, or its content was replaced and is *lost*: then the
recipe must hold it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import TYPE_CHECKING, Final, Self

import msgspec

from layerstore.errors import StorageError
from layerstore.formats.recipe import has_content
from layerstore.formats.tree import Entry, Kind, check_parents, path_key
from layerstore.image.layers.changeset_builder import LayerRules, hard_link
from layerstore.linux.files import open_private, remove_if_present
from layerstore.store.failures import FULL_HINT, StoreFullError, storage_errors

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterable, Iterator

    from layerstore.formats.tree import Paths
    from layerstore.image.layers.changeset_builder import ChangesetBuilder
    from layerstore.store.records import Refs

_CACHE_KIB: Final = 32 * 1024
_PAGE_BYTES: Final = 32 * 1024
"""The longest path fits a page beside others: what a page cannot hold lies in a chain of more,
which every comparison with its key would read."""
_SCHEMA: Final = (
    f"PRAGMA page_size={_PAGE_BYTES}",
    "PRAGMA journal_mode=OFF",
    "PRAGMA synchronous=OFF",
    "PRAGMA locking_mode=EXCLUSIVE",
    f"PRAGMA cache_size=-{_CACHE_KIB}",
    "CREATE TABLE entries (key BLOB PRIMARY KEY, number INTEGER, entry BLOB) WITHOUT ROWID",
    "CREATE TABLE links (target BLOB, name BLOB, PRIMARY KEY (target, name)) WITHOUT ROWID",
    "CREATE TABLE moved (target BLOB PRIMARY KEY, first BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE lost (number INTEGER PRIMARY KEY, refs BLOB NOT NULL)",
    "CREATE TABLE parents (path BLOB PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE linked (path BLOB PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE whiteouts (path BLOB PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE opaques (path BLOB PRIMARY KEY) WITHOUT ROWID",
    # Nothing is ever committed: SQLite writes what its cache cannot hold.
    "BEGIN",
)
_REFS = msgspec.msgpack.Decoder(tuple[tuple[int, bytes], ...])
_ENTRY = msgspec.msgpack.Decoder(Entry)
_ENCODER = msgspec.msgpack.Encoder()


def path_of(key: bytes) -> bytes:
    """Return the path whose :func:`~layerstore.formats.tree.path_key` this is."""
    return key.replace(b"\0", b"/")


def _encoded(entry: Entry) -> bytes:
    """Return an entry without its path, which its row's key says."""
    return _ENCODER.encode(msgspec.structs.replace(entry, path=b""))


def _decoded(key: bytes, encoded: bytes) -> Entry:
    return msgspec.structs.replace(_ENTRY.decode(encoded), path=path_of(key))


class _PathSet:
    """A set of paths in a table, sorted by their keys."""

    def __init__(self, database: sqlite3.Connection, table: str, paths: Iterable[bytes]) -> None:
        self._database = database
        self._holds = f"SELECT 1 FROM {table} WHERE path = ?"  # noqa: S608 -- table names are ours
        self._add = f"INSERT OR IGNORE INTO {table} VALUES (?)"  # noqa: S608
        self._all = f"SELECT path FROM {table} ORDER BY path"  # noqa: S608
        self._size = f"SELECT count(*) FROM {table}"  # noqa: S608
        self._recent = b"\0"
        for path in paths:
            self.add(path)

    def add(self, path: bytes) -> None:
        self._database.execute(self._add, (path_key(path),))

    def __contains__(self, path: bytes) -> bool:
        # Most questions are about the directory of the member before.
        if path == self._recent:
            return True
        found = self._database.execute(self._holds, (path_key(path),)).fetchone() is not None
        if found:
            self._recent = path
        return found

    def sorted(self) -> Paths:
        (count,) = self._database.execute(self._size).fetchone()
        return count, (path_of(key) for (key,) in self._database.execute(self._all))


class _EntryTable:
    """Entries by path; what they replace is noted where it matters."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self.contents = 0

    def get(self, path: bytes) -> Entry | None:
        found = self.row(path_key(path))
        return found[1] if found is not None else None

    def row(self, key: bytes) -> tuple[int | None, Entry] | None:
        """Return the number of an entry's content, if any, and the entry."""
        row = self._database.execute(
            "SELECT number, entry FROM entries WHERE key = ?", (key,)
        ).fetchone()
        return (row[0], _decoded(key, row[1])) if row is not None else None

    def __setitem__(self, path: bytes, entry: Entry) -> None:
        number = None
        if entry.kind is Kind.FILE and has_content(entry):
            number = self.contents
            self.contents += 1
        self.put(number, entry)

    def put(self, number: int | None, entry: Entry) -> None:
        """Insert or replace an entry whose content has a number."""
        key = path_key(entry.path)
        row = (key, number, _encoded(entry))
        done = self._database.execute(
            "INSERT INTO entries VALUES (?, ?, ?) ON CONFLICT DO NOTHING", row
        )
        if not done.rowcount:
            self._forget(key)
            self._database.execute("REPLACE INTO entries VALUES (?, ?, ?)", row)
        if entry.kind is Kind.HARDLINK:
            link = (path_key(entry.target), key)
            self._database.execute("INSERT INTO links VALUES (?, ?)", link)

    def _forget(self, key: bytes) -> None:
        replaced = self.row(key)
        assert replaced is not None
        number, entry = replaced
        if number is not None:
            self.lose(number, entry)
        if entry.kind is Kind.HARDLINK:
            link = (path_key(entry.target), key)
            self._database.execute("DELETE FROM links WHERE target = ? AND name = ?", link)

    def lose(self, number: int, entry: Entry) -> None:
        """Note that no entry of the tree will have this content."""
        refs = [(length, chunk) for length, chunk in entry.extents if chunk is not None]
        self._database.execute("INSERT INTO lost VALUES (?, ?)", (number, _ENCODER.encode(refs)))


class SpilledChangeset(LayerRules):
    """Goes on where a builder in memory has become too large.

    Use it in a ``with`` block. Errors of SQLite come out of its methods as they are:
    :func:`scratch_errors` translates them.

    Args:
        path: Of the scratch file; it must not exist.
        begun: What was gathered so far; not to be used any more.
        contents: The entries with content that were added to it, in their order.
    """

    def __init__(self, path: str, begun: ChangesetBuilder, contents: Iterable[Entry]) -> None:
        with storage_errors("make a scratch file"):
            os.close(open_private(path, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        self._path = path
        self._database = sqlite3.connect(path, isolation_level=None)
        for statement in _SCHEMA:
            self._database.execute(statement)
        self._table = _EntryTable(self._database)
        gathered = begun.gathered
        parents, linked, self._whiteout_paths, self._opaque_paths = (
            _PathSet(self._database, table, paths)
            for table, paths in zip(gathered._fields[1:], gathered[1:], strict=True)
        )
        super().__init__(
            self._table, parents, linked, self._whiteout_paths, self._opaque_paths, begun.terms
        )
        self._any_moved = False
        self._take_over(begun, contents)

    def _take_over(self, begun: ChangesetBuilder, contents: Iterable[Entry]) -> None:
        table = self._table
        numbers = {}
        for entry in contents:
            if begun.final(entry) is None:
                table.lose(table.contents, entry)
            else:
                numbers[id(entry)] = table.contents
            table.contents += 1
        for entry in begun.gathered.entries.values():
            table.put(numbers.get(id(entry)), entry)

    @property
    def contents(self) -> int:
        """How many entries with content were added."""
        return self._table.contents

    def paths(self) -> tuple[Paths, Paths]:
        """Return the whiteouts and the opaques, sorted."""
        return self._whiteout_paths.sorted(), self._opaque_paths.sorted()

    def entries(self, sources: array[int]) -> Iterator[Entry]:
        """Yield the final entries in the tree's order; call it once, at the end.

        Args:
            sources: Set for the number of each content that the tree has to its place
                among the tree's contents.

        Raises:
            FormatError: A hard link to a lower layer's file lies below what is no directory
                in this one.
        """
        self._find_moved()
        place = 0
        for key, number, encoded in self._database.execute(
            "SELECT key, number, entry FROM entries ORDER BY key"
        ):
            final, content = self._final(key, number, _decoded(key, encoded))
            if content is not None:
                sources[content] = place
                place += 1
            yield final

    def _find_moved(self) -> None:
        """Note the groups of hard links whose first name is not the file's."""
        groups = self._database.execute("SELECT target, min(name) FROM links GROUP BY target")
        for target, first in groups:
            if first < target and self._table.row(target) is not None:
                self._database.execute("INSERT INTO moved VALUES (?, ?)", (target, first))
                self._any_moved = True

    def _final(self, key: bytes, number: int | None, entry: Entry) -> tuple[Entry, int | None]:
        """Return what becomes of an entry, and the number of its content."""
        if entry.kind is not Kind.HARDLINK and not self._any_moved:
            return entry, number
        target = path_key(entry.target) if entry.kind is Kind.HARDLINK else key
        moved = self._database.execute(
            "SELECT first FROM moved WHERE target = ?", (target,)
        ).fetchone()
        first = moved[0] if moved is not None else target
        if first == key and target == key:
            return entry, number
        file = self._table.row(target)
        if file is None:  # of a lower layer
            check_parents(entry.target, self._kind_of)
            return entry, None
        if first == key:
            return msgspec.structs.replace(file[1], path=entry.path), file[0]
        return hard_link(entry.path, path_of(first), file[1]), None

    def _kind_of(self, path: bytes) -> Kind | None:
        entry = self._table.get(path)
        return entry.kind if entry is not None else None

    def lost(self) -> Iterator[tuple[int, Refs]]:
        """Yield the contents that the tree does not have: their numbers, ascending, and chunks."""
        for number, refs in self._database.execute("SELECT number, refs FROM lost ORDER BY number"):
            yield number, _REFS.decode(refs)  # type: ignore[misc]

    def close(self) -> None:
        """Remove the scratch file; harmless when repeated."""
        self._database.close()
        with contextlib.suppress(OSError):
            remove_if_present(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def scratch_errors() -> Iterator[None]:
    """Turn SQLite's errors inside the block into the store's."""
    try:
        yield
    except sqlite3.Error as err:
        if getattr(err, "sqlite_errorname", "") == "SQLITE_FULL":
            raise StoreFullError(
                "could not write a scratch file: no space left on device", hint=FULL_HINT
            ) from err
        raise StorageError(f"could not use a scratch file: {err}") from err
