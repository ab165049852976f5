"""The build context: a directory of the host, read without ever leaving it.

Directories are opened below a descriptor of the context's root with openat2(2), files
in them with O_NOFOLLOW, so the kernel follows no symlink, nor a file that turns into
one. Links are copied as links. Only regular files are opened; fifos and devices
are refused by name, sockets do not exist for a build, as for docker. Owners become
root and only file capabilities are kept of the extended attributes.

What was hashed for the cache key is what a layer gets: small files stay in memory, up to a bound,
from the key to every COPY of them; content of others is hashed again while it is copied and a
difference is an error. Steps of several threads may read from one context.
"""

from __future__ import annotations

import io
import os
import stat
import threading
from typing import TYPE_CHECKING, BinaryIO, Self

from blake3 import blake3

from layerstore.build.source import SourceNode
from layerstore.errors import InputError, LimitExceededError, NotFoundError, UnsafeContentError
from layerstore.formats.tree import Entry, Kind
from layerstore.linux.files import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    openat2,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from layerstore.build.ignore import IgnoreRules

MAX_ENTRIES = 2_000_000
MAX_CONTENT_BYTES = 100 << 30
"""Logical bytes of all files a build reads from its context."""

READ_BYTES = 1 << 20
WHOLE_BYTES = 1 << 20
"""Files up to this size are read in one go: nearly all are."""

KEPT_MAX_BYTES = 32 << 20
"""Content that a build keeps in memory: of most projects all of it, read once for two stages."""

_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_RESOLVE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
CAPABILITY = b"security.capability"
"""The one extended attribute that a build takes from its context."""

_PSEUDO_ROOTS = ("/proc", "/sys", "/dev")
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 -- a tmpfs that people build in, devices or not
_OTHER_KINDS = {
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFCHR: Kind.CHAR,
    stat.S_IFBLK: Kind.BLOCK,
}
_REFUSED = {Kind.FIFO: "a named pipe", Kind.CHAR: "a device", Kind.BLOCK: "a device"}


