"""The first process of a build's own pid namespace: starts containers, cleans up at the end.

Runs as ``python -I -S reaper.py FD CGROUP SCRATCH`` and imports little of the standard library:
every build that runs something pays for it. Everything a build starts lives in the pid and mount
namespaces of this process, so that when it ends the kernel kills what is left and drops every
mount. It ends when the socket ``FD`` does: the builder closed it, or died. Before that it kills
all others, removes the control groups ``CGROUP`` and, when the builder died, the directory
``SCRATCH``.

One request is one datagram: the runtime's arguments, a zero byte behind each, with the
descriptors for its output and for its exit status. The latter gets a decimal number, as
os.waitstatus_to_exitcode gives it; its end without one says that this process is gone. A
datagram ``remove PATH`` with one descriptor removes a directory and answers like a program.
``quit`` announces an orderly end, ``kill`` kills all that was started, with what
they started. So any number of threads of the builder may ask
and wait side by side.

The functions that remove directory trees serve the builder as well.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import contextlib
import ctypes
import fcntl
import os
import select
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_CLONE_NEWNS = 0x00020000
_MS_NOSUID_NODEV_NOEXEC = 0xE
_MS_SLAVE_REC = (1 << 19) | 0x4000
_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_FS_PINNED = 0x00000010 | 0x00000020  # immutable, append-only
_REQUEST_MAX_BYTES = 1 << 20
_REQUEST_FDS = 2
_REMOVE = b"remove "
_CGROUPS = "/sys/fs/cgroup"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEPTH_MAX = 16
"""Directories open at once: nearly no tree is deeper, and moving one costs more than opening it."""


def remove_tree(path: str) -> None:
    """Remove a directory and everything below, however deep, immutable files too.

    Follows no link and crosses into nothing: what is mounted below must be gone first.
    Harmless when ``path`` does not exist.

    Raises:
        OSError: Something could not be removed.
    """
    parent, name = os.path.split(path)
    parent_fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _remove_below(parent_fd, name)
    finally:
        os.close(parent_fd)


def _remove_below(parent_fd: int, name: str) -> None:
    """Empty and remove a directory with few descriptors open, however deep it is.

    A directory that lies ``_DEPTH_MAX`` deep is moved up beside the first one's children
    before it is emptied: 10,000 nested directories cost no stack and no path longer than the
    kernel takes.
    """
    try:
        fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
    except FileNotFoundError:
        return
    try:
        # Not to be guessed by what is removed.
        lifted = _Lifted(fd, f".lifted-{os.urandom(8).hex()}-")
        _empty(fd, lifted, 0)
        while lifted.names:
            _remove_directory(fd, lifted.names.pop(), lifted, 0)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent_fd)


class _Lifted:
    """Directories that were moved up to be emptied there."""

    def __init__(self, fd: int, prefix: str) -> None:
        self._fd = fd
        self._prefix = prefix
        self._count = 0
        self.names: list[str] = []

    def take(self, parent_fd: int, name: str) -> None:
        """Move a directory up."""
        self._count += 1
        target = f"{self._prefix}{self._count}"
        try:
            os.rename(name, target, src_dir_fd=parent_fd, dst_dir_fd=self._fd)
        except PermissionError:
            _unpin_file(parent_fd, name)
            os.rename(name, target, src_dir_fd=parent_fd, dst_dir_fd=self._fd)
        self.names.append(target)


def _remove_directory(parent_fd: int, name: str, lifted: _Lifted, depth: int) -> None:
    fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
    try:
        _empty(fd, lifted, depth)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent_fd)


def _empty(fd: int, lifted: _Lifted, depth: int) -> None:
    """Remove everything in a directory, or move up what lies too deep."""
    _unpin(fd)
    with os.scandir(fd) as found:  # tells directories apart without a look at each file
        entries = list(found)
    for entry in entries:
        if not entry.is_dir(follow_symlinks=False):
            _unlink(fd, entry.name)
        elif depth < _DEPTH_MAX:
            _remove_directory(fd, entry.name, lifted, depth + 1)
        else:
            lifted.take(fd, entry.name)


def _unlink(parent_fd: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=parent_fd)
    except PermissionError:
        _unpin_file(parent_fd, name)
        os.unlink(name, dir_fd=parent_fd)


def _unpin_file(dir_fd: int, name: str) -> None:
    with contextlib.suppress(OSError):
        fd = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd
        )
        try:
            _unpin(fd)
        finally:
            os.close(fd)


def _unpin(fd: int) -> None:
    """Take the immutable and append-only flags from an open file, where there are any."""
    with contextlib.suppress(OSError):
        raw = fcntl.ioctl(fd, _FS_IOC_GETFLAGS, struct.pack("l", 0))
        flags = struct.unpack("l", raw)[0]
        if flags & _FS_PINNED:
            fcntl.ioctl(fd, _FS_IOC_SETFLAGS, struct.pack("l", flags & ~_FS_PINNED))


def unmount_below(path: str) -> None:
    """Detach every mount at or below ``path`` in this mount namespace, last one first."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/mountinfo", "rb") as table:
        targets = [line.split(b" ")[4] for line in table]
    prefix = os.fsencode(path)
    for target in reversed(targets):
        plain = _unescape(target)
        if plain == prefix or plain.startswith(prefix + b"/"):
            libc.umount2(plain, 2)  # MNT_DETACH


