"""Taking packs out of use, and giving their rows and files back, in short turns.

A pack is taken out of use by one number in its row: from that commit on its chunks
count as absent, however many there are. Its rows stay until no living lease may need
them, which lets a session take the whole pack back into use; then they are deleted a
few at a time, then the pack's own row, and then its file. A crash in between leaves a
retired pack with fewer rows, which the next collection goes on with.

Normative: docs/format/catalog.md, "Retired packs".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.store.collect.sweep import oldest_lease_epoch
from layerstore.store.locks.pacing import Pace, turns
from layerstore.store.packs.commit import begin_epoch

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from layerstore.store.catalog.catalog import Catalog


def retire_packs(connection: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """Take packs out of use in a new epoch, inside a write transaction."""
    leaving = [(number,) for number in numbers]
    if leaving:
        begin_epoch(connection)
        connection.executemany(
            "UPDATE packs SET lease = NULL,"
            " retired = (SELECT value FROM meta WHERE key = 'epoch') WHERE pack = ?",
            leaving,
        )


def free_retired(catalog: Catalog, *, own_lease: str | None) -> int:
    """Delete, durably, the rows of retired packs that no living lease can need; return how many.

    Their files are orphans then, for :func:`layerstore.store.collect.sweep.remove_leavings`.
    """
    with catalog.locked():  # whoever holds this lock never sees half a lease
        oldest = oldest_lease_epoch(catalog, own_lease=own_lease)
        # Leases that begin from now on are younger than every pack retired so far.
        epoch = catalog.epoch() if oldest is None else oldest
    rows = catalog.query("SELECT pack FROM packs WHERE retired <= ? ORDER BY pack", (epoch,))
    if not rows:
        return 0
    _delete_chunk_rows(catalog, epoch)
    freed = 0
    for some in turns(rows, Pace(16)):
        with catalog.write() as connection:
            for (number,) in some:
                cursor = connection.execute(
                    "DELETE FROM packs WHERE pack = ? AND retired <= ?", (number, epoch)
                )
                if cursor.rowcount:
                    freed += 1
                    connection.execute("DELETE FROM blocks WHERE pack = ?", (number,))
                    connection.execute("DELETE FROM bases WHERE pack = ?", (number,))
    return freed


def _delete_chunk_rows(catalog: Catalog, epoch: int) -> None:
    """Delete the rows that point into packs retired up to ``epoch``, in order of id."""
    pace = Pace()
    after: object = b""
    while True:
        rows = catalog.query(
            "SELECT id FROM chunks WHERE id > ? AND pack IN"
            " (SELECT pack FROM packs WHERE retired <= ?) ORDER BY id LIMIT ?",
            (after, epoch, pace.size),
        )
        if not rows:
            return
        after = rows[-1][0]
        pace.begin()
        with catalog.write() as connection:
            # Asked again: a session may have taken a pack back into use.
            connection.executemany(
                "DELETE FROM chunks WHERE id = ? AND EXISTS (SELECT 1 FROM packs p"
                " WHERE p.pack = chunks.pack AND p.retired <= ?)",
                [(row[0], epoch) for row in rows],
            )
        pace.end()
