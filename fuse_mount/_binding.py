"""The only importer of fusepy: a read-only tree of byte paths served through libfuse 2.

fusepy decodes every path to text, builds dictionaries for every stat, and answers
EINVAL to what it does not know. Here its callbacks are overridden one by one, so
that paths stay the bytes they are, a stat costs a few stores into the C structure,
and every exception becomes the errno of one table. What stays fusepy's is the
C interface: structures, the operations table, the main loop.

Two answers save most round trips of a read-only tree: OPEN is answered with ENOSYS
once, after which the kernel opens files without asking and keeps their pages
(``fuse_file_open`` of Linux 3.15 and later), and a tree without extended
attributes says ENOSYS to the first question for one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
from typing import TYPE_CHECKING, Any, Protocol

from fuse_mount.errno_map import QUIET, errno_for
from layerstore.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from layerstore.vfs.view import Attributes, DirectoryEntry, Totals

    _Pointer = Any  # of C structures whose types fusepy picks at run time

LIBRARY = "libfuse.so.2"
INSTALL_HINT = "install FUSE: apt-get install libfuse2 fuse"

# fusepy looks for the library through ldconfig and gcc, which costs more than all
# the rest of the import; the name is the same on every Linux.
os.environ.setdefault("FUSE_LIBRARY_PATH", LIBRARY)
try:
    import fuse
except OSError as err:
    raise UnsupportedError(f"libfuse 2 cannot be loaded: {err}", hint=INSTALL_HINT) from err

_log = logging.getLogger("layerstore.fuse")

_NAME_MAX_BYTES = 255
_STATFS_BLOCK_BYTES = 4096


class Tree(Protocol):
    """What is served. Paths are absolute within the mount: ``b"/"``, ``b"/etc/passwd"``."""

    def ready(self) -> None:
        """Take note that the kernel has mounted the tree and asks its first question."""
        ...

    def end(self) -> None:
        """Take note that the last mount is gone."""
        ...

    def attributes(self, path: bytes) -> Attributes:
        """Return what stat(2) says; raises what :mod:`fuse_mount.errno_map` knows."""
        ...

    def entries(self, path: bytes) -> Iterable[DirectoryEntry]:
        """Return a directory's names, with ``.`` and ``..``."""
        ...

    def read(self, path: bytes, offset: int, size: int) -> bytes:
        """Return at most ``size`` bytes of a file."""
        ...

    def link_target(self, path: bytes) -> bytes:
        """Return a symlink's text."""
        ...

    def xattr(self, path: bytes, name: bytes) -> bytes:
        """Return an extended attribute's value."""
        ...

    def xattr_names(self, path: bytes) -> list[bytes]:
        """Return the names of a file's extended attributes."""
        ...

    def has_xattrs(self) -> bool:
        """Whether any file has one; False lets the kernel stop asking."""
        ...

    def totals(self) -> Totals:
        """Return what statfs(2) says."""
        ...


class _Operations:
    """Says to fusepy which operations exist; the calls themselves never come here."""

    use_ns = True

    def __init__(self) -> None:
        for name in (
            "getattr",
            "readlink",
            "open",
            "read",
            "statfs",
            "getxattr",
            "listxattr",
            "readdir",
            "init",
        ):
            setattr(self, name, True)


