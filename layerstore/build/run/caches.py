"""The directories behind cache mounts, which outlive builds, and who may use them when.

A step takes all its caches before anything is mounted, in its own thread, so that other
steps go on while it waits, and in one order, so that no two steps wait for each other. A
cache that a step mounts twice is taken once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from layerstore.errors import BuildError
from layerstore.linux.files import make_private_dir, rename_new
from layerstore.linux.locks import FileLock, LockBusyError
from layerstore.linux.removal import remove_leftover

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from layerstore.build.graph import MountSpec
    from layerstore.build.waiting import Patience

LOCK_NAME = "lock"
"""File in a cache's directory that its users lock; its time is the cache's last use."""

DATA_NAME = "data"
_MODE = 0o755
_PRIVATE_CACHES_MAX = 64
_STRICTER = ("shared", "private", "locked")
"""Ways to share a cache: where a step asks for two, it gets the later one."""


Wake = Callable[[str, str], bool]
"""Fills a new directory with the cache of a name that was put to rest; False if there is none."""


def take_caches(
    specs: Iterable[MountSpec],
    root: Path,
    stack: contextlib.ExitStack,
    patience: Patience,
    wake: Wake,
) -> dict[str, Path]:
    """Wait for the caches that a step mounts and return their directories by name.

    One that begins with what an input holds need not be there yet: :func:`fill_cache` makes it.

    Args:
        specs: The step's mounts; others than caches are passed over.
        root: Where caches live between builds.
        stack: Gives them back when it is closed.
        patience: How to wait.
        wake: Brings back what the store keeps of a cache that has no directory.

    Raises:
        BuildError: All copies of a private cache are in use.
        BuildCanceledError: The build ended first.
    """
    wanted: dict[str, list[MountSpec]] = {}
    for spec in specs:
        if spec.type == "cache":
            wanted.setdefault(cache_name(spec), []).append(spec)
    if wanted:
        make_private_dir(str(root), durable=False)
    return {n: _take(root, n, wanted[n], stack, patience, wake) for n in sorted(wanted)}


def cache_name(spec: MountSpec) -> str:
    """Return the directory name of a cache; ids come from strangers, so they are hashed."""
    owner = f"{spec.uid}:{spec.gid}:{spec.mode}" if spec.owned else ""
    text = f"{spec.id}\0{owner}".encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()[:32]


def _take(
    root: Path,
    name: str,
    specs: list[MountSpec],
    stack: contextlib.ExitStack,
    patience: Patience,
    wake: Wake,
) -> Path:
    sharing = max((spec.sharing for spec in specs), key=_STRICTER.index)
    for number in range(_PRIVATE_CACHES_MAX):
        top = root / (f"{name}-{number}" if number else name)
        if sharing == "private":
            lock = _try_lock(top, sharing)
        else:
            what = f"the cache mount {specs[0].id}, which another step has"
            lock = patience.wait_for(partial(_try_lock, top, sharing), what)
        if lock is not None:
            stack.callback(lock.close)
            os.utime(lock.fileno())
            _wake(top, wake)
            return top / DATA_NAME if specs[0].input is not None else _data_of(top, specs[0])
    raise BuildError(f"too many builds use the cache mount {specs[0].id!r} at once")


def _try_lock(top: Path, sharing: str) -> FileLock | None:
    """Lock a cache if nobody else has it, making it anew if it was removed meanwhile."""
    path = str(top / LOCK_NAME)
    while True:
        try:
            make_private_dir(str(top), durable=False)
            lock = FileLock(path, shared=sharing == "shared", wait=False)
        except FileNotFoundError:
            continue  # removed since it was made
        except LockBusyError:
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), os.stat(path)):
                return lock
        lock.close()


def _wake(top: Path, wake: Wake) -> None:
    """Bring back a cache's directory from the store, unless it is there."""
    data = top / DATA_NAME
    if data.exists():
        return
    fresh = f"{top}/fresh-{os.urandom(8).hex()}"
    os.mkdir(fresh, mode=0o700)
    try:
        if wake(top.name, fresh):
            rename_new(fresh, str(data))
    except FileExistsError:  # another step was first
        pass
    finally:
        remove_leftover(fresh)


def _data_of(top: Path, spec: MountSpec) -> Path:
    """Return the cache's own directory, made with the owner and mode that it asks for."""
    data = top / DATA_NAME
    if not data.exists():
        fresh = top / f"fresh-{os.urandom(8).hex()}"
        fresh.mkdir(mode=0o700)
        os.chown(fresh, spec.uid, spec.gid)
        fresh.chmod(spec.mode if spec.mode is not None else _MODE)
        try:
            rename_new(str(fresh), str(data))
        except FileExistsError:  # another step was first
            fresh.rmdir()
    return data


def fill_cache(data: Path, source_fd: int) -> None:
    """Make a cache's directory with the content of another one, unless it is there.

    Everything is copied as it is, links unfollowed. Of steps that do so at the same time the
    first one's copy stays. A build that is killed leaves a part of a copy beside it, which
    goes with the cache.

    Args:
        data: As :func:`take_caches` returned it.
        source_fd: An open directory.

    Raises:
        BuildError: It could not be copied.
    """
    if data.exists():
        return
    fresh = data.with_name(f"fresh-{os.urandom(8).hex()}")
    command = [
        "cp",
        "--archive",
        "--no-target-directory",
        f"/proc/self/fd/{source_fd}/.",
        str(fresh),
    ]
    copied = subprocess.run(
        command, pass_fds=[source_fd], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if copied.returncode:
        remove_leftover(str(fresh))
        said = copied.stderr.decode("utf-8", "replace").strip().splitlines()
        raise BuildError(f"cannot fill a cache mount: {said[-1] if said else 'cp failed'}")
    try:
        rename_new(str(fresh), str(data))
    except FileExistsError:  # another step was first
        remove_leftover(str(fresh))
