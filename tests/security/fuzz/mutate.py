"""Mutations of valid inputs: what random bytes alone would never reach.

All chance comes from the :class:`random.Random` that is passed in, so a seed names a run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

INTERESTING = (
    *(0, 1, 2, 7, 8, 9, 0x7F, 0x80, 0xFF, 0x100, 0x1FF, 0x200, 0xFFF, 0x1000, 0x7FFF, 0xFFFF),
    *(0x10000, 0xFFFFF, 0x100000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**53, 2**63 - 1, 2**64 - 1),
)
NUMBERS = (b"-1", b"0", b"1", b"00", b"1e9", b"4294967296", b"9223372036854775808", b"9" * 25)


def mutate(
    random: Random, seeds: Sequence[bytes], tokens: Sequence[bytes], max_bytes: int
) -> bytes:
    """Return a new input: a seed with one to eight changes."""
    data = bytearray(random.choice(seeds))
    for _ in range(1 << random.randrange(4)):
        _change(random, data, seeds, tokens)
    return bytes(data[:max_bytes])


def change_once(
    random: Random, data: bytes, seeds: Sequence[bytes], tokens: Sequence[bytes]
) -> bytes:
    """Return ``data`` with one change, for an engine that chooses inputs itself."""
    changed = bytearray(data)
    _change(random, changed, seeds, tokens)
    return bytes(changed)


def _change(
    random: Random, data: bytearray, seeds: Sequence[bytes], tokens: Sequence[bytes]
) -> None:
    at = random.randrange(len(data) + 1)
    match random.randrange(10):
        case 0 | 1 if data:
            data[at % len(data)] ^= 1 << random.randrange(8)
        case 2 if data:
            data[at % len(data)] = random.randrange(256)
        case 3:
            data[at:at] = random.randbytes(random.randrange(1, 9))
        case 4:
            del data[at : at + _length(random, len(data))]
        case 5:
            del data[at:]
        case 6:
            other = random.choice(seeds)
            start = random.randrange(len(other) + 1)
            data[at:] = other[start:]
        case 7:
            other = random.choice(seeds)
            start = random.randrange(len(other) + 1)
            piece = other[start : start + _length(random, len(other))]
            data[at : at + random.choice((0, len(piece)))] = piece
        case 8 if tokens:
            token = random.choice(tokens)
            data[at : at + random.choice((0, len(token)))] = token
        case _:
            _number(random, data, at)


def _number(random: Random, data: bytearray, at: int) -> None:
    """Put a number near a boundary somewhere, as binary or as digits."""
    if random.random() < 0.3:
        digits = random.choice(NUMBERS)
        data[at : at + len(digits)] = digits
        return
    width = random.choice((1, 2, 4, 8))
    value = random.choice(INTERESTING) & ((1 << 8 * width) - 1)
    data[at : at + width] = value.to_bytes(width, random.choice(("little", "big")))


def _length(random: Random, size: int) -> int:
    """Return mostly short lengths, sometimes a large part of ``size``."""
    if random.random() < 0.7:
        return random.randrange(1, 17)
    return random.randrange(1, max(size, 1) + 1)
