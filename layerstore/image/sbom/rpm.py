"""Packages of rpm: the database in its form of today, SQLite.

The file is a stranger's. SQLite reads it in memory, with nothing of its schema trusted but one
plain table; the work and the bytes that it gives are bounded, since a tree of pages that refers
to itself could give rows without end. The headers in it are read here.

Source: rpm, lib/backend/sqlite.cc (table), docs/manual/format_header.md and tags.md (headers);
sqlite.org, "Defense Against The Dark Arts".
"""

from __future__ import annotations

import sqlite3
import struct
from contextlib import closing
from typing import TYPE_CHECKING, Final

from layerstore.image.sbom.files import MAX_DATABASE_BYTES
from layerstore.image.sbom.packages import Package, word

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from layerstore.image.sbom.files import ImageFiles

_DIRECTORIES = (b"usr/lib/sysimage/rpm/", b"var/lib/rpm/")
"""Of new and of older distributions; the older one is often a link to the new one."""
_DATABASE = b"rpmdb.sqlite"
_OTHER_FORMS = ((b"Packages", "Berkeley DB"), (b"Packages.db", "ndb"))
_KEY: Final = "gpg-pubkey"
"""Name under which rpm keeps keys; nothing is installed by it."""

_MAX_WORK: Final = 1_000
"""Reports of SQLite's, one in so many operations of its machine."""
_OPERATIONS: Final = 10_000

_MIN_LENGTH: Final = 10_000
"""Of what SQLite takes at once; it needs some for its own statements."""

_JOURNAL_MODE = slice(18, 20)
"""Of a database: 2 2 with a write-ahead log, which a database in memory has none of."""
_ROLLBACK: Final = b"\x01\x01"

_HEAD = struct.Struct(">II")  # entries, bytes of data
_ENTRY = struct.Struct(">IIII")  # tag, type, offset, count
_INT32, _STRING, _I18N = 4, 6, 9
_STRINGS = 8
_DIR_INDEXES, _BASE_NAMES, _DIR_NAMES = 1116, 1117, 1118
_TAGS = {
    1000: "name",
    1001: "version",
    1002: "release",
    1003: "epoch",
    1011: "vendor",
    1014: "license",
    1020: "url",
    1022: "arch",
    1044: "source",
}


def rpm_packages(files: ImageFiles, namespace: str, distribution: str) -> Iterator[Package]:
    """Yield what rpm has installed; what of it cannot be read is left out, and told."""
    for path, blob in _headers(files):
        package = _package(header_fields(blob), path, namespace, distribution)
        if package is not None:
            yield package


def rpm_file_lists(files: ImageFiles, limit: int) -> dict[tuple[str, str], Sequence[bytes]]:
    """Return the paths of each package's files, relative to the root, by name and version.

    Args:
        files: Of an image.
        limit: Of paths; some more may come, and no package after that.
    """
    found: dict[tuple[str, str], Sequence[bytes]] = {}
    for path, blob in _headers(files):
        package = _package(header_fields(blob), path, "", "")
        if package is not None:
            paths = found[package.name, package.version] = header_paths(blob)
            limit -= len(paths)
        if limit < 0:
            break  # who asked says so
    return found


def _headers(files: ImageFiles) -> Iterator[tuple[bytes, bytes]]:
    """Yield the path of the database and each of its headers."""
    for directory in _DIRECTORIES:
        path = directory + _DATABASE
        data = files.read(path, MAX_DATABASE_BYTES)
        if data is None:
            continue
        if files.read(path + b"-wal", MAX_DATABASE_BYTES):
            files.leave_out(path + b"-wal", "what rpm has not moved to its database is not read")
        try:
            for blob in _blobs(data):
                yield path, blob
        # The module decodes what SQLite says of a damaged schema, strictly.
        except (sqlite3.Error, UnicodeDecodeError) as err:
            files.leave_out(path, f"not a database of rpm that can be read: {word(str(err))}")
        return
    for directory in _DIRECTORIES:
        names = files.names(directory.rstrip(b"/"))
        for name, form in _OTHER_FORMS:
            if name in names:
                files.leave_out(
                    directory + name, f"rpm's database is not read in this form, {form}"
                )
                return


