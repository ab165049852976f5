"""How deep differences are now, after what they are against has moved.

A block's footer says how deep it was when it was written. Its bases may have been moved
since: deeper by an optimization, to where they stand alone by gc. Choosing bases relies
on the catalog's numbers, so whoever moves many items sets them right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.formats.pack import DEPTH_MAX

if TYPE_CHECKING:
    import sqlite3

_Key = tuple[int, int]


def refresh_depths(connection: sqlite3.Connection) -> int:
    """Set depth and cost of every difference to what they are; return how many changed.

    Call inside a catalog write transaction. Differences whose bases cannot be found, or
    that run in a circle, get the greatest depth: nothing will be built on them.
    """
    needs: dict[_Key, set[_Key]] = {}
    rows = connection.execute(
        "SELECT b.pack, b.block, c.pack, c.block FROM bases b LEFT JOIN chunks c ON c.id = b.id"
    )
    for pack, block, base_pack, base_block in rows:
        needs.setdefault((pack, block), set()).add((base_pack, base_block))
    known: dict[_Key, tuple[int, int]] = {}
    sizes: dict[_Key, tuple[int, int, int]] = {
        (pack, block): (raw, depth, cost)
        for pack, block, raw, depth, cost in connection.execute(
            "SELECT pack, block, raw, depth, cost FROM blocks"
        )
    }
    for _ in range(DEPTH_MAX):
        for key, bases in needs.items():
            if key in known or key not in sizes:
                continue
            below = [known.get(base) or _alone(base, needs, sizes) for base in bases]
            if all(below):
                found = [pair for pair in below if pair is not None]
                depth = 1 + max(pair[0] for pair in found)
                known[key] = depth, sizes[key][0] + sum(pair[1] for pair in found)
    changed = [
        (*now, *key)
        for key in needs
        if key in sizes and (now := known.get(key, (DEPTH_MAX, sizes[key][2]))) != sizes[key][1:]
    ]
    connection.executemany(
        "UPDATE blocks SET depth = ?, cost = ? WHERE pack = ? AND block = ?", changed
    )
    return len(changed)


def _alone(
    key: _Key, needs: dict[_Key, set[_Key]], sizes: dict[_Key, tuple[int, int, int]]
) -> tuple[int, int] | None:
    """Return depth and cost of a block that stands alone, None for any other."""
    return (0, sizes[key][0]) if key in sizes and key not in needs else None
