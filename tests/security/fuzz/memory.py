"""A store in memory with the few methods that reading and writing layers need.

Fuzzing ingests thousands of archives a second; the real store flushes to disk for each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.chunking.cutter import DEFAULT_CUTS, cut_stream
from layerstore.digest import ChunkId, blake3_id
from layerstore.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable

    from layerstore.formats.tree import Changeset
    from layerstore.store.records import LayerRecord, Refs


class MemoryStore:
    """Chunks in a dict; session and store in one."""

    def __init__(self) -> None:
        self.chunks: dict[ChunkId, bytes] = {}
        self.records: dict[str, LayerRecord] = {}

    def put_chunk(self, data: bytes, *, meta: bool = False) -> ChunkId:
        chunk_id = ChunkId(blake3_id(data))
        self.chunks[chunk_id] = bytes(data)
        return chunk_id

    def put_bytes(self, data: bytes, *, meta: bool = False) -> Refs:
        step = WHOLE_MAX_BYTES
        pieces = (data[at : at + step] for at in range(0, len(data), step))
        return tuple((len(piece), self.put_chunk(piece)) for piece in pieces)

    def put_stream(self, read: Callable[[int], bytes], size: int, *, meta: bool = False) -> Refs:
        return tuple((len(c), self.put_chunk(bytes(c))) for c in cut_stream(read, size))

    def publish_layer(self, record: LayerRecord, *, changeset: Changeset) -> None:
        self.records[record.diff_id] = record

    def layer(self, diff_id: str) -> LayerRecord:
        return self.records[diff_id]

    def read_refs(self, refs: Refs) -> bytes:
        parts = [self.chunks[chunk_id] for _, chunk_id in refs]
        if [len(part) for part in parts] != [length for length, _ in refs]:
            raise FormatError("a chunk of another length than referenced")
        return b"".join(parts)
