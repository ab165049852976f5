"""Keeping names.log short: what it says in the end takes the place of how it came about.

Done by gc, which is alone then, once a log holds several times what its names need. The
new log is durable before it takes the old one's name, under the catalog lock, and the
catalog notes its stamp right after. A crash before the rename leaves a temporary file
of a dead lease's name; one between rename and commit a log that the catalog does not
know: it says the same, and the next change of a name writes a snapshot to it.

A log may know more than the catalog: after a rebuild, names of images whose layers were
lost, which a repair goes by. Those are kept, behind the names that the catalog has.
Normative: docs/format/names.md, "Compaction".
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from layerstore.linux.files import StagedFile
from layerstore.store.failures import StoreFullError, storage_errors
from layerstore.store.names import names_log
from layerstore.store.names.tags import STAMP_ROWS, record_stamp, recorded_stamp

if TYPE_CHECKING:
    from layerstore.store.store import Store

COMPACT_MIN_BYTES = 256 * 1024
"""Shorter logs, of some two thousand changes, are read in milliseconds."""

COMPACT_FACTOR = 4
"""How many times longer than needed a log must be, so that a change is written again seldom."""


def compact_names(store: Store) -> bool:
    """Shorten names.log if it is worth it; return whether it was. The caller holds the gc lock.

    On a full disk the log stays as it is.

    Raises:
        StorageError: The disk failed; the log says what it said.
    """
    with storage_errors("read names.log"):
        before = names_log.stamp(store.paths.names_log)
        if before.size < COMPACT_MIN_BYTES:
            return False
        logged = names_log.fold(store.paths.names_log)
    lines = _lines(store, logged) if logged is not None else None
    if lines is None or COMPACT_FACTOR * len(lines) > before.size:
        return False
    with contextlib.suppress(StoreFullError):
        return _replace(store, lines, before)
    return False


def _lines(store: Store, logged: names_log.Named) -> bytes | None:
    """Return what the log should hold; None if it names an image that the catalog has elsewhere."""
    tags = store.tags()
    lost = [(name, i) for name, i in sorted(logged.names.items()) if tags.get(name) != i]
    if any(store.catalog.image(image_id) is not None for _, image_id in lost):
        return None
    records: list[names_log.Record] = [(names_log.LOG, os.urandom(8).hex())]
    records += names_log.snapshot(tags)
    records += [(names_log.TAG, name, image_id) for name, image_id in lost]
    records += [(names_log.PIN, target) for target in sorted(logged.pins | store.pins())]
    return b"".join(map(names_log.encode_record, records))


def _replace(store: Store, lines: bytes, before: names_log.Stamp) -> bool:
    """Put ``lines`` in the log's place unless a name was changed since it was read."""
    path = store.paths.names_log
    # Named like a dead lease's leaving: the next gc removes what a crash left.
    staging = store.paths.temporary("names", "log")
    with storage_errors("compact names.log"), StagedFile(staging) as staged:
        staged.write(lines)
        staged.seal()
        with store.catalog.write() as connection:
            same = recorded_stamp(connection.execute(STAMP_ROWS)) == before
            if same and names_log.stamp(path) == before:
                staged.publish(path)
                record_stamp(connection, names_log.stamp(path))
                return True
    return False
