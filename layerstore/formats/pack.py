"""The bytes of a pack: header, footer and trailer, to and from values.

Pure: no I/O, no compression. Never trusts a length: a footer that parses has
blocks inside the file that do not overlap, and items that tile their blocks.
Version 2, which is written, adds bases (a block may be a difference) and the effort
of the writer; version 1 is read. Normative: docs/format/pack.md.
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING, NamedTuple

from blake3 import blake3

from layerstore.digest import ID_BYTES, ChunkId
from layerstore.errors import FormatError, UnsupportedVersionError

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAIN_VERSION = 1
"""Only read: its blocks all stand alone."""

PACK_VERSION = 2

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

BASES_MAX = 4096
"""Items that the bases of one block may be at most."""

PREFIX_MAX_BYTES = 4 * 1024 * 1024
"""Plain bytes of a block's bases together at most: with the block they fit one window."""

DEPTH_MAX = 8
"""Differences a reader follows at most. Writers make 2; a base that is moved into a difference
while others choose it adds some, and a cycle in a damaged catalog must end."""

HEADER = struct.Struct("<8sIIQQ")
COUNTS = struct.Struct("<II")
COUNTS_2 = struct.Struct("<III")
BLOCK_ENTRY = struct.Struct("<QIIII")
BLOCK_ENTRY_2 = struct.Struct("<QIIIIIII")
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
        bases: Items, of any pack, whose bytes joined are what the frame is a difference
            against; none for a block that stands alone.
        depth: 0 for a block that stands alone, else one more than the deepest of its bases'
            blocks had when this one was written.
        cost: Plain bytes that had to be decoded, at that time, to read one item of it; 0 for
            a block that stands alone: :attr:`read_cost` knows.
    """

    offset: int
    stored_length: int
    raw_length: int
    kind: ItemKind
    items: tuple[Item, ...]
    bases: tuple[ChunkId, ...] = ()
    depth: int = 0
    cost: int = 0

    @property
    def read_cost(self) -> int:
        """Plain bytes to decode for reading one item."""
        return self.cost or self.raw_length


class Shape(NamedTuple):
    """How much a block is, not of what: what a pack with it takes follows from that."""

    stored_length: int
    raw_length: int
    items: int
    bases: int


class Trailer(NamedTuple):
    """The last bytes of a pack: where its footer is, and the footer's BLAKE3."""

    footer_offset: int
    footer_length: int
    footer_hash: bytes
    version: int = PACK_VERSION


def encode_header(effort: int = 0) -> bytes:
    """Return the bytes a pack begins with."""
    return HEADER.pack(HEADER_MAGIC, PACK_VERSION, 0, effort, 0)


class Header(NamedTuple):
    """The first bytes of a pack.

    Attributes:
        effort: How hard the writer tried to make it small; 0 for what ingest writes.
    """

    version: int
    effort: int


def decode_header(data: bytes) -> Header:
    """Return what a pack's first bytes say.

    Raises:
        UnsupportedVersionError: A newer version, or a feature flag we do not know.
        FormatError: Not a pack.
    """
    if len(data) != HEADER.size:
        raise FormatError("pack is shorter than its header")
    magic, version, flags, effort, reserved = HEADER.unpack(data)
    if magic != HEADER_MAGIC:
        raise FormatError("not a pack: wrong magic")
    known = PLAIN_VERSION <= version <= PACK_VERSION
    if not known or flags or reserved or (effort and version == PLAIN_VERSION):
        raise UnsupportedVersionError(
            f"pack has version {version} and flags {flags:#x}, this layerstore knows versions "
            f"{PLAIN_VERSION} to {PACK_VERSION} without flags",
            hint="use the newer layerstore that wrote this store",
        )
    return Header(version, effort)


def padding(size: int) -> int:
    """Return how many zero bytes bring ``size`` to the footer's alignment."""
    return -size % ALIGNMENT_BYTES


def encode_footer(blocks: list[Block], footer_offset: int) -> bytes:
    """Return footer and trailer of a pack whose blocks end before ``footer_offset``."""
    count = sum(len(block.items) for block in blocks)
    bases = sum(len(block.bases) for block in blocks)
    parts = [COUNTS_2.pack(len(blocks), count, bases)]
    parts += [BLOCK_ENTRY_2.pack(*_block_numbers(block)) for block in blocks]
    parts += [ITEM_ENTRY.pack(*item) for block in blocks for item in block.items]
    parts += [base for block in blocks for base in block.bases]
    footer = b"".join(parts)
    trailer = TRAILER.pack(
        footer_offset, len(footer), blake3(footer).digest(), PACK_VERSION, 0, TRAILER_MAGIC
    )
    return footer + trailer


def footer_size(blocks: int, items: int, bases: int) -> int:
    """Return the bytes of the footer and trailer that :func:`encode_footer` makes of so many."""
    entries = blocks * BLOCK_ENTRY_2.size + items * ITEM_ENTRY.size + bases * ID_BYTES
    return COUNTS_2.size + entries + TRAILER.size


