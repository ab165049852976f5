"""EROFS images of packs: what the kernel needs to read the content of files in place.

A pack image has no content. It names files, each of which is a stretch of plain bytes in a
pack's frames, and says where those lie; the pack is the second device of the mount. All
content forms one long file that no directory lists, EROFS' *packed inode*, whose extents are
whole frames; each named file is a *fragment* of it: an offset and a length. So a file may lie
anywhere inside of a frame, and go on in others, as long as these follow each other in the
packed inode. Their order there is free, and a frame may be in it twice.

Pure: no I/O. Normative: docs/format/erofs.md, "Images of packs". Source: Linux,
fs/erofs/erofs_fs.h, struct z_erofs_map_header and struct z_erofs_extent.
"""

from __future__ import annotations

import itertools
import stat
import struct
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

from layerstore.formats.erofs import BLOCK_BYTES, DEVICE_BLOCK, ZSTD, Backing, Inode, write_image

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from layerstore.digest import ObjectId

FRAME_MAX_BYTES: Final = 1 << 20
"""Stored bytes of a frame that EROFS can map: Z_EROFS_PCLUSTER_MAX_SIZE."""

_MAP_HEADER = struct.Struct("<IHH")
_FRAGMENT = struct.Struct("<Q")
_WHOLE_FILE: Final = 1 << 63
_EXTENT = struct.Struct("<IIII")
_WIDE_EXTENT = struct.Struct("<IIIII12x")
_ADVISE_EXTENTS: Final = 0x1
_RECORD_SHIFT: Final = 1
_FORMAT_SHIFT: Final = 28
_INODE_BYTES: Final = 64
_U32: Final = 0xFFFF_FFFF
_FILE: Final = stat.S_IFREG | 0o600
_DIRECTORY: Final = stat.S_IFDIR | 0o700


class Frame(NamedTuple):
    """A zstd frame of a pack.

    Attributes:
        offset: In the pack.
        stored: Its bytes there, at most 1 MiB.
        raw: Its plain bytes.
    """

    offset: int
    stored: int
    raw: int


class Stretch(NamedTuple):
    """A file's content: plain bytes of frames.

    Attributes:
        frames: Numbers of the frames. All but the first are used from their beginning, all but
            the last up to their end.
        start: Where it begins in the first.
        size: Bytes.
    """

    frames: tuple[int, ...]
    start: int
    size: int


def write_pack_image(
    frames: Sequence[Frame],
    files: Mapping[ObjectId, Stretch],
    blocks: int,
    out: BinaryIO,
    *,
    uuid: bytes,
) -> int:
    """Write the image of a pack; return its size in bytes.

    Equal arguments give equal images.

    Args:
        frames: Of the pack; those that no file needs are left out.
        files: Content by file id, which is shown as ``ab/<id>`` in hexadecimal.
        blocks: Blocks of 4,096 bytes of the pack that hold all frames.
        out: Where to write.
        uuid: 16 bytes that name the image.
    """
    order = _arranged(stretch.frames for stretch in files.values())
    starts = list(itertools.accumulate((frames[number].raw for number in order), initial=0))
    positions = _Positions(order, starts)
    inodes = _tree(files, positions)
    inodes.append(_packed_inode([frames[number] for number in order], starts))
    return write_image(inodes, out, uuid=uuid, backing=Backing(len(inodes) - 1, blocks))


def _arranged(runs: Iterable[tuple[int, ...]]) -> list[int]:
    """Return an order of frames in which every run stands together, repeating some if need be."""
    runs = sorted(set(runs))
    following = _links(runs)
    order = []
    for first in sorted({number for run in runs for number in run} - set(following.values())):
        number: int | None = first
        while number is not None:
            order.append(number)
            number = following.get(number)
    for run in runs:
        if any(following.get(one) != other for one, other in itertools.pairwise(run)):
            order.extend(run)
    return order


def _links(runs: Iterable[tuple[int, ...]]) -> dict[int, int]:
    """Return which frame follows which: at most one each, and never in a circle."""
    following: dict[int, int] = {}
    followers: set[int] = set()
    ends: dict[int, int] = {}  # of a chain: from its first frame to its last
    begins: dict[int, int] = {}  # and back
    for one, other in itertools.chain.from_iterable(map(itertools.pairwise, runs)):
        begin = begins.get(one, one)
        if one in following or other in followers or begin == other:
            continue
        end = ends.get(other, other)
        following[one] = other
        followers.add(other)
        ends[begin], begins[end] = end, begin
    return following


class _Positions:
    """Where runs of frames begin in the packed inode."""

    def __init__(self, order: Sequence[int], starts: Sequence[int]) -> None:
        self._order = order
        self._starts = starts
        self._places: dict[int, list[int]] = {}
        for place, number in enumerate(order):
            self._places.setdefault(number, []).append(place)

    def of(self, run: tuple[int, ...]) -> int:
        """Return the offset at which a run stands together."""
        for place in self._places[run[0]]:
            if tuple(self._order[place : place + len(run)]) == run:
                return self._starts[place]
        raise AssertionError(f"frames {run} do not stand together")


def _tree(files: Mapping[ObjectId, Stretch], positions: _Positions) -> list[Inode]:
    """Return the root, a directory for each first byte, and the files."""
    by_prefix: dict[bytes, list[ObjectId]] = {}
    for name in sorted(files):
        by_prefix.setdefault(name[:1].hex().encode(), []).append(name)
    first = 1 + len(by_prefix)
    directories: list[Inode] = []
    regular: list[Inode] = []
    for names in by_prefix.values():
        begin = first + len(regular)
        children = [(name.hex().encode(), begin + at) for at, name in enumerate(names)]
        directories.append(Inode(_DIRECTORY, 0, 0, 0, 2, children=children))
        for name in names:
            stretch = files[name]
            fragment = _FRAGMENT.pack(_WHOLE_FILE | positions.of(stretch.frames) + stretch.start)
            regular.append(Inode(_FILE, 0, 0, 0, 1, stretch.size, map=fragment))
    top = [(prefix, 1 + at) for at, prefix in enumerate(by_prefix)]
    root = Inode(_DIRECTORY, 0, 0, 0, 2 + len(top), children=top)
    return [root, *directories, *regular]


def _packed_inode(frames: Sequence[Frame], starts: Sequence[int]) -> Inode:
    """Return the inode of all content, with an extent a frame."""
    wide = starts[-1] > _U32
    record = _WIDE_EXTENT if wide else _EXTENT
    width = record.size.bit_length() - 3
    header = _MAP_HEADER.pack(len(frames) & _U32, _ADVISE_EXTENTS | width << _RECORD_SHIFT, 0)
    parts = [header, bytes(-(_INODE_BYTES + len(header)) % record.size)]
    for frame, start in zip(frames, starts, strict=False):
        assert frame.stored <= FRAME_MAX_BYTES
        at = DEVICE_BLOCK * BLOCK_BYTES + frame.offset
        numbers = [frame.stored | (ZSTD + 1) << _FORMAT_SHIFT, at & _U32, at >> 32]
        numbers += [start & _U32, start >> 32] if wide else [start]
        parts.append(record.pack(*numbers))
    return Inode(_FILE, 0, 0, 0, 1, starts[-1], map=b"".join(parts))
