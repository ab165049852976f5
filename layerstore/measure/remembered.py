"""Records in the store's ``measured/``: what measuring found out and need not find out again.

A cache: a record may be absent, stale or damaged at any time, and what is not true for ever stands
under a key of its reader's. None is forced to disk, and whoever may only look keeps none.
Format: docs/format/measured.md.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from layerstore.errors import StorageError
from layerstore.store.config import require_writable
from layerstore.store.remembering import read_record, write_record

if TYPE_CHECKING:
    from layerstore.formats.sealed import Seal
    from layerstore.store.store import Store


def recall(store: Store, name: str, seal: Seal) -> memoryview | None:
    """Return the body of a record, None if there is none that is whole."""
    return read_record(f"{store.paths.measured}/{name}", seal)


def remember(store: Store, name: str, seal: Seal, body: bytes) -> bool:
    """Keep a record in the place of the one before; return whether it may be kept."""
    sealed = seal.closed(body)
    if sealed is None:
        return False
    with contextlib.suppress(StorageError):  # whoever may only look keeps nothing
        require_writable(store.config)
        staging = store.paths.temporary("measured", f"{os.getpid()}.{os.urandom(4).hex()}")
        write_record(f"{store.paths.measured}/{name}", sealed, staging=staging)
        return True
    return False
