"""A tree as files of the host: for whoever runs the command, or again what it was.

Every directory is opened by one name below its parent's descriptor and never through a
link, so whatever links the tree or the destination holds, nothing is written outside. Each
file gets its name by a rename when it is whole.

:func:`checkout` is ``--output type=local``. Owners are not kept, nor set-user-ID and
set-group-ID bits, extended attributes and devices: the tree of a stranger gets no rights on
this host. A destination that does not exist appears whole; one that exists is added to.
:func:`restore` keeps all of these, for a directory of the store that nobody else may enter.

Source: openat(2), rename(2); buildx, ``--output type=local``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from typing import TYPE_CHECKING, Final

from layerstore.errors import ConflictError
from layerstore.formats.tree import Kind
from layerstore.image.layouts.layout import writing
from layerstore.linux.files import fsync_directory, sync_file_system, write_all
from layerstore.linux.removal import remove_leftover
from layerstore.progress import Progress, Silent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from layerstore.formats.tree import Entry
    from layerstore.image.trees.stack import Node
    from layerstore.store.store import Store

_MODE_BITS: Final = 0o1777
_SPECIAL: Final = {
    Kind.FIFO: stat.S_IFIFO,
    Kind.CHAR: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
}
_DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def checkout(
    store: Store,
    root: Node,
    out: Path,
    *,
    latest_ns: int | None = None,
    on_skip: Callable[[bytes, str], None] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write a tree below the directory ``out``, durably.

    Args:
        store: Where contents are read.
        root: The tree.
        out: Made with its parents when absent, and then appears whole. Files of the tree
            replace others of their name there; nothing else there changes.
        latest_ns: No file gets a later time.
        on_skip: Hears the path of what is not written, and why.
        progress: Hears the bytes of content.

    Raises:
        ConflictError: A file of the tree is a directory in ``out``.
        StorageError: ``out`` cannot be written.
        IntegrityError: Stored bytes are damaged.
    """
    target = os.path.abspath(out)
    with writing(out):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.lexists(target):
            _write_below(store, root, target, latest_ns, on_skip, progress)
            return
        staged = f"{os.path.dirname(target)}/.{os.path.basename(target)}.{os.getpid()}.part"
        try:
            os.mkdir(staged)
            _write_below(store, root, staged, latest_ns, on_skip, progress)
            os.rename(staged, target)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        fsync_directory(os.path.dirname(target))


def export_directory(store: Store, root: Node, out: Path) -> None:
    """Write a tree as it is, for root: what ``export | tar -x`` as root would leave.

    Owners, all mode bits, extended attributes and devices are as they are in the tree, so
    programs of a stranger's image may be set-user-ID here; the caller says who may enter ``out``.

    Args:
        store: Where contents are read.
        root: The tree.
        out: Absent or an empty directory; appears whole and durable, or stays as it was.

    Raises:
        ConflictError: There is something at ``out``.
        StorageError: ``out`` cannot be written.
        IntegrityError: Stored bytes are damaged.
    """
    target = os.path.abspath(out)
    staged = f"{os.path.dirname(target)}/.{os.path.basename(target)}.{os.getpid()}.part"
    if os.path.lexists(target) and (not os.path.isdir(target) or os.listdir(target)):
        raise ConflictError(f"{out} is not an empty directory", hint="choose a new one")
    with writing(out):
        try:
            # Closed to others while it is half there; the tree's root decides in the end.
            os.mkdir(staged, 0o700)
            os.mkdir(f"{staged}/tree", 0o700)
            restore(store, root, f"{staged}/tree")
            sync_file_system(staged)
            os.rename(f"{staged}/tree", target)
        finally:
            remove_leftover(staged)
        fsync_directory(os.path.dirname(target))


def restore(store: Store, root: Node, directory: str) -> None:
    """Fill an empty directory with a tree, and give it what the tree's root has.

    Owners, all mode bits, extended attributes, times, hard links, holes and devices are as
    they were. Nothing is forced to disk.

    Args:
        store: Where contents are read.
        root: The tree.
        directory: Below one that only this user may enter.

    Raises:
        OSError: It cannot be written.
        IntegrityError: Stored bytes are damaged.
    """
    fd = os.open(directory, _DIRECTORY_FLAGS)
    try:
        _Checkout(store, None, lambda _path, _why: None, Silent(), exact=True).fill(fd, root)
    finally:
        os.close(fd)


def _write_below(
    store: Store,
    root: Node,
    directory: str,
    latest_ns: int | None,
    on_skip: Callable[[bytes, str], None] | None,
    progress: Progress | None,
) -> None:
    report = progress or Silent()
    report.start("writing files", None)
    # The destination itself is the caller's: a link to a directory is what they mean.
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _Checkout(store, latest_ns, on_skip or (lambda _path, _why: None), report).fill(fd, root)
    finally:
        os.close(fd)
    sync_file_system(directory)
    report.finish()


