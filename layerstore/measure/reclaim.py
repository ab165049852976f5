"""What ``gc`` without options would free of a store now, to the byte, for ``df``.

Only the collector's own plan knows it: which packs are copied and which are left decides more than
what is dead in them. A plan reads the index and compresses what would be copied, so its answer is
remembered under a digest of everything that decides it (docs/format/measured.md), and not asked
for where the sums say that everything is needed: then merging small packs is all that gc does, and
what that frees is told by their tables (:mod:`layerstore.store.collect.merging`).
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from blake3 import blake3

from layerstore.errors import StorageError
from layerstore.formats.origins import NO_ORIGINS
from layerstore.formats.sealed import Seal
from layerstore.measure.ledger import Owner, blob_sizes
from layerstore.store.catalog.rows import IN_USE
from layerstore.store.collect.sweep import dead_leases, dead_temporaries, log_is_ahead, may_free
from layerstore.store.config import require_writable
from layerstore.store.failures import CorruptPackError, GcRunningError
from layerstore.store.locks.leases import live_leases
from layerstore.store.remembering import read_record, write_record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from layerstore.measure.inventory import Inventory
    from layerstore.measure.ledger import Ledger
    from layerstore.store.collect.marks import Roots
    from layerstore.store.store import Store

VERSION: Final = 1

SEAL: Final = Seal(
    b"LSFREE\0" + bytes((VERSION,)),
    "layerstore 2026-11-27 remembered plan of gc v1",
    max_bytes=64 * 1024,
)
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
    path = f"{store.paths.measured}/gc"
    found, is_new = _recall(path, key), False
    if found is None:
        try:
            found = (_merged(store, inventory, roots, key, left) if whole else None) or _planned(
                store, key
            )
        except GcRunningError as err:
            return Reclaim(0, 0, 0, err.message)
        is_new = _remember(store, path, found)
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


def _merged(
    store: Store, inventory: Inventory, roots: Roots, key: bytes, left: int
) -> _Record | None:
    """Return what ``gc`` frees where all is needed, by merging small packs alone.

    Args:
        store: The store.
        inventory: Of it; all its images and layers are needed.
        roots: What gc keeps.
        key: Of the answer.
        left: Bytes of files that killed commands left.

    Returns:
        None if the plan must be asked: it may find something dead within what is needed, or
        damaged.
    """
    if not _all_items_live(store, inventory) or not _is_whole(inventory, roots):
        return None
    from layerstore.store.collect.gc import copies_limit
    from layerstore.store.collect.merging import measure_merges

    gone = set(dead_leases(store.catalog))
    free = [row for row in inventory.packs.values() if row.lease is None or row.lease in gone]
    free_now = may_free(store.catalog, own_lease=None)
    limit = copies_limit(store.paths.root, left)
    try:
        replaced, written = measure_merges(store, free, limit, only_one=not free_now)
    except (CorruptPackError, FileNotFoundError):
        return None
    if free_now:
        return _Record(key, replaced - written, 0, "")
    return _Record(key, -written, replaced, "")


def _all_items_live(store: Store, inventory: Inventory) -> bool:
    """Return whether every byte of every block of packs in use is one that a layer needs."""
    if inventory.sums is None or inventory.unreadable:
        return False
    needed = sum(g.data_raw + g.meta_raw for g in inventory.sums.groups if g.layers)
    stored: dict[int, int] = dict(
        store.catalog.query(f"SELECT pack, SUM(raw) FROM blocks WHERE {IN_USE} GROUP BY pack")  # type: ignore[arg-type]  # noqa: S608 -- a constant
    )
    in_use = {row.pack for row in inventory.packs.values() if row.retired is None}
    return in_use == stored.keys() and needed == sum(stored.values())


def _is_whole(inventory: Inventory, roots: Roots) -> bool:
    """Return whether nothing is missing of images, for which gc would refuse to do anything."""
    there = {image.image_id for image in inventory.images}
    return (
        roots.images.keys() <= there
        and not inventory.unreadable_images
        and all(blob_sizes(inventory).values())
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


def _recall(path: str, key: bytes) -> _Record | None:
    body = read_record(path, SEAL)
    if body is None:
        return None
    try:
        record = _DECODER.decode(body)
    except msgspec.MsgspecError:
        return None
    return record if record.key == key else None


def _remember(store: Store, path: str, record: _Record) -> bool:
    """Keep an answer, as :mod:`layerstore.measure.summary` keeps sums; return whether it may be."""
    sealed = SEAL.closed(msgspec.msgpack.encode(record))
    if sealed is None:
        return False
    with contextlib.suppress(StorageError):  # whoever may only look keeps nothing
        require_writable(store.config)
        staging = store.paths.temporary("measured", f"{os.getpid()}.{os.urandom(4).hex()}")
        write_record(path, sealed, staging=staging)
        return True
    return False