def _blobs(data: bytes) -> Iterator[bytes]:
    """Yield the headers of a database.

    Raises:
        sqlite3.Error: It is damaged, or made to take long.
        UnicodeDecodeError: It is damaged, and so are the names in its schema.
    """
    reports = 0

    def is_too_much() -> bool:
        nonlocal reports
        reports += 1
        return reports > _MAX_WORK

    with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        # No value is longer than the file, though an expression of the schema could make one.
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(len(data), _MIN_LENGTH))
        database.set_progress_handler(is_too_much, _OPERATIONS)
        database.execute("PRAGMA trusted_schema = OFF")
        database.execute("PRAGMA cell_size_check = ON")
        database.deserialize(data[: _JOURNAL_MODE.start] + _ROLLBACK + data[_JOURNAL_MODE.stop :])
        wanted = "SELECT type, rootpage FROM sqlite_schema WHERE name = 'Packages'"
        if [(kind, page > 0) for kind, page in database.execute(wanted)] != [("table", True)]:
            raise sqlite3.DatabaseError("it has no table of packages")  # but a view, say
        left = len(data)
        # In no order: to sort them SQLite would gather them all first.
        for (blob,) in database.execute("SELECT blob FROM Packages"):
            left -= len(blob) if isinstance(blob, bytes) else left + 1
            if left < 0:
                raise sqlite3.DatabaseError("its packages are no headers")
            yield blob


def header_fields(blob: bytes) -> dict[str, str]:
    """Return what a header says under the tags that are wanted; nothing if it is none."""
    found: dict[str, str] = {}
    if len(blob) < _HEAD.size:
        return found
    count, size = _HEAD.unpack_from(blob)
    start = _HEAD.size + count * _ENTRY.size
    if start + size > len(blob):
        return found
    for tag, kind, offset, _ in _ENTRY.iter_unpack(blob[_HEAD.size : start]):
        name = _TAGS.get(tag)
        if name is None or name in found or offset >= size:
            continue
        at = start + offset
        if kind == _INT32:
            found[name] = str(int.from_bytes(blob[at : at + 4], "big"))
        elif kind in (_STRING, _I18N):
            end = blob.find(b"\0", at)
            found[name] = word(blob[at : end if end >= 0 else None].decode("utf-8", "replace"))
    return found


def header_paths(blob: bytes) -> list[bytes]:
    """Return the paths of a header's files, relative to the root; none if it is no header."""
    if len(blob) < _HEAD.size:
        return []
    count, size = _HEAD.unpack_from(blob)
    start = _HEAD.size + count * _ENTRY.size
    if start + size > len(blob):
        return []
    data = blob[start : start + size]
    entries = {tag: rest for tag, *rest in _ENTRY.iter_unpack(blob[_HEAD.size : start])}
    names = _strings(data, entries.get(_BASE_NAMES))
    folders = _strings(data, entries.get(_DIR_NAMES))
    kind, offset, number = entries.get(_DIR_INDEXES, (0, 0, 0))
    if kind != _INT32 or offset + 4 * number > size or number != len(names):
        return []
    places = struct.unpack_from(f">{number}I", data, offset)
    return [
        (folders[place] + name).strip(b"/")
        for place, name in zip(places, names, strict=True)
        if place < len(folders)
    ]


def _strings(data: bytes, entry: list[int] | None) -> list[bytes]:
    """Return an array of strings that end with zeros; each takes a byte at least."""
    if entry is None or entry[0] != _STRINGS or entry[2] > len(data) - entry[1]:
        return []
    found = data[entry[1] :].split(b"\0", entry[2])
    return found[:-1] if len(found) == entry[2] + 1 else []


def _package(
    fields: dict[str, str], path: bytes, namespace: str, distribution: str
) -> Package | None:
    name, version, release = (fields.get(key, "") for key in ("name", "version", "release"))
    if not name or not version or name == _KEY:
        return None
    epoch = fields.get("epoch", "0")
    version = f"{version}-{release}" if release else version
    return Package(
        kind="rpm",
        namespace=namespace,
        name=name,
        version=version if epoch == "0" else f"{epoch}:{version}",
        source="/" + path.decode(),
        architecture=fields.get("arch", ""),
        distribution=distribution,
        supplier=fields.get("vendor", ""),
        homepage=fields.get("url", ""),
        license_text=fields.get("license", ""),
        origin=fields.get("source", ""),
    )