class Context:
    """An open build context. Close it, or use it in a ``with`` block.

    Args:
        root: The directory; a symlink to one will do.
        ignore: The rules of its .dockerignore.
        now_ns: What the root's own time is taken for: its name is not part of it.

    Attributes:
        looked: Every path whose status was asked for: nothing else decides what a build takes.

    Raises:
        NotFoundError: There is no such directory.
        UnsafeContentError: It is a part of /proc, /sys or /dev.
    """

    def __init__(self, root: Path, ignore: IgnoreRules, *, now_ns: int) -> None:
        self.root = root
        self._ignore = ignore
        self._entries = 0
        self._bytes = 0
        self._now_ns = now_ns
        self._directory: tuple[bytes, int] | None = None
        self._lock = threading.Lock()
        self.digests: dict[bytes, bytes] = {}
        self.kept: dict[bytes, bytes] = {}
        self._kept_bytes = 0
        self.is_bare = False
        self.looked: list[bytes] = []
        real = os.path.realpath(root)
        ordinary = real.startswith(_SHARED_MEMORY + "/")
        if any(real == top or real.startswith(top + "/") for top in _PSEUDO_ROOTS) and not ordinary:
            raise UnsafeContentError(f"the build context {root} is part of a kernel file system")
        try:
            self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as err:
            raise NotFoundError(
                f"the build context {root} is not a directory that can be read: {err.strerror}"
            ) from err

    def close(self) -> None:
        """Let go of the directory; harmless when repeated."""
        self._forget_directory()
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def tree(self) -> ContextNode:
        """Return the root, from which everything else is reached lazily."""
        entry = Entry(path=b"", kind=Kind.DIR, mode=0o755, mtime_ns=self._now_ns)
        return ContextNode(self, b"", entry, None)

    def open_file(self, path: bytes) -> int:
        """Return a descriptor of a file in the context; follows no link, waits for nothing.

        Raises:
            InputError: It cannot be opened.
        """
        head, _, name = path.rpartition(b"/")
        try:
            with self._lock:
                return os.open(name, _FILE_FLAGS, dir_fd=self._directory_fd(head))
        except OSError as err:
            raise _unreadable(path, err) from err

    def _directory_fd(self, path: bytes) -> int:
        """Return a descriptor of a directory; valid as long as the lock is held.

        Files are read directory by directory, so remembering one saves nearly every
        resolution of a path.
        """
        if self._directory is None or self._directory[0] != path:
            self._forget_directory()
            flags = os.O_RDONLY | os.O_DIRECTORY
            fd = openat2(self._fd, path or b".", flags, resolve=_RESOLVE)
            self._directory = (path, fd)
        return self._directory[1]

    def _forget_directory(self) -> None:
        if self._directory is not None:
            os.close(self._directory[1])
            self._directory = None

    def list(self, path: bytes) -> dict[bytes, SourceNode]:
        """Return the nodes of a directory that the ignore rules leave, in byte order."""
        children: dict[bytes, SourceNode] = {}
        prefix = path + b"/" if path else b""
        try:
            with self._lock:  # reading subdirectories moves the memory on
                fd = os.dup(self._directory_fd(path))
        except OSError as err:
            raise _unreadable(path, err) from err
        try:
            for name in sorted(map(os.fsencode, os.listdir(fd))):
                node = self._node(fd, name, prefix + name)
                if node is not None:
                    children[name] = node
        except OSError as err:
            raise _unreadable(path, err) from err
        finally:
            os.close(fd)
        return children

    def charge(self, size: int) -> None:
        """Count a file's bytes against the limit."""
        self._bytes += size
        if self._bytes > MAX_CONTENT_BYTES:
            raise LimitExceededError(
                f"the files taken from the build context hold more than {MAX_CONTENT_BYTES} bytes",
                hint="name what the build does not need in .dockerignore",
            )

    def keep(self, path: bytes, data: bytes) -> None:
        """Keep the whole content of a file, if there is room."""
        with self._lock:
            if self._kept_bytes + len(data) <= KEPT_MAX_BYTES and path not in self.kept:
                self._kept_bytes += len(data)
                self.kept[path] = data

    def _node(self, dir_fd: int, name: bytes, path: bytes) -> ContextNode | None:
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            raise LimitExceededError(
                f"the build context has more than {MAX_ENTRIES} files",
                hint="name what the build does not need in .dockerignore",
            )
        out = bool(self._ignore) and self._ignore.excluded(path)
        if out and not self._ignore.may_contain_included(path):
            return None
        self.looked.append(path)
        status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFSOCK or (out and kind != stat.S_IFDIR):
            return None
        node = ContextNode(self, path, self._entry(dir_fd, name, path, status), status)
        if out and not node.children():
            return None  # a directory that the rules leave out and bring nothing of back
        return node

    def _entry(self, dir_fd: int, name: bytes, path: bytes, status: os.stat_result) -> Entry:
        kind = stat.S_IFMT(status.st_mode)
        mode = stat.S_IMODE(status.st_mode)
        if kind == stat.S_IFDIR:
            return Entry(path=path, kind=Kind.DIR, mode=mode, mtime_ns=status.st_mtime_ns)
        if kind == stat.S_IFLNK:
            target = os.readlink(name, dir_fd=dir_fd)
            return Entry(
                path=path, kind=Kind.SYMLINK, mode=0o777, mtime_ns=status.st_mtime_ns, target=target
            )
        if kind != stat.S_IFREG:
            return Entry(path=path, kind=_OTHER_KINDS[kind])
        return Entry(
            path=path, kind=Kind.FILE, mode=mode, mtime_ns=status.st_mtime_ns,
            size=status.st_size, xattrs=_capability(dir_fd, name, mode),
        )  # fmt: skip


