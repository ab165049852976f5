"""How the compressed bytes of a block are split among the chunks inside it.

A block of many chunks is one zstd frame: no chunk has a compressed size of its
own. A chunk is charged for the part of the frame that corresponds to the part
of the block it fills. Rounding is by running totals: a chunk at raw bytes
``[a, b)`` of a block is charged ``floor(b*S/R) - floor(a*S/R)`` of its ``S`` stored
bytes, which telescopes, so the shares of chunks that tile a block add up to
``S`` exactly, each is within one byte of its exact quota, and a chunk's
share depends on nothing but its own row of the catalog.
"""

from __future__ import annotations


def share(offset: int, length: int, raw_size: int, stored_size: int) -> int:
    """Return the stored bytes charged to raw bytes ``[offset, offset + length)`` of a block.

    Args:
        offset: Where the chunk begins in the block before compression.
        length: The chunk's bytes before compression.
        raw_size: Bytes of the whole block before compression.
        stored_size: Bytes of the whole block as stored.
    """
    if raw_size == 0:
        return 0
    return (offset + length) * stored_size // raw_size - offset * stored_size // raw_size


def split(total: int, weights: list[int]) -> list[int]:
    """Split ``total`` in proportion to ``weights``, exactly, by the same running totals.

    With all weights zero everything goes to the last part; without parts nothing
    can be split and the result is empty.
    """
    whole = sum(weights)
    if not weights:
        return []
    if whole == 0:
        return [0] * (len(weights) - 1) + [total]
    parts, position = [], 0
    for weight in weights:
        parts.append(share(position, weight, whole, total))
        position += weight
    return parts
