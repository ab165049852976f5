"""A store in memory with the few methods that reading and writing layers need.

Fuzzing ingests thousands of archives a second; the real store flushes to disk for each.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from typing import TYPE_CHECKING

from layerstore.chunking.cutter import DEFAULT_CUTS, cut_stream
from layerstore.digest import ChunkId, blake3_id
from layerstore.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable

    from layerstore.store.records import LayerRecord, Refs

_NUMBERS = itertools.count()


class MemoryStore:
    """Chunks in a dict; session and store in one."""

    cutting = DEFAULT_CUTS

    def __init__(self) -> None:
        self.chunks: dict[ChunkId, bytes] = {}
        self.records: dict[str, LayerRecord] = {}
        self.store = self

    def temporary(self, name: str) -> str:
        # Opened for large layers only; whoever opens it removes it.
        number = next(_NUMBERS)
        return os.path.join(tempfile.gettempdir(), f"layerstore-fuzz-{os.getpid()}-{number}.{name}")

    def put_chunk(self, data: bytes, *, meta: bool = False, like: object = None) -> ChunkId:
        chunk_id = ChunkId(blake3_id(data))
        self.chunks[chunk_id] = bytes(data)
        return chunk_id

    def put_bytes(self, data: bytes, *, meta: bool = False) -> Refs:
        step = DEFAULT_CUTS.whole_max_bytes
        pieces = (data[at : at + step] for at in range(0, len(data), step))
        return tuple((len(piece), self.put_chunk(piece)) for piece in pieces)

    def put_stream(
        self, read: Callable[[int], bytes], size: int, *, meta: bool = False, like: object = None
    ) -> Refs:
        cuts = cut_stream(read, size, DEFAULT_CUTS)
        return tuple((len(chunk), self.put_chunk(bytes(chunk))) for chunk in cuts)

    def publish_layer(self, record: LayerRecord, *, content: object) -> None:
        self.records[record.diff_id] = record

    def layer(self, diff_id: str) -> LayerRecord:
        return self.records[diff_id]

    def read_refs(self, refs: Refs) -> bytes:
        parts = [self.chunks[chunk_id] for _, chunk_id in refs]
        if [len(part) for part in parts] != [length for length, _ in refs]:
            raise FormatError("a chunk of another length than referenced")
        return b"".join(parts)