class _Session(fuse.FUSE):  # type: ignore[misc]  # fusepy has no types
    """fusepy's session with the callbacks of a read-only tree."""

    def __init__(self, tree: Tree, mountpoint: bytes, options: dict[str, object]) -> None:
        self._tree = tree
        # fusepy encodes what it hands to libfuse; latin-1 gives back every byte as it was.
        super().__init__(_Operations(), mountpoint.decode("latin-1"), encoding="latin-1", **options)

    @staticmethod
    def _wrapper(func: Callable[..., int | None], *args: object) -> int:
        try:
            return func(*args) or 0
        except BaseException as error:  # noqa: BLE001 -- nothing may unwind into libfuse
            code = errno_for(error)
            if code not in QUIET:
                with contextlib.suppress(Exception):
                    _log.error("%s failed", func.__name__, exc_info=error)
            return -code

    def init(self, _connection: object) -> int:
        self._tree.ready()
        return 0

    def getattr(self, path: bytes, buffer: _Pointer) -> int:
        return self.fgetattr(path, buffer, None)

    def fgetattr(self, path: bytes, buffer: _Pointer, _info: object) -> int:
        found = self._tree.attributes(path)
        ctypes.memset(buffer, 0, ctypes.sizeof(fuse.c_stat))
        status = buffer.contents
        status.st_ino = found.ino
        status.st_mode = found.mode
        status.st_nlink = found.nlink
        status.st_uid = found.uid
        status.st_gid = found.gid
        status.st_rdev = found.rdev
        status.st_size = found.size
        status.st_blocks = found.blocks
        seconds, nanoseconds = divmod(found.mtime_ns, 1_000_000_000)
        for time in (status.st_mtimespec, status.st_ctimespec, status.st_atimespec):
            time.tv_sec = seconds
            time.tv_nsec = nanoseconds
        return 0

    def readlink(self, path: bytes, buffer: _Pointer, size: int) -> int:
        target = self._tree.link_target(path)[: size - 1]
        ctypes.memmove(buffer, target + b"\0", len(target) + 1)
        return 0

    def open(self, _path: bytes, _info: object) -> int:
        return -errno.ENOSYS

    def read(self, path: bytes, buffer: _Pointer, size: int, offset: int, _info: object) -> int:
        content = self._tree.read(path, offset, size)
        ctypes.memmove(buffer, content, len(content))
        return len(content)

    def readdir(
        self, path: bytes, buffer: _Pointer, fill: _Pointer, _offset: int, _info: object
    ) -> int:
        status = fuse.c_stat()
        pointer = ctypes.pointer(status)
        for name, number, mode in self._tree.entries(path):
            status.st_ino = number
            status.st_mode = mode
            if fill(buffer, name, pointer, 0):
                return -errno.ENOMEM
        return 0

    def getxattr(self, path: bytes, name: bytes, buffer: _Pointer, size: int, *_: object) -> int:
        if not self._tree.has_xattrs():
            return -errno.ENOSYS
        return _give(self._tree.xattr(path, name), buffer, size)

    def listxattr(self, path: bytes, buffer: _Pointer, size: int) -> int:
        if not self._tree.has_xattrs():
            return -errno.ENOSYS
        names = b"".join(name + b"\0" for name in self._tree.xattr_names(path))
        return _give(names, buffer, size)

    def statfs(self, _path: bytes, buffer: _Pointer) -> int:
        totals = self._tree.totals()
        status = buffer.contents
        status.f_bsize = status.f_frsize = _STATFS_BLOCK_BYTES
        status.f_blocks = -(-totals.content_bytes // _STATFS_BLOCK_BYTES)
        status.f_files = totals.inodes
        status.f_namemax = _NAME_MAX_BYTES
        return 0


def _give(value: bytes, buffer: _Pointer, size: int) -> int:
    """Answer a question for bytes: their number if no buffer came, ERANGE if it is too small."""
    if not buffer or not size:
        return len(value)
    if len(value) > size:
        return -errno.ERANGE
    ctypes.memmove(buffer, value, len(value))
    return len(value)


def serve(tree: Tree, mountpoint: bytes, options: dict[str, object]) -> None:
    """Mount ``tree`` and answer the kernel until it is unmounted.

    Single-threaded: Python runs one thread at a time anyway, and handing requests
    between threads costs more than it gains.

    Args:
        tree: What to serve.
        mountpoint: An existing directory.
        options: Mount options as libfuse knows them; True for words without a value.

    Raises:
        UnsupportedError: libfuse could not mount; it has written why to stderr.
    """
    try:
        _Session(tree, mountpoint, {**options, "foreground": True, "nothreads": True})
    except RuntimeError as err:
        raise UnsupportedError(
            f"FUSE could not mount at {os.fsdecode(mountpoint)}", hint=INSTALL_HINT
        ) from err
