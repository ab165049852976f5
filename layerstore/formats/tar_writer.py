"""The canonical tar of a changeset: one sequence of bytes for one tree, for ever.

Layers that are built here have the digest of this tar as their diff ID, so what this
module writes is part of the format: every change of a byte is a new recipe format.
Headers are ustar, with pax records only where ustar cannot say it.

Format: docs/format/tar.md, "The canonical tar".
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Final

from layerstore.formats.tar_headers import BLOCK_BYTES, POSIX_MAGIC, sum_of_bytes
from layerstore.formats.tree import DIR, Kind, path_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from layerstore.formats.tree import Changeset, Entry

WHITEOUT_PREFIX: Final = b".wh."
OPAQUE_NAME: Final = b".wh..wh..opq"
TAR_END: Final = bytes(2 * BLOCK_BYTES)

_NAME_BYTES = 100
_PREFIX_BYTES = 155
_OCTAL_7_MAX = 0o7777777
_OCTAL_11_MAX = 0o77777777777
_NS = 1_000_000_000
_BLANK_SUM = 8 * ord(" ")
_TYPEFLAGS: Final = {
    Kind.FILE: b"0",
    Kind.HARDLINK: b"1",
    Kind.SYMLINK: b"2",
    Kind.CHAR: b"3",
    Kind.BLOCK: b"4",
    Kind.DIR: b"5",
    Kind.FIFO: b"6",
}
_MAGIC = POSIX_MAGIC + b"00"
_PAX_NAME = b"PaxHeaders"
_ESCAPED = re.compile(rb"%(?=25|3D)")
_SPARSE_NAME = b"GNUSparseFile.0/"
_CACHED_FIELDS = 1024


def padding(size: int) -> bytes:
    """Return the zeros that fill content of ``size`` bytes up to a whole block."""
    return bytes(-size % BLOCK_BYTES)


def member_header(entry: Entry) -> bytes:
    """Return all header blocks of an entry: everything before its content."""
    if entry.extents and any(chunk is None for _, chunk in entry.extents):
        return _sparse_header(entry, regions_of(entry))
    name = entry.path or b"."
    if entry.kind is DIR:
        name += b"/"
    return _plain_blocks(entry, name) or _blocks(entry, name, entry.size, {})


def sparse_member_header(entry: Entry, regions: Sequence[tuple[int, int]]) -> bytes:
    """Return the header blocks of a file whose extents are not known yet.

    Args:
        entry: The file; its extents are not looked at.
        regions: (offset, length) of its data; they leave at least one hole.
    """
    return _sparse_header(entry, list(regions))


def whiteout_header(path: bytes) -> bytes:
    """Return the whole member that removes ``path`` from lower layers."""
    head, slash, name = path.rpartition(b"/")
    return _marker(head + slash + WHITEOUT_PREFIX + name)


def opaque_header(path: bytes) -> bytes:
    """Return the whole member that hides lower children of the directory ``path``."""
    return _marker(path + b"/" + OPAQUE_NAME if path else OPAQUE_NAME)


def regions_of(entry: Entry) -> list[tuple[int, int]]:
    """Return the (offset, length) of a file's data, extents that touch joined."""
    regions: list[tuple[int, int]] = []
    offset = 0
    for length, chunk in entry.extents:
        if chunk is not None:
            if regions and sum(regions[-1]) == offset:
                regions[-1] = (regions[-1][0], regions[-1][1] + length)
            else:
                regions.append((offset, length))
        offset += length
    return regions


def stored_size(entry: Entry) -> int:
    """Return the bytes of content a file has in a tar: its size without holes."""
    return sum(length for length, chunk in entry.extents if chunk is not None)


def canonical_members(changeset: Changeset) -> Iterator[tuple[bytes, Entry | None]]:
    """Yield (header blocks, the entry whose content follows or None) in canonical order.

    After a content come :func:`padding` bytes; after the last member :data:`TAR_END`.
    In each directory its opaque marker comes first, then whiteouts, then entries, so
    that a reader that applies member by member never removes what this layer brings.
    """
    for header, entry in in_canonical_order(changeset):
        if header is None:
            assert entry is not None
            yield member_header(entry), entry if entry.kind is Kind.FILE else None
        else:
            yield header, None