def _unescape(text: bytes) -> bytes:
    """Undo mountinfo's octal escapes: backslash and three digits for a space."""
    parts = text.split(b"\\")
    return parts[0] + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in parts[1:])


def remove_cgroups(path: str) -> None:
    """Remove the control group ``path`` from every hierarchy; what is busy or absent stays.

    Args:
        path: From the root of each hierarchy; empty for none.
    """
    if not path:
        return
    with contextlib.suppress(OSError):
        for hierarchy in ["", *os.listdir(_CGROUPS)]:
            top = os.path.join(_CGROUPS, hierarchy, path.lstrip("/"))
            for directory, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)


def encode_request(arguments: Sequence[str]) -> bytes:
    """Return the request to start a program."""
    return b"".join(os.fsencode(argument) + b"\0" for argument in arguments)


def encode_removal(path: str) -> bytes:
    """Return the request to remove a directory; no program's ends without a zero byte."""
    return _REMOVE + os.fsencode(path)


class _Reaper:
    def __init__(self, control: _socket.socket) -> None:
        self._control = control
        self._statuses: dict[int, int] = {}

    def serve(self) -> bool:
        """Answer requests until the socket ends; return whether the end was announced."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        _signal.signal(_signal.SIGCHLD, lambda *_: None)
        _signal.set_wakeup_fd(wake_write)
        while True:
            watched: list[_socket.socket | int] = [self._control, wake_read]
            ready, _, _ = select.select(watched, [], [])
            if wake_read in ready:
                os.read(wake_read, 4096)
                self._reap()
            if self._control in ready:
                data, fds = self._receive()
                if data in {b"", b"quit"}:
                    return data == b"quit"
                if data == b"kill":
                    self._end_orphans()
                    continue
                if data.startswith(_REMOVE) and data[-1:] != b"\0":
                    self._remove(os.fsdecode(data[len(_REMOVE) :]), fds[0])
                    continue
                self._start(data.split(b"\0")[:-1], fds)

    def _receive(self) -> tuple[bytes, list[int]]:
        """Return a request; nothing once the builder is gone, in whatever way."""
        try:
            room = _socket.CMSG_LEN(_REQUEST_FDS * 4)
            data, ancillary, _, _ = self._control.recvmsg(_REQUEST_MAX_BYTES, room)
        except ConnectionError:  # it died with something unread
            return b"", []
        return data, [fd for _, _, raw in ancillary for (fd,) in struct.iter_unpack("i", raw)]

    def _start(self, arguments: list[bytes], fds: list[int]) -> None:
        output, status = fds
        pid = os.fork()
        if pid == 0:
            _become(arguments, output)
        os.close(output)
        self._statuses[pid] = status

    def _remove(self, path: str, status: int) -> None:
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(OSError):
                remove_tree(path)
                os._exit(0)
            os._exit(1)
        self._statuses[pid] = status

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._statuses:
                if os.WIFSIGNALED(status):
                    self._end_orphans()
                self._tell(self._statuses.pop(pid), os.waitstatus_to_exitcode(status))

    @staticmethod
    def _end_orphans() -> None:
        """Kill all else here: a runtime that was killed may leave a container that runs on.

        The builder would wait for its output for ever, and the build has failed anyway.
        """
        if os.getpid() == 1:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, _signal.SIGKILL)

    @staticmethod
    def _tell(fd: int, status: int) -> None:
        with contextlib.suppress(OSError):  # nobody waits for it any more
            os.write(fd, str(status).encode())
        os.close(fd)


def _become(arguments: list[bytes], output: int) -> None:
    """Turn a fresh child into the runtime: own /proc, only descriptors 0 to 2."""
    status = 125
    try:
        _signal.set_wakeup_fd(-1)
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        os.setsid()
        _own_proc()
        null = os.open("/dev/null", os.O_RDONLY)
        for source, number in ((null, 0), (output, 1), (output, 2)):
            os.dup2(source, number)
        os.closerange(3, 1 << 16)
        os.execvp(arguments[0], arguments)  # noqa: S606 -- no shell wanted
    except OSError as err:
        os.write(2, b"could not start %b: %b\n" % (arguments[0], str(err).encode()))
    finally:
        os._exit(status)


def _own_proc() -> None:
    """Mount the /proc of this pid namespace, which the runtime reads, for this process only.

    What the host unmounts goes here as well: a disk would stay in use until the step ends.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for failed in (
        libc.unshare(_CLONE_NEWNS),
        libc.mount(None, b"/", None, _MS_SLAVE_REC, None),
        libc.mount(b"proc", b"/proc", b"proc", _MS_NOSUID_NODEV_NOEXEC, None),
    ):
        if failed:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))


def _kill_all() -> None:
    """Kill every other process of this pid namespace and wait until none is left."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, _signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def main(arguments: list[str]) -> None:
    """Serve, then leave nothing behind."""
    control = _socket.socket(fileno=int(arguments[0]))
    cgroup, scratch = arguments[1], arguments[2]
    for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP):
        _signal.signal(number, _signal.SIG_IGN)
    announced = _Reaper(control).serve()
    _signal.set_wakeup_fd(-1)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    _kill_all()
    remove_cgroups(cgroup)
    if not announced:
        unmount_below(scratch)
        with contextlib.suppress(OSError):
            remove_tree(scratch)


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)  # nothing is left that an interpreter would have to take apart
