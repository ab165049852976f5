"""What removing names would free, before it is done: ``rm --dry-run``.

Answers come from the collector's own plan, made as if the names were gone already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.store.collect.eviction import find_evictable, keep_of_images
from layerstore.store.collect.gc import plan_gc
from layerstore.store.collect.retention import NamedUse
from layerstore.store.collect.selection import Dropped
from layerstore.store.names.usage import KEEP_UNPACKED_WITHIN
from layerstore.units import parse_age

if TYPE_CHECKING:
    from collections.abc import Collection

    from layerstore.progress import Progress
    from layerstore.store.collect.gc import GcPlan
    from layerstore.store.store import Store

COMPACT_DEAD_FRACTION = 0.005
"""``gc --compact``: packs with less than this dead are not worth their copy on any disk."""


class RemovalEffect(NamedTuple):
    """What follows a removal.

    Attributes:
        freed_bytes: What a ``gc`` right after it frees, to the byte, if nothing else
            happens in between.
        freed_anyway_bytes: What a ``gc`` would free without it.
        deferred_bytes: What becomes free only when running commands have ended.
        compact_bytes: What ``gc --compact`` right after it frees at least.
        unpacked_bytes: What that ``gc`` evicts beside of files unpacked for views, and of what is
            made with them: bytes on disk, in none of the others.
    """

    freed_bytes: int
    freed_anyway_bytes: int
    deferred_bytes: int
    compact_bytes: int
    unpacked_bytes: int


def removal_effect(
    store: Store,
    names: Collection[str],
    pinned: Collection[str] = (),
    progress: Progress | None = None,
) -> RemovalEffect:
    """Return what removing names frees; reads only.

    Args:
        store: The store.
        names: Normalized names that go.
        pinned: Image ids whose pins go as well.
        progress: Told about packs that are measured.

    Raises:
        CatalogDamagedError: The catalog cannot be read.
        GcRunningError: A gc or rebuild is at work.
    """
    tags = store.tags()
    gone = Dropped(
        tuple(NamedUse(name, tags[name], None, held=False) for name in names if name in tags),
        pins=tuple(pinned),
    )
    now = plan_gc(store, progress=progress)
    then = plan_gc(store, assume_dropped=gone, progress=progress)
    compact = plan_gc(
        store,
        assume_dropped=gone,
        rewrite_dead_fraction=COMPACT_DEAD_FRACTION,
        measure=False,
    )
    copies = sum(batch.bound for batch in compact.batches)
    return RemovalEffect(
        then.freed_bytes,
        now.freed_bytes,
        then.deferred_bytes,
        max(compact.freed_bytes - copies, 0),
        _unpacked(store, then),
    )


def _unpacked(store: Store, plan: GcPlan) -> int:
    """Return what goes of unpacked files with the images of a plan, by gc's default rule."""
    going = set(plan.images)
    staying = [image for image in store.images() if image.image_id not in going]
    keep = keep_of_images(store, staying, parse_age(KEEP_UNPACKED_WITHIN))
    return find_evictable(store.paths, keep).disk_size
