"""Durable files: full reads and writes, fsync, atomic publishing, openat2.

This module knows file descriptors and directories, no domain words. Everything
it makes is private to the owner whatever the umask is; or, inside a directory that is
shared with a group (set-group-ID and writable for the group), open to that group and
nobody else. It raises plain :class:`OSError`; callers turn that into their own families.
On the fast path: imports only what bare Python has loaded already.

Crash behaviour: a :class:`StagedFile` is invisible until :meth:`StagedFile.publish`
returns, and durable from then on. After any failed write, fsync or close the
staged file is poisoned: after one write-back error Linux reports later fsyncs as
successful although the page cache was dropped, so nothing may be retried on it.
"""

from __future__ import annotations

import contextlib
import os
import stat

from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

PRIVATE_FILE = 0o600
PRIVATE_DIR = 0o700
SHARED_FILE = 0o660
SHARED_DIR = 0o2770
"""Set-group-ID: what is made inside gets the directory's group, whoever makes it."""

_SHARED_BITS = stat.S_ISGID | stat.S_IRWXG

# One read or write call at most: some file systems and sanitizers misbehave near 2 GiB.
IO_MAX_BYTES = 64 * 1024 * 1024

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_SYS_OPENAT2 = 437  # the same number on every architecture


class ShortFileError(OSError):
    """A file ended before the bytes that were asked for."""


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of ``data`` at the descriptor's position, looping over short counts.

    Raises:
        OSError: The kernel refused a byte; how many were written is unknown.
    """
    view = memoryview(data).cast("B")
    while view:
        written = os.write(fd, view[:IO_MAX_BYTES])
        if written == 0:
            raise OSError("write returned 0")  # never on Linux files, but must not loop
        view = view[written:]


def read_at(fd: int, size: int, offset: int) -> bytes:
    """Return exactly ``size`` bytes from ``offset``; the position of ``fd`` is untouched.

    Raises:
        ShortFileError: The file ends earlier.
    """
    first = os.pread(fd, min(size, IO_MAX_BYTES), offset)
    if len(first) == size:
        return first
    parts = [first]
    got = len(first)
    while got < size:
        part = os.pread(fd, min(size - got, IO_MAX_BYTES), offset + got)
        if not part:
            raise ShortFileError(f"file ends {size - got} bytes early at offset {offset + got}")
        parts.append(part)
        got += len(part)
    return b"".join(parts)


def read_file(path: str, *, max_bytes: int) -> bytes:
    """Return a regular file's bytes; its last path component may not be a symlink.

    Raises:
        OSError: Absent, not a regular file, or longer than ``max_bytes``.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is not a regular file")
        if status.st_size > max_bytes:
            raise OSError(f"{path} holds {status.st_size} bytes, more than {max_bytes}")
        return read_at(fd, status.st_size, 0)
    finally:
        os.close(fd)


def is_shared(directory: str) -> bool:
    """Return whether a directory is shared with its group, and so is what is made inside."""
    return os.stat(directory).st_mode & _SHARED_BITS == _SHARED_BITS


def make_private_dir(path: str, *, durable: bool = True, inherit: bool = True) -> bool:
    """Make one directory with mode 0700, or shared as its parent is; return whether it was new.

    Args:
        path: Its parent must exist.
        durable: The name is on stable storage when this returns.
        inherit: Whether a shared parent makes it shared.
    """
    parent = os.path.dirname(path) or "."
    try:
        os.mkdir(path, PRIVATE_DIR)
    except FileExistsError:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise
        return False
    # The umask took bits away, or the parent's set-group-ID came along.
    os.chmod(path, SHARED_DIR if inherit and is_shared(parent) else PRIVATE_DIR)
    if durable:
        fsync_directory(parent)
    return True


def open_private(path: str, flags: int) -> int:
    """Open ``path`` with ``flags``, never through a symlink.

    A new file gets mode 0600, or 0660 in a directory shared with its group.
    """
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE_FILE)
    if flags & os.O_CREAT:
        status = os.fstat(fd)
        # Only the owner may change a mode; whose file it is gave it the right one.
        if status.st_uid == os.geteuid():
            mode = SHARED_FILE if is_shared(os.path.dirname(path) or ".") else PRIVATE_FILE
            if stat.S_IMODE(status.st_mode) != mode:
                os.fchmod(fd, mode)
    return fd


def fsync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file_system(directory: str) -> None:
    """Bring everything that was written to a file system to disk, in one call.

    Source: syncfs(2); since Linux 5.8 it reports what could not be written.
    """
    import ctypes  # lazily: 5 ms

    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if libc.syncfs(ctypes.c_int(fd)) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), directory)
    finally:
        os.close(fd)


