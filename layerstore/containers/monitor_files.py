"""Files and processes as a monitor needs them: what ``os`` and ``json`` have, without these.

Like :mod:`layerstore.containers.monitor` of modules written in C only.
"""

from __future__ import annotations

import fcntl
import posix
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CGROUPS = "/sys/fs/cgroup"
TEXT_MAX_BYTES = 64 << 10
"""Of small files that are read, and of words that are kept."""

_CGROUP_TRIES = 50
_RETRY_S = 0.02
_TIOCSWINSZ = 0x5414


def unlink(path: str) -> None:
    """Remove a file that may be gone already."""
    try:
        posix.unlink(path)
    except OSError:
        pass


def kill(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone already."""
    try:
        posix.kill(pid, number)
    except OSError:
        pass


def set_window(fd: int, size: bytes) -> None:
    """Tell a terminal how large it is: rows and columns, two bytes each."""
    try:
        fcntl.ioctl(fd, _TIOCSWINSZ, size + b"\0\0\0\0")
    except OSError:
        pass


def read_text(path: str) -> bytes:
    """Return the beginning of a small file, nothing if there is none."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW)
    except OSError:
        return b""
    try:
        return posix.read(fd, TEXT_MAX_BYTES)
    except OSError:
        return b""
    finally:
        posix.close(fd)


def publish(path: str, data: bytes, *, durable: bool) -> bool:
    """Write a small file whole or not at all; return whether that could be done."""
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC | posix.O_NOFOLLOW
    try:
        fd = posix.open(f"{path}.tmp", flags, 0o600)
        try:
            if posix.write(fd, data) != len(data):
                return False
            if durable:
                posix.fsync(fd)
        finally:
            posix.close(fd)
        posix.rename(f"{path}.tmp", path)
        if durable:
            directory = posix.open(path.rpartition("/")[0], posix.O_RDONLY | posix.O_CLOEXEC)
            try:
                posix.fsync(directory)
            finally:
                posix.close(directory)
    except OSError:
        return False
    return True


def names_in(directory: str) -> list[str]:
    """Return the names in a directory, none if there is no such."""
    try:
        return posix.listdir(directory)
    except OSError:
        return []


def remove_flat(path: str) -> None:
    """Remove a directory of the runtime's, which holds files and no links out."""
    for name in names_in(path):
        unlink(f"{path}/{name}")
    try:
        posix.rmdir(path)
    except OSError:
        pass


def remove_cgroups(cgroup: str) -> None:
    """Remove a container's control groups from every hierarchy, version 1's and 2's.

    Args:
        cgroup: Their path from the root of each.
    """
    for hierarchy in ("", *names_in(CGROUPS)):
        _remove_cgroup(f"{CGROUPS}/{hierarchy}{cgroup}")


def _remove_cgroup(path: str) -> None:
    """Remove a control group and those below; its processes may take a moment to be gone."""
    for tries_left in reversed(range(_CGROUP_TRIES)):
        try:
            posix.rmdir(path)
        except (FileNotFoundError, NotADirectoryError):  # the one hierarchy of version 2 has files
            return
        except OSError:
            for name in names_in(path):
                _remove_below(f"{path}/{name}")  # harmless for the files in it
            if tries_left:
                time.sleep(_RETRY_S)
        else:
            return


def _remove_below(path: str) -> None:
    for name in names_in(path):
        _remove_below(f"{path}/{name}")
    try:
        posix.rmdir(path)
    except OSError:
        pass


def _freezers(cgroup: str) -> list[tuple[str, bytes, bytes]]:
    """Return where a group is told to stand still: a file, what it says then, what ends it."""
    return [
        (f"{CGROUPS}/freezer{cgroup}/freezer.state", b"FR", b"THAWED"),
        (f"{CGROUPS}{cgroup}/cgroup.freeze", b"1", b"0"),
    ]


def is_frozen(cgroup: str) -> bool:
    """Whether the processes of a control group stand still, or are about to.

    Args:
        cgroup: Its path from the root of each hierarchy; empty for none.
    """
    return bool(cgroup) and any(
        read_text(path).startswith(says) for path, says, _ in _freezers(cgroup)
    )


def thaw(cgroup: str) -> None:
    """Let the processes of a control group go on: who is killed must, to die (version 1)."""
    for path, _, word in _freezers(cgroup) if cgroup else ():
        try:
            fd = posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC)
        except OSError:
            continue
        try:
            posix.write(fd, word)
        except OSError:
            pass
        finally:
            posix.close(fd)


_ESCAPES = {'"': '\\"', "\\": "\\\\"}


def to_json(value: dict[str, Any]) -> str:
    """Return a flat object as JSON: the module json takes 0.4 MiB and 3 ms."""
    return "{" + ", ".join(f'"{key}": {_json_value(item)}' for key, item in value.items()) + "}\n"


def _json_value(item: object) -> str:
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, int | float):
        return repr(item)
    shown = [_ESCAPES.get(c, c) if " " <= c < "\x7f" else _escaped(c) for c in str(item)]
    return '"' + "".join(shown) + '"'


def _escaped(character: str) -> str:
    number = ord(character)
    if number > 0xFFFF:
        number -= 0x10000
        return f"\\u{0xD800 + (number >> 10):04x}\\u{0xDC00 + (number & 0x3FF):04x}"
    return f"\\u{number:04x}"
