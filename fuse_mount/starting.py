"""Starting what serves a FUSE mount: the mount itself, its server, and the server's keeper.

The server of our own (backend ``fuse``) gets everything it needs as descriptors: whoever
starts it mounts /dev/fuse, by mount(2) or through fusermount, and hands it over. So the server
needs no privileges, and another can take its place: a keeper (keeper.sh), a shell of a
megabyte that does nothing but wait, holds the same descriptors and starts a new server
when one dies. While there is none, readers wait; the kernel keeps their requests.

libfuse 2 (backend ``fusepy``) mounts by itself and ends with its connection: no keeper.

    descriptor  what it is
    3           pipe for one report: the mount works, or why not
    4           pipe whose end of file means that the owner is gone (builds)
    5           /dev/fuse, mounted already
    6           memory for the request at work (see fuse_mount.device.Slot)
    7           the instance's file ``alive``, locked as long as keeper or server live

On the fast path: imports nothing that bare Python lacks but ctypes, json and fcntl.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import sys

from fuse_mount import fusermount
from layerstore import light_json as json
from layerstore.errors import LayerstoreError, MountError, UnsupportedError
from layerstore.light_typing import TYPE_CHECKING
from layerstore.linux import mounts
from layerstore.linux.files import open_private

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

FUSE = "fuse"
FUSEPY = "fusepy"
SERVED = frozenset({FUSE, FUSEPY})
"""Backends with a server process."""

READY_FD = 3
LIFE_FD = 4
DEVICE_FD = 5
SLOT_FD = 6
ALIVE_FD = 7
LAST_FD = ALIVE_FD

TAKES_OVER = "LAYERSTORE_TAKES_OVER"
"""In the environment of a server that follows a dead one."""

SLOT_BYTES = 64 * 1024 + 4096
"""A request (fuse_mount.protocol.REQUEST_MAX_BYTES) and behind it how often it was tried."""

READ_AHEAD_KIB = 1024
"""As far as the largest chunk, so that a sequential reader has several requests under way."""

LOG_MAX_BYTES = 256 * 1024

_LOG_TAIL_BYTES = 2000

_SERVER = "fuse_mount.server"

_KEEPER = f"{os.path.dirname(os.path.abspath(__file__))}/keeper.sh"

# Nobody has to reap what runs in the background of a shell that is gone.
_UNKEPT = ("-c", '"$@" &', "sh")
_KEPT = ("-c", 'sh "$@" &', "sh", _KEEPER)


def start_server(
    directory: str,
    spec: Mapping[str, object],
    *,
    backend: str = FUSE,
    life_fd: int | None = None,
) -> int:
    """Run ``python -m fuse_mount.server`` on a spec; return its pid once its mount works.

    The server is nobody's child, so that the caller has no zombie to wait for and may
    die at any moment.

    Args:
        directory: Where spec.json and log go.
        spec: See :mod:`fuse_mount.server`.
        backend: ``fuse`` or ``fusepy``.
        life_fd: The reading end of a pipe; the server ends when its writers are gone. Such a
            server has no keeper.

    Raises:
        UnsupportedError: FUSE is missing here.
        MountError: It failed; the message is its own.
    """
    from fuse_mount.lowers import write_private_json

    mountpoint = str(spec["mountpoint"])
    check_host()
    kept = backend == FUSE and life_fd is None
    write_private_json(
        f"{directory}/spec.json",
        {**spec, "backend": backend, "life": life_fd is not None, "kept": kept},
    )
    log_path = f"{directory}/log"
    log = open_private(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        with _mounted(mountpoint, backend, log) as device:
            given = {} if life_fd is None else {LIFE_FD: life_fd}
            if device >= 0:
                given[DEVICE_FD] = device
            answer = _run(directory, str(spec["alive"]), log, given, kept=kept)
            pid = _read_report(answer, log_path)
    finally:
        os.close(log)
    if "remote" not in spec:  # there the kernel would have fetched what nobody reads
        _read_ahead(mountpoint)
    return pid


def start_other_server(directory: str, spec: Mapping[str, object], module: str) -> int:
    """Run another server that reads such a spec, makes its mounts itself and reports so.

    Raises:
        UnsupportedError: Something is missing here.
        MountError: It failed; the message is its own.
    """
    from fuse_mount.lowers import write_private_json

    check_host()
    write_private_json(f"{directory}/spec.json", spec)
    log_path = f"{directory}/log"
    log = open_private(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        answer = _run(directory, str(spec["alive"]), log, {}, kept=False, module=module)
    finally:
        os.close(log)
    return _read_report(answer, log_path)


def check_host() -> None:
    """Refuse early what would only fail later, or be complained about by others.

    Raises:
        UnsupportedError: FUSE cannot be mounted here; the hint says what to do.
    """
    if not os.path.exists("/dev/fuse"):
        raise UnsupportedError(
            "there is no /dev/fuse on this host",
            hint="load the kernel module: modprobe fuse; in a container, run it with "
            "--device /dev/fuse",
        )
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise UnsupportedError(
            "this user may not open /dev/fuse",
            hint="let every user open it, as udev does by default: chmod 666 /dev/fuse",
        )
    if os.geteuid() != 0 and fusermount.find() is None:
        raise UnsupportedError(
            "fusermount is missing, which mounts for users without privileges",
            hint=fusermount.INSTALL_HINT,
        )
    if os.geteuid() != 0 and not os.path.exists("/etc/mtab"):
        raise UnsupportedError(
            "there is no /etc/mtab, without which fusermount could not unmount again",
            hint="make it: ln -s /proc/self/mounts /etc/mtab",
        )


def others_allowed() -> bool:
    """Whether users without privileges may let others look into their mounts (fuse.conf)."""
    try:
        with open("/etc/fuse.conf", encoding="utf-8", errors="replace") as file:
            return any(line.split("#")[0].strip() == "user_allow_other" for line in file)
    except OSError:
        return False


@contextlib.contextmanager
def _mounted(mountpoint: str, backend: str, log: int) -> Iterator[int]:
    """Mount for our own server; give the device's descriptor, -1 for one that mounts by itself.

    What goes wrong inside takes the mount away again.
    """
    if backend != FUSE:
        yield -1
        return
    device = _mount(mountpoint, log)
    try:
        yield device
    except BaseException:
        take_away(mountpoint)
        raise
    finally:
        os.close(device)


def _mount(mountpoint: str, log: int) -> int:
    """Mount /dev/fuse: read-only, nosuid, nodev, permissions checked by the kernel.

    Raises:
        UnsupportedError: Not possible here.
        MountError: The kernel refused.
    """
    if os.geteuid() != 0:
        words = ["ro", "nosuid", "nodev", "default_permissions"]
        words += ["fsname=layerstore", "subtype=layerstore"]
        if others_allowed():
            words.append("allow_other")
        return fusermount.mount(mountpoint, words, log)
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = (
            f"fd={device},rootmode={stat.S_IFDIR:o},user_id=0,group_id={os.getegid()},"
            "default_permissions,allow_other"
        )
        flags = mounts.MS_RDONLY | mounts.MS_NOSUID | mounts.MS_NODEV
        mounts.mount("layerstore", mountpoint, "fuse.layerstore", flags, options)
    except BaseException:
        os.close(device)
        raise
    return device


def take_away(mountpoint: str) -> None:
    """Detach a mount of ours; harmless where there is none."""
    with contextlib.suppress(LayerstoreError):
        if os.geteuid() != 0:
            fusermount.unmount(mountpoint, lazy=True)
        else:
            mounts.unmount(mountpoint, lazy=True)


def _run(
    directory: str,
    alive: str,
    log: int,
    given: dict[int, int],
    *,
    kept: bool,
    module: str = _SERVER,
) -> bytes:
    """Start the server; return what it reports."""
    made = []
    try:
        ready, report = os.pipe()
        made += [ready, report]
        numbers = {**given, READY_FD: report}
        if DEVICE_FD in given:
            # The lock is that of the open file: it stays until keeper and server are gone.
            made.append(open_private(alive, os.O_RDWR | os.O_CREAT))
            fcntl.flock(made[-1], fcntl.LOCK_EX)
            numbers[ALIVE_FD] = made[-1]
        if kept:
            made.append(os.memfd_create("layerstore-request", os.MFD_CLOEXEC))
            os.ftruncate(made[-1], SLOT_BYTES)
            numbers[SLOT_FD] = made[-1]
        _spawn(directory, log, numbers, _KEPT if kept else _UNKEPT, module)
        os.close(report)
        made.remove(report)
        return b"".join(iter(lambda: os.read(ready, 65536), b""))
    finally:
        for fd in made:
            os.close(fd)


def _spawn(
    directory: str, log: int, numbers: dict[int, int], words: Sequence[str], module: str
) -> None:
    # Away from the numbers that the server expects, so that no dup2 overwrites another.
    moved = {
        number: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, LAST_FD + 1)
        for number, fd in numbers.items()
    }
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, log, 1),
        (os.POSIX_SPAWN_DUP2, log, 2),
        # A keeper lives long, too: it must not hold what the caller forgot to close.
        *((os.POSIX_SPAWN_CLOSE, fd) for fd in _inherited() if fd not in numbers),
        *((os.POSIX_SPAWN_DUP2, fd, number) for number, fd in moved.items()),
    ]
    # What the caller can import the server can: however layerstore was installed.
    imports = [path for path in sys.path if os.path.isabs(path)]
    # A server lives long: nothing of the caller's environment, least of all secrets, goes in.
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(imports),
    }
    # -P: the current directory is not searched for modules; it may be anybody's. The shell
    # puts the rest into the background and leaves at once: nobody has to reap it.
    server = [sys.executable, "-P", "-m", module, directory]
    command = ["sh", *words, *server]
    try:
        pid = os.posix_spawn("/bin/sh", command, environment, file_actions=actions, setsid=True)
    except OSError as err:
        raise MountError(f"could not start the FUSE server: {err.strerror}") from err
    finally:
        for fd in moved.values():
            os.close(fd)
    with contextlib.suppress(ChildProcessError):  # the caller ignores SIGCHLD
        os.waitpid(pid, 0)


def _inherited() -> list[int]:
    """Return descriptors beyond stderr that a program started now would inherit."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.append(int(name))
    return found


def _read_ahead(mountpoint: str) -> None:
    """Let the kernel read further ahead than FUSE's default of 128 KiB, where we may."""
    with contextlib.suppress(OSError):
        device = mounts.identify(mountpoint).device
        path = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"%d" % READ_AHEAD_KIB)
        finally:
            os.close(fd)


def _read_report(answer: bytes, log: str) -> int:
    """Return the pid out of a server's report, or raise what it says went wrong."""
    try:
        report = json.loads(answer)
    except ValueError:
        report = {"error": "the FUSE server died before its mount worked"}
    if "pid" in report:
        return int(report["pid"])
    message = str(report["error"])
    tail = _tail(log)
    if tail:
        message = f"{message} ({tail})"
    kind = UnsupportedError if report.get("unsupported") else MountError
    raise kind(message, hint=report.get("hint"))


def _tail(log: str) -> str:
    """Return the last line that the server or libfuse wrote."""
    try:
        with open(log, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _LOG_TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""
