"""The blocks of a pack as the catalog knows them, for a pack that can no longer tell by itself.

A pack lists its blocks at its end, which is what a truncation takes away. The catalog has the
places of everything in it that is in use, and every item is hashed when it is read, so rows that
lie do no harm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.digest import ChunkId
from layerstore.formats.pack import Block, Item, ItemKind

if TYPE_CHECKING:
    from layerstore.digest import PackId
    from layerstore.store.catalog.catalog import Catalog
    from layerstore.store.catalog.rows import BlockRow

_KINDS = frozenset(ItemKind)
_NOBODYS = ChunkId(b"")
"""Stands for plain bytes of a block that no row is about: what was in them is in no use."""


def known_blocks(catalog: Catalog, pack_id: PackId) -> list[Block]:
    """Return a pack's blocks in the order of their numbers; their items leave no gaps."""
    rows = catalog.query(
        "SELECT c.block, c.offset, c.length, c.id FROM chunks c JOIN packs p ON p.pack = c.pack"
        " WHERE p.id = ? ORDER BY c.block, c.offset",
        (pack_id,),
    )
    items: dict[int, list[tuple[int, Item]]] = {}
    for row in rows:
        match row:
            case (int(block), int(offset), int(length), bytes(item_id)) if length > 0:
                items.setdefault(block, []).append((offset, Item(ChunkId(item_id), length)))
            case _:  # what no writer writes is nothing to look for
                pass
    return [
        _block(row, items.get(number, []), tuple(catalog.bases(row.pack, number)))
        for number, row in sorted(catalog.blocks_of(pack_id).items())
        if row.kind in _KINDS
    ]


def _block(row: BlockRow, placed: list[tuple[int, Item]], bases: tuple[ChunkId, ...]) -> Block:
    # Rows say what reading costs, which packs do not say of blocks that stand alone.
    return Block(
        row.offset,
        row.stored_length,
        row.raw_length,
        ItemKind(row.kind),
        _without_gaps(placed, row.raw_length),
        bases,
        row.depth,
        row.cost if bases else 0,
    )


def _without_gaps(placed: list[tuple[int, Item]], raw_length: int) -> tuple[Item, ...]:
    items: list[Item] = []
    position = 0
    for offset, item in placed:
        if offset < position:
            continue  # two rows cannot both be right; the first is tried
        if offset > position:
            items.append(Item(_NOBODYS, offset - position))
        items.append(item)
        position = offset + item.length
    if position < raw_length:
        items.append(Item(_NOBODYS, raw_length - position))
    return tuple(items)
