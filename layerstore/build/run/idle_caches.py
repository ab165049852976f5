"""Cache mounts that no step uses: listing them, and removing those not used for long.

Whoever mounts a cache holds the flock on its ``lock`` file. A cache is removed under that
flock alone, so none goes while a step uses it; a step that waited meanwhile notices that
the file it locked is gone and makes the cache anew (:mod:`layerstore.build.run.caches`).
The time of the ``lock`` file is the cache's last use.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from layerstore.build.run.caches import LOCK_NAME
from layerstore.linux.locks import FileLock, LockBusyError
from layerstore.linux.removal import remove_leftover, tree_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


_ASIDE = ".gone-"
"""In the name of a cache that is being removed."""


class IdleCache(NamedTuple):
    """A cache that no step uses now.

    Attributes:
        name: Of its directory.
        size: Bytes of its files.
        used: When a step mounted it last, in seconds since the epoch.
    """

    name: str
    size: int
    used: float


def find_idle_caches(root: Path) -> list[IdleCache]:
    """Return the caches below ``root`` that no step uses, the one used last first."""
    found: list[IdleCache] = []
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    for name in names:
        lock_path = f"{root}/{name}/{LOCK_NAME}"
        with contextlib.suppress(OSError), FileLock(lock_path, wait=False):
            found.append(IdleCache(name, tree_size(f"{root}/{name}"), os.stat(lock_path).st_mtime))
    return sorted(found, key=lambda cache: (-cache.used, cache.name))


def remove_idle_caches(root: Path, caches: Iterable[IdleCache]) -> list[IdleCache]:
    """Remove caches unless a step took one meanwhile; return those that are gone."""
    gone: list[IdleCache] = []
    for cache in caches:
        try:
            with held_alone(f"{root}/{cache.name}") as used:
                if used == cache.used:
                    aside = remove_held(str(root), cache.name)
                    if not os.path.lexists(aside):
                        gone.append(cache)
        except (LockBusyError, FileNotFoundError):
            continue
    return gone


@contextlib.contextmanager
def held_alone(top: str) -> Iterator[float]:
    """Keep steps from a cache; yield when one used it last, in seconds since the epoch.

    Raises:
        LockBusyError: A step has it, or it was removed and made again meanwhile.
        FileNotFoundError: It is gone.
    """
    path = f"{top}/{LOCK_NAME}"
    with FileLock(path, wait=False) as lock:
        status = os.stat(path)
        if not os.path.samestat(os.fstat(lock.fileno()), status):
            raise LockBusyError
        yield status.st_mtime


def remove_held(root: str, name: str) -> str:
    """Remove a cache whose lock the caller holds; return the path where a rest of it would be."""
    # Aside first: a step may make a cache of this name at any moment.
    aside = f"{root}/{name}{_ASIDE}{os.getpid()}"
    os.rename(f"{root}/{name}", aside)
    remove_leftover(aside)
    return aside


def is_half_removed(name: str) -> bool:
    """Return whether the directory of a cache is one whose removal was begun."""
    return _ASIDE in name


def half_removed_caches(root: Path) -> list[str]:
    """Return paths of caches whose removal was begun, and ended or stopped before all was gone."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    return [f"{root}/{name}" for name in names if is_half_removed(name)]
