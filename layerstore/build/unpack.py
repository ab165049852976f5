"""ADD of a local archive: its members become files below the destination.

The archive is read once, by the same strict reader that reads layers; contents wait in
a temporary file until the layer is written. Paths resolve below the destination, links
that the archive or the image brings included, and never lead out of it. A member
replaces what has its name, except that directories merge; the destination's own
attributes stay.

Source: behaviour of docker's ADD (moby, pkg/archive); docs/how-to/build.md.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, BinaryIO

from layerstore.build.streams import SizedStream
from layerstore.errors import FormatError, LimitExceededError, UnsafeContentError
from layerstore.formats.decompress import decompressed
from layerstore.formats.tar_headers import BLOCK_BYTES
from layerstore.formats.tar_limits import Limits
from layerstore.formats.tar_reader import TarReader
from layerstore.formats.tree import Entry, Kind
from layerstore.image.trees.stack import resolve

if TYPE_CHECKING:
    from collections.abc import Callable

    from layerstore.build.target import Owner, TargetTree
    from layerstore.formats.tar_member import Member

_KEPT_XATTR = b"security.capability"
_COPY_BYTES = 1 << 20
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
_CHECKSUM = slice(148, 156)


def begins_archive(head: bytes) -> bool:
    """Return whether bytes begin a tar, or something compressed, which a context's must be."""
    return head.startswith(_COMPRESSED) or _is_tar_block(head[:BLOCK_BYTES])


def looks_like_archive(open_content: Callable[[], BinaryIO]) -> bool:
    """Return whether a file begins with a tar header, compressed or not, as docker decides it.

    What follows may still be malformed: then unpacking it is an error, because copying
    the archive instead would go unnoticed.
    """
    with open_content() as file:
        head = file.read(BLOCK_BYTES)
    if not head.startswith(_COMPRESSED):
        return _is_tar_block(head)
    block = b""
    with open_content() as file:
        try:
            for span in decompressed(file.read, Limits()):
                block += span[:BLOCK_BYTES]
                if len(block) >= BLOCK_BYTES:
                    break
        except FormatError:
            return False
    return _is_tar_block(block[:BLOCK_BYTES])


def unpack(
    target: TargetTree,
    place: bytes,
    open_content: Callable[[], BinaryIO],
    spool: BinaryIO,
    owner: Owner | None,
) -> None:
    """Unpack an archive below the directory ``place``, a real path of ``target``.

    Args:
        target: The tree to change.
        place: Exists, and is a directory.
        open_content: The archive, plain or compressed.
        spool: An empty temporary file that lives until the layer is written.
        owner: What everything gets instead of the archive's owners.

    Raises:
        FormatError: The archive is damaged.
        UnsafeContentError: It holds what no layer may hold.
        LimitExceededError: It costs more than a layer may.
    """
    with open_content() as file:
        limits = Limits()
        reader = TarReader(decompressed(file.read, limits), limits, nameless=True)
        work = _Unpacking(target, place, reader, spool, owner)
        while (member := reader.next_member()) is not None:
            work.add(member)
            reader.take_literals()
        work.finish()


def _is_tar_block(block: bytes) -> bool:
    """Return whether a block is a tar header: its checksum is right."""
    if len(block) < BLOCK_BYTES:
        return False
    try:
        stored = int(block[_CHECKSUM].strip(b" \0") or b"x", 8)
    except ValueError:
        return False
    blanks = _CHECKSUM.stop - _CHECKSUM.start
    rest = sum(block[: _CHECKSUM.start]) + sum(block[_CHECKSUM.stop :])
    return stored == rest + blanks * ord(" ")


