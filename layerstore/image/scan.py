"""Directories of the host as layer items: a root file system, or an overlay's upper.

The tree belongs to somebody else and may change while it is read. Nothing here follows
a symlink: every name is opened relative to an open directory with O_NOFOLLOW. Files are
opened again when their content is wanted and must still be what the scan saw. Fifos and
devices are never opened.
"""

from __future__ import annotations

import errno
import os
import stat
import weakref
from typing import TYPE_CHECKING, Final, NamedTuple

from layerstore.errors import InputError, StorageError, UnsafeContentError
from layerstore.formats.tree import Entry, Kind, path_key
from layerstore.formats.xattrs import is_kept
from layerstore.image.changeset_builder import hard_link
from layerstore.image.layer_writer import LayerItem, check_image_paths
from layerstore.image.source_file import SourceChangedError, SourceFile, read_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

Xattrs = tuple[tuple[bytes, bytes], ...]
Skipped = tuple[bytes, str]
"""A path that a scan left out, and why."""

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_CHAIN_MAX = 100
"""Directories kept open at most: the usual limit of descriptors is 1024."""
_SECTOR_BYTES = 512
_VERIFY_BYTES = 1 << 20
_KINDS: Final = {
    stat.S_IFDIR: Kind.DIR,
    stat.S_IFREG: Kind.FILE,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHAR,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.FIFO,
}


class UpperScan(NamedTuple):
    """What an overlay's upper directory changes.

    Attributes:
        items: Entries that it creates or replaces.
        whiteouts: Paths that it removes from the lower layers.
        opaques: Directories whose lower content it hides.
        skipped: What no layer can carry, such as sockets.
    """

    items: list[LayerItem]
    whiteouts: list[bytes]
    opaques: list[bytes]
    skipped: list[Skipped]


def scan_directory(
    root: Path,
    *,
    one_file_system: bool = True,
    exclude: Collection[bytes] = (),
    on_skip: Callable[[bytes, str], None] | None = None,
) -> list[LayerItem]:
    """Return everything in a directory, sorted, the directory itself first.

    Files are not read yet; opening an item later finds out whether it changed.

    Args:
        root: The directory; it may be named by a symlink, nothing in it is followed.
        one_file_system: Leave out what is mounted inside of it; mount points stay as
            empty directories.
        exclude: Paths relative to it that are left out with everything below them.
        on_skip: Told about each socket, foreign mount, and xattr that no image carries.

    Raises:
        InputError: ``root`` is not a directory that can be read.
        UnsafeContentError: A name or device that would mean something else in a layer.
        StorageError: Reading failed.
    """
    scanner = _Scanner(root, one_file_system=one_file_system, exclude=frozenset(exclude))
    scanner.run()
    if on_skip is not None:
        for path, why in scanner.skipped:
            on_skip(path, why)
    return scanner.items


def scan_upper(upper: Path, *, xattr_prefix: bytes = b"trusted.overlay.") -> UpperScan:
    """Return what an overlayfs upper directory says; the overlay must not be mounted.

    Args:
        upper: The directory given as ``upperdir``.
        xattr_prefix: ``user.overlay.`` for overlays mounted with ``userxattr``.

    Raises:
        UnsafeContentError: The overlay was used with ``redirect_dir`` or ``metacopy``,
            whose upper directories do not stand for themselves.
        StorageError: Reading failed.
    """
    scanner = _Scanner(upper, one_file_system=True, exclude=frozenset(), overlay=xattr_prefix)
    scanner.run()
    return UpperScan(scanner.items, scanner.whiteouts, scanner.opaques, scanner.skipped)


class _Root:
    """The open directory that all paths are relative to; closed with its last user."""

    def __init__(self, path: Path) -> None:
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as err:
            raise InputError(f"{os.fspath(path)!r}: {err.strerror}, expected a directory") from err
        self._chain = [(b"", self.descriptor)]
        weakref.finalize(self, _close_all, self._chain)

    def directory(self, path: bytes) -> int:
        """Return a descriptor of a directory below; it is valid until the next call.

        Directories on the way stay open, since the next path is mostly near this one.
        """
        chain = self._chain
        if chain[-1][0] == path:
            return chain[-1][1]
        while chain[-1][0] and not path.startswith(chain[-1][0] + b"/"):
            os.close(chain.pop()[1])
        done, descriptor = chain[-1]
        rest = path[len(done) :].lstrip(b"/")
        for name in rest.split(b"/") if rest else ():
            descriptor = os.open(name, _DIRECTORY, dir_fd=descriptor)
            done = done + b"/" + name if done else name
            chain.append((done, descriptor))
            if len(chain) > _CHAIN_MAX:
                # Between the root and here; the path down to here stays open.
                os.close(chain.pop(1)[1])
        return descriptor

    def open_file(self, path: bytes, expected: os.stat_result) -> SourceFile:
        """Open a regular file below that must still be what a scan saw."""
        return SourceFile(self._open(path), path, expected)

    def read_file(self, path: bytes, expected: os.stat_result) -> bytes:
        """Return the content of a regular file below that must still be what a scan saw."""
        descriptor = self._open(path)
        try:
            return read_whole(descriptor, path, expected)
        finally:
            os.close(descriptor)

    def _open(self, path: bytes) -> int:
        parent, _, name = path.rpartition(b"/")
        try:
            return os.open(name, _FILE, dir_fd=self.directory(parent))
        except OSError as err:
            if err.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
                raise SourceChangedError(path, "it is gone or another kind of file") from err
            raise StorageError(f"cannot read {os.fsdecode(path)!r}: {err.strerror}") from err


