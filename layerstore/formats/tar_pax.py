"""Records of pax extended headers, and what they say about a member.

Sources: POSIX.1-2017 pax, "pax Extended Header"; GNU tar manual, "Storing Sparse Files";
star(5) for SCHILY.*; libarchive's tar(5) for LIBARCHIVE.*.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final
from urllib.parse import unquote_to_bytes

from layerstore.errors import FormatError
from layerstore.formats.tar_limits import Limits, exceeded
from layerstore.formats.tree import SIZE_MAX
from layerstore.formats.xattrs import acl_from_text, check_xattr

Records = dict[bytes, bytes]

SPARSE_PAIRS: Final = b"GNU.sparse.offset+numbytes"
"""Key under which :func:`parse_records` keeps the repeated records of sparse format 0.0."""

PLAIN_KEYS: Final = frozenset(b"path linkpath size uid gid uname gname mtime atime ctime".split())
"""Keys of records that neither carry xattrs or sparse maps nor are ever refused by name."""

_SPARSE_PAIR: Final = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
_NO_RESET: Final = frozenset((b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime"))
_GLOBAL_REFUSED: Final = _NO_RESET | {b"uname", b"gname"}
_CHARSETS: Final = (b"", b"BINARY", b"ISO-IR 10646 2000 UTF-8")
_XATTR: Final = b"SCHILY.xattr."
_XATTR_LIBARCHIVE: Final = b"LIBARCHIVE.xattr."
_ACLS: Final = {
    b"SCHILY.acl.access": b"system.posix_acl_access",
    b"SCHILY.acl.default": b"system.posix_acl_default",
}
_SELINUX: Final = b"RHT.security.selinux"
_TIME = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]*))?")
_REFUSED: Final = (b"GNU.volume.", b"SCHILY.realsize", b"SCHILY.acl.ace", b"SCHILY.filetype")
"""Records that change how a member is to be read in ways nobody else reads them."""


def parse_records(body: bytes) -> Records:
    """Return the records of one extended header.

    Raises:
        FormatError: A wrong length, a key that is empty, holds a NUL or comes twice.
    """
    records: Records = {}
    pairs: list[bytes] = []
    at, end = 0, len(body)
    while at < end:
        space = body.find(b" ", at, at + 20)
        digits = body[at:space]
        if space < 0 or not digits.isdigit():
            raise FormatError(f"pax record at byte {at} does not begin with its length")
        stop = at + int(digits)
        if stop > end or stop <= space + 1 or body[stop - 1] != 0x0A:
            raise FormatError(f"pax record at byte {at} has a wrong length {int(digits)}")
        key, equals, value = body[space + 1 : stop - 1].partition(b"=")
        if not equals or (key not in PLAIN_KEYS and (not key or b"\0" in key)):
            raise FormatError(f"pax record at byte {at} has no proper key: {key[:100]!r}")
        if key in _SPARSE_PAIR:
            _add_sparse_pair(pairs, key, value)
        elif key in records:
            raise FormatError(f"pax record {key[:100]!r} comes twice")
        records[key] = value
        at = stop
    if pairs:
        if len(pairs) % 2:
            raise FormatError("pax sparse offset without its length")
        records[SPARSE_PAIRS] = b",".join(pairs)
    return records


def _add_sparse_pair(pairs: list[bytes], key: bytes, value: bytes) -> None:
    wanted = _SPARSE_PAIR[len(pairs) % 2]
    if key != wanted:
        raise FormatError("pax sparse offsets and lengths do not alternate")
    pairs.append(value)


def check_records(records: Records) -> bool:
    """Refuse records that would make two readers see two archives; return whether all are plain.

    Raises:
        FormatError: Names the record.
    """
    if b"" in records.values():
        for key in _NO_RESET & records.keys():
            if not records[key]:
                raise FormatError(f"pax record {key.decode()} is empty")
    if records.keys() <= PLAIN_KEYS:
        return True
    if records.get(b"hdrcharset", b"") not in _CHARSETS:
        raise FormatError(f"pax character set {records[b'hdrcharset'][:100]!r}, expected UTF-8")
    for key in records:
        if key.startswith(_REFUSED):
            raise FormatError(f"pax record {key[:100]!r} is not supported")
    return False


def check_global(records: Records) -> None:
    """Refuse global records that mean something for members: readers differ on them.

    Raises:
        FormatError: Names the record.
    """
    check_records(records)
    for key in records:
        if key in _GLOBAL_REFUSED or key.startswith(
            (b"GNU.sparse.", _XATTR, _XATTR_LIBARCHIVE, b"SCHILY.acl.", _SELINUX)
        ):
            raise FormatError(f"global pax record {key[:100]!r}")


def pax_integer(text: bytes, what: str) -> int:
    """Return a decimal number of a pax record.

    Raises:
        FormatError: Anything but 1 to 20 digits.
    """
    if not text.isdigit() or len(text) > 20:
        raise FormatError(f"pax {what} {text[:100]!r} is not a number")
    return int(text)


def pax_time_ns(text: bytes) -> int:
    """Return nanoseconds of a pax time; digits beyond the ninth are cut off.

    Raises:
        FormatError: Not a decimal number, or outside of 64 bits of nanoseconds.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise FormatError(f"pax time {text[:100]!r} is not a number of seconds")
    sign, seconds, fraction = match.groups(b"")
    nanoseconds = int(seconds) * 1_000_000_000 + int((fraction + b"000000000")[:9])
    if nanoseconds > SIZE_MAX:
        raise FormatError(f"pax time {text[:100]!r} is out of range")
    return -nanoseconds if sign else nanoseconds


