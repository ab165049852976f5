"""EROFS images of metadata alone: what a kernel needs to show a tree whose content lies elsewhere.

EROFS is the read-only file system of Linux. An image written here holds directories,
symlinks, devices and attributes; a regular file has its size and a hole for content. An
overlay mount fills the hole: each file carries the overlay attributes that redirect its data
to a file of a data-only lower layer (overlayfs.rst, "Data-only lower layers"). Different
images that name the same data file share its page cache.

Images of packs (:mod:`layerstore.formats.erofs_packs`) are written here, too: their files are
compressed, and what they are compressed into lies on a second device, a pack.

Only what these uses need is written: 4 KiB blocks, extended inodes, chunk-based holes or maps of
compressed files, attributes inline or shared. Normative: docs/format/erofs.md. Source: Linux,
fs/erofs/erofs_fs.h, and Documentation/filesystems/erofs.rst.
"""

from __future__ import annotations

import os
import stat
import struct

from layerstore.formats.erofs_sums import crc32c
from layerstore.formats.erofs_xattrs import XattrEncoder, has_acl, xattr_count
from layerstore.light_typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import BinaryIO, Final

    from layerstore.formats.erofs_xattrs import Xattrs

BLOCK_BYTES: Final = 4096
MAGIC: Final = 0xE0F5E1E2
SUPER_OFFSET: Final = 1024
NAME_MAX_BYTES: Final = 255
_WITHOUT_ACLS: Final = b"no-acl".ljust(16, b"\0")
"""Volume name of an image none of whose inodes has a POSIX ACL."""
_NAME_OFFSET: Final = SUPER_OFFSET + 64
HEAD_BYTES: Final = _NAME_OFFSET + len(_WITHOUT_ACLS)
"""So much of an image's beginning :func:`has_no_acls` looks at."""

"""The size of a value is 16 bits wide, so a value of 65,536 bytes has no place."""

_SUPER = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQB23s")
_INODE = struct.Struct("<HHHHQIIIIQII16s")
_TIME = struct.Struct("<QI")
_TIME_OFFSET: Final = 32
"""Of an inode's time in it."""
_CHECKSUM = struct.Struct("<I")
_CHECKSUM_OFFSET: Final = SUPER_OFFSET + 4
_UUID_OFFSET: Final = SUPER_OFFSET + 48
_INOS, _INOS_OFFSET = struct.Struct("<Q"), 16
_BLOCKS, _BLOCKS_OFFSET = struct.Struct("<I"), 36
_SHARED_BLOCK_OFFSET: Final = SUPER_OFFSET + 44
_DIRENT = struct.Struct("<QHBB")
_HOLE = struct.pack("<I", 0xFFFF_FFFF)
_HOLE_BYTES: Final = len(_HOLE)

_SLOT_BYTES: Final = 32
_COMPAT_CHECKSUM: Final = 0x1
_COMPAT_MTIME: Final = 0x2
_COMPAT_XATTR_FILTER: Final = 0x4
_INCOMPAT_CHUNKED_FILE: Final = 0x4
_INCOMPAT_BACKED: Final = 0x1 | 0x2 | 0x8 | 0x20 | 0x80
"""Zero padding, compression configurations, device table, fragments, 48-bit layout."""

_EXTENDED: Final = 1
_FLAT_PLAIN, _COMPRESSED, _FLAT_INLINE, _CHUNK_BASED = 0 << 1, 1 << 1, 2 << 1, 4 << 1
_CHUNK_BITS_MAX: Final = 31
_ONE_CHUNK_MAX_BYTES: Final = BLOCK_BYTES << _CHUNK_BITS_MAX
_U32: Final = 0xFFFF_FFFF
_U64_MAX: Final = (1 << 64) - 1
_SUPER_END: Final = SUPER_OFFSET + 128

ZSTD: Final = 3
"""The number of an algorithm in EROFS."""

DEVICE_BLOCK: Final = 1 << 20
"""Where the second device begins among the blocks of both: images are smaller than 4 GiB."""

_ZSTD_CONFIG = struct.Struct("<HBB4x")
_ZSTD_WINDOW_LOG: Final = 20
_DEVICE = struct.Struct("<64sIIIH50x")
_DEVICE_OFFSET: Final = 10 * _DEVICE.size

_FILE_TYPES: Final = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}


