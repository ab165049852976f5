"""Keeping gc, rebuild and repair out while something looks at a whole store."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from layerstore.linux.locks import FileLock, LockBusyError
from layerstore.store.failures import GcRunningError, ReadOnlyStoreError, storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.store.paths import StorePaths


@contextlib.contextmanager
def without_gc(paths: StorePaths) -> Iterator[None]:
    """Hold gc, rebuild and repair off; several holders may do so at once.

    A store that cannot be written needs no holding off: nobody collects there.

    Raises:
        GcRunningError: One is at work.
    """
    try:
        with storage_errors("lock the store"):
            lock = FileLock(paths.gc_lock, shared=True, wait=False)
    except LockBusyError as err:
        raise _busy() from err
    except ReadOnlyStoreError:
        yield
        return
    with lock:
        yield


@contextlib.contextmanager
def alone(paths: StorePaths) -> Iterator[None]:
    """Be the only gc, rebuild, repair or check.

    Raises:
        GcRunningError: Another is at work.
    """
    try:
        with storage_errors("lock the store"):
            lock = FileLock(paths.gc_lock, wait=False)
    except LockBusyError as err:
        raise _busy() from err
    with lock:
        yield


def _busy() -> GcRunningError:
    return GcRunningError(
        "a gc, check, rebuild or repair is at work in this store", hint="run it again later"
    )
