"""What ``gc`` without options would free of a store now, to the byte, for ``df``.

In general only the collector's own plan knows it: which packs are copied and which are left
decides more than what is dead in them. A plan reads the index and compresses what would be copied,
so its answer is remembered under a digest of everything that decides it (docs/format/measured.md),
and not asked for where the sums say that no pack lives in part
(:mod:`layerstore.measure.whole_packs`): then gc removes whole packs and merges small ones, and what
merging frees is told by their tables (:mod:`layerstore.store.collect.merging`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from blake3 import blake3

from layerstore.formats.origins import NO_ORIGINS
from layerstore.formats.sealed import Seal
from layerstore.measure.ledger import Owner
from layerstore.measure.remembered import recall, remember
from layerstore.store.collect.sweep import dead_leases, dead_temporaries, log_is_ahead, may_free
from layerstore.store.failures import CorruptPackError, GcRunningError
from layerstore.store.locks.leases import live_leases

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from layerstore.measure.inventory import Inventory
    from layerstore.measure.ledger import Ledger
    from layerstore.store.catalog.rows import PackRow
    from layerstore.store.collect.marks import Roots
    from layerstore.store.store import Store

VERSION: Final = 1

SEAL: Final = Seal(
    b"LSFREE\0" + bytes((VERSION,)),
    "layerstore 2026-11-27 remembered plan of gc v1",
    max_bytes=64 * 1024,
)
_FILE: Final = "gc"
_KEY_CONTEXT: Final = "layerstore 2026-11-27 what decides a plan of gc v1"


class Reclaim(NamedTuple):
    """What ``gc`` would free; where copies take more than goes, less than nothing.

    Attributes:
        stored_bytes: Of packs, configs and manifests; bytes of new packs are taken off.
        temporary_bytes: Of files that killed commands left.
        deferred_bytes: What it can free only when running commands have ended.
        doubt: Why nothing would be freed, or is known, "" otherwise.
        is_new: Whether the answer was remembered just now: then it takes room, too.
    """

    stored_bytes: int
    temporary_bytes: int
    deferred_bytes: int
    doubt: str = ""
    is_new: bool = False


class _Record(msgspec.Struct, frozen=True, array_like=True):
    key: bytes
    stored_bytes: int
    deferred_bytes: int
    doubt: str


_DECODER = msgspec.msgpack.Decoder(_Record)


def take_reclaim(store: Store, inventory: Inventory, ledger: Ledger, roots: Roots) -> Reclaim:
    """Return what ``gc`` would free now.

    Args:
        store: The store.
        inventory: Of it, as it is now.
        ledger: Of the inventory.
        roots: What gc keeps.

    Raises:
        IntegrityError: The catalog is damaged.
        StorageError: The store cannot be read.
    """
    temporaries = dict(dead_temporaries(store.catalog, own_lease=None))
    left = sum(temporaries.values())
    whole = _all_is_needed(inventory, ledger, roots)
    if whole and not _has_mergeable(inventory):
        return Reclaim(0, left, 0)
    key = _key(store, inventory, roots)
    found, is_new = _recall(store, key), False
    if found is None:
        try:
            told = _told(store, inventory, ledger, roots, left)
            found = _planned(store, key) if told is None else _Record(key, *told, "")
        except GcRunningError as err:
            return Reclaim(0, 0, 0, err.message)
        is_new = remember(store, _FILE, SEAL, msgspec.msgpack.encode(found))
    left = 0 if found.doubt else left
    return Reclaim(found.stored_bytes, left, found.deferred_bytes, found.doubt, is_new)


def _all_is_needed(inventory: Inventory, ledger: Ledger, roots: Roots) -> bool:
    """Return whether a plan would find all images and layers needed, told without making one."""
    if ledger.size_of(Owner.UNREFERENCED) or roots.unreadable:
        return False
    needed = set(roots.layers)
    for image in inventory.images:
        if image.image_id not in roots.images:
            return False
        origins = inventory.origins.get(image.image_id, NO_ORIGINS)
        needed.update((*image.layers, *origins.kept))
    return needed == inventory.layers.keys()


def _has_mergeable(inventory: Inventory) -> bool:
    from layerstore.store.collect.compaction import mergeable  # lazily, as all of gc's: 5 ms

    return bool(mergeable(inventory.packs.values()))


def _told(
    store: Store, inventory: Inventory, ledger: Ledger, roots: Roots, left: int
) -> tuple[int, int] | None:
    """Return what ``gc`` frees where no pack lives in part: whole packs, and merging small ones.

    Args:
        store: The store.
        inventory: Of it.
        ledger: Of the inventory.
        roots: What gc keeps.
        left: Bytes of files that killed commands left.

    Returns:
        Bytes now, and when running commands have ended; None if the plan must be asked: it may
        find something dead within what is needed, or damaged.
    """
    from layerstore.measure.whole_packs import split_packs  # lazily: mostly what was said holds

    split = split_packs(store, inventory, ledger, roots)
    if split is None:
        return None
    from layerstore.store.collect.gc import copies_limit
    from layerstore.store.collect.merging import measure_merges

    gone = set(dead_leases(store.catalog))
    free = [row for row in split.needed if row.lease is None or row.lease in gone]
    free_now = may_free(store.catalog, own_lease=None)
    dead = split.dead_bytes
    if dead and (not free_now or _keeps_the_dead(store, [*split.needed, *split.dead], gone)):
        return None
    limit = copies_limit(store.paths.root, left + dead)
    try:
        replaced, written = measure_merges(store, free, limit, only_one=not free_now)
    except (CorruptPackError, FileNotFoundError):
        return None
    if free_now:
        return dead + replaced - written, 0
    return -written, replaced


def _keeps_the_dead(store: Store, rows: Iterable[PackRow], gone: Container[str]) -> bool:
    """Return whether gc leaves dead things alone: somebody may be writing, or the index is old."""
    return log_is_ahead(store) or any(
        row.lease is not None and row.lease not in gone for row in rows
    )


def _planned(store: Store, key: bytes) -> _Record:
    from layerstore.store.collect.gc import plan_gc

    plan = plan_gc(store)
    if plan.dangling:
        return _Record(key, 0, 0, f"references dangle: {plan.dangling[0]}")
    freed = plan.freed_bytes - sum(plan.leavings.temporary.values())
    return _Record(key, freed, plan.deferred_bytes, "")


def _key(store: Store, inventory: Inventory, roots: Roots) -> bytes:
    """Return a digest of all that a plan's answer follows from."""
    from layerstore.store.collect.gc import copies_limit

    catalog = store.catalog
    facts = (
        inventory.stamp,
        [(row.pack, row.lease) for row in inventory.packs.values() if row.lease is not None],
        [(image.image_id, image.manifest_digest) for image in inventory.images],
        sorted(roots.images),
        sorted(roots.layers),
        roots.unreadable,
        sorted((lease.lease_id, lease.epoch) for lease in live_leases(catalog)),
        dead_leases(catalog),
        log_is_ahead(store),
        copies_limit(store.paths.root, 0),
        sorted(_stored_files(inventory).items()),
    )
    return blake3(msgspec.msgpack.encode(facts), derive_key_context=_KEY_CONTEXT).digest()


def _stored_files(inventory: Inventory) -> Mapping[str, int]:
    """Return the sizes of packs and blobs as they lie on the disk, by their paths."""
    return {
        file.path: file.apparent_size
        for file in inventory.files
        if not file.is_directory and file.path.startswith(("packs/", "blobs/"))
    }


def _recall(store: Store, key: bytes) -> _Record | None:
    body = recall(store, _FILE, SEAL)
    if body is None:
        return None
    try:
        record = _DECODER.decode(body)
    except msgspec.MsgspecError:
        return None
    return record if record.key == key else None
