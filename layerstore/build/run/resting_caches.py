"""Cache mounts at rest: those that no step used for a while, as layers of the store.

A directory of ``cache-mounts`` shares nothing with images. At rest the same files are a
layer: what images hold of them is stored once, the rest compressed. A row of the build
cache, ``mount:`` and a digest of the cache's name, keeps the layer.

Putting to rest writes the layer, then the row, and removes the directory last, all under
the cache's own flock; a step that wants the cache writes the directory again. So a kill at
any moment leaves one of them or both, and where there are both the directory counts. Only
gc forgets rows whose cache is awake, once the directory is on disk. Decision 138.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from layerstore.build.run.caches import DATA_NAME
from layerstore.build.run.idle_caches import IdleCache, held_alone, is_half_removed, remove_held
from layerstore.errors import (
    BuildError,
    IntegrityError,
    LayerstoreError,
    NotFoundError,
    StorageError,
)
from layerstore.image.layers.scan import Scanner, scan_directory
from layerstore.linux.locks import LockBusyError
from layerstore.store.collect.resting import PREFIX, resting_key
from layerstore.store.records import CacheRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from layerstore.store.store import Store
    from layerstore.store.writing.session import WriteSession

_FULL = (errno.ENOSPC, errno.EDQUOT)


class Rested(NamedTuple):
    """What putting caches to rest came to.

    Attributes:
        caches: Now at rest.
        new_bytes: That they added to the store, before compression; the rest was there.
        kept: Caches that stay directories, each with the reason.
    """

    caches: list[IdleCache]
    new_bytes: int
    kept: list[tuple[IdleCache, str]]


def put_to_rest(store: Store, caches: Iterable[IdleCache]) -> Rested:
    """Turn idle caches into layers, unless a step took one meanwhile.

    One that cannot be told exactly by a layer stays a directory: with sockets, with attributes
    that no layer carries, or of another user, whose ids mean something else to a build.
    """
    rested: list[IdleCache] = []
    kept: list[tuple[IdleCache, str]] = []
    new_bytes = 0
    for cache in caches:
        if is_half_removed(cache.name):
            continue
        top = f"{store.paths.cache_mounts}/{cache.name}"
        try:
            with held_alone(top) as used:
                if used != cache.used:
                    continue
                if os.path.isdir(f"{top}/{DATA_NAME}"):
                    new_bytes += _put_one(store, cache, top)
                    rested.append(cache)
                # Else it holds what killed steps left in making it, if anything.
                remove_held(store.paths.cache_mounts, cache.name)
        except (LockBusyError, FileNotFoundError):
            continue
        except (LayerstoreError, OSError) as err:
            kept.append((cache, err.message if isinstance(err, LayerstoreError) else str(err)))
    return Rested(rested, new_bytes, kept)


def _put_one(store: Store, cache: IdleCache, top: str) -> int:
    """Write a cache's layer and its row; return the plain bytes that are new."""
    from layerstore.image.layers.layer_writer import write_sorted_layer

    if not os.geteuid() == os.stat(top).st_uid == 0:
        raise BuildError("only root's caches can be put to rest")
    space = os.statvfs(top)
    if space.f_bavail * space.f_frsize < cache.size:
        raise BuildError("the disk may not have room for it beside its directory")
    data = Path(top, DATA_NAME)
    _refuse_what_no_layer_holds(data)
    with store.begin("put cache mounts to rest") as session:
        scanner = Scanner(data, read_small=session.cutting.whole_max_bytes)
        layer = write_sorted_layer(session, store, scanner.items())
        key = resting_key(cache.name)
        session.cache_put(CacheRecord(key, layer.diff_id, b"", cache.used))
        return session.stats.new_bytes


def _refuse_what_no_layer_holds(data: Path) -> None:
    """Raise for a cache that would not come back as it is, before any of it is stored.

    Raises:
        BuildError: It has something in it that a scan leaves out.
    """

    def refuse(path: bytes, why: str) -> None:
        raise BuildError(f"no layer can hold {os.fsdecode(path)!r}: {why}")

    scan_directory(data, on_skip=refuse)


def awake_keys(store: Store, but: Collection[str] = ()) -> list[str]:
    """Return the keys of the rows that :func:`forget_awake` would forget now."""
    return list(_awake(store, but))


def forget_awake(store: Store, but: Collection[str] = ()) -> None:
    """Forget what the store keeps of caches that have their directories again.

    One that a step uses is left to a later gc, and all are when the disk is full: then gc
    frees what needs no room first.

    Args:
        store: Where they rest.
        but: Names of caches that stay remembered, for they are about to rest again: most of
            what they hold then is there already.
    """
    from layerstore.linux.files import sync_file_system

    for key in _awake(store, but):
        with contextlib.suppress(StorageError, OSError):
            sync_file_system(store.paths.cache_mounts)
            store.cache_drop([key])


def _awake(store: Store, but: Collection[str]) -> Iterator[str]:
    """Yield rows of caches that have their directories again, each while no step can take it."""
    keys = {record.key for record in store.cache_records() if record.key.startswith(PREFIX)}
    root = store.paths.cache_mounts
    if not keys or not os.path.isdir(root):
        return
    for name in sorted(set(os.listdir(root)).difference(but)):
        key = resting_key(name)
        if key in keys:
            # LockBusyError is an OSError.
            with contextlib.suppress(StorageError, OSError), held_alone(f"{root}/{name}"):
                if os.path.isdir(f"{root}/{name}/{DATA_NAME}"):
                    yield key


class Waking:
    """Writes the directories of caches at rest again.

    Args:
        store: Where they rest.
        session: Keeps from gc what is being read.
        on_lost: Told about a cache that is lost: the step begins with an empty one.
    """

    def __init__(self, store: Store, session: WriteSession, on_lost: Callable[[str], None]) -> None:
        self._store = store
        self._session = session
        self._on_lost = on_lost

    def __call__(self, name: str, directory: str) -> bool:
        """Fill a new directory with a cache; False if none rests, or it cannot be read.

        Raises:
            BuildError: The disk is full: nothing is lost then.
        """
        record = self._store.cache_get(resting_key(name))
        if record is None or record.diff_id is None:
            return False
        from layerstore.image.checkout import restore
        from layerstore.image.trees.stack import load_root

        try:
            self._session.hold_layers([record.diff_id])
            restore(self._store, load_root(self._store, [record.diff_id]), directory)
        except (IntegrityError, NotFoundError, OSError) as err:
            if isinstance(err, OSError) and err.errno in _FULL:
                raise BuildError(
                    f"no room for a cache mount that was at rest: {err.strerror}",
                    hint="free space; the cache stays in the store",
                ) from err
            why = err.message if isinstance(err, LayerstoreError) else str(err)
            self._on_lost(
                f"a cache mount is empty, what was at rest of it cannot be brought back: {why}"
            )
            return False
        return True