def _close_all(chain: list[tuple[bytes, int]]) -> None:
    for _, descriptor in chain:
        os.close(descriptor)


class _Scanner:
    """One walk over a tree, parents first, names in byte order."""

    def __init__(
        self,
        root: Path,
        *,
        one_file_system: bool,
        exclude: frozenset[bytes],
        overlay: bytes | None = None,
    ) -> None:
        self._root = _Root(root)
        self._one_file_system = one_file_system
        self._exclude = exclude
        self._overlay = overlay
        self._device = os.fstat(self._root.descriptor).st_dev
        self._linked: dict[tuple[int, int], Entry] = {}
        self._pending: list[bytes] = []
        self.items: list[LayerItem] = []
        self.whiteouts: list[bytes] = []
        self.opaques: list[bytes] = []
        self.skipped: list[Skipped] = []

    def run(self) -> None:
        """Walk everything."""
        descriptor = self._root.descriptor
        try:
            self._take(b"", os.fstat(descriptor), f"/proc/self/fd/{descriptor}/.")
            self._pending = [b""]
            while self._pending:
                self._directory(self._pending.pop())
        except OSError as err:
            where = f" {os.fsdecode(err.filename)!r}" if err.filename else ""
            raise StorageError(f"cannot scan{where}: {err.strerror}") from err
        check_image_paths(sorted(item.entry.path for item in self.items))
        # Directories were read one after another, not one inside the other.
        self.items.sort(key=lambda item: path_key(item.entry.path))
        self._order_links()

    def _directory(self, path: bytes) -> None:
        try:
            descriptor = self._root.directory(path)
        except OSError as err:
            if err.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise SourceChangedError(path, "the directory is gone") from err
            raise
        prefix = path + b"/" if path else b""
        proc = f"/proc/self/fd/{descriptor}/"
        with os.scandir(descriptor) as names:
            found = list(names)
        for entry in found:
            child = prefix + os.fsencode(entry.name)
            if child in self._exclude:
                continue
            try:
                status = entry.stat(follow_symlinks=False)
                self._take(child, status, proc + entry.name)
            except FileNotFoundError as err:
                raise SourceChangedError(child, "it is gone") from err

    def _take(self, path: bytes, status: os.stat_result, proc: str) -> None:
        """Take one name. ``proc`` reaches it without following links in the tree."""
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            self.skipped.append((path, "a socket: it means nothing without its process"))
            return
        if status.st_dev != self._device and self._one_file_system and kind is not Kind.DIR:
            self.skipped.append((path, "mounted from another file system"))
            return
        if self._overlay is not None and _is_whiteout(kind, status):
            self.whiteouts.append(path)
            return
        names = _listxattr(proc)
        if self._overlay is not None and names and self._overlay_marks(path, proc, names):
            return
        _check_device(path, kind, status)
        xattrs = self._xattrs(path, proc, names) if names else ()
        entry = _entry(path, kind, status, proc, xattrs)
        if kind is Kind.DIR:
            self.items.append(LayerItem(entry))
            if status.st_dev == self._device or not self._one_file_system:
                if path:
                    self._pending.append(path)
            else:
                self.skipped.append((path, "content mounted from another file system"))
            return
        if status.st_nlink > 1 and self._is_linked(path, entry, status):
            return
        if kind is Kind.FILE:
            self.items.append(self._file(entry, status))
        else:
            self.items.append(LayerItem(entry))

    def _is_linked(self, path: bytes, entry: Entry, status: os.stat_result) -> bool:
        """Add a further name of an inode seen before; False for its first name."""
        first = self._linked.setdefault((status.st_dev, status.st_ino), entry)
        if first is entry:
            return False
        self.items.append(LayerItem(hard_link(path, first.path, first)))
        return True

    def _order_links(self) -> None:
        """Give each group's file the name that sorts first."""
        if len(self._linked) == 0:
            return
        groups: dict[bytes, list[int]] = {}
        for index, item in enumerate(self.items):
            if item.entry.kind is Kind.HARDLINK:
                groups.setdefault(item.entry.target, []).append(index)
        by_path = {item.entry.path: index for index, item in enumerate(self.items)}
        for target, links in groups.items():
            if links[0] < by_path[target]:
                self._swap(by_path[target], links)

    def _swap(self, file_index: int, links: list[int]) -> None:
        file = self.items[file_index]
        first = self.items[links[0]].entry.path
        renamed = _renamed(file.entry, first)
        self.items[links[0]] = file._replace(entry=renamed)
        for index in (file_index, *links[1:]):
            path = self.items[index].entry.path
            self.items[index] = LayerItem(hard_link(path, first, renamed))

    def _file(self, entry: Entry, status: os.stat_result) -> LayerItem:
        root, path = self._root, entry.path
        if not entry.size:
            return LayerItem(entry)
        holes: tuple[tuple[int, int], ...] = ()
        if status.st_blocks * _SECTOR_BYTES < entry.size:
            with root.open_file(path, status) as file:
                holes = _verified_holes(file, entry.size)
        return LayerItem(
            entry,
            lambda: root.open_file(path, status),
            holes,
            lambda: root.read_file(path, status),
        )

    def _overlay_marks(self, path: bytes, proc: str, names: list[bytes]) -> bool:
        """Note what overlayfs wrote about a name; return whether it is a whiteout."""
        assert self._overlay is not None
        for mark in (b"redirect", b"metacopy"):
            if self._overlay + mark in names:
                raise UnsafeContentError(
                    f"{path[:300]!r} in the upper directory has overlayfs's {mark.decode()} mark",
                    hint="mount the overlay with redirect_dir=off,metacopy=off",
                )
        if self._overlay + b"whiteout" in names:
            self.whiteouts.append(path)
            return True
        opaque = self._overlay + b"opaque"
        if opaque in names and _getxattr(proc, opaque) == b"y":
            self.opaques.append(path)
        return False

    def _xattrs(self, path: bytes, proc: str, names: list[bytes]) -> Xattrs:
        kept = []
        for name in sorted(names):
            if is_kept(name):
                kept.append((name, _getxattr(proc, name)))
            elif b".overlay." not in name:
                self.skipped.append((path, f"xattr {os.fsdecode(name)}"))
        return tuple(kept)