def remove_if_present(path: str) -> bool:
    """Unlink ``path``; return False when it was not there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


class StagedFile:
    """A file being written under a temporary name: publish it whole, or discard it.

    Life cycle: construct, :meth:`write` any number of times, :meth:`seal` (fsync
    and close), :meth:`publish` (rename and fsync of the directory). Leaving the
    context before publishing discards it.
    """

    __slots__ = ("_fd", "_sealed", "path", "size")

    def __init__(self, path: str) -> None:
        """Create ``path``, which must not exist and whose directory must."""
        self.path: str | None = path
        self.size = 0
        self._sealed = False
        self._fd = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append ``data``."""
        try:
            write_all(self._fd, data)
        except BaseException:
            self.discard()
            raise
        self.size += len(data)

    def seal(self) -> None:
        """Force the content to stable storage and close the descriptor."""
        try:
            os.fsync(self._fd)
            fd, self._fd = self._fd, -1
            os.close(fd)
        except BaseException:
            self.discard()
            raise
        self._sealed = True

    def publish(self, target: str) -> None:
        """Give a sealed file its final name, durably; replaces what had that name."""
        if not self._sealed or self.path is None:
            raise AssertionError("publish needs a sealed, undiscarded file")
        try:
            os.rename(self.path, target)
        except BaseException:
            self.discard()
            raise
        self.path = None
        fsync_directory(os.path.dirname(target))

    def discard(self) -> None:
        """Close and remove the temporary file; harmless when it was published."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with contextlib.suppress(OSError):  # poisoned anyway
                os.close(fd)
        if self.path is not None:
            path, self.path = self.path, None
            with contextlib.suppress(OSError):
                os.unlink(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.discard()


def publish_bytes(data: bytes, *, staging: str, target: str) -> None:
    """Write ``data`` to ``target`` atomically and durably, through the new file ``staging``."""
    with StagedFile(staging) as staged:
        staged.write(data)
        staged.seal()
        staged.publish(target)


def replace_private(
    path: str,
    data: bytes | bytearray | memoryview,
    *,
    staging: str = "",
    owner_alone: bool = False,
) -> None:
    """Write a private file whole or not at all; what had the name is gone.

    Not forced to disk: for caches, and for what says nothing true after a power cut.

    Args:
        path: The file.
        data: Its content.
        staging: Where it is written first, on the same file system; beside it by default.
        owner_alone: Not open to the group in a directory that is, because others are trusted
            with less than what reads it.
    """
    staging = staging or f"{path}.{os.getpid()}.tmp"
    remove_if_present(staging)  # of a process that had our number, and died
    fd = open_private(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        try:
            if owner_alone:
                os.fchmod(fd, PRIVATE_FILE)
            write_all(fd, data)
        finally:
            os.close(fd)
        os.rename(staging, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(staging)
        raise


_libc: list[ctypes.CDLL] = []
"""The C library, once it was needed: loading it takes longer than a call."""


def openat2(dir_fd: int, path: bytes, flags: int, *, resolve: int, mode: int = 0) -> int:
    """Open ``path`` below ``dir_fd`` under the kernel's resolution rules; return the descriptor.

    ``RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS`` is the pair for trees made by someone
    else: symlinks resolve as in a chroot at ``dir_fd`` and never leave it.

    Raises:
        OSError: As openat2(2); ENOSYS before Linux 5.6.

    Source: openat2(2).
    """
    import ctypes  # lazily: mounts and reads of the store do not need it
    import struct

    if not _libc:
        _libc.append(ctypes.CDLL(None, use_errno=True))
    libc = _libc[0]
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)
    while True:
        fd: int = libc.syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_int(dir_fd),
            ctypes.c_char_p(path),
            ctypes.c_char_p(how),
            ctypes.c_size_t(len(how)),
        )
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        # EAGAIN: a rename elsewhere raced with the resolution of ".."; the manual says retry.
        if code not in {4, 11}:
            raise OSError(code, os.strerror(code), os.fsdecode(path))


def rename_new(old: str, new: str) -> None:
    """Rename a file or directory to a name that nothing has.

    rename(2) would put it in the place of an empty directory, however used that is.

    Raises:
        FileExistsError: Something has the name.
        OSError: As renameat2(2); EINVAL where the file system cannot.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), _RENAME_NOREPLACE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), old, None, new)


@contextlib.contextmanager
def directory(path: str) -> Iterator[int]:
    """Hold a descriptor of a directory, for ``dir_fd`` arguments and :func:`openat2`."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