def in_canonical_order(changeset: Changeset) -> Iterator[tuple[bytes | None, Entry | None]]:
    """Yield an entry, or the whole member of a whiteout, in the order of the canonical tar."""
    if not changeset.whiteouts and not changeset.opaques:
        yield from ((None, entry) for entry in changeset.entries)
        return
    rows: list[tuple[bytes, bytes | None, Entry | None]] = [
        (path_key(entry.path), None, entry) for entry in changeset.entries
    ]
    for path in changeset.whiteouts:
        head, _, name = path.rpartition(b"/")
        rows.append((_marker_key(head, b"\1" + name), whiteout_header(path), None))
    rows += [(_marker_key(path, b""), opaque_header(path), None) for path in changeset.opaques]
    rows.sort(key=lambda row: row[0])
    yield from ((header, entry) for _, header, entry in rows)


def _marker_key(directory: bytes, suffix: bytes) -> bytes:
    # No name is empty or holds a NUL, so a second NUL sorts markers before all children.
    key = path_key(directory)
    return (key + b"\0\0" if key else b"\0") + suffix


def _sparse_header(entry: Entry, regions: list[tuple[int, int]]) -> bytes:
    stored = sum(length for _, length in regions)
    if not regions or sum(regions[-1]) != entry.size:
        # An empty region at the end tells readers how far the file reaches, as GNU tar does.
        regions = [*regions, (entry.size, 0)]
    numbers = [len(regions), *(number for region in regions for number in region)]
    text = b"".join(b"%d\n" % number for number in numbers)
    text += padding(len(text))
    records = {
        b"GNU.sparse.major": b"1",
        b"GNU.sparse.minor": b"0",
        b"GNU.sparse.name": entry.path,
        b"GNU.sparse.realsize": b"%d" % entry.size,
    }
    name = _SPARSE_NAME + entry.path.rpartition(b"/")[2]
    return _blocks(entry, name[:_NAME_BYTES], len(text) + stored, records) + text


def _plain_blocks(entry: Entry, name: bytes) -> bytes | None:
    """Return what :func:`_blocks` does of a file or directory that only its time sets apart.

    Nearly every entry is one; for others, None.
    """
    size, uid, gid = entry.size, entry.uid, entry.gid
    seconds, nanoseconds = divmod(entry.mtime_ns, _NS)
    if (
        entry.target
        or entry.xattrs
        or len(name) > _NAME_BYTES
        or uid > _OCTAL_7_MAX
        or gid > _OCTAL_7_MAX
        or size > _OCTAL_11_MAX
        or not 0 <= seconds <= _OCTAL_11_MAX
    ):
        return None
    owner, owner_sum = _owner_fields(entry.mode, uid, gid)
    rest, rest_sum = _rest_fields(
        _TYPEFLAGS[entry.kind], b"", entry.dev_major, entry.dev_minor, b""
    )
    numbers = b"%011o\0%011o\0" % (size, seconds)
    total = sum_of_bytes(name + numbers) + owner_sum + rest_sum + _BLANK_SUM
    block = b"%b%b%b%06o\0 %b" % (name.ljust(_NAME_BYTES, b"\0"), owner, numbers, total, rest)
    if not nanoseconds:
        return block
    time = (b"%d.%09d" % (seconds, nanoseconds)).rstrip(b"0")
    record = b"%d mtime=%b\n" % (len(time) + 10, time)  # ten bytes around it: it has 3 to 21
    return _pax_header(len(record)) + record.ljust(BLOCK_BYTES, b"\0") + block