class ContextNode(SourceNode):
    """A file or directory of a context."""

    __slots__ = ("_children", "_context", "_status")

    def __init__(
        self, context: Context, path: bytes, entry: Entry, status: os.stat_result | None
    ) -> None:
        super().__init__(entry)
        assert entry.path == path
        self._context = context
        self._status = status
        self._children: dict[bytes, SourceNode] | None = None

    def children(self) -> Mapping[bytes, SourceNode]:
        """Return the directory's names, read when first asked for."""
        if self.entry.kind is not Kind.DIR:
            return {}
        if self._children is None:
            self._children = self._context.list(self.entry.path)
        return self._children

    def check(self) -> None:
        """Refuse pipes and devices: reading one may block for ever or do harm.

        Raises:
            InputError: It is one.
        """
        refuse_special(self.entry.kind, os.fsdecode(self.entry.path))

    def opener(self) -> Callable[[], BinaryIO] | None:
        """Return how to read the file; what is read is compared with what was hashed."""
        return self._open

    def content_digest(self) -> bytes:
        """Return the BLAKE3 digest of the content, read once per build."""
        path = self.entry.path
        known = self._context.digests.get(path)
        if known is None:
            self._context.charge(self.entry.size)
            if self.entry.size <= WHOLE_BYTES:
                self._whole()
            else:
                with self._open() as file:
                    while file.read(READ_BYTES):
                        pass
            known = self._context.digests[path]
        return known

    def link_identity(self) -> object | None:
        """Return device and inode number of a file with several names."""
        status = self._status
        if status is None or status.st_nlink < 2 or self.entry.kind is not Kind.FILE:
            return None
        return status.st_dev, status.st_ino

    def _open(self) -> BinaryIO:
        if self.entry.size <= WHOLE_BYTES:
            return io.BytesIO(self._whole())
        fd = self._descriptor()
        checked = _CheckedFile(fd, self.entry.path, self.entry.size, self._context.digests)
        return io.BufferedReader(checked, READ_BYTES)

    def _whole(self) -> bytes:
        """Return the content of a small file as it was hashed, or compared with that."""
        size, path = self.entry.size, self.entry.path
        kept = self._context.kept.get(path)
        if kept is not None:
            return kept
        fd = self._descriptor()
        try:
            data = os.read(fd, size + 1)
            while len(data) < size and (more := os.read(fd, size + 1 - len(data))):
                data += more  # network file systems give less than asked for
        finally:
            os.close(fd)
        digest = blake3(data).digest()
        if len(data) != size or self._context.digests.setdefault(path, digest) != digest:
            raise _changed(path)
        self._context.keep(path, data)
        return data

    def _descriptor(self) -> int:
        """Open the file that the listing saw, and no other."""
        path = self.entry.path
        fd = self._context.open_file(path)
        status = os.fstat(fd)
        seen = self._status
        assert seen is not None
        same_file = (status.st_dev, status.st_ino) == (seen.st_dev, seen.st_ino)
        if not stat.S_ISREG(status.st_mode) or not same_file or status.st_size != seen.st_size:
            os.close(fd)
            raise _changed(path)
        return fd


class _CheckedFile(io.RawIOBase):
    """A file that hashes what it gives and complains at its end if that was different before."""

    def __init__(self, fd: int, path: bytes, size: int, digests: dict[bytes, bytes]) -> None:
        super().__init__()
        self._fd = fd
        self._path = path
        self._left = size
        self._digests = digests
        self._hash = blake3()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer)[: self._left]
        count = os.readv(self._fd, [view]) if view else 0
        self._hash.update(view[:count])
        self._left -= count
        if self._left == 0:
            digest = self._hash.digest()
            if self._digests.setdefault(self._path, digest) != digest:
                raise _changed(self._path)
        elif count == 0:
            raise _changed(self._path)
        return count

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()


def refuse_special(kind: Kind, shown: str) -> None:
    """Refuse pipes and devices: reading one may block for ever or do harm.

    Raises:
        InputError: It is one.
    """
    what = _REFUSED.get(kind)
    if what is not None:
        raise InputError(
            f"{shown} in the build context is {what}: "
            "only files, directories and symlinks can be copied",
            hint=f"remove it, or name it in .dockerignore: {shown}",
        )


def _capability(dir_fd: int, name: bytes, mode: int) -> tuple[tuple[bytes, bytes], ...]:
    """Return a file's capabilities as xattrs; only programs have any."""
    if not mode & 0o111:
        return ()
    path = b"/proc/self/fd/%d/%b" % (dir_fd, name)
    try:
        value = os.getxattr(path, CAPABILITY, follow_symlinks=False)
    except OSError:  # none, or a file system that has no xattrs
        return ()
    return ((CAPABILITY, value),)


def _unreadable(path: bytes, err: OSError) -> InputError:
    return InputError(
        f"cannot read {os.fsdecode(path) or '.'} in the build context: {err.strerror}",
        hint="check its permissions, or name it in .dockerignore",
    )


def _changed(path: bytes) -> InputError:
    return InputError(
        f"{os.fsdecode(path)} changed while the build read it",
        hint="run the build again when nothing writes to the build context",
    )
