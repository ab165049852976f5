"""Where the data of a sparse file lies: the maps of GNU tar's four sparse formats.

What holds a map differs (slots of the header, repeated or single pax records, the first blocks of
the content); what it says does not. Reads blocks through a function that it is given.

Source: GNU tar manual, "Storing Sparse Files".
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import FormatError
from layerstore.formats.tar_headers import (
    BLOCK_BYTES,
    OLD_SPARSE_AT,
    OLD_SPARSE_EXTENDED_AT,
    OLD_SPARSE_REALSIZE,
    OLD_SPARSE_SLOTS,
    SPARSE_BLOCK_EXTENDED_AT,
    SPARSE_BLOCK_SLOTS,
    parse_number,
    parse_sparse_slots,
)
from layerstore.formats.tar_limits import Limits, exceeded
from layerstore.formats.tar_pax import SPARSE_PAIRS, pax_integer

if TYPE_CHECKING:
    from collections.abc import Callable

    from layerstore.formats.tar_pax import Records

Regions = list[tuple[int, int]]
"""(offset, length) of a sparse file's data, ascending, not touching each other."""

_NUMBER_MAX_BYTES = 22


class SparseMap(NamedTuple):
    """What a map says; :func:`checked_regions` tells whether it can be.

    Attributes:
        pairs: (offset, length) as they are written.
        real_size: Of the file, holes counted.
        name: The file's, where the format keeps it with the map.
    """

    pairs: Regions
    real_size: int
    name: bytes | None = None


def is_sparse(records: Records) -> bool:
    """Tell whether pax records say that their member is sparse."""
    return any(key.startswith(b"GNU.sparse.") for key in records)


