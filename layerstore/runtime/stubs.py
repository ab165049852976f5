"""Mount points that a container's mounts need and its image does not have.

They are made before the container starts and taken away after it, with the times of
the directories around them put back, so that no layer shows that they were there. What
the step itself has put at such a place stays. Paths resolve inside the root only.
"""

from __future__ import annotations

import contextlib
import os
import stat

from layerstore.errors import BuildError
from layerstore.light_typing import TYPE_CHECKING, NamedTuple
from layerstore.linux.files import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_SYMLINKS = 40
_IN_ROOT = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
_MODE = 0o755
_MODE_OF_ALL = 0o1777
"""Of a new tmpfs. runc 1.1 gives one the mode of what lies below, whatever its options say."""


class Stub(NamedTuple):
    """One file or directory made to be mounted on.

    Attributes:
        parent: Real path of its directory.
        before: The directory's status before.
        after_ns: The directory's time right after.
    """

    parent: bytes
    name: bytes
    is_directory: bool
    before: os.stat_result
    after_ns: int


def real_targets(root: str, targets: list[str]) -> list[str]:
    """Return where mount points really are, links of the image followed inside it.

    The runtime then has no link left to follow, the right way or the wrong one.

    Raises:
        BuildError: Too many links.
    """
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return ["/" + os.fsdecode(_real_path(root_fd, os.fsencode(path))) for path in targets]
    finally:
        os.close(root_fd)


def require_directories(root: str, targets: tuple[str, ...]) -> None:
    """Refuse a root whose ``/dev`` or the like exists and is no directory.

    runc 1.1 makes the links of /dev by joining paths: with a symlink in its place it
    writes wherever on the host that leads.

    Raises:
        BuildError: One is something else.
    """
    for target in targets:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISDIR(os.lstat(f"{root}{target}").st_mode):
                raise BuildError(
                    f"{target} of the image is not a directory: no command can run in it",
                    hint=f"make {target} a directory in the base image",
                )


def make_stubs(
    root: str, targets: list[tuple[str, bool]], *, for_all: Collection[str] = ()
) -> list[Stub]:
    """Make what is missing of the targets; return what was made, in order.

    Args:
        root: The mounted root.
        targets: (real path in it, whether a directory is needed).
        for_all: Those that everybody may write to if they are made here.
    """
    made: list[Stub] = []
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for target, is_directory in targets:
            mode = _MODE_OF_ALL if target in for_all else _MODE
            _make_path(root_fd, target, is_directory=is_directory, mode=mode, made=made)
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


def _real_path(root_fd: int, path: bytes) -> bytes:
    """Resolve a path below the root, what is missing included."""
    todo = path.split(b"/")[::-1]
    names: list[bytes] = []
    links = 0
    while todo:
        name = todo.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            del names[-1:]
            continue
        target = _link_target(root_fd, b"/".join([*names, name]))
        if target is None:
            names.append(name)
            continue
        links += 1
        if links > MAX_SYMLINKS:
            raise BuildError(f"too many levels of symbolic links in {os.fsdecode(path)!r}")
        if target.startswith(b"/"):
            names.clear()
        todo.extend(target.split(b"/")[::-1])
    return b"/".join(names)


def _link_target(root_fd: int, path: bytes) -> bytes | None:
    """Return the text of the symlink at ``path``, None for anything else or nothing."""
    try:
        fd = openat2(root_fd, path, os.O_PATH | os.O_NOFOLLOW, resolve=_IN_ROOT)
    except OSError:
        return None
    try:
        if not stat.S_ISLNK(os.fstat(fd).st_mode):
            return None
        return os.readlink(b"", dir_fd=fd)
    finally:
        os.close(fd)


def _make_path(
    root_fd: int, target: str, *, is_directory: bool, mode: int, made: list[Stub]
) -> None:
    parts = [os.fsencode(part) for part in target.split("/") if part]
    for index, name in enumerate(parts):
        if _exists(root_fd, b"/".join(parts[: index + 1])):
            continue
        is_above = index < len(parts) - 1
        mode_here = (_MODE if is_above else mode) if is_above or is_directory else None
        # An OSError here (a file in the way) is the runtime's to report.
        with contextlib.suppress(OSError):
            made.append(_make(root_fd, b"/".join(parts[:index]), name, mode_here))


def _exists(root_fd: int, path: bytes) -> bool:
    try:
        os.close(openat2(root_fd, path, os.O_PATH, resolve=_IN_ROOT))
    except OSError:
        return False
    return True


def _make(root_fd: int, parent: bytes, name: bytes, mode: int | None) -> Stub:
    """Make a directory of that mode, or a file."""
    fd = openat2(root_fd, parent or b".", os.O_RDONLY | os.O_DIRECTORY, resolve=_IN_ROOT)
    try:
        before = os.fstat(fd)
        if mode is not None:
            os.mkdir(name, _MODE, dir_fd=fd)
            if mode != _MODE:
                os.chmod(name, mode, dir_fd=fd)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o644, dir_fd=fd))
        after = os.fstat(fd)
    finally:
        os.close(fd)
    return Stub(parent, name, mode is not None, before, after.st_mtime_ns)


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
            restored[stub.parent] = stub.before
        else:
            restored.pop(stub.parent, None)
    finally:
        os.close(fd)
