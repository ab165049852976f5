"""What stands in metadata images, as :mod:`layerstore.formats.erofs` writes them.

Only for images that were verified: nothing is checked here.
"""

from __future__ import annotations

import struct

from layerstore.formats.erofs import BLOCK_BYTES, SUPER_OFFSET, Known
from layerstore.light_typing import NamedTuple

DIRECTORY = 2
"""The type of a directory, as directories say it."""

_ROOT = struct.Struct("<H")
_ROOT_OFFSET = SUPER_OFFSET + 14
_INODE = struct.Struct("<HHHHQIIIIQII16x")
_DIRENT = struct.Struct("<QHBB")
_SLOT_BYTES = 32
_INLINE = 2 << 1
_LAYOUT = 7 << 1
_XATTR_HEAD_BYTES = 12
_SIGNED_64 = 1 << 63


class ReadInode(NamedTuple):
    """An inode.

    Attributes:
        mode: With the file type.
        mtime_ns: Nanoseconds since the epoch.
        nlink: Names it has.
        size: Bytes of its data.
        ino: The number that it shows.
        xattrs: Its attributes, encoded.
        begin: Where the whole blocks of its data begin.
        tail: Where the rest of it does, behind the inode; 0 if it lies in blocks, too.
    """

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    nlink: int
    size: int
    ino: int
    xattrs: bytes
    begin: int
    tail: int


def root_of(image: bytearray) -> int:
    """Return the number of the root."""
    (nid,) = _ROOT.unpack_from(image, _ROOT_OFFSET)
    return int(nid)


def read_inode(image: bytearray, nid: int) -> ReadInode:
    """Return an inode by its number."""
    at = nid * _SLOT_BYTES
    format_, count, mode, _, size, where, ino, uid, gid, seconds, nanoseconds, nlink = (
        _INODE.unpack_from(image, at)
    )
    seconds -= (seconds & _SIGNED_64) << 1
    at += _INODE.size
    end = at + (_XATTR_HEAD_BYTES + 4 * (count - 1) if count else 0)
    tail = end if format_ & _LAYOUT == _INLINE else 0
    mtime_ns = seconds * 1_000_000_000 + nanoseconds
    xattrs = bytes(image[at:end])
    return ReadInode(mode, uid, gid, mtime_ns, nlink, size, ino, xattrs, where * BLOCK_BYTES, tail)


def names_of(image: bytearray, directory: ReadInode) -> dict[bytes, Known]:
    """Return the names of a directory without ``.`` and ``..``, in byte order."""
    found: dict[bytes, Known] = {}
    for done in range(0, directory.size, BLOCK_BYTES):
        length = min(BLOCK_BYTES, directory.size - done)
        inline = directory.tail and length < BLOCK_BYTES
        at = directory.tail if inline else directory.begin + done
        found.update(_block(bytes(image[at : at + length])))
    del found[b"."], found[b".."]
    return found


def _block(block: bytes) -> dict[bytes, Known]:
    (_, first, _, _) = _DIRENT.unpack_from(block)
    heads = list(_DIRENT.iter_unpack(block[:first]))
    ends = [head[1] for head in heads[1:]]
    ends.append(len(block))
    return {
        block[begin:end].rstrip(b"\0"): Known(nid, kind)
        for (nid, begin, kind, _), end in zip(heads, ends, strict=True)
    }
