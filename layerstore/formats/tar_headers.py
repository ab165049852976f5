"""The 512 bytes of a tar header: fields, numbers and checksums of v7, ustar and GNU tar.

Pure functions from bytes to values. They accept what real writers write and refuse what
two readers could read differently.

Format: docs/format/tar.md. Sources: POSIX.1-2017 pax, "ustar Interchange Format";
GNU tar manual, "Basic Tar Format"; star(5).
"""

from __future__ import annotations

import functools
import struct
import zlib
from typing import Final, NamedTuple

from layerstore.errors import FormatError

BLOCK_BYTES: Final = 512
ZERO_BLOCK: Final = bytes(BLOCK_BYTES)

POSIX_MAGIC: Final = b"ustar\0"
GNU_MAGIC: Final = b"ustar  \0"
NO_MAGIC: Final = bytes(8)
_STAR_MAGIC: Final = b"tar\0"
"""At offset 508; star shortens the prefix field to 131 bytes and puts times behind it."""

_FIELDS = struct.Struct("100s24s12s12s8sc100s8s64x8s8s155s12x")
_OWNER_FIELDS = struct.Struct("8s8s8s")
_HALF_BYTES = BLOCK_BYTES // 2
_BLANK_SUM = 8 * ord(" ")
_BASE256 = 0x80
_BASE256_NEGATIVE = 0x40

OLD_SPARSE_AT: Final = 386
OLD_SPARSE_SLOTS: Final = 4
OLD_SPARSE_EXTENDED_AT: Final = 482
OLD_SPARSE_REALSIZE: Final = slice(483, 495)
SPARSE_BLOCK_SLOTS: Final = 21
SPARSE_BLOCK_EXTENDED_AT: Final = 504
_SLOT_BYTES = 24


class Header(NamedTuple):
    """The fields of one header block. ``size`` is what the numeric field says."""

    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    typeflag: bytes
    linkname: bytes
    magic: bytes
    dev_major: int
    dev_minor: int


def parse_header(block: bytes) -> Header:
    """Return the fields of a header block.

    Raises:
        FormatError: Wrong checksum, unknown magic, or a field that is not a number.
    """
    (
        name, owner, size, mtime, checksum, typeflag, linkname, magic, major, minor, prefix,
    ) = _FIELDS.unpack(block)  # fmt: skip
    _check_sum(block, checksum)
    if typeflag in b"34":
        dev_major, dev_minor = parse_number(major, "devmajor"), parse_number(minor, "devminor")
    else:
        dev_major = dev_minor = 0
    if magic[:6] == POSIX_MAGIC:
        name = _join_prefix(prefix, name, block) if prefix[0] else name.partition(b"\0")[0]
    elif magic in (GNU_MAGIC, NO_MAGIC):
        name = name.partition(b"\0")[0]
    else:
        raise FormatError(f"unknown magic {magic!r}, not a tar header")
    mode, uid, gid = _parse_owner(owner)
    return Header(
        name,
        mode,
        uid,
        gid,
        parse_number(size, "size"),
        parse_number(mtime, "mtime"),
        typeflag,
        linkname.partition(b"\0")[0] if linkname[0] else b"",
        magic,
        dev_major,
        dev_minor,
    )


@functools.lru_cache(1024)
def _parse_owner(fields: bytes) -> tuple[int, int, int]:
    """Return mode, uid and gid; an archive has few different ones."""
    mode, uid, gid = _OWNER_FIELDS.unpack(fields)
    return parse_number(mode, "mode"), parse_number(uid, "uid"), parse_number(gid, "gid")


def sum_of_bytes(data: bytes) -> int:
    """Return the sum of at most 256 bytes."""
    # Adler-32's lower half is that sum modulo 65521, which 256 bytes cannot reach. It takes a
    # tenth of what adding them in Python takes.
    return zlib.adler32(data, 0) & 0xFFFF


def _join_prefix(prefix: bytes, name: bytes, block: bytes) -> bytes:
    if block[508:512] == _STAR_MAGIC:
        prefix = prefix[:131]
    return prefix.partition(b"\0")[0] + b"/" + name.partition(b"\0")[0]


def _check_sum(block: bytes, field: bytes) -> None:
    total = _sum_of_block(block) - sum_of_bytes(field) + _BLANK_SUM
    stated = parse_number(field, "checksum")
    if stated == total:
        return
    # Some historic writers summed signed bytes.
    signed = total - 256 * sum(byte >= 128 for byte in block)
    if stated != signed:
        raise FormatError(f"header checksum is {total}, the header says {stated}")


def _sum_of_block(block: bytes) -> int:
    if block.isascii():
        # 512 bytes below 128 cannot reach 65521 either.
        return zlib.adler32(block, 0) & 0xFFFF
    return sum_of_bytes(block[:_HALF_BYTES]) + sum_of_bytes(block[_HALF_BYTES:])


def parse_number(field: bytes, what: str) -> int:
    """Return a numeric field's value: octal digits, GNU base-256, or 0 when blank.

    Raises:
        FormatError: Anything else, such as signs, other digits, or text after the number.
    """
    digits = field.rstrip(b"\0 ")
    if digits.isdigit():
        try:
            return int(digits, 8)
        except ValueError:
            raise FormatError(f"{what} field {field!r} is not an octal number") from None
    return _parse_unusual(field, digits, what)


def _parse_unusual(field: bytes, digits: bytes, what: str) -> int:
    if not digits:
        return 0
    if field[0] & _BASE256:
        if field[0] & _BASE256_NEGATIVE:
            return int.from_bytes(field, "big", signed=True)
        return int.from_bytes(field, "big") - (1 << (8 * len(field) - 1))
    digits = digits.lstrip(b" ")
    if digits.isdigit():
        return parse_number(digits, what)
    raise FormatError(f"{what} field {field!r} is not a number")


def parse_sparse_slots(block: bytes, at: int, slots: int) -> list[tuple[int, int]]:
    """Return the (offset, length) pairs of old GNU sparse slots up to the first unused one.

    Raises:
        FormatError: A number that is none, or used slots after an unused one.
    """
    pairs = []
    for start in range(at, at + slots * _SLOT_BYTES, _SLOT_BYTES):
        slot = block[start : start + _SLOT_BYTES]
        if not slot[12]:
            if block[start : at + slots * _SLOT_BYTES].strip(b"\0"):
                raise FormatError("sparse map with an empty slot before its end")
            break
        pairs.append(
            (parse_number(slot[:12], "sparse offset"), parse_number(slot[12:], "sparse length"))
        )
    return pairs