class Inode(NamedTuple):
    """One inode of the image.

    Attributes:
        mode: With the file type, as in ``st_mode``.
        mtime_ns: Nanoseconds since the epoch, 0 or later.
        nlink: Names it has; for directories as stat(2) counts them.
        size: Bytes of a regular file, whose content is a hole unless it has a map; ignored for
            others.
        rdev: Device number of a character or block device, as in ``st_rdev``.
        target: Of a symlink.
        xattrs: Name and value pairs.
        children: Of a directory: name and index of the inode, sorted by name, without ``.``
            and ``..``.
        parent: Of a directory: index of the directory above, of the root its own.
        map: Of a compressed file: what follows its inode and says where its content lies. It
            has no attributes then.
        content: Of a regular file whose bytes lie in the image itself, as many as its size.
    """

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    nlink: int
    size: int = 0
    rdev: int = 0
    target: bytes = b""
    xattrs: Xattrs = ()
    children: Sequence[tuple[bytes, int]] = ()
    parent: int = 0
    map: bytes = b""
    content: bytes | None = None


class Known(NamedTuple):
    """An inode that an image has already.

    Attributes:
        nid: Its number.
        type: Its type, as directories say it.
    """

    nid: int
    type: int


class Changed(NamedTuple):
    """A directory without attributes that an image has already, and that is to be another.

    Attributes:
        inode: What it is from now on; without attributes, too, for which there is no room.
        nid: Its number.
        ino: The number that it shows.
    """

    inode: Inode
    nid: int
    ino: int


class Backing(NamedTuple):
    """Where the content of compressed files comes from.

    Attributes:
        packed: Index of the inode that has the content of all others end to end.
        blocks: Blocks of the second device.
    """

    packed: int
    blocks: int


class _Place(NamedTuple):
    """Where an inode lies.

    Attributes:
        nid: Its number, which is its place in 32-byte slots.
        block: Where data that does not lie behind the inode begins, 0 if there is none.
        layout: How the data lies.
    """

    nid: int
    block: int
    layout: int


def write_image(
    inodes: Sequence[Inode],
    out: BinaryIO,
    *,
    uuid: bytes = bytes(16),
    backing: Backing | None = None,
) -> int:
    """Write an image of inodes; return its size in bytes. All else as :func:`encode_image`."""
    image = encode_image(inodes, uuid=uuid, backing=backing)
    out.write(image)
    return len(image)


def encode_image(
    inodes: Sequence[Inode],
    *,
    uuid: bytes = bytes(16),
    backing: Backing | None = None,
    offsets: list[int] | None = None,
) -> bytearray:
    """Return an image of inodes, the first of which is the root.

    Equal inodes give equal images.

    Args:
        inodes: All inodes; directories name theirs by index into this sequence.
        uuid: 16 bytes that name the image.
        backing: Of an image with compressed files.
        offsets: Gets where each inode lies, for :func:`retime`.

    Raises:
        FormatError: EROFS has no place for an attribute: its value takes 65,536 bytes, it is
            of a name space that EROFS does not know, or an inode has too many.
    """
    xattrs = XattrEncoder(inode.xattrs for inode in inodes)
    bodies = [xattrs.encoded(inode.xattrs) for inode in inodes]
    sizes = [_data_bytes(inodes, index) for index in range(len(inodes))]
    heads = [_INODE.size + len(body) for body in bodies]
    start = _SUPER_END if backing is None else _DEVICE_OFFSET + _DEVICE.size
    layout = _Layout(inodes, heads, sizes, start)
    image = bytearray(layout.end_block(len(xattrs.table)) * BLOCK_BYTES)
    writer = _Writer(image, inodes, layout.places, layout.first_block(len(xattrs.table)))
    for index, (body, size) in enumerate(zip(bodies, sizes, strict=True)):
        writer.put(index, body, size)
    at = layout.shared_block * BLOCK_BYTES
    image[at : at + len(xattrs.table)] = xattrs.table
    fields = _super_fields(image, layout, inodes, uuid, backing)
    if backing is not None:
        _put_backing(image, backing)
    _SUPER.pack_into(image, SUPER_OFFSET, MAGIC, 0, *fields)
    checksum = crc32c(bytes(image[SUPER_OFFSET:BLOCK_BYTES]))
    _SUPER.pack_into(image, SUPER_OFFSET, MAGIC, checksum, *fields)
    if offsets is not None:
        offsets += [place.nid * _SLOT_BYTES for place in layout.places]
    return image


