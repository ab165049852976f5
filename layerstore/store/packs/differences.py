"""What a new block may be a difference against: choosing bases, bounded.

A file that replaces a similar one is stored as a frame against the old bytes, which
makes it many times smaller. The price is paid by readers, who decode the bases first,
and by everybody whose data depends on a base; so both are bounded here: at most
``WRITE_DEPTH_MAX`` differences on top of each other, at most ``COST_MAX_BYTES`` of plain
bytes decoded for any read. Keeping bases alive is gc's business
(:mod:`layerstore.store.collect.marks`). No I/O but the catalog's. Docs: docs/decisions/0110.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.formats.pack import BASES_MAX, BLOCK_MAX_BYTES, PREFIX_MAX_BYTES
from layerstore.store.packs.pack_writer import Against

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from layerstore.digest import ChunkId
    from layerstore.formats.pack import Item
    from layerstore.store.catalog.catalog import Catalog
    from layerstore.store.catalog.rows import ChunkPlace
    from layerstore.store.records import Refs

WRITE_DEPTH_MAX = 2
"""Differences on top of each other: each level is one more thing that may be damaged."""

COST_MAX_BYTES = 8 * BLOCK_MAX_BYTES
"""Plain bytes decoded for reading one item of a difference, at most."""

BASE_BLOCKS_MAX = 2
"""Blocks that one item's bases may lie in: with more, a difference against the result would
cost too much, and every second version would stand alone (docs/decisions/0110)."""

WINDOW_MARGIN_BYTES = 256 * 1024
"""Bytes of the similar file before and after a chunk's own place that are worth a look:
insertions shift content, and a wider window only costs time (docs/decisions/0110)."""

DIFFERENCE_MIN_BYTES = 1024
"""Shorter content gains less than its base's row in the catalog costs."""


class Base(NamedTuple):
    """A chunk of the store that new content may be a difference against."""

    chunk_id: ChunkId
    place: ChunkPlace

    @property
    def block(self) -> tuple[int, int]:
        """The block that has to be decoded for it."""
        return self.place.pack, self.place.block


def window(
    similar: Refs, offset: int, length: int, margin: int = WINDOW_MARGIN_BYTES
) -> list[ChunkId]:
    """Return the chunks of similar content around where a new chunk lies, nearest first.

    Args:
        similar: The similar content.
        offset: Where the new chunk begins in its own content.
        length: Of the new chunk.
        margin: Bytes before and after that count as near.
    """
    first, last = offset - margin, offset + length + margin
    middle = offset + length // 2
    near: list[tuple[int, ChunkId]] = []
    at = 0
    for size, chunk_id in similar:
        if at < last and at + size > first:
            near.append((abs(at + size // 2 - middle), chunk_id))
        at += size
    near.sort(key=lambda pair: pair[0])
    return [chunk_id for _, chunk_id in near]


class BaseFinder:
    """Looks candidates up in the catalog; those too deep give way to their own bases."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._places: dict[ChunkId, ChunkPlace] = {}
        self._deeper: dict[tuple[int, int], list[ChunkId]] = {}

    def look_up(self, candidates: Iterable[ChunkId]) -> None:
        """Fetch the places of many candidates at once."""
        self._places.update(self._catalog.places(set(candidates) - self._places.keys()))

    def bases(self, candidates: Sequence[ChunkId]) -> list[Base]:
        """Return bases, best first, that candidates (looked up before) lead to.

        Their cost together with a whole block is at most ``COST_MAX_BYTES``.
        """
        return affordable(self._shallow(candidates))

    def _shallow(self, candidates: Iterable[ChunkId]) -> Iterable[Base]:
        for chunk_id in candidates:
            place = self._places.get(chunk_id)
            if place is None:
                continue
            if is_good_base(place):
                yield Base(chunk_id, place)
            else:
                yield from self._below(place)

    def _below(self, place: ChunkPlace) -> Iterable[Base]:
        """Yield what a block is a difference against, if that is shallow enough."""
        key = (place.pack, place.block)
        if key not in self._deeper:
            self._deeper[key] = self._catalog.bases(*key)
            self.look_up(self._deeper[key])
        for chunk_id in self._deeper[key]:
            below = self._places.get(chunk_id)
            if below is not None and is_good_base(below):
                yield Base(chunk_id, below)


def is_good_base(place: ChunkPlace) -> bool:
    """Return whether a difference against a chunk there stays within the bounds."""
    return place.depth < WRITE_DEPTH_MAX and place.cost + BLOCK_MAX_BYTES <= COST_MAX_BYTES


def affordable(candidates: Iterable[Base]) -> list[Base]:
    """Return those of ``candidates``, best first, that one item may be a difference against."""
    found: dict[ChunkId, Base] = {}
    blocks: dict[tuple[int, int], int] = {}
    for base in candidates:
        if base.block not in blocks:
            cost = sum(blocks.values()) + base.place.cost
            if len(blocks) == BASE_BLOCKS_MAX or cost + BLOCK_MAX_BYTES > COST_MAX_BYTES:
                continue
            blocks[base.block] = base.place.cost
        found.setdefault(base.chunk_id, base)
    return list(found.values())


class Difference(NamedTuple):
    """A block to be written as a difference."""

    items: list[Item]
    parts: list[bytes | memoryview]
    against: Against


class DifferenceGroup:
    """Items with their bases, waiting to become one block; bounded as the module says."""

    def __init__(self) -> None:
        self._items: list[Item] = []
        self._parts: list[bytes | memoryview] = []
        self._size = 0
        self._bases: dict[ChunkId, Base] = {}
        self._costs: dict[tuple[int, int], int] = {}
        self._prefix_bytes = 0

    def offer(self, item: Item, data: bytes | memoryview, bases: Sequence[Base]) -> bool:
        """Take an item if it and its bases fit; return whether they did."""
        fresh = [base for base in bases if base.chunk_id not in self._bases]
        costs = {**self._costs, **{base.block: base.place.cost for base in fresh}}
        prefix_bytes = self._prefix_bytes + sum(base.place.length for base in fresh)
        if (
            self._size + item.length > BLOCK_MAX_BYTES
            or prefix_bytes > PREFIX_MAX_BYTES
            or sum(costs.values()) + BLOCK_MAX_BYTES > COST_MAX_BYTES
            or len(self._bases) + len(fresh) > BASES_MAX
        ):
            return False
        self._items.append(item)
        self._parts.append(data)
        self._size += item.length
        self._bases.update((base.chunk_id, base) for base in fresh)
        self._costs = costs
        self._prefix_bytes = prefix_bytes
        return True

    def take(self) -> Difference | None:
        """Return what gathered, None if nothing did, and begin anew."""
        if not self._items:
            return None
        deepest = max(base.place.depth for base in self._bases.values())
        cost = self._size + sum(self._costs.values())
        taken = Difference(self._items, self._parts, Against(tuple(self._bases), deepest + 1, cost))
        self.__init__()  # type: ignore[misc]
        return taken