def _renamed(entry: Entry, path: bytes) -> Entry:
    from msgspec.structs import replace

    return replace(entry, path=path)


def _is_whiteout(kind: Kind, status: os.stat_result) -> bool:
    return kind is Kind.CHAR and status.st_rdev == 0


def _check_device(path: bytes, kind: Kind, status: os.stat_result) -> None:
    if _is_whiteout(kind, status):
        raise UnsafeContentError(
            f"{path[:300]!r} is the character device 0:0, which means a whiteout in a layer",
            hint="exclude it; an overlay's upper directory cannot be imported as a tree",
        )


def _entry(path: bytes, kind: Kind, status: os.stat_result, proc: str, xattrs: Xattrs) -> Entry:
    device = status.st_rdev if kind in (Kind.CHAR, Kind.BLOCK) else 0
    return Entry(
        path,
        kind,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        status.st_size if kind is Kind.FILE else 0,
        (),
        os.fsencode(os.readlink(proc)) if kind is Kind.SYMLINK else b"",
        os.major(device),
        os.minor(device),
        xattrs,
    )


def _listxattr(proc: str) -> list[bytes]:
    try:
        names = os.listxattr(proc, follow_symlinks=False)
    except OSError as err:
        if err.errno == errno.ENOTSUP:
            return []
        raise
    return [os.fsencode(name) for name in names] if names else []


def _getxattr(proc: str, name: bytes) -> bytes:
    return os.getxattr(proc, name, follow_symlinks=False)


def _verified_holes(file: SourceFile, size: int) -> tuple[tuple[int, int], ...]:
    """Return a file's holes after having read that they are zeros.

    File systems have reported data as holes; what is not all zeros counts as data.
    """
    holes = []
    descriptor = file.fileno()
    at = 0
    while at < size:
        start = os.lseek(descriptor, at, os.SEEK_HOLE)
        if start >= size:
            break
        try:
            at = min(os.lseek(descriptor, start, os.SEEK_DATA), size)
        except OSError as err:
            if err.errno != errno.ENXIO:
                raise
            at = size
        if _is_zero(descriptor, start, at):
            holes.append((start, at - start))
    file.verify()
    return tuple(holes)


def _is_zero(descriptor: int, start: int, end: int) -> bool:
    while start < end:
        piece = os.pread(descriptor, min(end - start, _VERIFY_BYTES), start)
        if not piece or piece.count(0) != len(piece):
            return False
        start += len(piece)
    return True
