"""How deep differences are now, after what they are against has moved.

A block's footer says how deep it was when it was written. Its bases may have been moved
since: deeper by an optimization, to where they stand alone by gc. Choosing bases relies
on the catalog's numbers, so whoever moves many items sets them right.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from layerstore.formats.pack import DEPTH_MAX
from layerstore.store.locks.pacing import Pace, turns

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable

    from layerstore.store.catalog.catalog import Catalog

_SET = "UPDATE blocks SET depth = ?, cost = ? WHERE pack = ? AND block = ?"

_Key = tuple[int, int]


def refresh_depths(connection: sqlite3.Connection) -> None:
    """Set depth and cost of every difference to what they are, in a catalog of one's own.

    Call inside a write transaction. Differences whose bases cannot be found, or that run in a
    circle, get the greatest depth: nothing will be built on them.
    """
    connection.executemany(_SET, _outdated(connection.execute))


def refresh_depths_beside_writers(catalog: Catalog) -> None:
    """Do the same in a catalog that others write to: they wait for a turn of updates at most.

    A million chunks take seconds to look at. No gc or rebuild may be at work, so that numbers
    of packs stay what they are; a difference that is published meanwhile keeps what it
    was chosen by, like those that were chosen before and are published afterwards.
    """
    with catalog.pinned() as view:
        outdated = _outdated(lambda sql: chain.from_iterable(view.scan(sql)))
    for some in turns(outdated, Pace()):
        with catalog.write() as connection:
            connection.executemany(_SET, some)


def _outdated(read: Callable[[str], Iterable[tuple[Any, ...]]]) -> list[tuple[int, int, int, int]]:
    """Return depth, cost, pack and block of every difference of which the catalog is wrong."""
    needs: dict[_Key, set[_Key]] = {}
    for pack, block, base_pack, base_block in read(
        "SELECT b.pack, b.block, c.pack, c.block FROM bases b LEFT JOIN chunks c ON c.id = b.id"
    ):
        needs.setdefault((pack, block), set()).add((base_pack, base_block))
    blocks = read("SELECT pack, block, raw, depth, cost FROM blocks")
    sizes = {(pack, block): (raw, depth, cost) for pack, block, raw, depth, cost in blocks}
    known = _known_depths(needs, sizes)
    return [
        (*now, *key)
        for key in needs
        if key in sizes and (now := known.get(key, (DEPTH_MAX, sizes[key][2]))) != sizes[key][1:]
    ]


def _known_depths(
    needs: dict[_Key, set[_Key]], sizes: dict[_Key, tuple[int, int, int]]
) -> dict[_Key, tuple[int, int]]:
    """Return depth and cost of the differences that stand on blocks which stand alone."""
    known: dict[_Key, tuple[int, int]] = {}
    for _ in range(DEPTH_MAX):
        for key, bases in needs.items():
            if key in known or key not in sizes:
                continue
            below = [known.get(base) or _alone(base, needs, sizes) for base in bases]
            if all(below):
                found = [pair for pair in below if pair is not None]
                depth = 1 + max(pair[0] for pair in found)
                known[key] = depth, sizes[key][0] + sum(pair[1] for pair in found)
    return known


def _alone(
    key: _Key, needs: dict[_Key, set[_Key]], sizes: dict[_Key, tuple[int, int, int]]
) -> tuple[int, int] | None:
    """Return depth and cost of a block that stands alone, None for any other."""
    return (0, sizes[key][0]) if key in sizes and key not in needs else None
