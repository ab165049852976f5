"""names.log: every change of a name or a pin, append-only, so that the catalog can be rebuilt.

One line a record: 16 hex digits of BLAKE2b-64 over the payload, a space, the
payload (a JSON array), a newline. The appender holds the catalog lock and forces
the line to disk before the catalog's commit. A torn last line is normal after a
crash and is skipped; the next append begins on a fresh line. What was changed since is
dropped by :mod:`layerstore.store.collect.names_compaction`. Normative: docs/format/names.md.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from layerstore.linux.files import fsync_directory, open_private, read_at, read_file, write_all
from layerstore.store.failures import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LOG_MAX_BYTES = 1 << 30
"""Ten million changes of a name; more is not a log of ours."""

TAG, UNTAG, RESET, PIN, UNPIN, LOG = "tag", "untag", "reset", "pin", "unpin", "log"

_LENGTHS = {TAG: 3, UNTAG: 2, RESET: 1, PIN: 2, UNPIN: 2, LOG: 2}

_LINE_MAX_BYTES = 64 * 1024
"""Longer than any record of ours: what has no newline for so long is no log."""

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
    from hashlib import blake2b  # lazily: commands that only look names up seal none

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
    if not fields or _LENGTHS.get(fields[0]) != len(fields):
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


class Named:
    """Names and pins after records, one by one.

    Attributes:
        names: Name → image id.
        pins: Names and image ids.
    """

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.pins: set[str] = set()

    def apply(self, record: Record) -> None:
        """Do what a record says."""
        match record[0]:
            case "reset":
                self.names.clear()
                self.pins.clear()
            case "tag":
                self.names[record[1]] = record[2]
            case "untag":
                self.names.pop(record[1], None)
            case "pin":
                self.pins.add(record[1])
            case "unpin":
                self.pins.discard(record[1])


def replay(records: Iterable[Record], known_images: set[str]) -> dict[str, str]:
    """Return name → image id after all records; names of unknown images change nothing.

    A record of an image that was never committed (a crash between this log and the
    catalog) thereby leaves the name where it was.
    """
    named = Named()
    for record in records:
        if record[0] != TAG or record[2] in known_images:
            named.apply(record)
    return named.names


def replay_pins(
    records: Iterable[Record], names: Mapping[str, str], known_images: set[str]
) -> frozenset[str]:
    """Return the pins after all records, those of names and images that are not there left out."""
    named = Named()
    for record in records:
        named.apply(record)
    return frozenset(pin for pin in named.pins if pin in names or pin in known_images)


def snapshot(names: Mapping[str, str], pins: Iterable[str] = ()) -> list[Record]:
    """Return records that bring any state to exactly ``names`` and ``pins``."""
    tags = ((TAG, name, names[name]) for name in sorted(names))
    return [(RESET,), *tags, *((PIN, target) for target in sorted(pins))]


def append(path: str, records: Iterable[Record]) -> int:
    """Append records durably and return the log's new size. The caller holds the catalog lock.

    Raises:
        StorageError: The records are not in the log, unless the disk fails on; it stays readable.
    """
    with storage_errors("write names.log"):
        fd = open_private(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            size = os.fstat(fd).st_size
            if size == 0:
                _force_name(path)
            torn = size > 0 and read_at(fd, 1, size - 1) != b"\n"
            lines = b"".join(encode_record(record) for record in records)
            try:
                write_all(fd, b"\n" + lines if torn else lines)
                os.fsync(fd)
            except BaseException:
                # What could not be forced may be zeros on disk and right in memory: what is
                # appended next would be forced, and stand in a line behind them.
                with contextlib.suppress(OSError):
                    os.ftruncate(fd, size)
                raise
            return os.fstat(fd).st_size
        finally:
            os.close(fd)


def _force_name(path: str) -> None:
    """Force the name of an empty log to disk, which goes again if that fails.

    Before anything is in it: nobody forces the name of one that holds something. And forcing a
    directory once more after it failed may say yes with nothing done, so the next
    begins with another file.
    """
    try:
        fsync_directory(os.path.dirname(path))
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


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


def fold(path: str) -> Named | None:
    """Return what a log of any length says in the end, in memory for its names alone.

    Nothing where there is no log, or something that is none.

    Raises:
        OSError: The disk failed.
    """
    named = Named()
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as err:
        if err.errno in {errno.ENOENT, errno.ELOOP, errno.ENXIO}:
            return None
        raise
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        while line := file.readline(_LINE_MAX_BYTES):
            if len(line) == _LINE_MAX_BYTES:
                return None
            record = decode_record(line.removesuffix(b"\n"))
            if record is not None:
                named.apply(record)
    return named


class Stamp(NamedTuple):
    """What tells whether catalog and log are of one state.

    Attributes:
        size: Of the log: while it is appended to, it only grows.
        log_id: Of its first record: a compacted log is another log. "" before the first time.
    """

    size: int
    log_id: str


_HEAD_BYTES = 256
"""Holds the first record of a compacted log."""

_NO_LOG = Stamp(-2, "")
"""Of a symlink, a pipe: no catalog is of one state with it."""


def stamp(path: str) -> Stamp:
    """Return the stamp of the log at ``path``; what is no log has none of ours."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return Stamp(0, "")
    except OSError as err:
        if err.errno in {errno.ELOOP, errno.ENXIO}:
            return _NO_LOG
        raise
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return _NO_LOG
        head = os.pread(fd, _HEAD_BYTES, 0)
    finally:
        os.close(fd)
    record = decode_record(head.partition(b"\n")[0])
    return Stamp(status.st_size, record[1] if record is not None and record[0] == LOG else "")
