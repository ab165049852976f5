"""Attributes of inodes in an EROFS image: inline behind the inode, or once in a shared table.

Normative: docs/format/erofs.md. Source: Linux, fs/erofs/erofs_fs.h and fs/erofs/xattr.c.
"""

from __future__ import annotations

import functools
import struct
from collections import Counter

from layerstore.errors import FormatError
from layerstore.formats.erofs_sums import xxh32
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

Xattrs = tuple[tuple[bytes, bytes], ...]

XATTR_VALUE_MAX_BYTES: Final = 0xFFFF

_XATTR_HEADER = struct.Struct("<IB7s")
_XATTR_ENTRY = struct.Struct("<BBH")
_FILTER_SEED: Final = 0x25BBE08F
_FILTER_BITS: Final = 32
_SHARED_MAX: Final = 0xFF
_XATTR_BODY_MAX_BYTES: Final = _XATTR_HEADER.size + 4 * 0xFFFE
_ACLS: Final = (b"system.posix_acl_access", b"system.posix_acl_default")
_XATTR_PREFIXES: Final = (
    (_ACLS[0], 2),
    (_ACLS[1], 3),
    (b"user.", 1),
    (b"trusted.", 4),
    (b"security.", 6),
)

_XATTR_NAMES: Final = {number: prefix for prefix, number in _XATTR_PREFIXES}


def has_acl(xattrs: Xattrs) -> bool:
    """Return whether one of these attributes is a POSIX ACL."""
    return any(name in _ACLS for name, _ in xattrs)


class XattrEncoder:
    """Encodes attributes; those that several inodes have lie once in a shared table."""

    def __init__(self, every: Iterable[Xattrs]) -> None:
        counts = Counter(pair for xattrs in every for pair in xattrs)
        self._ids: dict[tuple[bytes, bytes], int] = {}
        table = bytearray()
        for pair, count in counts.items():
            if count > 1:
                self._ids[pair] = len(table) // 4
                table += _xattr_entry(*pair)
        self.table = bytes(table)
        self._begins: dict[tuple[Xattrs, bytes, int], bytes] = {}

    @classmethod
    def of(cls, image: bytearray, begin: int) -> XattrEncoder:
        """Return those of an image; nothing is added to its shared table, which begins there."""
        found, at = cls(()), begin
        while at + _XATTR_ENTRY.size <= len(image):
            name_bytes, number, value_bytes = _XATTR_ENTRY.unpack_from(image, at)
            prefix = _XATTR_NAMES.get(number)
            if prefix is None:  # the zeros behind the table, or blocks of directories
                break
            middle = at + _XATTR_ENTRY.size + name_bytes
            name = prefix + bytes(image[at + _XATTR_ENTRY.size : middle])
            value = bytes(image[middle : middle + value_bytes])
            found._ids.setdefault((name, value), (at - begin) // 4)
            at = middle + value_bytes + -(middle + value_bytes) % 4
        return found

    def encoded(self, xattrs: Xattrs) -> bytes:
        """Return what follows an inode that has these attributes."""
        if not xattrs:
            return b""
        name, value = xattrs[-1]
        if xattrs[-1] in self._ids:
            return self._encoded(xattrs)
        # Files of an image are told apart by the last one alone, and by its value.
        key = xattrs[:-1], name, len(value)
        begin = self._begins.get(key)
        if begin is not None:
            return b"".join([begin, value, bytes(-(len(begin) + len(value)) % 4)])
        body = self._encoded(xattrs)
        padding = -(len(_split_name(name)[1]) + len(value)) % 4
        self._begins[key] = body[: len(body) - padding - len(value)]
        return body

    def _encoded(self, xattrs: Xattrs) -> bytes:
        shared = [self._ids[pair] for pair in xattrs if pair in self._ids]
        if len(shared) > _SHARED_MAX:
            raise FormatError(f"an inode has {len(xattrs)} attributes: too many for EROFS")
        own = [_xattr_entry(*pair) for pair in xattrs if pair not in self._ids]
        header = _XATTR_HEADER.pack(_name_filter(xattrs), len(shared), b"")
        body = b"".join([header, struct.pack(f"<{len(shared)}I", *shared), *own])
        if len(body) > _XATTR_BODY_MAX_BYTES:
            raise FormatError(f"an inode has {len(body)} bytes of attributes: too many for EROFS")
        return body


def _xattr_entry(name: bytes, value: bytes) -> bytes:
    if len(value) > XATTR_VALUE_MAX_BYTES:
        raise FormatError(f"attribute {name!r} of {len(value)} bytes: too long for EROFS")
    number, suffix = _split_name(name)
    entry = _XATTR_ENTRY.pack(len(suffix), number, len(value)) + suffix + value
    return entry + bytes(-len(entry) % 4)


@functools.lru_cache(maxsize=1024)
def _split_name(name: bytes) -> tuple[int, bytes]:
    """Return the number of an attribute's name space, and the rest of its name."""
    for prefix, number in _XATTR_PREFIXES:
        if name.startswith(prefix):
            return number, name[len(prefix) :]
    raise FormatError(f"attribute {name!r} is of a kind that EROFS does not know")


def _name_filter(xattrs: Xattrs) -> int:
    """Return a word whose bits are 0 for the names an inode has: what it lacks is known at once.

    An overlay asks every file for several attributes that hardly any has.
    """
    found = 0xFFFF_FFFF
    for name, _ in xattrs:
        found &= ~_filter_bit(name)
    return found


@functools.lru_cache(maxsize=1024)
def _filter_bit(name: bytes) -> int:
    number, suffix = _split_name(name)
    return 1 << (xxh32(suffix, _FILTER_SEED + number) & _FILTER_BITS - 1)


def xattr_count(xattrs: bytes) -> int:
    """Return how an inode says how long its attributes are."""
    return (len(xattrs) - _XATTR_HEADER.size) // 4 + 1 if xattrs else 0
