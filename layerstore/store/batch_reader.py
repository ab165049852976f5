"""Reads chunks whose places were asked for together.

The catalog answers for one chunk as slowly as for many: a statement costs more than ten rows.
Safe for several threads.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from blake3 import blake3

from layerstore.errors import FormatError
from layerstore.store.failures import CorruptPackError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from layerstore.digest import ChunkId
    from layerstore.store.catalog.rows import ChunkPlace
    from layerstore.store.reading import StoreReader


class BatchReader:
    """Reads from a store.

    Args:
        store: Has the chunks.
        chunk_ids: Those that will be read; others can be, at the price of asking for each.

    Attributes:
        places: Where they lay when this was made.
    """

    def __init__(self, store: StoreReader, chunk_ids: Iterable[ChunkId]) -> None:
        self._store = store
        self._latest: tuple[tuple[bytes, int], bytes] = ((b"", 0), b"")
        self.places = store.catalog.places(sorted(set(chunk_ids)))  # neighbours in the index

    def read(self, chunk_id: ChunkId, length: int) -> bytes | memoryview:
        """Return the verified bytes of a chunk, which may be a part of a larger buffer.

        Args:
            chunk_id: The chunk.
            length: How long a layer says that it is.

        Raises:
            IntegrityError: It is damaged or missing, or has another length.
        """
        data = self._found(chunk_id)
        if len(data) != length:
            raise FormatError(f"a chunk holds {len(data)} bytes where a layer refers to {length}")
        return data

    def _found(self, chunk_id: ChunkId) -> bytes | memoryview:
        place = self.places.get(chunk_id)
        if place is not None and not place.depth:
            with contextlib.suppress(FileNotFoundError, CorruptPackError):
                data = memoryview(self._block(place))[place.offset : place.offset + place.length]
                if blake3(data).digest() == chunk_id:
                    return data
        # A difference; or damaged; or gc moved it or repair healed it after we asked where it is.
        return self._store.read_chunk(chunk_id)

    def _block(self, place: ChunkPlace) -> bytes:
        """Return the block of a chunk: mostly that of the chunk before."""
        key = place.pack_id, place.block_offset
        latest = self._latest
        if latest[0] == key:
            return latest[1]
        block = self._store.reader.block(*key, place.stored_length, place.raw_length)
        self._latest = key, block
        return block