class _Checkout:
    """Writes one tree; see the module."""

    def __init__(
        self,
        store: Store,
        latest_ns: int | None,
        on_skip: Callable[[bytes, str], None],
        progress: Progress,
        *,
        exact: bool = False,
    ) -> None:
        self._store = store
        self._exact = exact
        self._latest_ns = latest_ns
        self._on_skip = on_skip
        self._progress = progress
        # Nobody can foresee it, so no file of the tree is called like it.
        self._staged = f".layerstore-{os.urandom(8).hex()}.part".encode()
        self._first_names: dict[int, bytes] = {}

    def fill(self, top: int, root: Node) -> None:
        """Write everything below ``root`` into the directory ``top``; modes of directories last."""
        # (descriptor, names still to write, their directory's path and node)
        pending = [(os.dup(top), iter((root.children or {}).items()), b"", root)]
        try:
            while pending:
                fd, names, path, node = pending[-1]
                for name, child in names:
                    below = path + b"/" + name if path else name
                    if child.children is None:
                        self._write(top, fd, name, below, child)
                        continue
                    inner = self._enter(fd, name, below)
                    pending.append((inner, iter(child.children.items()), below, child))
                    break
                else:
                    if path or self._exact:
                        self._dress(fd, node.entry)
                    pending.pop()
                    os.close(fd)
        finally:
            for fd, *_ in pending:
                os.close(fd)

    def _enter(self, parent: int, name: bytes, path: bytes) -> int:
        """Open the directory ``name``, making it; what is no directory gives way."""
        self._make_way(parent, name, path, directory=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
        fd = os.open(name, _DIRECTORY_FLAGS, dir_fd=parent)
        if os.geteuid() != 0:
            os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode) | 0o700)  # its mode comes last
        return fd

    def _write(self, top: int, parent: int, name: bytes, path: bytes, node: Node) -> None:
        entry = node.entry
        if entry.kind not in (Kind.FILE, Kind.SYMLINK) and not self._exact:
            self._on_skip(path, "devices and fifos are not made outside of containers")
            return
        self._make_way(parent, name, path, directory=False)
        try:
            first = self._first_names.setdefault(node.ino, path) if node.nlink > 1 else path
            if first == path or not self._link(top, parent, first):
                self._create(parent, entry)
            os.rename(self._staged, name, src_dir_fd=parent, dst_dir_fd=parent)
            if first != path:
                with contextlib.suppress(FileNotFoundError):
                    # Two names of one file: rename(2) does nothing then.
                    os.unlink(self._staged, dir_fd=parent)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(self._staged, dir_fd=parent)
            raise

    def _link(self, top: int, parent: int, first: bytes) -> bool:
        """Give a file that was written one more name; False when it is gone meanwhile."""
        fd = os.dup(top)
        try:
            *folders, last = first.split(b"/")
            for folder in folders:
                inner = os.open(folder, _DIRECTORY_FLAGS, dir_fd=fd)
                os.close(fd)
                fd = inner
            os.link(last, self._staged, src_dir_fd=fd, dst_dir_fd=parent, follow_symlinks=False)
        except OSError:
            return False
        finally:
            os.close(fd)
        return True

    def _create(self, parent: int, entry: Entry) -> None:
        if entry.kind is Kind.FILE:
            self._create_file(parent, entry)
            return
        if entry.kind is Kind.SYMLINK:
            os.symlink(entry.target, self._staged, dir_fd=parent)
        else:
            device = os.makedev(entry.dev_major, entry.dev_minor)
            os.mknod(self._staged, _SPECIAL[entry.kind] | 0o600, device, dir_fd=parent)
        self._dress_staged(parent, entry)

    def _create_file(self, parent: int, entry: Entry) -> None:
        fd = os.open(self._staged, _FILE_FLAGS, 0o600, dir_fd=parent)
        try:
            at = 0
            for length, chunk in entry.extents:
                if chunk is None:
                    os.lseek(fd, length, os.SEEK_CUR)
                else:
                    write_all(fd, self._store.read_refs(((length, chunk),)))
                at += length
                self._progress.advance(length)
            if entry.extents and entry.extents[-1][1] is None:
                os.ftruncate(fd, at)
            self._dress(fd, entry)
        finally:
            os.close(fd)

    def _dress(self, fd: int, entry: Entry) -> None:
        """Give an open file or directory what it is to have; its mode last, which may shut us out.

        chown(2) takes set-ID bits and capabilities away, so owners come first.
        """
        if self._exact:
            os.fchown(fd, entry.uid, entry.gid)
            for attribute, value in entry.xattrs:
                os.setxattr(fd, attribute, value)
        os.utime(fd, ns=self._times(entry))
        os.fchmod(fd, entry.mode & (0o7777 if self._exact else _MODE_BITS))

    def _dress_staged(self, parent: int, entry: Entry) -> None:
        """Give what cannot be opened what it is to have: a symlink, or what :meth:`_create` made.

        No other process may enter where anything but symlinks is made.
        """
        if self._exact:
            os.chown(self._staged, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
            if entry.kind is not Kind.SYMLINK:
                os.chmod(self._staged, entry.mode, dir_fd=parent)
            where = b"/proc/self/fd/%d/%b" % (parent, self._staged)
            for attribute, value in entry.xattrs:
                os.setxattr(where, attribute, value, follow_symlinks=False)
        os.utime(self._staged, ns=self._times(entry), dir_fd=parent, follow_symlinks=False)

    def _make_way(self, parent: int, name: bytes, path: bytes, *, directory: bool) -> None:
        """Remove a file where a directory goes; refuse to remove a directory.

        Raises:
            ConflictError: A directory is where a file goes.
        """
        try:
            mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return
        if directory and not stat.S_ISDIR(mode):
            os.unlink(name, dir_fd=parent)
        if not directory and stat.S_ISDIR(mode):
            raise ConflictError(
                f"{os.fsdecode(path)!r} is a directory in the destination and a file in the image",
                hint="choose an empty or new directory",
            )

    def _times(self, entry: Entry) -> tuple[int, int]:
        time_ns = entry.mtime_ns
        if self._latest_ns is not None:
            time_ns = min(time_ns, self._latest_ns)
        return time_ns, time_ns
