"""The bytes of a pack: header, footer and trailer, to and from values.

Pure: no I/O, no compression. Never trusts a length: a footer that parses has
blocks inside the file that do not overlap, and items that tile their blocks.
Normative: docs/format/pack.md.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

from blake3 import blake3

from layerstore.digest import ID_BYTES, ChunkId
from layerstore.errors import FormatError, UnsupportedVersionError

PACK_VERSION = 1
HEADER_MAGIC = b"\x89LSPACK\n"
TRAILER_MAGIC = b"LSPKEND\n"
BLOCK_MAX_BYTES = 1024 * 1024
"""Plain bytes of a block at most: the most that one EROFS extent can map (format break)."""

STORED_MAX_BYTES = BLOCK_MAX_BYTES + 64 * 1024
"""Stored bytes of a block at most: zstd's worst case for 1 MiB, generously rounded up."""

ALIGNMENT_BYTES = 4096
"""The footer begins at a multiple of this, so that block devices can map all frames."""

ITEMS_MAX = 8 * 1024 * 1024
"""Items in one pack at most: bounds what a hostile footer can make a reader allocate."""

HEADER = struct.Struct("<8sIIQQ")
COUNTS = struct.Struct("<II")
BLOCK_ENTRY = struct.Struct("<QIIII")
ITEM_ENTRY = struct.Struct("<32sI")
TRAILER = struct.Struct("<QQ32sII8s")


class ItemKind(enum.IntEnum):
    """What a block's items are. The values are part of the format."""

    DATA = 1
    META = 2
    LAYER = 3


_KINDS = {int(kind): kind for kind in ItemKind}


class Item(NamedTuple):
    """One item: its id and its length in plain bytes."""

    item_id: ChunkId
    length: int


class Block(NamedTuple):
    """One frame of a pack. Its items lie in it back to back, in this order, without gaps.

    Attributes:
        offset: Of the frame in the pack file.
        stored_length: Bytes of the frame.
        raw_length: Plain bytes.
    """

    offset: int
    stored_length: int
    raw_length: int
    kind: ItemKind
    items: tuple[Item, ...]


class Trailer(NamedTuple):
    """The last bytes of a pack: where its footer is, and the footer's BLAKE3."""

    footer_offset: int
    footer_length: int
    footer_hash: bytes


def encode_header() -> bytes:
    """Return the bytes a pack begins with."""
    return HEADER.pack(HEADER_MAGIC, PACK_VERSION, 0, 0, 0)


def decode_header(data: bytes) -> None:
    """Check a pack's first bytes.

    Raises:
        UnsupportedVersionError: A newer version, or a feature flag we do not know.
        FormatError: Not a pack.
    """
    if len(data) != HEADER.size:
        raise FormatError("pack is shorter than its header")
    magic, version, flags, *reserved = HEADER.unpack(data)
    if magic != HEADER_MAGIC:
        raise FormatError("not a pack: wrong magic")
    if version != PACK_VERSION or flags or any(reserved):
        raise UnsupportedVersionError(
            f"pack has version {version} and flags {flags:#x}, this layerstore knows version "
            f"{PACK_VERSION} without flags",
            hint="use the newer layerstore that wrote this store",
        )


def padding(size: int) -> int:
    """Return how many zero bytes bring ``size`` to the footer's alignment."""
    return -size % ALIGNMENT_BYTES


def encode_footer(blocks: list[Block], footer_offset: int) -> bytes:
    """Return footer and trailer of a pack whose blocks end before ``footer_offset``."""
    count = sum(len(block.items) for block in blocks)
    parts = [COUNTS.pack(len(blocks), count)]
    parts += [
        BLOCK_ENTRY.pack(b.offset, b.stored_length, b.raw_length, len(b.items), b.kind)
        for b in blocks
    ]
    parts += [ITEM_ENTRY.pack(*item) for block in blocks for item in block.items]
    footer = b"".join(parts)
    trailer = TRAILER.pack(
        footer_offset, len(footer), blake3(footer).digest(), PACK_VERSION, 0, TRAILER_MAGIC
    )
    return footer + trailer


