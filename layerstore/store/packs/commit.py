"""The commit point: sealed packs get their names and enter the catalog.

Order: the pack is durable under its temporary name; under the catalog lock it is
renamed, its directory is forced, and its rows are committed. Renaming under the
lock means that a pack file without a row is always an orphan of a crash, never
somebody's work in progress: gc may take it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from layerstore.linux.files import fsync_directory, make_private_dir
from layerstore.store.failures import storage_errors

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterable, Iterator

    from layerstore.digest import PackId
    from layerstore.formats.pack import Block
    from layerstore.store.packs.pack_writer import SealedPack
    from layerstore.store.paths import StorePaths


def publish_pack(
    connection: sqlite3.Connection,
    paths: StorePaths,
    pack: SealedPack,
    lease: str | None,
    *,
    instead: Collection[bytes] = (),
    with_chunks: bool = True,
) -> int:
    """Name a sealed pack and insert its rows; return its number in the catalog.

    Call inside a catalog write transaction. Chunks that another pack holds already
    keep their place there, and this pack's copies are dead bytes for gc; but those in
    ``instead`` move here, because what the other pack holds of them is damaged. Without
    ``with_chunks`` all keep their place, unseen: for copies, whose rows move later.
    """
    if pack.staged is None:
        raise AssertionError("a measured pack cannot be published")
    with storage_errors("publish a pack"):
        _make_pack_dir(paths, pack.pack_id)
        _clear_the_way(paths, pack.pack_id)
        pack.staged.publish(paths.pack(pack.pack_id))
    number = insert_pack(
        connection,
        pack.pack_id,
        pack.size,
        pack.blocks,
        lease,
        pack.effort,
        with_chunks=with_chunks,
    )
    if instead:
        _move_chunks(connection, number, pack.blocks, instead)
    return number


def _make_pack_dir(paths: StorePaths, pack_id: PackId) -> None:
    """Make a pack's directory, and an empty one again.

    Whoever made that may have been killed before its name was on disk, or been told that forcing
    that failed: forcing it once more may say yes with nothing done. One with packs in it was
    forced before they came.
    """
    path = paths.pack_dir(pack_id)
    if make_private_dir(path):
        return
    with os.scandir(path) as entries:
        is_empty = next(entries, None) is None
    if is_empty:
        again = paths.temporary("packs", "directory")
        make_private_dir(again, durable=False)
        os.rename(again, path)
        fsync_directory(paths.packs)


def _clear_the_way(paths: StorePaths, pack_id: PackId) -> None:
    """Move a directory that has a pack's name aside; a rename replaces everything else."""
    path = paths.pack(pack_id)
    if os.path.isdir(path) and not os.path.islink(path):
        os.rename(path, f"{paths.quarantine}/{pack_id.hex()}.{os.urandom(4).hex()}")


def begin_epoch(connection: sqlite3.Connection) -> None:
    """Say, inside a write transaction, that rows of the index change otherwise than with new packs.

    Within an epoch the rows follow from those of ``packs``: what is remembered of the index
    (:mod:`layerstore.measure.summary`) counts on it.
    """
    connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'epoch'")


def insert_pack(
    connection: sqlite3.Connection,
    pack_id: PackId,
    size: int,
    blocks: Iterable[Block],
    lease: str | None,
    effort: int,
    *,
    with_chunks: bool = True,
) -> int:
    """Insert the rows of a pack that lies under its final name; return its number.

    A retired pack with the same bytes is taken back into use. ``with_chunks`` is for
    :func:`insert_blocks`.
    """
    row = connection.execute("SELECT pack FROM packs WHERE id = ?", (pack_id,)).fetchone()
    if row is None:
        cursor = connection.execute(
            "INSERT INTO packs (id, size, retired, lease, effort) VALUES (?, ?, NULL, ?, ?)",
            (pack_id, size, lease, effort),
        )
        number = int(cursor.lastrowid or 0)
    else:
        number = int(row[0])
        begin_epoch(connection)
        connection.execute(
            "UPDATE packs SET retired = NULL, lease = ? WHERE pack = ?", (lease, number)
        )
    insert_blocks(connection, number, blocks, with_chunks=with_chunks)
    return number


# A row that points into a retired pack counts as absent, so it gives way.
_KEEP_PLACE = (
    "INSERT INTO chunks VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
    " pack = excluded.pack, block = excluded.block, offset = excluded.offset,"
    " length = excluded.length WHERE"
    " NOT EXISTS (SELECT 1 FROM packs p WHERE p.pack = chunks.pack AND p.retired IS NULL)"
)


def insert_blocks(
    connection: sqlite3.Connection,
    number: int,
    blocks: Iterable[Block],
    *,
    with_chunks: bool = True,
) -> None:
    """Insert block and chunk rows of pack ``number``; chunks with a place in use keep it.

    Args:
        connection: In a write transaction.
        number: Of the pack.
        blocks: Of its footer.
        with_chunks: Whether to insert rows of chunks at all.
    """
    listed = list(blocks)
    block_rows: list[tuple[int, ...]] = []
    base_rows: list[tuple[int, int, int, bytes]] = []
    for index, block in enumerate(listed):
        block_rows.append(
            (
                number,
                index,
                block.offset,
                block.stored_length,
                block.raw_length,
                int(block.kind),
                block.depth,
                block.read_cost,
            )
        )
        base_rows += [(number, index, place, base) for place, base in enumerate(block.bases)]
    connection.executemany(
        "INSERT OR IGNORE INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?, ?)", block_rows
    )
    connection.executemany("INSERT OR IGNORE INTO bases VALUES (?, ?, ?, ?)", base_rows)
    if with_chunks:
        chunk_rows = sorted(_chunk_rows(number, listed))  # so the index is filled page by page
        connection.executemany(_KEEP_PLACE, chunk_rows)


def _move_chunks(
    connection: sqlite3.Connection, number: int, blocks: Iterable[Block], moving: Collection[bytes]
) -> None:
    """Let the chunks in ``moving`` have their place in pack ``number``, wherever they had it."""
    begin_epoch(connection)
    rows = [row for row in _chunk_rows(number, blocks) if row[0] in moving]
    connection.executemany("REPLACE INTO chunks VALUES (?, ?, ?, ?, ?)", rows)


def _chunk_rows(number: int, blocks: Iterable[Block]) -> Iterator[tuple[bytes, int, int, int, int]]:
    for index, block in enumerate(blocks):
        offset = 0
        for item_id, length in block.items:
            if item_id:  # known_blocks has some without
                yield item_id, number, index, offset, length
            offset += length