class _Unpacking:
    """One archive on its way into a tree."""

    def __init__(
        self,
        target: TargetTree,
        place: bytes,
        reader: TarReader,
        spool: BinaryIO,
        owner: Owner | None,
    ) -> None:
        self._target = target
        self._place = place
        self._reader = reader
        self._spool = spool
        self._owner = owner
        self._directories: dict[bytes, Entry] = {}
        self._parents: set[bytes] = {b""}

    def add(self, member: Member) -> None:
        """Take one member and its content."""
        if not member.path:
            # The archive's root: the destination keeps its own attributes. Files without a
            # name mean the root as well, and are nothing, to docker.
            self._skip(member)
            return
        head, _, name = member.path.rpartition(b"/")
        parent = self._real(head)
        self._charge(parent)
        self._target.make_directories(parent)
        path = parent + b"/" + name if parent else name
        if member.kind is Kind.HARDLINK:
            self._link(member, path)
            return
        entry = self._entry(member, path)
        if member.kind is Kind.FILE:
            open_content, holes = self._content(member)
            self._target.put(entry, open_content, holes)
            return
        self._target.put(entry)
        if member.kind is Kind.DIR:
            self._directories[path] = entry

    def _skip(self, member: Member) -> None:
        left = member.stored
        while left:
            left -= len(self._reader.read(min(left, _COPY_BYTES)))

    def _charge(self, parent: bytes) -> None:
        """Count directories that a path implies: a deep one makes a thousand of them."""
        while parent not in self._parents:
            self._parents.add(parent)
            self._reader.metadata.charge(len(parent))
            parent = parent.rpartition(b"/")[0]

    def finish(self) -> None:
        """Give directories the attributes that filling them has changed."""
        for path, entry in self._directories.items():
            node = self._target.lookup(path)
            if node is not None and node.children is not None:
                self._target.set_attributes(path, entry)

    def _real(self, path: bytes) -> bytes:
        """Return the real path of ``path``, resolved as if the destination were the root."""
        root = self._target.lookup(self._place)
        assert root is not None
        inside, _ = resolve(root, path)
        return b"/".join(part for part in (self._place, inside) if part)

    def _link(self, member: Member, path: bytes) -> None:
        node = self._target.lookup(self._real_target(member.target))
        if node is None or node.children is not None:
            raise UnsafeContentError(
                f"{os.fsdecode(member.name[:300])!r} in the archive is a hard link to "
                f"{os.fsdecode(member.target[:300])!r}, which is no file of it"
            )
        self._target.link(path, node)

    def _real_target(self, path: bytes) -> bytes:
        head, _, name = path.rpartition(b"/")
        parent = self._real(head)
        return parent + b"/" + name if parent else name

    def _entry(self, member: Member, path: bytes) -> Entry:
        uid, gid = self._owner or (member.uid, member.gid)
        xattrs = tuple(pair for pair in member.xattrs if pair[0] == _KEPT_XATTR)
        return Entry(
            path=path, kind=member.kind, mode=member.mode, uid=uid, gid=gid,
            mtime_ns=member.mtime_ns, size=member.size, target=member.target,
            dev_major=member.dev_major, dev_minor=member.dev_minor, xattrs=xattrs,
        )  # fmt: skip

    def _content(
        self, member: Member
    ) -> tuple[Callable[[], BinaryIO], tuple[tuple[int, int], ...]]:
        """Put a file's bytes into the spool, where they lie as in the file, holes too."""
        base = self._spool.seek(0, os.SEEK_END)
        holes = []
        at = 0
        regions = [(0, member.size)] if member.regions is None else member.regions
        for offset, length in regions:
            if offset > at:
                holes.append((at, offset - at))
            self._spool.seek(base + offset)
            self._copy(length)
            at = offset + length
        if member.size > at:
            holes.append((at, member.size - at))
        try:
            self._spool.truncate(base + member.size)
        except OSError as err:
            raise LimitExceededError(f"the archive's files are too large: {err.strerror}") from err
        self._spool.flush()
        fd, size = self._spool.fileno(), member.size
        return lambda: io.BufferedReader(_SpoolPart(fd, base, size)), tuple(holes)

    def _copy(self, length: int) -> None:
        while length:
            piece = self._reader.read(min(length, _COPY_BYTES))
            if not piece:
                raise FormatError("the archive ends within a file")
            self._spool.write(piece)
            length -= len(piece)


class _SpoolPart(SizedStream):
    """A part of the spool, read as a file of its own."""

    def __init__(self, fd: int, base: int, size: int) -> None:
        super().__init__(size)
        self._fd = fd
        self._base = base

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer)[: max(0, self._size - self._at)]
        count = os.preadv(self._fd, [view], self._base + self._at) if view else 0
        self._at += count
        return count
