"""Checksums that EROFS images have in them: CRC-32C of the superblock, XXH32 of attribute names."""

from __future__ import annotations

import functools
import struct

from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

_U32: Final = 0xFFFF_FFFF
_CRC32C: Final = 0x82F6_3B78
"""The Castagnoli polynomial, lowest bit first."""


def xxh32(data: bytes, seed: int) -> int:
    """Return XXH32 of ``data``.

    Source: the xxHash specification, "XXH32 algorithm description".
    """
    one, two, three, four, five = 2654435761, 2246822519, 3266489917, 668265263, 374761393
    whole = len(data) & ~15
    if whole:
        lanes = [seed + one + two, seed + two, seed, seed - one]
        for at in range(0, whole, 16):
            words = struct.unpack_from("<4I", data, at)
            for lane, word in enumerate(words):
                lanes[lane] = _rotated(lanes[lane] + word * two, 13) * one
        turns = zip(lanes, (1, 7, 12, 18), strict=True)
        total = sum(_rotated(lane, turn) for lane, turn in turns)
    else:
        total = seed + five
    total += len(data)
    words_end = len(data) & ~3
    for at in range(whole, words_end, 4):
        (word,) = struct.unpack_from("<I", data, at)
        total = _rotated(total + word * three, 17) * four
    for byte in data[words_end:]:
        total = _rotated(total + byte * five, 11) * one
    total &= _U32
    total = (total ^ total >> 15) * two & _U32
    total = (total ^ total >> 13) * three & _U32
    return total ^ total >> 16


def _rotated(value: int, turn: int) -> int:
    value &= _U32
    return (value << turn | value >> 32 - turn) & _U32


def crc32c(data: bytes) -> int:
    """Return the CRC-32C register after ``data``, neither starting nor ending inverted twice.

    The kernel keeps the register as it is (fs/erofs/super.c, erofs_superblock_csum_verify).
    """
    table = _crc_table()
    crc = _U32
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc


@functools.cache
def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (_CRC32C if crc & 1 else 0)
        table.append(crc)
    return table
