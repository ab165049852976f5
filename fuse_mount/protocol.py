"""The messages of /dev/fuse as values: requests in, answers out, by linux/fuse.h.

Pure: no descriptor is touched here. Numbers are the host's own byte order, lengths are
checked before a field is read, and what is too short or has no terminator is a
:class:`MalformedRequestError`. Only what a read-only tree is asked for is described;
everything else is answered with ENOSYS, which the kernel knows how to take.

Source: linux/fuse.h, protocol 7.31 (Linux 5.4) and later; Documentation/filesystems/fuse.rst.
"""

from __future__ import annotations

import enum
import os
import stat
import struct
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import FormatError

if TYPE_CHECKING:
    from layerstore.vfs.view import Attributes, Totals

MAJOR = 7
MINOR = 40
"""What is spoken at most; a kernel of another minor version speaks the lower one."""

MINOR_MIN = 31
"""Linux 5.4: older kernels lay out some messages differently or lack OPENDIR without handles."""

ROOT = 1
"""The node id of the root."""

REQUEST_MAX_BYTES = 64 * 1024
"""A read of the device takes one request; longer ones the kernel fails by itself (EIO). The
longest that a read-only tree is asked for holds one name."""

READ_MAX_PAGES = 256
"""1 MiB: what a sequential reader is given at once."""

DAY_S = 86_400
"""How long the kernel may remember names and attributes: images never change."""

NOTIFY_RESEND = 7
"""The notification that asks for all requests that are read and not answered (Linux 6.9)."""


class MalformedRequestError(FormatError):
    """A request is shorter than its kind is, or has no end."""


