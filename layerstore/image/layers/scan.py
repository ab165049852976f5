"""Directories of the host as layer items: a root file system, or an overlay's upper.

The tree belongs to somebody else and may change while it is read. Nothing here follows
a symlink: every name is opened relative to an open directory with O_NOFOLLOW. Files are
opened when their content is wanted and must still be what the scan saw. Fifos and
devices are never opened.

The walk goes down in the order of a layer's tree (names in byte order, a directory right
before what is in it), so that a layer can be written while it is walked: it holds the
names of the directories it is in, and nothing of those it has left but the inodes that
have further names.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import weakref
from typing import TYPE_CHECKING, Final, NamedTuple

from layerstore.errors import InputError, StorageError, UnsafeContentError
from layerstore.formats.tree import DIR, FILE, KIND_OF_MODE, SYMLINK, Entry, Kind
from layerstore.formats.xattrs import is_kept
from layerstore.image.layers.changeset_builder import hard_link
from layerstore.image.layers.layer_item import LayerItem, check_image_paths
from layerstore.image.layers.source_file import SourceChangedError, SourceFile, read_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from layerstore.image.layers.remembered import Fingerprint

Xattrs = tuple[tuple[bytes, bytes], ...]
Skipped = tuple[bytes, str]
"""A path that a scan left out, and why."""

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_CHAIN_MAX = 100
"""Directories kept open at most: the usual limit of descriptors is 1024."""
_STATS_TOGETHER = 256
"""Names of one directory that are looked at together."""
HELD_MAX_BYTES: Final = 32 << 20
"""Content of an upper directory that is read while it is scanned, at most."""
_SECTOR_BYTES = 512
_VERIFY_BYTES = 1 << 20
_ENCODING: Final = sys.getfilesystemencoding()
_ENCODE_ERRORS: Final = sys.getfilesystemencodeerrors()


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
    scanner = Scanner(root, one_file_system=one_file_system, exclude=exclude)
    items = list(scanner.items())
    if on_skip is not None:
        for path, why in scanner.skipped:
            on_skip(path, why)
    return items


def scan_upper(
    upper: Path, *, xattr_prefix: bytes = b"trusted.overlay.", read_small: int = 0
) -> UpperScan:
    """Return what an overlayfs upper directory says; the overlay must not be mounted.

    Args:
        upper: The directory given as ``upperdir``.
        xattr_prefix: ``user.overlay.`` for overlays mounted with ``userxattr``.
        read_small: As for :class:`Scanner`, up to ``HELD_MAX_BYTES`` in all.

    Raises:
        UnsafeContentError: The overlay was used with ``redirect_dir`` or ``metacopy``,
            whose upper directories do not stand for themselves.
        StorageError: Reading failed.
    """
    scanner = Scanner(upper, overlay=xattr_prefix, read_small=read_small, read_max=HELD_MAX_BYTES)
    items = list(scanner.items())
    return UpperScan(items, scanner.whiteouts, scanner.opaques, scanner.skipped)


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
            descriptor = self.directory(parent)
        except OSError as err:
            if err.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise SourceChangedError(path, "its directory is gone") from err
            raise StorageError(f"cannot read {os.fsdecode(path)!r}: {err.strerror}") from err
        return _open_file(name, descriptor, path)


def _close_all(chain: list[tuple[bytes, int]]) -> None:
    for _, descriptor in chain:
        os.close(descriptor)


class _Link(NamedTuple):
    """The first name of an inode that has more of them, and how many were not seen yet."""

    entry: Entry
    unseen: int


class Scanner:
    """One walk over a tree, in the order of a layer's tree.

    Args:
        root: As for :func:`scan_directory`.
        one_file_system: The same.
        exclude: The same.
        overlay: Prefix of overlayfs's marks when this is an upper directory.
        read_small: Items of files up to so many bytes come with their content, so that each
            of them is opened only once.
        read_max: So many bytes of content in all; further files are opened later.
        fingerprint: Hears of everything that is looked at.

    Attributes:
        whiteouts: Found so far, in an overlay's upper directory.
        opaques: The same.
        skipped: What was left out so far.
    """

    def __init__(
        self,
        root: Path,
        *,
        one_file_system: bool = True,
        exclude: Collection[bytes] = (),
        overlay: bytes | None = None,
        read_small: int = 0,
        read_max: int = sys.maxsize,
        fingerprint: Fingerprint | None = None,
    ) -> None:
        self._root = _Root(root)
        self._one_file_system = one_file_system
        self._exclude = frozenset(exclude)
        self._overlay = overlay
        self._read_small = read_small
        self._read_left = read_max
        self._device = os.fstat(self._root.descriptor).st_dev
        self._linked: dict[tuple[int, int], _Link] = {}
        self._fingerprint = fingerprint
        self.whiteouts: list[bytes] = []
        self.opaques: list[bytes] = []
        self.skipped: list[Skipped] = []

    def items(self) -> Iterator[LayerItem]:
        """Yield everything; call it once.

        Raises:
            UnsafeContentError: A name or device that would mean something else in a layer.
            SourceChangedError: Something changed while it was looked at.
            StorageError: Reading failed.
        """
        try:
            yield from self._walk()
        except OSError as err:
            raise _unreadable(err) from err

    def look(self) -> None:
        """Only look at everything, for the fingerprint; call it once, instead of :meth:`items`.

        Raises:
            As :meth:`items`.
        """
        try:
            self._root_status()
            above = [self._names(b"")]
            while above:
                for path, _, _, status in above[-1]:
                    if stat.S_ISDIR(status.st_mode) and self._enters(path, status):
                        above.append(self._names(path))
                        break
                else:
                    above.pop()
        except OSError as err:
            raise _unreadable(err) from err

    def _root_status(self) -> os.stat_result:
        status = os.fstat(self._root.descriptor)
        if self._fingerprint is not None:
            self._fingerprint.add([b""], [status])
        return status

    def _walk(self) -> Iterator[LayerItem]:
        item = self._take(b"", b".", self._root.descriptor, self._root_status())
        if item is not None:
            yield item
        above = [self._names(b"")]
        while above:
            for path, name, descriptor, status in above[-1]:
                try:
                    item = self._take(path, name, descriptor, status)
                except FileNotFoundError as err:
                    raise SourceChangedError(path, "it is gone") from err
                if item is None:
                    continue
                yield item
                if item.entry.kind is DIR and self._enters(path, status):
                    above.append(self._names(path))
                    break
            else:
                above.pop()

    def _names(self, path: bytes) -> Iterator[tuple[bytes, bytes, int, os.stat_result]]:
        """Yield (path, name, descriptor of the directory, status) of all a directory holds."""
        descriptor = self._directory(path)
        names = [name.encode(_ENCODING, _ENCODE_ERRORS) for name in os.listdir(descriptor)]
        names.sort()
        prefix = path + b"/" if path else b""
        for start in range(0, len(names), _STATS_TOGETHER):
            some = names[start : start + _STATS_TOGETHER]
            paths = [prefix + name for name in some]
            if self._exclude and not self._exclude.isdisjoint(paths):
                paths = [child for child in paths if child not in self._exclude]
                some = [child[len(prefix) :] for child in paths]
            check_image_paths(paths)
            descriptor = self._directory(path)
            statuses = _statuses(descriptor, some, prefix)
            if self._fingerprint is not None:
                self._fingerprint.add(paths, statuses)
            for child, name, status in zip(paths, some, statuses, strict=True):
                # It was closed if many directories below were entered meanwhile.
                yield child, name, self._directory(path), status

    def _directory(self, path: bytes) -> int:
        try:
            return self._root.directory(path)
        except OSError as err:
            if err.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise SourceChangedError(path, "the directory is gone") from err
            raise

    def _enters(self, path: bytes, status: os.stat_result) -> bool:
        if status.st_dev == self._device or not self._one_file_system:
            return True
        self.skipped.append((path, "content mounted from another file system"))
        return False

    def _take(
        self, path: bytes, name: bytes, parent: int, status: os.stat_result
    ) -> LayerItem | None:
        """Return the item of one name, or None for what is not an entry."""
        kind = KIND_OF_MODE.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            self.skipped.append((path, "a socket: it means nothing without its process"))
            return None
        if status.st_dev != self._device and self._one_file_system and kind is not DIR:
            self.skipped.append((path, "mounted from another file system"))
            return None
        if self._overlay is not None and _is_whiteout(kind, status):
            self.whiteouts.append(path)
            return None
        if kind is FILE and 0 < status.st_size <= min(self._read_small, self._read_left):
            return self._small(path, name, parent, status)
        # This reaches it without following links in the tree.
        proc = b"/proc/self/fd/%d/%b" % (parent, name)
        names = _listxattr(proc)
        if self._overlay is not None and names and self._overlay_marks(path, proc, names):
            return None
        _check_device(path, kind, status)
        xattrs = self._xattrs(path, proc, names) if names else ()
        entry = _entry(path, kind, status, proc, xattrs)
        if status.st_nlink > 1 and kind is not DIR:
            link = self._further_name(entry, status)
            if link is not None:
                return link
        return self._file(entry, status) if kind is FILE else LayerItem(entry)

    def _small(
        self, path: bytes, name: bytes, parent: int, status: os.stat_result
    ) -> LayerItem | None:
        """Return the item of a small file with its content: most files are like this."""
        if status.st_nlink > 1 and (status.st_dev, status.st_ino) in self._linked:
            link = self._further_name(_entry(path, FILE, status, b"", ()), status)
            assert link is not None
            return link
        descriptor = _open_file(name, parent, path)
        try:
            names = _listxattr(descriptor)
            if self._overlay is not None and names and self._overlay_marks(path, descriptor, names):
                return None
            xattrs = self._xattrs(path, descriptor, names) if names else ()
            if status.st_blocks * _SECTOR_BYTES < status.st_size and _has_holes(
                descriptor, status.st_size
            ):
                content = None
            else:
                content = read_whole(descriptor, path, status)
                self._read_left -= len(content)
        finally:
            os.close(descriptor)
        entry = _entry(path, FILE, status, b"", xattrs)
        if status.st_nlink > 1:
            self._further_name(entry, status)
        return self._file(entry, status) if content is None else LayerItem(entry, content=content)

    def _further_name(self, entry: Entry, status: os.stat_result) -> LayerItem | None:
        """Return the link that a further name of an inode is; None for its first name."""
        inode = (status.st_dev, status.st_ino)
        known = self._linked.get(inode)
        if known is None:
            self._linked[inode] = _Link(entry, status.st_nlink - 1)
            return None
        if known.unseen > 1:
            self._linked[inode] = known._replace(unseen=known.unseen - 1)
        else:
            del self._linked[inode]
        return LayerItem(hard_link(entry.path, known.entry.path, known.entry))

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

    def _overlay_marks(self, path: bytes, where: bytes | int, names: list[bytes]) -> bool:
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
        if opaque in names and _getxattr(where, opaque) == b"y":
            self.opaques.append(path)
        return False

    def _xattrs(self, path: bytes, where: bytes | int, names: list[bytes]) -> Xattrs:
        kept = []
        for name in sorted(names):
            if is_kept(name):
                kept.append((name, _getxattr(where, name)))
            elif b".overlay." not in name:
                self.skipped.append((path, f"xattr {os.fsdecode(name)}"))
        return tuple(kept)


def _unreadable(err: OSError) -> StorageError:
    where = f" {os.fsdecode(err.filename)!r}" if err.filename else ""
    return StorageError(f"cannot scan{where}: {err.strerror}")


def _statuses(descriptor: int, names: list[bytes], prefix: bytes) -> list[os.stat_result]:
    name = b""
    try:
        return [os.stat(name := one, dir_fd=descriptor, follow_symlinks=False) for one in names]
    except FileNotFoundError as err:
        raise SourceChangedError(prefix + name, "it is gone") from err


def _open_file(name: bytes, parent: int, path: bytes) -> int:
    try:
        return os.open(name, _OPEN_FILE, dir_fd=parent)
    except OSError as err:
        if err.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
            raise SourceChangedError(path, "it is gone or another kind of file") from err
        raise StorageError(f"cannot read {os.fsdecode(path)!r}: {err.strerror}") from err


def _is_whiteout(kind: Kind, status: os.stat_result) -> bool:
    return kind is Kind.CHAR and status.st_rdev == 0


def _check_device(path: bytes, kind: Kind, status: os.stat_result) -> None:
    if _is_whiteout(kind, status):
        raise UnsafeContentError(
            f"{path[:300]!r} is the character device 0:0, which means a whiteout in a layer",
            hint="exclude it; an overlay's upper directory cannot be imported as a tree",
        )


def _entry(path: bytes, kind: Kind, status: os.stat_result, proc: bytes, xattrs: Xattrs) -> Entry:
    mode = stat.S_IMODE(status.st_mode)
    uid, gid, mtime_ns = status.st_uid, status.st_gid, status.st_mtime_ns
    if kind is FILE:
        return Entry(path, kind, mode, uid, gid, mtime_ns, status.st_size, xattrs=xattrs)
    if kind is SYMLINK:
        return Entry(path, kind, mode, uid, gid, mtime_ns, target=os.readlink(proc), xattrs=xattrs)
    device = status.st_rdev if kind in (Kind.CHAR, Kind.BLOCK) else 0
    major, minor = os.major(device), os.minor(device)
    return Entry(
        path, kind, mode, uid, gid, mtime_ns, dev_major=major, dev_minor=minor, xattrs=xattrs
    )


def _listxattr(where: bytes | int) -> list[bytes]:
    try:
        names = os.listxattr(where, follow_symlinks=isinstance(where, int))
    except OSError as err:
        if err.errno == errno.ENOTSUP:
            return []
        raise
    return [os.fsencode(name) for name in names] if names else []


def _getxattr(where: bytes | int, name: bytes) -> bytes:
    return os.getxattr(where, name, follow_symlinks=isinstance(where, int))


def _has_holes(descriptor: int, size: int) -> bool:
    """Return whether the file system says so; :func:`_verified_holes` finds out."""
    found = os.lseek(descriptor, 0, os.SEEK_HOLE) < size
    os.lseek(descriptor, 0, os.SEEK_SET)
    return found


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
