"""Rows of the build cache that keep what came of an image whose pull did not end.

A layer that came is published before its image is. Without a row nothing names it until then,
and nothing remembers how its compressed form is made, so that the next pull would fetch it
again. A row is written once its layer is durable, and goes when the image names the layer;
gc forgets one that no pull used for a day. Decision 331, docs/format/catalog.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from layerstore.digest import hex_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from layerstore.digest import Digest
    from layerstore.store.store import Store

PREFIX: Final = "received:"
"""Begins the key of such a row."""

KEPT_S: Final = 86400.0
"""Seconds after its last use that a row keeps its layer: who comes back does so in a day, as
containerd assumes for content that no image names yet."""


def received_key(digest: Digest) -> str:
    """Return the key of the row of a blob as a registry has it, or of a kept original's layer."""
    return PREFIX + hex_of(digest)


def is_received(key: str) -> bool:
    """Return whether a row of the build cache is such a one."""
    return key.startswith(PREFIX)


def forget_received(store: Store, digests: Iterable[Digest]) -> None:
    """Forget rows, durably; writes nothing where there are none."""
    keys = {received_key(digest) for digest in digests}
    there = [
        key
        for key in sorted(keys)
        if store.catalog.one("SELECT 1 FROM build_cache WHERE key = ?", (key,)) is not None
    ]
    if there:
        store.cache_drop(there)
