"""Finding chunks again whose rows are gone although a pack on disk holds them.

Happens to a session that found a chunk in a pack which gc has retired since: the
file is kept for as long as the session's lease lives, so it is taken back into use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.store.failures import CorruptPackError
from layerstore.store.packs.commit import begin_epoch, insert_blocks, insert_pack

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from layerstore.digest import PackId
    from layerstore.formats.pack import Block
    from layerstore.store.packs.pack_reader import PackReader


def adopt_missing(
    connection: sqlite3.Connection, reader: PackReader, missing: set[bytes], lease: str
) -> set[bytes]:
    """Take retired packs, and this lease's own, back into use where they hold ``missing``.

    Call inside a catalog write transaction. Returns what no pack holds. What the blocks
    taken back are differences against is for the caller to ask for: of blocks that it needs.
    """
    left = set(missing)
    for number, pack_id, size, retired, effort in _candidates(connection, left, lease):
        if not left:
            break
        blocks = _footer(reader, pack_id)
        held = {item.item_id for block in blocks for item in block.items}
        if held.isdisjoint(left):
            continue
        if retired is not None:
            insert_pack(connection, pack_id, size, blocks, lease, effort)
        else:
            begin_epoch(connection)
            insert_blocks(connection, number, blocks)
        left -= held
    return left


def _candidates(
    connection: sqlite3.Connection, missing: set[bytes], lease: str
) -> Iterator[tuple[int, PackId, int, int | None, int]]:
    """Yield packs that may hold ``missing``: first those that rows still point into."""
    seen: set[int] = set()
    for chunk_id in sorted(missing):
        row = connection.execute(
            "SELECT p.pack, p.id, p.size, p.retired, p.effort FROM chunks c JOIN packs p"
            " ON p.pack = c.pack WHERE c.id = ? AND p.retired IS NOT NULL",
            (chunk_id,),
        ).fetchone()
        if row is not None and row[0] not in seen:
            seen.add(row[0])
            yield row
    rows = connection.execute(
        "SELECT pack, id, size, retired, effort FROM packs WHERE retired IS NOT NULL OR lease = ?"
        " ORDER BY pack",
        (lease,),
    ).fetchall()
    yield from (row for row in rows if row[0] not in seen)


def _footer(reader: PackReader, pack_id: PackId) -> list[Block]:
    """Return a pack's blocks, or none if it is damaged or gone: it has nothing to offer."""
    try:
        return reader.footer(pack_id)
    except (FileNotFoundError, CorruptPackError):
        return []
