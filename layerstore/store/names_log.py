"""names.log: every change of a name or a pin, append-only, so that the catalog can be rebuilt.

One line a record: 16 hex digits of BLAKE2b-64 over the payload, a space, the
payload (a JSON array), a newline. The appender holds the catalog lock and forces
the line to disk before the catalog's commit. A torn last line is normal after a
crash and is skipped; the next append begins on a fresh line. Normative:
docs/format/names.md.
"""

from __future__ import annotations

import errno
import json
import os
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from layerstore.linux.files import fsync_directory, open_private, read_at, read_file, write_all
from layerstore.store.failures import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LOG_MAX_BYTES = 1 << 30
"""Ten million changes of a name; more is not a log of ours."""

TAG, UNTAG, RESET, PIN, UNPIN = "tag", "untag", "reset", "pin", "unpin"

Record = tuple[str, ...]


class LogContent(NamedTuple):
    """What a names.log says: records in order, and how many lines could not be read."""

    records: list[Record]
    unreadable: int


def encode_record(record: Record) -> bytes:
    """Return one line, with its checksum and newline."""
    payload = json.dumps(list(record), ensure_ascii=True, separators=(",", ":")).encode()
    return _checksum(payload) + b" " + payload + b"\n"


def _checksum(payload: bytes) -> bytes:
    return blake2b(payload, digest_size=8).hexdigest().encode()


def decode_record(line: bytes) -> Record | None:
    """Return the record of one line (without newline), or None if it is damaged."""
    checksum, space, payload = line.partition(b" ")
    if not space or checksum != _checksum(payload):
        return None
    try:
        fields = json.loads(payload)
        if not isinstance(fields, list) or not all(isinstance(field, str) for field in fields):
            return None
        "".join(fields).encode()  # half a surrogate pair has no bytes: no name could be stored
    except (ValueError, RecursionError):
        return None
    lengths = {TAG: 3, UNTAG: 2, RESET: 1, PIN: 2, UNPIN: 2}
    if not fields or lengths.get(fields[0]) != len(fields):
        return None
    return tuple(fields)


def decode_log(data: bytes) -> LogContent:
    """Return all readable records of a log."""
    records: list[Record] = []
    unreadable = 0
    for line in data.split(b"\n"):
        if not line:
            continue
        record = decode_record(line)
        if record is None:
            unreadable += 1
        else:
            records.append(record)
    return LogContent(records, unreadable)


def replay(records: Iterable[Record], known_images: set[str]) -> dict[str, str]:
    """Return name → image id after all records; names of unknown images change nothing.

    A record of an image that was never committed (a crash between this log and the
    catalog) thereby leaves the name where it was.
    """
    names: dict[str, str] = {}
    for record in records:
        if record[0] == RESET:
            names.clear()
        elif record[0] == UNTAG:
            names.pop(record[1], None)
        elif record[0] == TAG and record[2] in known_images:
            names[record[1]] = record[2]
    return names


def replay_pins(
    records: Iterable[Record], names: Mapping[str, str], known_images: set[str]
) -> frozenset[str]:
    """Return the pins after all records, those of names and images that are not there left out."""
    pins: set[str] = set()
    for record in records:
        if record[0] == RESET:
            pins.clear()
        elif record[0] == PIN:
            pins.add(record[1])
        elif record[0] == UNPIN:
            pins.discard(record[1])
    return frozenset(pin for pin in pins if pin in names or pin in known_images)


def snapshot(names: Mapping[str, str], pins: Iterable[str] = ()) -> list[Record]:
    """Return records that bring any state to exactly ``names`` and ``pins``."""
    tags = ((TAG, name, names[name]) for name in sorted(names))
    return [(RESET,), *tags, *((PIN, target) for target in sorted(pins))]


def append(path: str, records: Iterable[Record]) -> int:
    """Append records durably and return the log's new size. The caller holds the catalog lock.

    Raises:
        StorageError: Nothing may be assumed of the records; the log stays readable.
    """
    with storage_errors("write names.log"):
        fd = open_private(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            size = os.fstat(fd).st_size
            torn = size > 0 and read_at(fd, 1, size - 1) != b"\n"
            lines = b"".join(encode_record(record) for record in records)
            write_all(fd, b"\n" + lines if torn else lines)
            os.fsync(fd)
            end = os.fstat(fd).st_size
        finally:
            os.close(fd)
        if size == 0:
            fsync_directory(os.path.dirname(path))
        return end


def read_log(path: str) -> LogContent:
    """Return what the log at ``path`` says: nothing where there is none.

    What is no regular file, a symlink, a pipe or a socket say, counts as one line that cannot be
    read: opening it must neither wait nor lead out of the store.

    Raises:
        OSError: The disk failed.
    """
    try:
        return decode_log(read_file(path, max_bytes=LOG_MAX_BYTES))
    except FileNotFoundError:
        return LogContent([], 0)
    except OSError as err:
        if err.errno in {None, errno.ELOOP, errno.ENXIO}:
            return LogContent([], 1)
        raise


def log_size(path: str) -> int:
    """Return the log's size in bytes, 0 when there is none."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
