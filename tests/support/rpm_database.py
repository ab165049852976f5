"""Databases of rpm, made by hand: what a test needs of them and nothing of the program."""

from __future__ import annotations

import sqlite3
import struct
from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

TAGS = {
    "name": 1000, "version": 1001, "release": 1002, "epoch": 1003, "vendor": 1011,
    "license": 1014, "url": 1020, "arch": 1022, "source": 1044,
    "dir_indexes": 1116, "base_names": 1117, "dir_names": 1118,
}  # fmt: skip
PLAIN = "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)"


def header(**fields: str | int | list[str] | list[int]) -> bytes:
    """Return an rpm header; numbers are 32 bits wide."""
    entries, data = [], b""
    for name, value in fields.items():
        if isinstance(value, list) and isinstance(value[0], str):
            entries.append((TAGS[name], 8, len(data), len(value)))
            data += b"".join(each.encode() + b"\0" for each in value)
        elif isinstance(value, list):
            data += bytes(-len(data) % 4)
            entries.append((TAGS[name], 4, len(data), len(value)))
            data += struct.pack(f">{len(value)}I", *value)
        elif isinstance(value, int):
            data += bytes(-len(data) % 4)
            entries.append((TAGS[name], 4, len(data), 1))
            data += struct.pack(">I", value)
        else:
            entries.append((TAGS[name], 6, len(data), 1))
            data += value.encode() + b"\0"
    head = struct.pack(">II", len(entries), len(data))
    return head + b"".join(struct.pack(">4I", *each) for each in entries) + data


def database(blobs: Iterable[object], *, schema: str = PLAIN, wal: bool = True) -> bytes:
    """Return the file; with ``wal`` marked as rpm marks it, for a write-ahead log."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as made:
        made.execute("PRAGMA page_size = 512")
        made.execute("VACUUM")
        made.execute(schema)
        for blob in blobs:
            made.execute("INSERT INTO Packages (blob) VALUES (?)", (blob,))
        data = made.serialize()
    return data[:18] + b"\2\2" + data[20:] if wal else data