def _block_numbers(block: Block) -> tuple[int, ...]:
    return (
        block.offset,
        block.stored_length,
        block.raw_length,
        len(block.items),
        int(block.kind),
        len(block.bases),
        block.depth,
        block.cost,
    )


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
    if not PLAIN_VERSION <= version <= PACK_VERSION or flags:
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
    return Trailer(offset, length, digest, version)


class _Sections(NamedTuple):
    """Where the tables of a footer lie: blocks, items, bases."""

    entry: struct.Struct
    blocks_at: int
    items_at: int
    bases_at: int
    item_count: int

    def entries(self, data: bytes) -> Iterator[tuple[int, ...]]:
        """Return the numbers of each block."""
        return self.entry.iter_unpack(data[self.blocks_at : self.items_at])


def _sections(data: bytes, trailer: Trailer) -> _Sections:
    """Return where a footer's tables lie, its checksum and length checked."""
    if len(data) != trailer.footer_length or blake3(data).digest() != trailer.footer_hash:
        raise FormatError("pack footer does not match its checksum")
    counts, entry = (
        (COUNTS, BLOCK_ENTRY) if trailer.version == PLAIN_VERSION else (COUNTS_2, BLOCK_ENTRY_2)
    )
    if len(data) < counts.size:
        raise FormatError("pack footer is shorter than its counts")
    block_count, item_count, *rest = counts.unpack_from(data)
    base_count = rest[0] if rest else 0
    items_at = counts.size + block_count * entry.size
    bases_at = items_at + item_count * ITEM_ENTRY.size
    if max(item_count, base_count) > ITEMS_MAX or bases_at + base_count * ID_BYTES != len(data):
        raise FormatError("pack footer's counts do not fit its length")
    return _Sections(entry, counts.size, items_at, bases_at, item_count)


def decode_shapes(data: bytes, trailer: Trailer) -> list[Shape]:
    """Return how much the blocks are that a footer lists, without a look at their items.

    Raises:
        FormatError: Wrong checksum, or counts that cannot be true.
    """
    found: list[Shape] = []
    sections = _sections(data, trailer)
    for _, stored, raw, items, _, *difference in sections.entries(data):
        found.append(Shape(stored, raw, items, difference[0] if difference else 0))
    if sum(shape.items for shape in found) != sections.item_count:
        raise FormatError("pack footer's blocks have other items than it lists")
    return found


def decode_footer(data: bytes, trailer: Trailer) -> list[Block]:
    """Return the blocks that a footer lists, all bounds checked.

    Raises:
        FormatError: Wrong checksum, or any number that cannot be true.
    """
    sections = _sections(data, trailer)
    items_at, bases_at = sections.items_at, sections.bases_at
    items = _Items(data[items_at:bases_at], sections.item_count)
    bases = _Bases(data[bases_at:])
    blocks: list[Block] = []
    position = HEADER.size
    for numbers in sections.entries(data):
        block = _block(numbers, items, bases)
        if block.offset < position or block.offset + block.stored_length > trailer.footer_offset:
            raise FormatError(f"pack block {len(blocks)} overlaps or leaves the pack")
        position = block.offset + block.stored_length
        blocks.append(block)
    items.finish()
    bases.finish()
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


class _Bases:
    """The base table, handed out block by block."""

    def __init__(self, table: bytes) -> None:
        self._table = table
        self._at = 0

    def take(self, count: int) -> tuple[ChunkId, ...]:
        end = self._at + count * ID_BYTES
        if count > BASES_MAX or end > len(self._table):
            raise FormatError("pack blocks claim more bases than the footer has")
        start, self._at = self._at, end
        return tuple(ChunkId(self._table[at : at + ID_BYTES]) for at in range(start, end, ID_BYTES))

    def finish(self) -> None:
        if self._at != len(self._table):
            raise FormatError("pack footer has bases that belong to no block")


def _block(numbers: tuple[int, ...], items: _Items, bases: _Bases) -> Block:
    """Return one block from the numbers of its entry, of either version."""
    offset, stored, raw, count, kind, *delta = numbers
    base_count, depth, cost = delta or (0, 0, 0)
    if kind not in _KINDS:
        raise FormatError(f"pack footer has unknown item kind {kind}")
    if not 0 < raw <= BLOCK_MAX_BYTES or not 0 < stored <= STORED_MAX_BYTES:
        raise FormatError(f"pack block at {offset} has an impossible size")
    held = items.take(count)
    if not held or min(item.length for item in held) <= 0:
        raise FormatError(f"pack block at {offset} has an empty item or none")
    if sum(item.length for item in held) != raw:
        raise FormatError(f"items of the pack block at {offset} do not fill it")
    needed = bases.take(base_count)
    sound = raw <= cost and 0 < depth <= DEPTH_MAX if needed else depth == cost == 0
    if not sound:
        raise FormatError(f"pack block at {offset} has impossible bases")
    if needed and kind == ItemKind.LAYER:
        raise FormatError(f"pack block at {offset} has bases although it holds layer records")
    if not {item.item_id for item in held}.isdisjoint(needed):
        raise FormatError(f"pack block at {offset} is a difference against itself")
    return Block(offset, stored, raw, _KINDS[kind], held, needed, depth, cost)


assert ITEM_ENTRY.size == ID_BYTES + 4