def xattrs_of(records: Records, limits: Limits) -> tuple[tuple[bytes, bytes], ...]:
    """Return a member's extended attributes, sorted; overlayfs's own are left out.

    The same attribute in two notations must agree.

    Raises:
        FormatError: A malformed name or value.
        LimitExceededError: Too many or too large.
    """
    found: dict[bytes, bytes] = {}
    for key, raw in records.items():
        pair = _xattr_of(key, raw)
        if pair is None:
            continue
        name, value = pair
        if found.setdefault(name, value) != value:
            raise FormatError(f"xattr {name[:100]!r} has two values")
    if len(found) > limits.xattrs:
        raise exceeded("xattrs", len(found), limits.xattrs, "extended attributes")
    total = 0
    for name, value in found.items():
        if len(value) > limits.xattr_value_bytes:
            raise exceeded(
                "xattr_value_bytes", len(value), limits.xattr_value_bytes, f"xattr {name[:100]!r}"
            )
        total += len(name) + len(value)
    if total > limits.xattr_total_bytes:
        raise exceeded("xattr_total_bytes", total, limits.xattr_total_bytes, "extended attributes")
    return tuple(pair for pair in sorted(found.items()) if check_xattr(*pair))


def _xattr_of(key: bytes, raw: bytes) -> tuple[bytes, bytes] | None:
    if key.startswith(_XATTR):
        # GNU tar escapes what would end the key: "=", and "%" itself.
        return key[len(_XATTR) :].replace(b"%3D", b"=").replace(b"%25", b"%"), raw
    if key.startswith(_XATTR_LIBARCHIVE):
        return _libarchive_xattr(key[len(_XATTR_LIBARCHIVE) :], raw)
    if key == _SELINUX:
        return b"security.selinux", raw.rstrip(b"\0") + b"\0"
    if key in _ACLS and raw:
        return _ACLS[key], acl_from_text(raw)
    return None


def _libarchive_xattr(quoted: bytes, text: bytes) -> tuple[bytes, bytes]:
    try:
        # libarchive writes base64 without padding.
        return unquote_to_bytes(quoted), base64.b64decode(text + b"=" * (-len(text) % 4), b"+/")
    except binascii.Error as err:
        raise FormatError(f"xattr {quoted[:100]!r} is not base64: {err}") from err
