"""Items that arrive together and share a block. Normative: docs/format/pack.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.formats.pack import BLOCK_MAX_BYTES

if TYPE_CHECKING:
    from layerstore.formats.pack import Item


class BlockGroup:
    """Items of one kind waiting to become a block; at most a block's plain bytes."""

    __slots__ = ("_items", "_parts", "_size")

    def __init__(self) -> None:
        self._items: list[Item] = []
        self._parts: list[bytes | memoryview] = []
        self._size = 0

    def has_room_for(self, item: Item) -> bool:
        """Whether the item still fits into the block."""
        return self._size + item.length <= BLOCK_MAX_BYTES

    def add(self, item: Item, data: bytes | memoryview) -> None:
        """Append an item for which there is room."""
        self._items.append(item)
        self._parts.append(data)
        self._size += item.length

    def take(self) -> tuple[list[Item], list[bytes | memoryview]]:
        """Return the items and their bytes, both empty if there are none, and begin anew."""
        taken = self._items, self._parts
        self._items, self._parts, self._size = [], [], 0
        return taken
