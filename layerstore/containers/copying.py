"""Copies on their way into a directory, and into and out of a tar: what ``cp`` does with items.

Whoever runs in a container may change the directory while it is written to. So every name is made
below its open directory, files get theirs by a rename when they are whole, and attributes are given
to what is open, never by a path that somebody may have put a link into.

Source: openat2(2), rename(2); tar by :mod:`layerstore.formats.tar_reader` and ``tar_writer``.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat

import msgspec

from layerstore.containers.copied import Item, is_carried
from layerstore.errors import ConflictError, InputError, StorageError
from layerstore.formats.decompress import decompressed
from layerstore.formats.tar_limits import Limits
from layerstore.formats.tar_reader import TarReader
from layerstore.formats.tar_writer import TAR_END, member_header, padding, sparse_member_header
from layerstore.formats.tree import Entry, Kind
from layerstore.light_typing import TYPE_CHECKING
from layerstore.linux.files import openat2, write_all
from layerstore.linux.mounts import identify_fd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from layerstore.formats.tar_member import Member

Owner = tuple[int, int]

_SPECIAL = {Kind.FIFO: stat.S_IFIFO, Kind.CHAR: stat.S_IFCHR, Kind.BLOCK: stat.S_IFBLK}
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_THERE = (errno.ENOTSUP, errno.EPERM)
"""Attributes that a file system does not have, or this user may not give."""

_PLAIN_BITS = 0o1777
_PIECE_BYTES = 1 << 20


class TreeWriter:
    """Writes items below a directory.

    Args:
        anchor: Open directory, in which paths resolve.
        prefix: Path in it that the items' paths begin at.
        resolve: How the kernel is to resolve them; see openat2(2).
        owner: Whose an item is to be; None for whoever writes.
        trusted: Whether set-ID bits, capabilities and devices are copied, too.
        kernels: Device numbers of file systems in which nothing is written.
        skip: Told the path of what is not made, and why.
    """

    def __init__(
        self,
        anchor: int,
        prefix: bytes,
        resolve: int,
        *,
        owner: Callable[[Entry], Owner | None],
        trusted: bool,
        kernels: frozenset[int],
        skip: Callable[[bytes, str], object],
    ) -> None:
        self._anchor = anchor
        self._prefix = prefix
        self._resolve = resolve
        self._owner = owner
        self._trusted = trusted
        self._kernels = kernels
        self._skip = skip
        self._staged = f".layerstore-{os.urandom(8).hex()}.part".encode()
        self._directories: dict[bytes, Entry] = {}
        self._open: tuple[bytes, int] | None = None

    def write(self, items: Iterator[Item]) -> None:
        """Write everything; attributes of directories come last.

        Raises:
            ConflictError: A directory is where a file goes, or the other way round.
            StorageError: Something cannot be written.
        """
        try:
            for item in items:
                self._put(item)
            for path, entry in reversed(self._directories.items()):
                fd = self._open_directory(path)
                try:
                    self._dress(fd, entry)
                finally:
                    os.close(fd)
        except OSError as err:
            where = f" {os.fsdecode(err.filename)!r}" if err.filename else ""
            raise StorageError(f"cannot write{where}: {err.strerror}") from err
        finally:
            if self._open is not None:
                os.close(self._open[1])

    def _put(self, item: Item) -> None:
        entry = item.entry
        if not entry.path:
            return  # the destination itself, which keeps what it has
        head, _, name = entry.path.rpartition(b"/")
        parent = self._parent(head)
        if entry.kind is Kind.DIR:
            self._make_directory(parent, name, entry)
            return
        if entry.kind in (Kind.CHAR, Kind.BLOCK) and not self._trusted:
            self._skip(entry.path, "a device of a container is not made here")
            return
        self._refuse(parent, name, entry.path, directory=False)
        try:
            self._create(parent, item)
            os.rename(self._staged, name, src_dir_fd=parent, dst_dir_fd=parent)
        except OSError as err:
            raise OSError(err.errno, err.strerror, entry.path) from err
        finally:
            # Of two names of one file, rename(2) leaves both.
            with contextlib.suppress(OSError):
                os.unlink(self._staged, dir_fd=parent)

    def _parent(self, path: bytes) -> int:
        """Return an open directory of the copy, valid until the next call."""
        if self._open is None or self._open[0] != path:
            fd = self._open_directory(path, make=True)
            if self._open is not None:
                os.close(self._open[1])
            self._open = path, fd
            if os.fstat(fd).st_dev in self._kernels:
                raise InputError(
                    f"/{os.fsdecode(self._prefix)} is the kernel's: nothing can be copied there",
                    hint="layerstore exec CONTAINER sh -c 'echo VALUE > PATH'",
                )
        return self._open[1]

    def _open_directory(self, path: bytes, *, make: bool = False) -> int:
        where = b"/".join(part for part in (self._prefix, path) if part) or b"."
        try:
            return openat2(self._anchor, where, os.O_RDONLY | os.O_DIRECTORY, resolve=self._resolve)
        except FileNotFoundError:
            if not (make and path):
                raise
        head, _, name = path.rpartition(b"/")
        parent = self._open_directory(head, make=True)  # as deep as paths may be in a tar
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
            return os.open(name, _DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
        finally:
            os.close(parent)

    def _make_directory(self, parent: int, name: bytes, entry: Entry) -> None:
        self._refuse(parent, name, entry.path, directory=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
        self._directories[entry.path] = entry

    def _refuse(self, parent: int, name: bytes, path: bytes, *, directory: bool) -> None:
        """Refuse to put a directory in the place of a file, or a file in that of a directory."""
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(status.st_mode) != directory:
            old, new = ("non-directory", "directory") if directory else ("directory", "file")
            raise ConflictError(
                f"cannot overwrite {old} {os.fsdecode(path)!r} with a {new}",
                hint="remove it there, or choose another destination",
            )
        if not directory:
            self._refuse_mounted(parent, name, path)

    @staticmethod
    def _refuse_mounted(parent: int, name: bytes, path: bytes) -> None:
        """Refuse to take a file's place over which another is mounted.

        From outside its mount namespace the kernel would let us, and unmount it there (rename(2)).
        """
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            if identify_fd(fd).is_root:
                raise ConflictError(
                    f"{os.fsdecode(path)!r} is mounted from elsewhere and cannot be replaced",
                    hint="write to it: layerstore exec -i CONTAINER sh -c 'cat > PATH' < FILE",
                )
        finally:
            os.close(fd)

    def _create(self, parent: int, item: Item) -> None:
        """Make what is no directory, under a name that nobody can foresee."""
        entry = item.entry
        if entry.kind is Kind.FILE:
            self._create_file(parent, item)
            return
        if entry.kind is Kind.HARDLINK:
            self._link(parent, entry.target)
            return
        if entry.kind is Kind.SYMLINK:
            os.symlink(entry.target, self._staged, dir_fd=parent)
        else:
            device = os.makedev(entry.dev_major, entry.dev_minor)
            mask = os.umask(0)  # chmod(2) would follow a link that somebody put in its place
            try:
                mode = entry.mode & _PLAIN_BITS | _SPECIAL[entry.kind]
                os.mknod(self._staged, mode, device, dir_fd=parent)
            finally:
                os.umask(mask)
        owner = self._owner(entry)
        if owner is not None:
            os.chown(self._staged, *owner, dir_fd=parent, follow_symlinks=False)
        times = (entry.mtime_ns, entry.mtime_ns)
        os.utime(self._staged, ns=times, dir_fd=parent, follow_symlinks=False)

    def _create_file(self, parent: int, item: Item) -> None:
        fd = os.open(self._staged, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            for offset, data in item.pieces():
                os.lseek(fd, offset, os.SEEK_SET)
                write_all(fd, data)
            os.ftruncate(fd, item.entry.size)
            self._dress(fd, item.entry)
        finally:
            os.close(fd)

    def _link(self, parent: int, first: bytes) -> None:
        """Give a file that was copied one more name."""
        head, _, name = first.rpartition(b"/")
        fd = self._open_directory(head)
        try:
            os.link(name, self._staged, src_dir_fd=fd, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(fd)

    def _dress(self, fd: int, entry: Entry) -> None:
        """Give an open file what it is to have: owners first, which take set-ID bits away."""
        owner = self._owner(entry)
        if owner is not None:
            os.fchown(fd, *owner)
        for name, value in entry.xattrs:
            if is_carried(name) and (self._trusted or name.startswith(b"user.")):
                try:
                    os.setxattr(fd, name, value)
                except OSError as err:
                    if err.errno not in _NOT_THERE:
                        raise
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        os.fchmod(fd, entry.mode & (0o7777 if self._trusted else _PLAIN_BITS))


def write_tar(items: Iterator[Item], write: Callable[[bytes], object]) -> None:
    """Write items as a tar.

    Args:
        items: In order.
        write: Takes the bytes in order.
    """
    for item in items:
        entry = item.entry
        stored = sum(length for _, length in item.regions)
        is_sparse = entry.kind is Kind.FILE and stored < entry.size
        write(sparse_member_header(entry, item.regions) if is_sparse else member_header(entry))
        for _, data in item.pieces():
            write(data)
        if entry.kind is Kind.FILE:
            write(padding(stored))
    write(TAR_END)


def read_tar(read: Callable[[int], bytes]) -> Iterator[Item]:
    """Yield what a tar holds, plain or compressed.

    Args:
        read: Returns 1 to n bytes, or none at the end.

    Raises:
        FormatError: It is damaged, or none.
        UnsafeContentError: Names that lead out of it.
        LimitExceededError: It is larger than a limit.
    """
    limits = Limits()
    reader = TarReader(decompressed(read, limits), limits)
    while (member := reader.next_member()) is not None:
        entry = _entry_of(member)
        regions = _regions_of(member)
        left = [member.stored]
        yield Item(entry, regions, functools.partial(_content, reader, regions, left))
        while left[0]:
            left[0] -= len(reader.read(min(left[0], _PIECE_BYTES)))
        reader.take_literals()


def _regions_of(member: Member) -> tuple[tuple[int, int], ...]:
    if member.regions is not None:
        return tuple(member.regions)
    return ((0, member.size),) if member.size else ()


def _content(
    reader: TarReader, regions: tuple[tuple[int, int], ...], left: list[int]
) -> Iterator[tuple[int, bytes]]:
    for offset, length in regions:
        end = offset + length
        while offset < end:
            data = reader.read(min(end - offset, _PIECE_BYTES))
            left[0] -= len(data)
            yield offset, data
            offset += len(data)


def _entry_of(member: Member) -> Entry:
    names = ("path", "kind", "mode", "uid", "gid", "mtime_ns", "size", "target",
             "dev_major", "dev_minor", "xattrs")  # fmt: skip
    return Entry(**{name: getattr(member, name) for name in names})


def under_ids(items: Iterator[Item], change: Callable[[Entry], Owner]) -> Iterator[Item]:
    """Yield items with other owners."""
    for item in items:
        uid, gid = change(item.entry)
        yield item._replace(entry=msgspec.structs.replace(item.entry, uid=uid, gid=gid))
