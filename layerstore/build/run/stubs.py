"""Mount points that a step's mounts need and its image does not have.

They are made before the container starts and taken away after it, with the times of
the directories around them put back, so that no layer shows that they were there. What
the step itself has put at such a place stays. Paths resolve inside the root only.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import NamedTuple

from layerstore.linux.files import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2

_IN_ROOT = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
_MODE = 0o755


class Stub(NamedTuple):
    """One file or directory made to be mounted on.

    Attributes:
        parent: Path of its directory, as it was opened.
        before: The directory's status before.
        after_ns: The directory's time right after.
        path: Real path from the root, for comparison with what a scan finds.
    """

    parent: bytes
    name: bytes
    is_directory: bool
    before: os.stat_result
    after_ns: int
    path: bytes


def make_stubs(root: str, targets: list[tuple[str, bool]]) -> list[Stub]:
    """Make what is missing of the targets; return what was made, in order.

    Args:
        root: The mounted root.
        targets: (absolute path in it, whether a directory is needed).
    """
    made: list[Stub] = []
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for target, is_directory in targets:
            _make_path(root_fd, root, target, is_directory, made)
    finally:
        os.close(root_fd)
    return made


def remove_stubs(root: str, stubs: list[Stub]) -> dict[bytes, os.stat_result]:
    """Take stubs away that nobody used.

    Returns:
        Directories that look untouched again, by real path, with their status before.
    """
    restored: dict[bytes, os.stat_result] = {}
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for stub in reversed(stubs):
            with contextlib.suppress(OSError):  # the step moved or removed things: its right
                _remove(root_fd, stub, restored)
    finally:
        os.close(root_fd)
    return restored


def _make_path(root_fd: int, root: str, target: str, is_directory: bool, made: list[Stub]) -> None:
    parts = [os.fsencode(part) for part in target.split("/") if part]
    for index, name in enumerate(parts):
        path = b"/".join(parts[: index + 1])
        if _exists(root_fd, path):
            continue
        wants_directory = is_directory or index < len(parts) - 1
        # An OSError here (a dangling link, a file in the way) is the runtime's to report.
        with contextlib.suppress(OSError):
            made.append(_make(root_fd, root, b"/".join(parts[:index]), name, wants_directory))


def _exists(root_fd: int, path: bytes) -> bool:
    try:
        os.close(openat2(root_fd, path, os.O_PATH, resolve=_IN_ROOT))
    except OSError:
        return False
    return True


def _make(root_fd: int, root: str, parent: bytes, name: bytes, is_directory: bool) -> Stub:
    fd = openat2(root_fd, parent or b".", os.O_RDONLY | os.O_DIRECTORY, resolve=_IN_ROOT)
    try:
        before = os.fstat(fd)
        real = os.readlink(f"/proc/self/fd/{fd}").removeprefix(root).strip("/")
        if is_directory:
            os.mkdir(name, _MODE, dir_fd=fd)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o644, dir_fd=fd))
        after = os.fstat(fd)
    finally:
        os.close(fd)
    return Stub(parent, name, is_directory, before, after.st_mtime_ns, os.fsencode(real))


def _remove(root_fd: int, stub: Stub, restored: dict[bytes, os.stat_result]) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY
    fd = openat2(root_fd, stub.parent or b".", flags, resolve=_IN_ROOT)
    try:
        untouched = os.fstat(fd).st_mtime_ns == stub.after_ns
        if stub.is_directory:
            os.rmdir(stub.name, dir_fd=fd)
        else:
            status = os.stat(stub.name, dir_fd=fd, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode) or status.st_size:
                return
            os.unlink(stub.name, dir_fd=fd)
        if untouched:
            os.utime(fd, ns=(stub.before.st_atime_ns, stub.before.st_mtime_ns))
            restored[stub.path] = stub.before
        else:
            restored.pop(stub.path, None)
    finally:
        os.close(fd)
