"""How an image looks as a file system: attributes, directories, content, links, xattrs.

Everything that a FUSE mount answers is computed here and can be tested without a
mount; adapters only translate. The view is immutable. It reads content through one
chunk reader that verifies what it returns, and keeps the last few chunks so that
a large chunk read in kernel-sized pieces is decoded once. Safe for several threads.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple, Protocol

from layerstore.errors import IntegrityError, LayerstoreError, NotFoundError
from layerstore.formats.tree import FILE_TYPES, Kind
from layerstore.formats.xattrs import ACL_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.digest import ChunkId
    from layerstore.formats.tree import Entry
    from layerstore.image.trees.stack import Node

BLOCK_BYTES = 4096
"""What allocation is rounded up to in ``blocks``, as ext4 does by default."""

CHUNK_CACHE_BYTES = 16 * 1024 * 1024
"""Decoded chunks kept: sixteen of the largest, so that parallel readers do not evict each other."""

KEPT_CHUNK_MIN_BYTES = 128 * 1024
"""The kernel's largest FUSE read: what is no longer is asked for once, and need not be kept."""


HAS_OVERLAY_NAMES = b"user.layerstore.has-overlay-names"
"""An attribute of the root that is listed nowhere: whether any inode has attributes that
overlayfs would obey. Who is about to mount an overlay above asks for it."""

_OVERLAY_NAMES = (b"trusted.overlay.", b"user.overlay.")


class NoSuchPathError(NotFoundError):
    """The image has no such path."""


class NameTooLongError(NoSuchPathError):
    """No image has such a path: a name in it is longer than file systems of Linux take."""


NAME_MAX_BYTES = 255
"""Of a name (limits.h); FUSE passes on longer ones."""


def absent(name: bytes, what: str) -> NoSuchPathError:
    """Return the error of a name that is not there; ``what`` says where."""
    kind = NameTooLongError if len(name) > NAME_MAX_BYTES else NoSuchPathError
    return kind(what)


class NoSuchXattrError(NotFoundError):
    """The inode has no such extended attribute."""


class NotADirectoryInViewError(LayerstoreError):
    """A directory was wanted and something else is there."""


class WrongKindError(LayerstoreError):
    """The inode is not of the kind that the operation works on."""


class OffsetBeyondError(LayerstoreError):
    """A file has nothing behind the offset that was asked for."""


Piece = bytes | memoryview
"""Bytes of a file as they lie in memory."""


class ChunkReader(Protocol):
    """What a view needs of a store."""

    def read_chunk(self, chunk_id: ChunkId) -> bytes:
        """Return the verified bytes of a chunk."""
        ...


class Attributes(NamedTuple):
    """What stat(2) says; all three times of an image are its one time.

    Attributes:
        mode: File type and permission bits.
        blocks: Units of 512 bytes that the content takes without its holes.
    """

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    mtime_ns: int


class DirectoryEntry(NamedTuple):
    """A name in a directory; ``mode`` holds the file type."""

    name: bytes
    ino: int
    mode: int


class Totals(NamedTuple):
    """What statfs(2) says: inodes and content bytes of the whole image."""

    inodes: int
    content_bytes: int


