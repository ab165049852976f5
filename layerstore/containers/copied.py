"""What is copied, one file after the other: read from a tree that may change meanwhile.

Directories come before what is in them. Nothing is followed: every name is opened below its open
directory, and what is no regular file is never opened, so no fifo makes us wait and no device is
read. What goes away while it is read is left out, a file that grows ends where it ended at first.
"""

from __future__ import annotations

import errno
import os
import stat

from layerstore.errors import StorageError
from layerstore.formats.tree import KIND_OF_MODE, Entry, Kind
from layerstore.light_typing import TYPE_CHECKING, NamedTuple
from layerstore.linux.files import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from layerstore.linux.xattrs import read_xattrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from layerstore.containers.places import Place

_BESIDE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ESTALE)
_PIECE_BYTES = 1 << 20
_SECTOR_BYTES = 512
_CAPABILITY = b"security.capability"
_OVERLAY = b"user.overlay."


class Item(NamedTuple):
    """One name of a copy.

    Attributes:
        entry: What it is; a hard link's target is a path of the copy.
        regions: (offset, length) of a file's data, ascending; between them are holes.
        pieces: Yields the data in order, each with its offset; all of it is taken, once.
    """

    entry: Entry
    regions: tuple[tuple[int, int], ...] = ()
    pieces: Callable[[], Iterator[tuple[int, bytes]]] = lambda: iter(())


def is_carried(name: bytes) -> bool:
    """Whether an extended attribute is copied: a user's, and capabilities of programs."""
    return name == _CAPABILITY or (name.startswith(b"user.") and not name.startswith(_OVERLAY))


class Walk:
    """Reads one file or directory with all that is in it.

    Args:
        place: Where.
        base: What it is called in the copy; empty for what is in it alone.
        kernels: Device numbers of file systems that are left out.
        skip: Told the path of what is left out, and why.
    """

    def __init__(
        self,
        place: Place,
        base: bytes,
        kernels: frozenset[int],
        skip: Callable[[bytes, str], object],
    ) -> None:
        self._place = place
        self._base = base
        self._kernels = kernels
        self._skip = skip
        self._first: dict[tuple[int, int], bytes] = {}

    def items(self) -> Iterator[Item]:
        """Yield everything.

        Raises:
            StorageError: Something cannot be read.
        """
        place = self._place
        try:
            if not place.is_directory:
                item = self._item(place.parent, place.name, self._base)
                if item is not None:
                    yield item
                return
            top = os.open(place.name, _DIRECTORY | os.O_CLOEXEC, dir_fd=place.parent)
            try:
                yield from self._below(top)
            finally:
                os.close(top)
        except OSError as err:
            where = f" {os.fsdecode(err.filename)!r}" if err.filename else ""
            raise StorageError(f"cannot read{where}: {err.strerror}") from err

    def _below(self, top: int) -> Iterator[Item]:
        todo = [b""]
        while todo:
            path = todo.pop()
            try:
                fd = openat2(top, path or b".", _DIRECTORY, resolve=_BESIDE)
            except OSError as err:
                if err.errno in _GONE and path:
                    continue
                raise
            try:
                inner = []
                status = os.fstat(fd)
                if status.st_dev in self._kernels:
                    self._skip(path, "it is the kernel's")
                    continue
                yield Item(self._entry(self._named(path), status, read_xattrs(fd)))
                for name in sorted(map(os.fsencode, os.listdir(fd))):
                    below = path + b"/" + name if path else name
                    try:
                        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if stat.S_ISDIR(status.st_mode):
                        inner.append(below)
                        continue
                    item = self._item(fd, name, self._named(below))
                    if item is not None:
                        yield item
                todo += reversed(inner)
            finally:
                os.close(fd)

    def _named(self, path: bytes) -> bytes:
        return b"/".join(part for part in (self._base, path) if part)

    def _item(self, parent: int, name: bytes, path: bytes) -> Item | None:
        """Return what is no directory; None if it is gone, or cannot be copied."""
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            kind = KIND_OF_MODE.get(stat.S_IFMT(status.st_mode))
            if kind is None:
                self._skip(path, "a socket means nothing without its process")
                return None
            if kind is Kind.DIR:
                return None  # it was none a moment ago
            if kind is Kind.FILE:
                first = self._first_name(status, path)
                if first:
                    return Item(Entry(path=path, kind=Kind.HARDLINK, target=first))
                return self._file(parent, name, path)
            target = os.readlink(name, dir_fd=parent) if kind is Kind.SYMLINK else b""
        except OSError as err:
            if err.errno in _GONE:
                return None
            raise
        return Item(self._entry(path, status, (), target))

    def _first_name(self, status: os.stat_result, path: bytes) -> bytes:
        """Return the path under which a file of several names was copied already."""
        if status.st_nlink < 2:
            return b""
        first = self._first.setdefault((status.st_dev, status.st_ino), path)
        return first if first != path else b""

    def _entry(
        self,
        path: bytes,
        status: os.stat_result,
        xattrs: tuple[tuple[bytes, bytes], ...],
        target: bytes = b"",
    ) -> Entry:
        kind = KIND_OF_MODE[stat.S_IFMT(status.st_mode)]
        device = status.st_rdev if kind in (Kind.CHAR, Kind.BLOCK) else 0
        return Entry(
            path=path, kind=kind, mode=stat.S_IMODE(status.st_mode), uid=status.st_uid,
            gid=status.st_gid, mtime_ns=status.st_mtime_ns,
            size=status.st_size if kind is Kind.FILE else 0, target=target,
            dev_major=os.major(device), dev_minor=os.minor(device),
            xattrs=tuple(pair for pair in xattrs if is_carried(pair[0])),
        )  # fmt: skip

    def _file(self, parent: int, name: bytes, path: bytes) -> Item:
        fd = os.open(name, _FILE, dir_fd=parent)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise OSError(errno.ENOENT, "another kind of file by now")
        regions = _regions(fd, status)
        entry = self._entry(path, status, read_xattrs(fd))
        return Item(entry, regions, lambda: _pieces(fd, regions))


def _regions(fd: int, status: os.stat_result) -> tuple[tuple[int, int], ...]:
    """Return where a file has data."""
    size = status.st_size
    if status.st_blocks * _SECTOR_BYTES >= size:
        return ((0, size),) if size else ()
    found = []
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as err:
            if err.errno == errno.ENXIO:  # nothing but a hole follows
                break
            raise
        at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if start < at:
            found.append((start, at - start))
    return tuple(found)


def _pieces(fd: int, regions: tuple[tuple[int, int], ...]) -> Iterator[tuple[int, bytes]]:
    """Yield a file's data; what it was cut short by meanwhile reads as zeros."""
    try:
        for offset, length in regions:
            end = offset + length
            while offset < end:
                count = min(end - offset, _PIECE_BYTES)
                data = os.pread(fd, count, offset) or bytes(count)
                yield offset, data
                offset += len(data)
    finally:
        os.close(fd)
