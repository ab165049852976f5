"""What /proc tells about a mount: who keeps it busy, and what it was made of.

Reading the mount table takes milliseconds on a host with thousands of mounts, and asking all
processes more, so this is asked only after a failure or a crash.
"""

from __future__ import annotations

import contextlib
import os

from layerstore.light_typing import TYPE_CHECKING, NamedTuple
from layerstore.linux.mounts import identify

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_SHOWN = 8
_LINKS = {"cwd": "its working directory", "root": "its root", "exe": "its program"}


class Holder(NamedTuple):
    """A process that keeps a mount busy.

    Attributes:
        command: Its name, as ps(1) shows it.
        uses: What of it lies there, such as ``cwd`` or ``open etc/motd``.
    """

    pid: int
    command: str
    uses: tuple[str, ...]


def describe_holders(target: str) -> str:
    """Return a phrase that names the processes and mounts that keep ``target`` busy."""
    words = [
        f"process {holder.pid} ({holder.command}: {', '.join(holder.uses[:3])})"
        for holder in holders(target)
    ]
    words += [f"mount {path}" for path in mounts_below(target)]
    return _listed(words)


def _listed(words: list[str]) -> str:
    if not words:
        return "something uses it that /proc does not show"
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return "used by " + ", ".join(words[:_SHOWN]) + more


def holders(target: str) -> Iterator[Holder]:
    """Yield the processes that have a directory, file, program or mapping in a mount.

    They are told by the mount's id, in whatever mount namespace and under whatever root they
    are: paths may read differently there.
    """
    try:
        mount_id = identify(target).mount_id
    except OSError:
        return
    for pid in _processes():
        uses = tuple(dict.fromkeys(_uses(pid, mount_id, target)))
        if uses:
            yield Holder(int(pid), _command(pid), uses)


def _uses(pid: str, mount_id: int, target: str) -> Iterator[str]:
    base = f"/proc/{pid}"
    for name in _LINKS:
        if _lies_on(f"{base}/{name}", mount_id):
            yield _LINKS[name]
    for kind, place in (("open", f"{base}/fd"), ("mapped", f"{base}/map_files")):
        with contextlib.suppress(OSError):
            for name in os.listdir(place):
                path = f"{place}/{name}"
                if _lies_on(path, mount_id):
                    yield f"{kind} {_relative(path, target)}"


def _lies_on(link: str, mount_id: int) -> bool:
    with contextlib.suppress(OSError):
        return identify(link).mount_id == mount_id
    return False


def _relative(link: str, target: str) -> str:
    path = os.readlink(link)
    return path.removeprefix(f"{target}/")


def describe_users_elsewhere(upper: str, device: int) -> str:
    """Return a phrase that names processes at work in copies of a view's mount, "" if none is.

    A mount namespace copies all mounts when it is made; a copy that nobody works in is not
    told.

    Args:
        upper: The upper directory of the view.
        device: Of its overlay; 0 if unknown.
    """
    devices = {device} if device else set(_devices_of(upper))
    words = []
    for pid in _processes():
        uses = [_LINKS[name] for name in _LINKS if _device_at(f"/proc/{pid}/{name}") in devices]
        with contextlib.suppress(OSError):
            files = os.listdir(f"/proc/{pid}/fd")
            if any(_device_at(f"/proc/{pid}/fd/{name}") in devices for name in files):
                uses.append("an open file")
        if uses:
            words.append(f"process {pid} ({_command(pid)}: {', '.join(uses)})")
    return _listed(words) if words else ""


def _device_at(link: str) -> int:
    with contextlib.suppress(OSError):
        return identify(link).device
    return -1


def _devices_of(upper: str) -> Iterator[int]:
    """Yield the devices of overlays with this upper, in whatever mount namespace they are."""
    seen = set()
    for pid in _processes():
        with contextlib.suppress(OSError):
            namespace = os.readlink(f"/proc/{pid}/ns/mnt")
            if namespace in seen:
                continue
            seen.add(namespace)
            for point, rest in _mount_table(pid):
                if " overlay layerstore " in rest and f"upperdir={upper}/" in rest:
                    yield _device_at(f"/proc/{pid}/root{point}")


def overlays_over(marks: Collection[str]) -> dict[str, str]:
    """Return where overlays are mounted whose options name one of these, in whatever namespace.

    Args:
        marks: Parts of paths of lower directories that nothing else is called.

    Returns:
        A mount point of each mark that was found, as its mount namespace has it.
    """
    found: dict[str, str] = {}
    seen = set()
    for pid in ["self", *_processes()]:
        with contextlib.suppress(OSError):
            namespace = os.readlink(f"/proc/{pid}/ns/mnt")
            if namespace in seen:
                continue
            seen.add(namespace)
            for point, rest in _mount_table(pid):
                _, is_overlay, options = rest.partition(" - overlay ")
                if is_overlay:
                    found.update((mark, point) for mark in marks if mark in options)
    return found


def _processes() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit()]


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


def _mount_table(pid: str = "self") -> Iterator[tuple[str, str]]:
    """Yield mount points and what follows them in mountinfo, in the order of mounting."""
    with open(f"/proc/{pid}/mountinfo", "rb") as file:
        for line in file:
            _, _, _, _, point, rest = line.split(b" ", 5)
            yield os.fsdecode(_unescape(point)), os.fsdecode(_unescape(rest))


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