def append_inodes(
    image: bytearray,
    new: Sequence[Inode],
    changed: Sequence[Changed],
    known: Sequence[Known],
    *,
    uuid: bytes,
) -> None:
    """Make an image one that has further inodes: everything that is there stays where it is.

    Directories name theirs, and their parents, by index into new, changed, and known ones, end
    to end. What is written over is the superblock and the changed inodes; their names and all
    that is new come behind the end.

    Args:
        image: As :func:`encode_image` or this returned it; without a second device.
        new: What it gets.
        changed: What is otherwise from now on.
        known: What these lead to.
        uuid: 16 bytes that name the new image.

    Raises:
        FormatError: As :func:`encode_image`.
    """
    inodes = [*new, *(one.inode for one in changed)]
    (count,) = _INOS.unpack_from(image, SUPER_OFFSET + _INOS_OFFSET)
    (shared_block,) = _BLOCKS.unpack_from(image, _SHARED_BLOCK_OFFSET)
    xattrs = XattrEncoder.of(image, shared_block * BLOCK_BYTES)
    bodies = [xattrs.encoded(inode.xattrs) for inode in inodes]
    sizes = [_data_bytes(inodes, index) for index in range(len(inodes))]
    heads = [_INODE.size + len(body) for body in bodies]
    layout = _Layout(new, heads, sizes, len(image))
    places = [
        *layout.places,
        *(
            layout.again(one.nid, size)
            for one, size in zip(changed, sizes[len(new) :], strict=True)
        ),
        *(_Place(one.nid, 0, 0) for one in known),
    ]
    image.extend(bytes(layout.end_block(0) * BLOCK_BYTES - len(image)))
    writer = _Writer(image, inodes, places, layout.first_block(0))
    writer.numbers = [*range(count + 1, count + 1 + len(new)), *(one.ino for one in changed)]
    writer.types += [one.type for one in known]
    for index, (body, size) in enumerate(zip(bodies, sizes, strict=True)):
        writer.put(index, body, size)
    _INOS.pack_into(image, SUPER_OFFSET + _INOS_OFFSET, count + len(new))
    _BLOCKS.pack_into(image, SUPER_OFFSET + _BLOCKS_OFFSET, len(image) // BLOCK_BYTES)
    if any(has_acl(inode.xattrs) for inode in new):
        image[_NAME_OFFSET:HEAD_BYTES] = bytes(len(_WITHOUT_ACLS))
    retime(image, uuid, ())


def retime(image: bytearray, uuid: bytes, times: Iterable[tuple[int, int]]) -> None:
    """Make an image one of the same inodes with other times.

    Args:
        image: As :func:`encode_image` returned it.
        uuid: 16 bytes that name the new one.
        times: Offset of an inode, and its new time in nanoseconds since the epoch.
    """
    for offset, mtime_ns in times:
        seconds, nanoseconds = divmod(mtime_ns, 1_000_000_000)
        _TIME.pack_into(image, offset + _TIME_OFFSET, seconds & _U64_MAX, nanoseconds)
    image[_UUID_OFFSET : _UUID_OFFSET + len(uuid)] = uuid
    _CHECKSUM.pack_into(image, _CHECKSUM_OFFSET, 0)
    checksum = crc32c(bytes(image[SUPER_OFFSET:BLOCK_BYTES]))
    _CHECKSUM.pack_into(image, _CHECKSUM_OFFSET, checksum)


def has_no_acls(head: bytes) -> bool:
    """Whether an image says that none of its inodes has a POSIX ACL.

    The kernel may then be told not to look for any, which makes every step of a path faster.
    Only to be believed of an image that was verified.

    Args:
        head: The first ``HEAD_BYTES`` of the image.
    """
    return head[_NAME_OFFSET:HEAD_BYTES] == _WITHOUT_ACLS


def _data_bytes(inodes: Sequence[Inode], index: int) -> int:
    """Return the size of an inode's data as stat(2) will say."""
    inode = inodes[index]
    kind = stat.S_IFMT(inode.mode)
    if kind == stat.S_IFDIR:
        blocks = _name_blocks(inodes, index)
        last = sum(_DIRENT.size + len(name) for name, _ in blocks[-1])
        return (len(blocks) - 1) * BLOCK_BYTES + last
    if kind == stat.S_IFLNK:
        return len(inode.target)
    return inode.size if kind == stat.S_IFREG else 0


def _name_blocks(inodes: Sequence[Inode], index: int) -> list[list[tuple[bytes, int]]]:
    """Return the names in a directory with the indexes of their inodes, block by block."""
    inode = inodes[index]
    blocks: list[list[tuple[bytes, int]]] = [[]]
    used = 0
    for entry in sorted([(b".", index), (b"..", inode.parent), *inode.children]):
        need = _DIRENT.size + len(entry[0])
        if used + need > BLOCK_BYTES:
            blocks.append([])
            used = 0
        blocks[-1].append(entry)
        used += need
    return blocks


class _Layout:
    """Where everything lies: inodes with what fits behind them, the shared table, whole blocks."""

    def __init__(
        self, inodes: Sequence[Inode], heads: Sequence[int], sizes: Sequence[int], start: int
    ) -> None:
        """Place inodes in their order; of heads and sizes there may be more.

        Args:
            inodes: All of them.
            heads: Bytes of each inode with its attributes.
            sizes: Bytes of its data.
            start: Where the first may lie.
        """
        self._at = start
        self._blocks = 0
        self.places = [
            self._place(inode, head, size)
            if not inode.map
            else self._take(head + len(inode.map), 0, _COMPRESSED)
            for inode, head, size in zip(inodes, heads, sizes, strict=False)
        ]
        self.shared_block = -(-self._at // BLOCK_BYTES)

    def _place(self, inode: Inode, head: int, size: int) -> _Place:
        kind = stat.S_IFMT(inode.mode)
        if kind == stat.S_IFREG and size and inode.content is None:
            return self._take(head + _HOLE_BYTES * _chunks(size), 0, _CHUNK_BASED)
        if not size or kind not in (stat.S_IFDIR, stat.S_IFLNK, stat.S_IFREG):
            return self._take(head, 0, _FLAT_PLAIN)
        tail = size if kind == stat.S_IFLNK else size % BLOCK_BYTES
        if not 0 < head + tail <= BLOCK_BYTES or not tail:
            return self._take(head, -(-size // BLOCK_BYTES), _FLAT_PLAIN)
        if self._at % BLOCK_BYTES + head + tail > BLOCK_BYTES:
            self._at += -self._at % BLOCK_BYTES  # what lies behind an inode may not cross blocks
        return self._take(head + tail, size // BLOCK_BYTES, _FLAT_INLINE)

    def _take(self, size: int, blocks: int, layout: int) -> _Place:
        place = _Place(self._at // _SLOT_BYTES, self._blocks, layout)
        self._at += size + -size % _SLOT_BYTES
        self._blocks += blocks
        return place

    def again(self, nid: int, size: int) -> _Place:
        """Place the data of an inode that has its place already."""
        place = _Place(nid, self._blocks, _FLAT_PLAIN)
        self._blocks += -(-size // BLOCK_BYTES)
        return place

    def first_block(self, shared_bytes: int) -> int:
        """Return where whole blocks of data begin, behind the shared table."""
        return self.shared_block + -(-shared_bytes // BLOCK_BYTES)

    def end_block(self, shared_bytes: int) -> int:
        """Return how many blocks the image has."""
        return self.first_block(shared_bytes) + self._blocks


def _chunk_bits(size: int) -> int:
    """Return by how many bits the chunks of a hole exceed a block, so that one covers it."""
    return min(max((size - 1).bit_length() - 12, 0), _CHUNK_BITS_MAX)


def _chunks(size: int) -> int:
    if size <= _ONE_CHUNK_MAX_BYTES:  # nearly every file, and this is asked twice for each
        return 1
    return -(-size // (BLOCK_BYTES << _chunk_bits(size)))


class _Writer:
    """Fills an image whose layout is known.

    Attributes:
        types: Of what has a place, as directories say them.
        numbers: That inodes show.
    """

    def __init__(
        self, image: bytearray, inodes: Sequence[Inode], places: Sequence[_Place], first_block: int
    ) -> None:
        self._image = image
        self._inodes = inodes
        self._places = places
        self._first_block = first_block
        self.types = [_FILE_TYPES[stat.S_IFMT(inode.mode)] for inode in inodes]
        self.numbers: Sequence[int] = range(1, len(inodes) + 1)

    def put(self, index: int, xattrs: bytes, size: int) -> None:
        """Write one inode with its attributes and data."""
        inode, place = self._inodes[index], self._places[index]
        kind = stat.S_IFMT(inode.mode)
        where = self._where(inode, kind, place, size)
        seconds, nanoseconds = divmod(inode.mtime_ns, 1_000_000_000)
        at = place.nid * _SLOT_BYTES
        _INODE.pack_into(
            self._image, at, _EXTENDED | place.layout, xattr_count(xattrs), inode.mode, 0,
            size, where, self.numbers[index], inode.uid, inode.gid, seconds & _U64_MAX, nanoseconds,
            inode.nlink, b"",
        )  # fmt: skip
        at += _INODE.size
        if xattrs:
            self._image[at : at + len(xattrs)] = xattrs
            at += len(xattrs)
        if place.layout == _CHUNK_BASED:
            hole = _HOLE * _chunks(size)
            self._image[at : at + len(hole)] = hole
        elif place.layout == _COMPRESSED:
            self._image[at : at + len(inode.map)] = inode.map
        elif kind in (stat.S_IFDIR, stat.S_IFLNK) or inode.content is not None:
            self._put_data(index, kind, place, at)

    def _where(self, inode: Inode, kind: int, place: _Place, size: int) -> int:
        """Return the word of an inode that says where its data lies, or what device it is."""
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            return _encoded_device(inode.rdev)
        if place.layout == _CHUNK_BASED:
            return _chunk_bits(size)
        if place.layout == _COMPRESSED:  # st_blocks: as many as a plain file would have
            return min(-(-size // BLOCK_BYTES), _U32)
        return self._first_block + place.block

    def _put_data(self, index: int, kind: int, place: _Place, behind: int) -> None:
        inode = self._inodes[index]
        data = inode.target
        if kind == stat.S_IFDIR:
            data = self._directory(index)
        elif inode.content is not None:
            data = inode.content
        size = len(data)
        whole = size - size % BLOCK_BYTES if place.layout == _FLAT_INLINE else size
        if whole:
            at = (self._first_block + place.block) * BLOCK_BYTES
            self._image[at : at + whole] = data if whole == size else memoryview(data)[:whole]
        if whole < size:
            self._image[behind : behind + size - whole] = memoryview(data)[whole:]

    def _directory(self, index: int) -> bytes:
        parts: list[bytes] = []
        blocks = _name_blocks(self._inodes, index)
        for block in blocks:
            offset = _DIRENT.size * len(block)
            for name, child in block:
                nid = self._places[child].nid
                parts.append(_DIRENT.pack(nid, offset, self.types[child], 0))
                offset += len(name)
            parts += [name for name, _ in block]
            if block is not blocks[-1]:
                parts.append(bytes(BLOCK_BYTES - offset))
        return b"".join(parts)


def _encoded_device(rdev: int) -> int:
    """Return a device number as the kernel's new_encode_dev() does."""
    major, minor = os.major(rdev), os.minor(rdev)
    return (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12


def _super_fields(
    image: bytearray,
    layout: _Layout,
    inodes: Sequence[Inode],
    uuid: bytes,
    backing: Backing | None,
) -> tuple[object, ...]:
    """Return the fields of a superblock behind its checksum."""
    root, blocks = layout.places[0].nid, len(image) // BLOCK_BYTES
    compat = _COMPAT_CHECKSUM | _COMPAT_MTIME | _COMPAT_XATTR_FILTER
    if backing is None:
        name = b"" if any(has_acl(inode.xattrs) for inode in inodes) else _WITHOUT_ACLS
        return (
            compat, 12, 0, root, len(inodes), 0, 0, blocks, 0, layout.shared_block, uuid, name,
            _INCOMPAT_CHUNKED_FILE, 0, 0, 0, 0, 0, 0, 0, 0, b"",
        )  # fmt: skip
    packed = layout.places[backing.packed].nid
    return (
        compat, 12, 0, 0, len(inodes), 0, 0, blocks, 0, layout.shared_block, uuid, b"",
        _INCOMPAT_BACKED, 1 << ZSTD, 1, _DEVICE_OFFSET // _DEVICE.size, 0, 0, 0, packed, 0,
        struct.pack("<3xIQ", 0, root),
    )  # fmt: skip


def _put_backing(image: bytearray, backing: Backing) -> None:
    """Write how content is compressed, and on what device it lies."""
    config = _ZSTD_CONFIG.size - 2, 0, _ZSTD_WINDOW_LOG - 10
    _ZSTD_CONFIG.pack_into(image, _SUPER_END, *config)
    _DEVICE.pack_into(image, _DEVICE_OFFSET, b"", backing.blocks, DEVICE_BLOCK, 0, 0)
