"""Records that the store keeps for the floors above it, and their encoding.

A :class:`LayerRecord` is durable as an item of kind LAYER inside a pack; the
catalog holds a copy. Encoded as a MessagePack map; unknown keys are ignored, so
that later versions may add some. Normative: docs/format/store.md, "Layer records".
"""

from __future__ import annotations

import msgspec
from blake3 import blake3

from layerstore.digest import ID_BYTES, ChunkId, DiffId, parse_digest
from layerstore.errors import FormatError

Refs = tuple[tuple[int, ChunkId], ...]
"""Length in bytes and chunk id, in order."""

LAYER_ITEM_CONTEXT = "layerstore 2026-11-23 layer record v1"
"""Domain of layer item ids: no file content can have the id of a layer record."""

RECIPE_FORMATS = ("canonical-1", "segments-1", "whole-1")


class LayerRecord(msgspec.Struct, frozen=True):
    """What the store knows of a layer.

    Attributes:
        diff_id: Digest of the uncompressed tar.
        tar_size: Bytes of the uncompressed tar.
        tree: Chunks of the encoded changeset.
        recipe: Chunks of the encoded recipe; empty for ``canonical-1``.
        recipe_format: How the tar is written again: one of ``RECIPE_FORMATS``.
        entry_count: Entries, whiteouts not counted.
        content_size: Logical bytes of the layer's regular files.
    """

    diff_id: DiffId
    tar_size: int
    tree: Refs
    recipe: Refs
    recipe_format: str
    entry_count: int
    content_size: int


class CacheRecord(msgspec.Struct, frozen=True):
    """One remembered build step.

    Attributes:
        diff_id: The layer the step made, or None when it made none.
        value: Bytes that only the builder understands.
        created: Seconds since the epoch.
    """

    key: str
    diff_id: DiffId | None
    value: bytes
    created: float


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(LayerRecord)


def encode_layer(record: LayerRecord) -> bytes:
    """Return a record's canonical bytes."""
    return _encoder.encode(record)


def decode_layer(data: bytes, *, expected: DiffId | None = None) -> LayerRecord:
    """Return the record that ``data`` encodes.

    Raises:
        FormatError: Anything but a well-formed record, or one of another layer than ``expected``.
    """
    try:
        record = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as err:
        raise FormatError(f"layer record is damaged: {err}") from err
    parse_digest(record.diff_id)
    if expected is not None and record.diff_id != expected:
        raise FormatError(f"the record of layer {expected} is that of {record.diff_id}")
    numbers = (record.tar_size, record.entry_count, record.content_size)
    if min(numbers) < 0 or record.recipe_format not in RECIPE_FORMATS:
        raise FormatError(f"layer record of {record.diff_id} has impossible values")
    for length, chunk_id in record.tree + record.recipe:
        if length <= 0 or len(chunk_id) != ID_BYTES:
            raise FormatError(f"layer record of {record.diff_id} has an impossible reference")
    return record


def layer_item_id(encoded: bytes) -> ChunkId:
    """Return the id under which a pack lists an encoded layer record."""
    return ChunkId(blake3(encoded, derive_key_context=LAYER_ITEM_CONTEXT).digest())


def refs_length(refs: Refs) -> int:
    """Return the bytes that references cover together."""
    return sum(length for length, _ in refs)