class ImageView:
    """A stacked tree as a read-only file system.

    Args:
        reader: Where chunks come from.
        root: The tree.
    """

    def __init__(self, reader: ChunkReader, root: Node) -> None:
        self.root = root
        self._reader = reader
        self._lock = threading.Lock()
        self._chunks: OrderedDict[ChunkId, bytes] = OrderedDict()
        self._chunk_bytes = 0
        self._ends: OrderedDict[int, tuple[int, ...]] = OrderedDict()
        self._totals: Totals | None = None
        self._has_xattrs: bool | None = None

    def end(self) -> None:
        """Take note that nobody reads any more; views that hold something let go of it."""

    def find(self, path: bytes) -> Node:
        """Return the node at a path relative to the root; follows nothing.

        Raises:
            NoSuchPathError: There is none.
            NotADirectoryInViewError: A parent is no directory.
        """
        node = self.root
        if not path:
            return node
        for name in path.split(b"/"):
            if node.children is None:
                raise NotADirectoryInViewError(f"a parent of {path!r} is not a directory")
            child = node.children.get(name)
            if child is None:
                raise absent(name, f"the image has no {path!r}")
            node = child
        return node

    def attributes(self, node: Node) -> Attributes:
        """Return what stat(2) says about a node."""
        entry = node.entry
        rdev = 0
        if entry.dev_major or entry.dev_minor:
            rdev = os.makedev(entry.dev_major, entry.dev_minor)
        return Attributes(
            node.ino,
            FILE_TYPES[entry.kind] | entry.mode,
            node.nlink,
            entry.uid,
            entry.gid,
            rdev,
            _size(entry),
            _blocks(entry),
            entry.mtime_ns,
        )

    def file_type(self, node: Node) -> int:
        """Return the file type bits of a node's mode."""
        return FILE_TYPES[node.entry.kind]

    def names(self, node: Node) -> Iterator[DirectoryEntry]:
        """Yield a directory's names in byte order, without ``.`` and ``..``.

        Raises:
            NotADirectoryInViewError: It is none.
        """
        if node.children is None:
            raise NotADirectoryInViewError(f"{node.entry.path!r} is not a directory")
        for name, child in node.children.items():
            yield DirectoryEntry(name, child.ino, FILE_TYPES[child.entry.kind])

    def link_target(self, node: Node) -> bytes:
        """Return a symlink's text.

        Raises:
            WrongKindError: It is no symlink.
        """
        if node.entry.kind is not Kind.SYMLINK:
            raise WrongKindError(f"{node.entry.path!r} is not a symbolic link")
        return node.entry.target

    def xattr(self, node: Node, name: bytes) -> bytes:
        """Return one extended attribute's value.

        Raises:
            NoSuchXattrError: The node does not have it.
        """
        for key, value in node.entry.xattrs:
            if key == name:
                return value
        if name == HAS_OVERLAY_NAMES and node is self.root and self._has_overlay_names():
            return b"y"
        raise NoSuchXattrError(f"{node.entry.path!r} has no attribute {name!r}")

    def xattr_names(self, node: Node) -> list[bytes]:
        """Return the names of all extended attributes."""
        return [name for name, _ in node.entry.xattrs]

    def read(self, node: Node, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes of a file from ``offset``; fewer only at its end.

        Holes read as zeros. Everything else was verified against its chunk id.

        Raises:
            WrongKindError: It is no regular file.
            IntegrityError: The store's bytes are damaged or missing.
        """
        pieces = self.pieces(node, offset, size)
        return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)

    def pieces(self, node: Node, offset: int, size: int) -> list[Piece]:
        """Return what :meth:`read` does in parts that were not copied; none at the end.

        Raises:
            WrongKindError: It is no regular file.
            IntegrityError: The store's bytes are damaged or missing.
        """
        entry = node.entry
        if entry.kind is not Kind.FILE:
            raise WrongKindError(f"{entry.path!r} is not a regular file")
        size = min(size, entry.size - offset)
        if size <= 0:
            return []
        if len(entry.extents) == 1:
            return [self._piece(entry.extents[0][1], offset, size)]
        return self._read_pieces(node, offset, size)

    def next_data(self, node: Node, offset: int) -> int:
        """Return where content begins at or behind an offset, as lseek(2)'s SEEK_DATA does.

        Raises:
            WrongKindError: It is no regular file.
            OffsetBeyondError: There is no content any more.
        """
        return self._next(node, offset, wanted=True)

    def next_hole(self, node: Node, offset: int) -> int:
        """Return where a hole begins at or behind an offset; the end of a file is one.

        Raises:
            WrongKindError: It is no regular file.
            OffsetBeyondError: The offset is not inside the file.
        """
        return self._next(node, offset, wanted=False)

    def totals(self) -> Totals:
        """Return the image's inode count and content size; counted on first use."""
        if self._totals is None:
            inodes = content = 0
            for node in self._inodes():
                inodes += 1
                content += node.entry.size
            self._totals = Totals(inodes, content)
        return self._totals

    def has_xattrs(self) -> bool:
        """Whether any inode has an extended attribute; most images have one or none."""
        if self._has_xattrs is None:
            self._has_xattrs = any(node.entry.xattrs for node in self._inodes())
        return self._has_xattrs

    def has_acls(self) -> bool:
        """Whether any inode has a POSIX ACL, which whoever shows the tree should obey."""
        return any(name in ACL_NAMES for node in self._inodes() for name, _ in node.entry.xattrs)

    def _has_overlay_names(self) -> bool:
        return any(
            name.startswith(_OVERLAY_NAMES)
            for node in self._inodes()
            for name, _ in node.entry.xattrs
        )

    def _inodes(self) -> Iterator[Node]:
        """Yield every inode once, in no particular order."""
        seen = set()
        pending = [self.root]
        while pending:
            node = pending.pop()
            if node.nlink > 1 and node.children is None:
                if node.ino in seen:
                    continue
                seen.add(node.ino)
            yield node
            if node.children:
                pending.extend(node.children.values())

    def _next(self, node: Node, offset: int, *, wanted: bool) -> int:
        entry = node.entry
        if entry.kind is not Kind.FILE:
            raise WrongKindError(f"{entry.path!r} is not a regular file")
        if not 0 <= offset < entry.size:
            raise OffsetBeyondError(f"{entry.path!r} ends before byte {offset}")
        ends = self._extent_ends(node)
        for index in range(bisect_right(ends, offset), len(ends)):
            length, chunk_id = entry.extents[index]
            if length and (chunk_id is not None) == wanted:
                return max(offset, ends[index] - length)
        if wanted:
            raise OffsetBeyondError(f"{entry.path!r} holds no content behind byte {offset}")
        return entry.size

    def _read_pieces(self, node: Node, offset: int, size: int) -> list[Piece]:
        extents = node.entry.extents
        ends = self._extent_ends(node)
        index = bisect_right(ends, offset)
        parts: list[Piece] = []
        while size > 0:
            length, chunk_id = extents[index]
            start = offset - (ends[index] - length)
            part = self._piece(chunk_id, start, min(size, length - start))
            parts.append(part)
            offset += len(part)
            size -= len(part)
            index += 1
        return parts

    def _piece(self, chunk_id: ChunkId | None, start: int, size: int) -> Piece:
        if chunk_id is None:
            return bytes(size)
        chunk = self._chunk(chunk_id)
        if start + size > len(chunk):
            raise IntegrityError(f"a chunk holds {len(chunk)} bytes, its layer says otherwise")
        if start == 0 and size == len(chunk):
            return chunk
        return memoryview(chunk)[start : start + size]

    def _chunk(self, chunk_id: ChunkId) -> bytes:
        with self._lock:
            chunk = self._chunks.get(chunk_id)
            if chunk is not None:
                self._chunks.move_to_end(chunk_id)
                return chunk
        chunk = self._reader.read_chunk(chunk_id)
        if len(chunk) <= KEPT_CHUNK_MIN_BYTES:
            return chunk
        with self._lock:
            if chunk_id not in self._chunks:
                self._chunks[chunk_id] = chunk
                self._chunk_bytes += len(chunk)
            while self._chunk_bytes > CHUNK_CACHE_BYTES:
                _, dropped = self._chunks.popitem(last=False)
                self._chunk_bytes -= len(dropped)
        return chunk

    def _extent_ends(self, node: Node) -> tuple[int, ...]:
        """Return where each extent ends; kept for the last few files, some have thousands."""
        with self._lock:
            ends = self._ends.get(node.ino)
        if ends is None:
            ends = tuple(accumulate(length for length, _ in node.entry.extents))
            with self._lock:
                self._ends[node.ino] = ends
                if len(self._ends) > 64:
                    self._ends.popitem(last=False)
        return ends


def _size(entry: Entry) -> int:
    match entry.kind:
        case Kind.FILE:
            return entry.size
        case Kind.SYMLINK:
            return len(entry.target)
        case Kind.DIR:
            return BLOCK_BYTES
        case _:
            return 0


def _blocks(entry: Entry) -> int:
    if entry.kind is not Kind.FILE:
        return 8 if entry.kind is Kind.DIR else 0
    held = sum(length for length, chunk_id in entry.extents if chunk_id is not None)
    return -(-held // BLOCK_BYTES) * (BLOCK_BYTES // 512)
