"""A file of the store as a stream: for what must read files and not only share their chunks."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from layerstore.formats.tree import Entry
    from layerstore.store.store import Store


def open_stored(store: Store, entry: Entry) -> BinaryIO:
    """Return a regular file's content as a stream that can seek."""
    return io.BufferedReader(_StoredFile(store, entry))


class _StoredFile(io.RawIOBase):
    """A regular file's content, read chunk by chunk and verified; holes are zeros."""

    def __init__(self, store: Store, entry: Entry) -> None:
        super().__init__()
        self._store = store
        self._extents = entry.extents
        self._ends = list(accumulate(length for length, _ in entry.extents))
        self._size = entry.size
        self._at = 0
        self._loaded = -1
        self._piece = b""

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to where the next read begins."""
        starts = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}
        self._at = max(0, starts[whence] + offset)
        return self._at

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