def old_map(block: bytes, read_block: Callable[[], bytes], limits: Limits) -> SparseMap:
    """Return the map of an old GNU sparse member.

    Args:
        block: Its header.
        read_block: Reads the next block after it.
        limits: ``sparse_regions`` applies.

    Raises:
        FormatError: A number that is none, or used slots after an unused one.
        LimitExceededError: More regions than allowed.
    """
    limit = limits.sparse_regions
    numbers = array("q")  # a list of pairs takes eight times as much, and may be refused
    _add_slots(numbers, parse_sparse_slots(block, OLD_SPARSE_AT, OLD_SPARSE_SLOTS))
    more = block[OLD_SPARSE_EXTENDED_AT]
    while more:
        extension = read_block()
        _add_slots(numbers, parse_sparse_slots(extension, 0, SPARSE_BLOCK_SLOTS))
        more = extension[SPARSE_BLOCK_EXTENDED_AT]
        if len(numbers) > 2 * limit:
            raise exceeded("sparse_regions", len(numbers) // 2, limit, "sparse map")
    pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
    return SparseMap(pairs, parse_number(block[OLD_SPARSE_REALSIZE], "sparse real size"))


def _add_slots(numbers: array[int], slots: Regions) -> None:
    try:
        for slot in slots:
            numbers.extend(slot)
    except OverflowError as err:
        raise FormatError("sparse region beyond any file") from err


def pax_map(records: Records, read_block: Callable[[], bytes], limits: Limits) -> SparseMap:
    """Return the map of a sparse member with pax records.

    Args:
        records: They say that it is sparse.
        read_block: Reads the next block of the member's content.
        limits: ``sparse_regions`` applies.

    Raises:
        FormatError: An unknown format, or one that contradicts itself.
        LimitExceededError: More regions than allowed.
    """
    name = records.get(b"GNU.sparse.name")
    major = records.get(b"GNU.sparse.major", b"0")
    minor = records.get(b"GNU.sparse.minor", b"1" if b"GNU.sparse.map" in records else b"0")
    size_key = b"GNU.sparse.realsize" if major == b"1" else b"GNU.sparse.size"
    if size_key not in records:
        raise FormatError("sparse member without its real size")
    real_size = pax_integer(records[size_key], "sparse size")
    if (major, minor) == (b"1", b"0"):
        pairs = _map_of_content(read_block, limits)
    elif (major, minor) in ((b"0", b"0"), (b"0", b"1")):
        key = b"GNU.sparse.map" if minor == b"1" else SPARSE_PAIRS
        pairs = _map_of_text(records.get(key, b""), limits)
        count = records.get(b"GNU.sparse.numblocks")
        if count is not None and pax_integer(count, "sparse count") != len(pairs):
            raise FormatError("sparse map of another length than it says")
    else:
        raise FormatError(f"sparse format {major[:20]!r}.{minor[:20]!r} is unknown")
    pairs_belong = (major, minor) == (b"0", b"0") or SPARSE_PAIRS not in records
    map_belongs = (major, minor) == (b"0", b"1") or b"GNU.sparse.map" not in records
    if not (pairs_belong and map_belongs):
        raise FormatError("sparse maps in two formats")
    if name is not None and not name:
        raise FormatError("sparse member without a name")
    return SparseMap(pairs, real_size, name)


def _map_of_content(read_block: Callable[[], bytes], limits: Limits) -> Regions:
    """Read the map that sparse format 1.0 puts before the content."""
    count, block = _number_of(read_block(), read_block)
    if count > limits.sparse_regions:
        raise exceeded("sparse_regions", count, limits.sparse_regions, "sparse map")
    pairs = []
    for _ in range(count):
        offset, block = _number_of(block, read_block)
        length, block = _number_of(block, read_block)
        pairs.append((offset, length))
    return pairs


def _number_of(block: bytes, read_block: Callable[[], bytes]) -> tuple[int, bytes]:
    """Return the number that a line says, and what follows the line."""
    digits, newline, rest = block.partition(b"\n")
    while not newline:
        if len(digits) > _NUMBER_MAX_BYTES:
            break
        block = digits + read_block()
        digits, newline, rest = block.partition(b"\n")
    return pax_integer(digits, "sparse map"), rest


def _map_of_text(text: bytes, limits: Limits) -> Regions:
    """Return the (offset, length) pairs of ``offset,length,offset,length,...``.

    Raises:
        FormatError: Not pairs of numbers.
        LimitExceededError: More pairs than ``sparse_regions``.
    """
    if not text:
        return []
    count = (text.count(b",") + 2) // 2
    if count > limits.sparse_regions:
        raise exceeded("sparse_regions", count, limits.sparse_regions, "sparse map")
    numbers = [pax_integer(part, "sparse map") for part in text.split(b",")]
    if len(numbers) % 2:
        raise FormatError("sparse map with an offset without its length")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def checked_regions(regions: Regions, real_size: int, stored: int) -> Regions:
    """Return the regions joined where they touch, empty ones dropped.

    Raises:
        FormatError: Regions overlap, go back, leave the file, or do not sum to ``stored``;
            or the map does not reach the file's end; or a region before the last ends
            within a block of the archive.
    """
    joined: Regions = []
    end = total = 0
    for offset, length in regions:
        if length and total % BLOCK_BYTES:
            # GNU tar begins every region at a block, libarchive and Go where the last ended.
            raise FormatError(f"sparse region {offset}+{length} does not begin at a block")
        if offset < end or offset + length > real_size:
            raise FormatError(
                f"sparse region {offset}+{length} overlaps, goes back or leaves {real_size} bytes"
            )
        if length and joined and offset == end:
            joined[-1] = (joined[-1][0], joined[-1][1] + length)
        elif length:
            joined.append((offset, length))
        end = offset + length
        total += length
    if end != real_size:
        # GNU tar makes a file that ends where its map does, others one of the real size.
        raise FormatError(f"sparse map ends at {end}, the file has {real_size} bytes")
    if total != stored:
        raise FormatError(f"sparse regions hold {total} bytes, the member {stored}")
    return joined
