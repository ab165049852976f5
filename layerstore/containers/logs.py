"""Reading what containers printed: the files that :mod:`layerstore.containers.monitor_log` writes.

Format: Kubernetes' container runtime interface, ``TIME STREAM F|P TEXT``.
"""

from __future__ import annotations

import os
import time

from layerstore.containers.records import directory_of
from layerstore.containers.states import alive_path
from layerstore.light_typing import TYPE_CHECKING, NamedTuple
from layerstore.linux.locks import is_held

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from layerstore.containers.records import Container

_LOOK_S = 0.1
_READ_BYTES = 256 << 10
_TIME_DIGITS = 30
"""``2026-11-26T18:44:53.123456789Z``: all are as long, so that they compare as texts do."""


class LogLine(NamedTuple):
    """One record of a log.

    Attributes:
        stream: ``stdout`` or ``stderr``.
        text: With its line feed, unless the line goes on.
    """

    time: str
    stream: str
    text: bytes


def log_files(store_root: str, container: Container) -> list[str]:
    """Return a container's logs, oldest first."""
    path = f"{directory_of(store_root, container.container_id)}/log"
    older = [f"{path}.{number}" for number in range(container.settings.log_files - 1, 0, -1)]
    return [file for file in (*older, path) if os.path.exists(file)]


def parse_line(line: bytes) -> LogLine | None:
    """Return a log's line as a record; None for what a crash cut off."""
    moment, _, rest = line.partition(b" ")
    stream, _, rest = rest.partition(b" ")
    kind, _, text = rest.partition(b" ")
    if len(moment) != _TIME_DIGITS or kind not in (b"F", b"P"):
        return None
    ended = text + b"\n" if kind == b"F" else text
    return LogLine(moment.decode("ascii", "replace"), stream.decode("ascii", "replace"), ended)


def read_log(
    store_root: str, container: Container, *, since: str = "", until: str = "", tail: int = -1
) -> tuple[Iterable[LogLine], int]:
    """Return a container's output so far, and where in its newest file that ends.

    Args:
        store_root: The store.
        container: Whose.
        since: Only from this time on, written as in the log.
        until: Only up to this time.
        tail: Only so many lines from the end; -1 for all.
    """
    files = log_files(store_root, container)
    end = os.path.getsize(files[-1]) if files else 0
    lines = _lines_of(files, end)
    wanted = (line for line in lines if line.time >= since and (not until or line.time <= until))
    if tail < 0:
        return wanted, end
    return _last(wanted, tail), end


def _lines_of(files: list[str], end: int) -> Iterator[LogLine]:
    for path in files:
        limit = end if path == files[-1] else None
        with open(path, "rb") as file:
            for line in file:
                if limit is not None and file.tell() > limit:
                    break
                record = parse_line(line.rstrip(b"\n"))
                if record is not None:
                    yield record


def _last(lines: Iterable[LogLine], count: int) -> list[LogLine]:
    """Return the last lines as people count them: records of one line are one."""
    kept: list[LogLine] = []
    starts: list[int] = []
    goes_on: set[str] = set()
    for line in lines:
        if line.stream not in goes_on:
            starts.append(len(kept))
        kept.append(line)
        if line.text.endswith(b"\n"):
            goes_on.discard(line.stream)
        else:
            goes_on.add(line.stream)
        if len(starts) > 2 * count + 100:  # a long log is not kept in memory
            cut = starts[-count] if count else len(kept)
            kept = kept[cut:]
            starts = [start - cut for start in starts[-count:]] if count else []
    return kept[starts[-count] if count and len(starts) > count else 0 :] if count else []


def follow_log(store_root: str, container: Container, offset: int) -> Iterator[LogLine]:
    """Yield what comes from ``offset`` in the newest file on, until the container has ended."""
    path = f"{directory_of(store_root, container.container_id)}/log"
    alive = alive_path(store_root, container.container_id)
    file = None
    rest = b""
    try:
        while True:
            ended = not is_held(alive)
            if file is None and os.path.exists(path):
                file = open(path, "rb")  # noqa: SIM115 -- another one, when it is turned over
                # Smaller, it is a newer one than that in which the offset was.
                file.seek(offset if offset <= os.fstat(file.fileno()).st_size else 0)
            # Asked before reading: then nothing comes behind what was read.
            is_older = file is not None and _was_turned_over(file.fileno(), path)
            data = file.read(_READ_BYTES) if file is not None else b""
            if data:
                *lines, rest = (rest + data).split(b"\n")
                yield from (record for line in lines if (record := parse_line(line)) is not None)
                continue
            if file is not None and is_older:
                file.close()
                file, offset = None, 0
                continue
            if ended:
                return
            time.sleep(_LOOK_S)
    finally:
        if file is not None:
            file.close()


def _was_turned_over(fd: int, path: str) -> bool:
    try:
        return os.stat(path).st_ino != os.fstat(fd).st_ino
    except FileNotFoundError:
        return False
