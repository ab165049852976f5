"""What /proc tells about a mount: who keeps it busy, and what it was made of.

Reading the mount table takes milliseconds on a host with thousands of mounts, so
this is asked only after a failure or a crash.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHOWN = 8


def describe_holders(target: str) -> str:
    """Return a phrase that names the processes and mounts below ``target``."""
    words = [f"process {pid} ({command})" for pid, command in holders(target)]
    words += [f"mount {path}" for path in mounts_below(target)]
    if not words:
        return "something uses it that /proc does not show"
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return "used by " + ", ".join(words[:_SHOWN]) + more


def holders(target: str) -> Iterator[tuple[int, str]]:
    """Yield pid and command of processes that have a directory, file or program there."""
    for name in os.listdir("/proc"):
        if name.isdigit() and any(_is_below(path, target) for path in _open_paths(name)):
            yield int(name), _command(name)


def mounts_below(target: str) -> list[str]:
    """Return mount points under ``target``, as this process sees them."""
    return [point for point, _ in _mount_table() if point.startswith(f"{target}/")]


def mount_points_of_ours() -> list[str]:
    """Return where something of any store's is mounted, in the order of mounting."""
    return [
        point
        for point, rest in _mount_table()
        if " overlay layerstore " in rest or " fuse.layerstore " in rest
    ]


def is_overlay_of(target: str, upper: str) -> bool:
    """Whether the topmost mount at ``target`` is an overlay whose upper lies in ``upper``."""
    options = [options for point, options in _mount_table() if point == target]
    if not options or "layerstore" not in options[-1] or "upperdir=" not in options[-1]:
        return False
    # A path with characters that options give a meaning was passed by descriptor.
    return f"upperdir={upper}/" in options[-1] or "upperdir=/proc/self/fd/" in options[-1]


def is_read_only_overlay(target: str) -> bool:
    """Whether the topmost mount at ``target`` is an overlay of ours without an upper."""
    options = [options for point, options in _mount_table() if point == target]
    return (
        bool(options) and " overlay layerstore " in options[-1] and "upperdir=" not in options[-1]
    )


def is_fuse_mount(target: str) -> bool:
    """Whether the topmost mount at ``target`` was made by a FUSE server of ours."""
    options = [options for point, options in _mount_table() if point == target]
    return bool(options) and " fuse.layerstore " in options[-1]


def _mount_table() -> Iterator[tuple[str, str]]:
    """Yield mount points and what follows them in mountinfo, in the order of mounting."""
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            _, _, _, _, point, rest = line.split(b" ", 5)
            yield os.fsdecode(_unescape(point)), os.fsdecode(_unescape(rest))


def _open_paths(pid: str) -> Iterator[str]:
    links = [f"/proc/{pid}/{name}" for name in ("cwd", "root", "exe")]
    with contextlib.suppress(OSError):
        links += [f"/proc/{pid}/fd/{name}" for name in os.listdir(f"/proc/{pid}/fd")]
    for link in links:
        with contextlib.suppress(OSError):
            yield os.readlink(link)


def _is_below(path: str, target: str) -> bool:
    return path == target or path.startswith(f"{target}/")


def _command(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "?"


def _unescape(path: bytes) -> bytes:
    """Undo the octal escapes of mountinfo (proc(5)): space, tab, newline, backslash."""
    for code in (b"\\040", b"\\011", b"\\012", b"\\134"):
        path = path.replace(code, bytes([int(code[1:], 8)]))
    return path
