"""Directories of small records that may be lost at any time: who reads, writes and evicts them.

A record that cannot be read is a miss, one that cannot be written is not written. None is forced
to disk. Writing one more than there may be removes the oldest first. On the fast path.
"""

from __future__ import annotations

import contextlib
import os

from layerstore.light_typing import TYPE_CHECKING
from layerstore.linux.files import make_private_dir, read_file, replace_private

if TYPE_CHECKING:
    from layerstore.formats.sealed import Seal

RECORDS_MAX = 256
"""Records in one directory."""


def read_record(path: str, seal: Seal) -> memoryview | None:
    """Return the body of a record, None if there is none that is whole."""
    try:
        return seal.opened(read_file(path, max_bytes=seal.max_bytes))
    except OSError:
        return None


def write_record(path: str, record: bytes, *, staging: str) -> None:
    """Put a record in its place, making the directory and room in it; or do nothing.

    Args:
        path: Its place.
        record: As :meth:`~layerstore.formats.sealed.Seal.closed` returned it.
        staging: A path of the writer's own on the same file system.
    """
    directory = os.path.dirname(path)
    with contextlib.suppress(OSError):
        make_private_dir(directory, durable=False)
        if not os.path.lexists(path):
            _make_room(directory)
        replace_private(path, record, staging=staging)


def _make_room(directory: str) -> None:
    names = os.listdir(directory)
    if len(names) < RECORDS_MAX:
        return
    ages = sorted((os.lstat(f"{directory}/{name}").st_mtime_ns, name) for name in names)
    for _, name in ages[: len(names) - RECORDS_MAX + 1]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{directory}/{name}")