def decode_trailer(data: bytes, file_size: int) -> Trailer:
    """Return the trailer in a pack's last ``TRAILER.size`` bytes.

    Raises:
        FormatError: Wrong magic, or a footer that does not end where the trailer begins.
    """
    if len(data) != TRAILER.size:
        raise FormatError("pack is shorter than its trailer")
    offset, length, digest, version, flags, magic = TRAILER.unpack(data)
    if magic != TRAILER_MAGIC:
        raise FormatError("pack ends without a trailer: it was cut short or overwritten")
    if version != PACK_VERSION or flags:
        raise UnsupportedVersionError(
            f"pack trailer has version {version} and flags {flags:#x}",
            hint="use the newer layerstore that wrote this store",
        )
    if offset < HEADER.size or offset % ALIGNMENT_BYTES or length < COUNTS.size:
        raise FormatError("pack trailer points at an impossible footer")
    if offset + length + TRAILER.size != file_size:
        raise FormatError(
            f"pack has {file_size} bytes, its trailer says {offset + length + TRAILER.size}"
        )
    return Trailer(offset, length, digest)


def decode_footer(data: bytes, trailer: Trailer) -> list[Block]:
    """Return the blocks that a footer lists, all bounds checked.

    Raises:
        FormatError: Wrong checksum, or any number that cannot be true.
    """
    if len(data) != trailer.footer_length or blake3(data).digest() != trailer.footer_hash:
        raise FormatError("pack footer does not match its checksum")
    if len(data) < COUNTS.size:
        raise FormatError("pack footer is shorter than its counts")
    block_count, item_count = COUNTS.unpack_from(data)
    tables = block_count * BLOCK_ENTRY.size + item_count * ITEM_ENTRY.size
    if item_count > ITEMS_MAX or COUNTS.size + tables != len(data):
        raise FormatError("pack footer's counts do not fit its length")
    table_end = COUNTS.size + block_count * BLOCK_ENTRY.size
    entries = BLOCK_ENTRY.iter_unpack(data[COUNTS.size : table_end])
    items = _Items(data[table_end:], item_count)
    blocks: list[Block] = []
    position = HEADER.size
    for offset, stored, raw, count, kind in entries:
        block = _block(offset, stored, raw, kind, items.take(count))
        if offset < position or offset + stored > trailer.footer_offset:
            raise FormatError(f"pack block {len(blocks)} overlaps or leaves the pack")
        position = offset + stored
        blocks.append(block)
    items.finish()
    return blocks


class _Items:
    """The item table, handed out block by block; refuses an id that comes twice."""

    def __init__(self, table: bytes, count: int) -> None:
        self._entries = ITEM_ENTRY.iter_unpack(table)
        self._left = count
        self._seen: set[bytes] = set()

    def take(self, count: int) -> tuple[Item, ...]:
        if count > self._left:
            raise FormatError("pack blocks claim more items than the footer has")
        self._left -= count
        taken = tuple(
            Item(ChunkId(item_id), length)
            for _, (item_id, length) in zip(range(count), self._entries, strict=False)
        )
        before = len(self._seen)
        self._seen.update(item.item_id for item in taken)
        if len(self._seen) != before + count:
            raise FormatError("pack footer lists an item twice")
        return taken

    def finish(self) -> None:
        if self._left:
            raise FormatError("pack footer has items that belong to no block")


def _block(offset: int, stored: int, raw: int, kind: int, items: tuple[Item, ...]) -> Block:
    if kind not in _KINDS:
        raise FormatError(f"pack footer has unknown item kind {kind}")
    if not 0 < raw <= BLOCK_MAX_BYTES or not 0 < stored <= STORED_MAX_BYTES:
        raise FormatError(f"pack block at {offset} has an impossible size")
    if not items or min(item.length for item in items) <= 0:
        raise FormatError(f"pack block at {offset} has an empty item or none")
    if sum(item.length for item in items) != raw:
        raise FormatError(f"items of the pack block at {offset} do not fill it")
    return Block(offset, stored, raw, _KINDS[kind], items)


assert ITEM_ENTRY.size == ID_BYTES + 4