def _blocks(entry: Entry, name: bytes, size: int, records: dict[bytes, bytes]) -> bytes:
    """Return the ustar block of an entry, after a pax header when it needs records."""
    name_field, prefix = name, b""
    if len(name) > _NAME_BYTES:
        split = _split(name)
        if split is None:
            records[b"path"] = name
            name_field = name[:_NAME_BYTES]
        else:
            prefix, name_field = split
    target = entry.target
    if len(target) > _NAME_BYTES:
        records[b"linkpath"] = target
        target = target[:_NAME_BYTES]
    uid, gid, size_field = entry.uid, entry.gid, size
    if uid > _OCTAL_7_MAX or gid > _OCTAL_7_MAX or size > _OCTAL_11_MAX:
        uid = _number(uid, _OCTAL_7_MAX, b"uid", records)
        gid = _number(gid, _OCTAL_7_MAX, b"gid", records)
        size_field = _number(size, _OCTAL_11_MAX, b"size", records)
    seconds, nanoseconds = divmod(entry.mtime_ns, _NS)
    if nanoseconds or not 0 <= seconds <= _OCTAL_11_MAX:
        records[b"mtime"] = _time(entry.mtime_ns)
        seconds = min(max(seconds, 0), _OCTAL_11_MAX)
    for key, value in entry.xattrs:
        if b"=" in key or b"%" in key:
            # A record's key ends at its first "=". GNU tar reads these two escapes; Go's
            # tar reads none, so nothing is escaped that need not be.
            key = _ESCAPED.sub(b"%25", key).replace(b"=", b"%3D")
        records[b"SCHILY.xattr." + key] = value
    block = _block(
        name_field,
        entry.mode,
        uid,
        gid,
        size_field,
        seconds,
        _TYPEFLAGS[entry.kind],
        target,
        entry.dev_major,
        entry.dev_minor,
        prefix,
    )
    return _pax(records) + block if records else block


def _number(value: int, largest: int, key: bytes, records: dict[bytes, bytes]) -> int:
    if value <= largest:
        return value
    records[key] = b"%d" % value
    return 0


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """Return (prefix, name) at the first slash that leaves at most 100 bytes of name."""
    slash = name.find(b"/", len(name) - _NAME_BYTES - 1)
    if slash <= 0 or slash > _PREFIX_BYTES or slash == len(name) - 1:
        return None
    return name[:slash], name[slash + 1 :]


def _time(mtime_ns: int) -> bytes:
    seconds, nanoseconds = divmod(abs(mtime_ns), _NS)
    text = b"%d.%09d" % (seconds, nanoseconds) if nanoseconds else b"%d" % seconds
    return (b"-" if mtime_ns < 0 else b"") + (text.rstrip(b"0") if nanoseconds else text)


def _pax(records: dict[bytes, bytes]) -> bytes:
    body = b"".join([_record(key, records[key]) for key in sorted(records)])
    return _pax_header(len(body)) + body + padding(len(body))


@functools.lru_cache(_CACHED_FIELDS)
def _pax_header(size: int) -> bytes:
    return _block(_PAX_NAME, 0o644, 0, 0, size, 0, b"x", b"", 0, 0, b"")


def _record(key: bytes, value: bytes) -> bytes:
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def _marker(path: bytes) -> bytes:
    records: dict[bytes, bytes] = {}
    name, prefix = path, b""
    if len(path) > _NAME_BYTES:
        split = _split(path)
        if split is None:
            records[b"path"] = path
            name = path[:_NAME_BYTES]
        else:
            prefix, name = split
    block = _block(name, 0, 0, 0, 0, 0, b"0", b"", 0, 0, prefix)
    return _pax(records) + block if records else block


def _block(
    name: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    typeflag: bytes,
    linkname: bytes,
    major: int,
    minor: int,
    prefix: bytes,
) -> bytes:
    owner, owner_sum = _owner_fields(mode, uid, gid)
    rest, rest_sum = _rest_fields(typeflag, linkname, major, minor, prefix)
    numbers = b"%011o\0%011o\0" % (size, mtime)
    total = sum_of_bytes(name) + owner_sum + sum_of_bytes(numbers) + rest_sum + _BLANK_SUM
    return b"%b%b%b%06o\0 %b" % (name.ljust(_NAME_BYTES, b"\0"), owner, numbers, total, rest)


# Few owners and next to no links: most headers find these parts ready, with their sums.


@functools.lru_cache(_CACHED_FIELDS)
def _owner_fields(mode: int, uid: int, gid: int) -> tuple[bytes, int]:
    fields = b"%07o\0%07o\0%07o\0" % (mode, uid, gid)
    return fields, sum_of_bytes(fields)


@functools.lru_cache(_CACHED_FIELDS)
def _rest_fields(
    typeflag: bytes, linkname: bytes, major: int, minor: int, prefix: bytes
) -> tuple[bytes, int]:
    """Return what follows the checksum."""
    fields = b"%b%b%b%b%07o\0%07o\0%b" % (
        typeflag,
        linkname.ljust(_NAME_BYTES, b"\0"),
        _MAGIC,
        bytes(64),
        major,
        minor,
        prefix.ljust(167, b"\0"),
    )
    return fields, sum(fields)
