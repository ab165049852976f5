"""A file of the store as a stream: for what must read files and not only share their chunks."""

from __future__ import annotations

import io
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, BinaryIO

from layerstore.build.streams import SizedStream

if TYPE_CHECKING:
    from layerstore.formats.tree import Entry
    from layerstore.store.store import Store


def open_stored(store: Store, entry: Entry) -> BinaryIO:
    """Return a regular file's content as a stream that can seek."""
    return io.BufferedReader(_StoredFile(store, entry))


class _StoredFile(SizedStream):
    """A regular file's content, read chunk by chunk and verified; holes are zeros."""

    def __init__(self, store: Store, entry: Entry) -> None:
        super().__init__(entry.size)
        self._store = store
        self._extents = entry.extents
        self._ends = list(accumulate(length for length, _ in entry.extents))
        self._loaded = -1
        self._piece = b""

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read what is left of the extent at the current place."""
        if self._at >= self._size:
            return 0
        index = bisect_right(self._ends, self._at)
        length, chunk = self._extents[index]
        inside = self._at - (self._ends[index] - length)
        if chunk is None:
            piece = bytes(min(len(buffer), length - inside))
        else:
            if self._loaded != index:
                self._piece = self._store.read_refs(((length, chunk),))
                self._loaded = index
            piece = self._piece[inside : inside + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)