class Opcode(enum.IntEnum):
    """What is asked for; the numbers are the kernel's."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    READLINK = 5
    OPEN = 14
    READ = 15
    STATFS = 17
    GETXATTR = 22
    LISTXATTR = 23
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    INTERRUPT = 36
    DESTROY = 38
    IOCTL = 39
    BATCH_FORGET = 42
    READDIRPLUS = 44
    LSEEK = 46


UNANSWERED = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT})
"""An answer to these is an error: the kernel waits for none."""


class Flag(enum.IntFlag):
    """What the two sides agree on in INIT; the upper 32 bits travel apart."""

    ASYNC_READ = 1 << 0
    EXPORT_SUPPORT = 1 << 4
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    POSIX_ACL = 1 << 20
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    INIT_EXT = 1 << 30
    HAS_RESEND = 1 << 39
    ALLOW_IDMAP = 1 << 40


REQUIRED = Flag.NO_OPEN_SUPPORT | Flag.NO_OPENDIR_SUPPORT
"""Without these files would have to be opened, and a new server would not know the handles."""

WANTED = (
    REQUIRED
    | Flag.ASYNC_READ
    | Flag.EXPORT_SUPPORT
    | Flag.DO_READDIRPLUS
    | Flag.READDIRPLUS_AUTO
    | Flag.PARALLEL_DIROPS
    | Flag.MAX_PAGES
    | Flag.CACHE_SYMLINKS
    | Flag.INIT_EXT
    | Flag.HAS_RESEND
    | Flag.ALLOW_IDMAP
)

# struct fuse_in_header: len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding.
HEADER = struct.Struct("=IIQQIIIHH")
# struct fuse_out_header: len, error, unique.
ANSWER = struct.Struct("=IiQ")

_INIT_IN = struct.Struct("=IIIII")  # major, minor, max_readahead, flags, flags2
_INIT_IN_SHORT = struct.Struct("=IIII")
# major, minor, max_readahead, flags, max_background, congestion_threshold, max_write,
# time_gran, max_pages, map_alignment, flags2, then 7 unused words.
_INIT_OUT = struct.Struct("=IIIIHHIIHHI28x")
_READ_IN = struct.Struct("=QQII")  # fh, offset, size, read_flags; more follows
_XATTR_IN = struct.Struct("=II")  # size, padding
_LSEEK_IN = struct.Struct("=QQII")  # fh, offset, whence, padding
_LSEEK_OUT = struct.Struct("=Q")
_STATFS_OUT = struct.Struct("=QQQQQIII28x")  # blocks, bfree, bavail, files, ffree, sizes
_XATTR_OUT = struct.Struct("=II")

# struct fuse_attr: ino, size, blocks, times, their nanoseconds, mode, nlink, uid, gid, rdev,
# blksize, flags. Times are signed in all but name.
_ATTR = "QQQqqqIIIIIIIIII"
_ATTR_OUT = struct.Struct(f"=QII{_ATTR}")  # attr_valid, attr_valid_nsec, dummy
# struct fuse_entry_out: nodeid, generation, entry_valid, attr_valid, their nanoseconds.
_ENTRY_OUT = struct.Struct(f"=QQQQII{_ATTR}")
_DIRENT = struct.Struct("=QQII")  # ino, off, namelen, type; the name follows
_DIRENT_PLUS = struct.Struct(f"=QQQQII{_ATTR}QQII")
_NO_ENTRY = bytes(_ENTRY_OUT.size)

_PADDING = tuple(bytes(count) for count in (0, 7, 6, 5, 4, 3, 2, 1))
_NANO = 1_000_000_000
_NAME_MAX_BYTES = 255
_BLOCK_BYTES = 4096
_MAX_WRITE_BYTES = 4096
_LOW = 0xFFFF_FFFF


class ReadRequest(NamedTuple):
    """A piece of a file, or of a directory (there the offset is a cookie)."""

    offset: int
    size: int


class InitRequest(NamedTuple):
    """What the kernel offers."""

    major: int
    minor: int
    max_readahead: int
    flags: Flag


Buffer = bytes | bytearray | memoryview


def parse_header(buffer: Buffer, count: int) -> tuple[int, int, int]:
    """Return opcode, unique number and node id of what one read of the device gave.

    Raises:
        MalformedRequestError: It is no request.
    """
    if count < HEADER.size:
        raise MalformedRequestError(f"a request of {count} bytes has no header")
    length, opcode, unique, node, _, _, _, _, _ = HEADER.unpack_from(buffer)
    if length != count:
        raise MalformedRequestError(f"a request says it has {length} bytes and has {count}")
    return opcode, unique, node


def _unpack(layout: struct.Struct, buffer: Buffer, length: int) -> tuple[int, ...]:
    if length < HEADER.size + layout.size:
        raise MalformedRequestError(f"a request of {length} bytes is too short for its kind")
    return layout.unpack_from(buffer, HEADER.size)


def parse_init(buffer: Buffer, length: int) -> InitRequest:
    """Return what the kernel offers.

    Raises:
        MalformedRequestError: It is too short.
    """
    major, minor, readahead, low = _unpack(_INIT_IN_SHORT, buffer, length)
    flags = Flag(low)
    if flags & Flag.INIT_EXT:
        flags |= Flag(_unpack(_INIT_IN, buffer, length)[4] << 32)
    return InitRequest(major, minor, readahead, flags)


def parse_read(buffer: Buffer, length: int) -> ReadRequest:
    """Return which piece READ, READDIR or READDIRPLUS wants.

    Raises:
        MalformedRequestError: It is too short.
    """
    _, offset, size, _ = _unpack(_READ_IN, buffer, length)
    return ReadRequest(offset, min(size, READ_MAX_PAGES * _BLOCK_BYTES))


def parse_name(buffer: Buffer, length: int, start: int = 0) -> bytes:
    """Return the name that a request ends with.

    Args:
        buffer: Holds the request.
        length: The request's.
        start: Bytes between the header and the name.

    Raises:
        MalformedRequestError: There is none, or it does not end.
    """
    name = bytes(buffer[HEADER.size + start : length])
    if len(name) < 2 or name[-1]:
        raise MalformedRequestError("a request lacks its name")
    # Extensions may follow a name; its own end is what counts.
    return name.partition(b"\0")[0]


def parse_xattr(buffer: Buffer, length: int) -> tuple[int, bytes]:
    """Return for how many bytes there is room, and the attribute's name.

    Raises:
        MalformedRequestError: It is too short or has no name.
    """
    room, _ = _unpack(_XATTR_IN, buffer, length)
    return room, parse_name(buffer, length, _XATTR_IN.size)


def parse_xattr_list(buffer: Buffer, length: int) -> int:
    """Return for how many bytes of names there is room.

    Raises:
        MalformedRequestError: It is too short.
    """
    return _unpack(_XATTR_IN, buffer, length)[0]


def parse_seek(buffer: Buffer, length: int) -> tuple[int, int]:
    """Return offset and whence of LSEEK.

    Raises:
        MalformedRequestError: It is too short.
    """
    _, offset, whence, _ = _unpack(_LSEEK_IN, buffer, length)
    return offset, whence


def answer(unique: int, size: int, code: int = 0) -> bytes:
    """Return the header of an answer.

    Args:
        unique: The request's.
        size: Bytes that follow.
        code: A positive errno, or 0.
    """
    return ANSWER.pack(ANSWER.size + size, -code, unique)


def resend() -> bytes:
    """Return the notification that asks the kernel for everything unanswered again."""
    return ANSWER.pack(ANSWER.size, NOTIFY_RESEND, 0)


def init_answer(offered: InitRequest, *, acls: bool) -> bytes:
    """Return what we agree to.

    Args:
        offered: What the kernel said.
        acls: Whether it shall obey the POSIX ACLs of files.
    """
    flags = offered.flags & (WANTED | Flag.POSIX_ACL if acls else WANTED)
    return _INIT_OUT.pack(
        MAJOR,
        min(MINOR, offered.minor) if offered.major == MAJOR else MINOR,
        offered.max_readahead,
        flags & _LOW,
        0,
        0,
        _MAX_WRITE_BYTES,
        1,
        READ_MAX_PAGES,
        0,
        flags >> 32,
    )


def _attr(found: Attributes, node: int) -> tuple[int, ...]:
    seconds, nanoseconds = divmod(found.mtime_ns, _NANO)
    return (
        node, found.size, found.blocks, seconds, seconds, seconds,
        nanoseconds, nanoseconds, nanoseconds, found.mode, found.nlink, found.uid, found.gid,
        _device(found.rdev) if found.rdev else 0, _BLOCK_BYTES, 0,
    )  # fmt: skip


def _device(rdev: int) -> int:
    """Return a device number as the kernel packs it into 32 bits (new_encode_dev)."""
    major, minor = os.major(rdev), os.minor(rdev)
    return (minor & 0xFF) | (major & 0xFFF) << 8 | (minor & 0xFFF00) << 12


def attributes_answer(node: int, found: Attributes) -> bytes:
    """Return what GETATTR is answered with."""
    return _ATTR_OUT.pack(DAY_S, 0, 0, *_attr(found, node))


def entry_answer(node: int, found: Attributes) -> bytes:
    """Return what LOOKUP is answered with."""
    return _ENTRY_OUT.pack(node, 0, DAY_S, DAY_S, 0, 0, *_attr(found, node))


def absent_answer() -> bytes:
    """Return what LOOKUP is answered with for names that will never be there."""
    return _ENTRY_OUT.pack(0, 0, DAY_S, *(0,) * (3 + 16))


def listing_entry(name: bytes, node: int, mode: int, cookie: int) -> bytes:
    """Return one name of READDIR.

    Args:
        name: At most 255 bytes.
        node: Its id.
        mode: Holds its type.
        cookie: From where a later request goes on behind it.
    """
    size = len(name)
    return _DIRENT.pack(node, cookie, size, stat.S_IFMT(mode) >> 12) + name + _PADDING[size & 7]


def listing_entry_plus(name: bytes, node: int, found: Attributes, cookie: int) -> bytes:
    """Return one name of READDIRPLUS: it counts as looked up."""
    size = len(name)
    return (
        _DIRENT_PLUS.pack(
            node, 0, DAY_S, DAY_S, 0, 0, *_attr(found, node),
            node, cookie, size, stat.S_IFMT(found.mode) >> 12,
        )
        + name + _PADDING[size & 7]
    )  # fmt: skip


def listing_dots_plus(name: bytes, node: int, cookie: int) -> bytes:
    """Return ``.`` or ``..`` of READDIRPLUS: without attributes, they are never looked up."""
    return _NO_ENTRY + listing_entry(name, node, stat.S_IFDIR, cookie)


def totals_answer(totals: Totals) -> bytes:
    """Return what STATFS is answered with."""
    blocks = -(-totals.content_bytes // _BLOCK_BYTES)
    return _STATFS_OUT.pack(
        blocks, 0, 0, totals.inodes, 0, _BLOCK_BYTES, _NAME_MAX_BYTES, _BLOCK_BYTES
    )


def xattr_size_answer(size: int) -> bytes:
    """Return what GETXATTR and LISTXATTR are answered with if they ask for a length."""
    return _XATTR_OUT.pack(size, 0)


def seek_answer(offset: int) -> bytes:
    """Return what LSEEK is answered with."""
    return _LSEEK_OUT.pack(offset)
