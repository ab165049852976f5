"""``df``: what a store's disk holds, and what could be had back, as a table.

The rows are the ledger's parts gathered under the words docker's ``system df`` uses;
their sizes add up to the disk, as the ledger's do.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from layerstore.formats.reference import names_in_cell
from layerstore.measure.inventory import walked
from layerstore.measure.ledger import Ledger, Owner, take_ledger
from layerstore.measure.reclaim import Reclaim, take_reclaim
from layerstore.measure.summary import take_summarised
from layerstore.measure.table import Table, columns, csv_lines
from layerstore.store.collect.marks import find_roots, view_roots
from layerstore.store.collect.resting import resting_key
from layerstore.store.names.usage import KEEP_UNPACKED_WITHIN, image_uses
from layerstore.units import format_size, parse_age

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from layerstore.measure.inventory import Inventory
    from layerstore.store.collect.eviction import Evictable
    from layerstore.store.collect.marks import Roots
    from layerstore.store.store import Store

UNPACKED = "Unpacked for views"
_SLACK = "Allocation slack"
_ROWS = (
    ("Images", (Owner.EXCLUSIVE, Owner.SHARED, Owner.METADATA, Owner.BLOBS)),
    ("Originals", (Owner.ORIGINALS,)),
    ("Build cache", (Owner.CACHE,)),
    ("Cache mounts", (Owner.MOUNTS, Owner.RESTING)),
    ("In use, no name", (Owner.HELD,)),
    ("Writable layers", (Owner.WRITABLE,)),
    ("Volumes", (Owner.VOLUMES,)),
    (UNPACKED, (Owner.OBJECTS,)),
    ("Unreferenced", (Owner.UNREFERENCED,)),
    ("Pack framing", (Owner.FRAMING,)),
    (
        "Catalog and state",
        (
            Owner.CATALOG,
            Owner.NAMES,
            Owner.CONFIG,
            Owner.RESERVE,
            Owner.SCANS,
            Owner.MEASURED,
            Owner.BUILDS,
            Owner.CONTAINERS,
            Owner.VIEWS,
            Owner.LOCKS,
        ),
    ),
    ("Other files", (Owner.WORK, Owner.QUARANTINE, Owner.OTHER)),
)


class Usage(msgspec.Struct, frozen=True):
    """One row.

    Attributes:
        count: Images, compressed originals, cached steps, cache mounts, writable layers or
            unpacked files; None where there is nothing to count.
        active: Those of them that mounted views use; of writable layers also those of containers
            that run.
        size: Bytes; those of cache mounts, writable layers and unpacked files are of the files.
        reclaimable: Bytes that ``gc`` without options would free now.
    """

    kind: str
    count: int | None
    active: int | None
    size: int
    reclaimable: int


class DiskUsage(msgspec.Struct, frozen=True):
    """The table; the rows and ``slack`` add up to ``disk_size``.

    Attributes:
        reclaimable: What ``gc`` without options would say that it frees, unpacked files included:
            the rows' and ``reclaimable_slack``, which is that of unpacked files.
        deferred: What it could free only when running commands have ended.
        droppable: What ``gc --all`` frees beside, at most: if no step uses the build cache and its
            cache mounts.
        doubt: Why nothing would be freed, or what would is not known; "" otherwise.
        last_used: Image id → seconds since the epoch, where that is known.
    """

    rows: tuple[Usage, ...]
    slack: int
    disk_size: int
    reclaimable: int
    ledger: Ledger
    reclaimable_slack: int = 0
    deferred: int = 0
    droppable: int = 0
    doubt: str = ""
    last_used: dict[str, float] = {}


class Free(NamedTuple):
    """What of a store may go.

    Attributes:
        reclaim: By ``gc`` without options.
        unpacked: Of unpacked files, by the same; None where there are none.
        unpacked_any: Of these if no rule keeps those that no view needs.
    """

    reclaim: Reclaim
    unpacked: Evictable | None = None
    unpacked_any: Evictable | None = None


def take_df(store: Store, *, with_images: bool = True, running: Collection[str] = ()) -> DiskUsage:
    """Return the disk usage of a store as it is now.

    Args:
        store: The store.
        with_images: Whether to say of each image what it has and when it was last used.
        running: Ids of containers that run, each with its writable layer under this name.

    Raises:
        IntegrityError: The catalog or a layer's record is damaged.
        StorageError: The store cannot be read.
    """
    inventory = take_summarised(store)
    ledger = take_ledger(store, inventory, with_images=with_images)
    roots = find_roots(store, view_roots(store.paths), keep_cache=True)
    reclaim = take_reclaim(store, inventory, ledger, roots)
    if reclaim.is_new:
        inventory = walked(inventory)
        ledger = take_ledger(store, inventory, with_images=with_images)
    free = Free(reclaim, *_evictable(store, inventory, roots))
    usage = disk_usage(inventory, ledger, free, running)
    if not with_images:
        return usage
    uses = image_uses(store.paths, [image.image_id for image in ledger.images])
    return msgspec.structs.replace(usage, last_used=uses)


def _evictable(
    store: Store, inventory: Inventory, roots: Roots
) -> tuple[Evictable, Evictable] | tuple[()]:
    """Return what of the unpacked files gc evicts, and what if no rule kept any; () of none."""
    paths = store.paths
    if not any(map(os.path.isdir, (paths.objects, paths.metadata, paths.pack_images))):
        return ()
    from layerstore.store.collect.eviction import find_evictable, keep_of_images  # lazily: 10 ms
    from layerstore.store.objects.objects import ObjectFile, object_of_path

    sizes = {
        name: ObjectFile(file.apparent_size, file.allocated_size)
        for file in inventory.files
        if file.path.startswith("objects/") and (name := object_of_path(file.path[8:]))
    }
    staying = [image for image in inventory.images if image.image_id in roots.images]
    keep = keep_of_images(store, staying, parse_age(KEEP_UNPACKED_WITHIN))
    return find_evictable(paths, keep, sizes), find_evictable(paths, sizes=sizes)


def disk_usage(
    inventory: Inventory,
    ledger: Ledger,
    free: Free,
    running: Collection[str] = (),
) -> DiskUsage:
    """Gather a ledger's parts into rows.

    Args:
        inventory: The store.
        ledger: Of it.
        free: What of it may go.
        running: See :func:`take_df`.
    """
    goes = _reclaimable(free, ledger.size_of(Owner.UNREFERENCED))
    rows = tuple(
        msgspec.structs.replace(row, reclaimable=goes.get(kind, 0))
        for kind, owners in _ROWS
        if (row := _row(inventory, ledger, kind, owners, free, running)).size
        or row.count is not None
        or goes.get(kind)
    )
    slack = 0 if free.unpacked is None else free.unpacked.disk_size - free.unpacked.size
    return DiskUsage(
        rows=rows,
        slack=ledger.slack,
        disk_size=ledger.disk_size,
        reclaimable=sum(row.reclaimable for row in rows) + slack,
        ledger=ledger,
        reclaimable_slack=slack,
        deferred=free.reclaim.deferred_bytes,
        droppable=_droppable(free, ledger),
        doubt=free.reclaim.doubt,
    )


def _reclaimable(free: Free, unreferenced: int) -> dict[str, int]:
    """Return what goes of each kind: of packs what is dead first, the rest is framing."""
    stored = free.reclaim.stored_bytes
    dead = max(0, min(stored, unreferenced))
    return {
        "Unreferenced": dead,
        "Pack framing": stored - dead,
        "Other files": free.reclaim.temporary_bytes,
        UNPACKED: 0 if free.unpacked is None else free.unpacked.size,
    }


def _droppable(free: Free, ledger: Ledger) -> int:
    """Return what goes with ``gc --all`` that plain ``gc`` leaves, if nothing uses it."""
    size = sum(ledger.size_of(owner) for owner in (Owner.CACHE, Owner.MOUNTS, Owner.RESTING))
    if free.unpacked is not None and free.unpacked_any is not None:
        size += free.unpacked_any.disk_size - free.unpacked.disk_size
    return size


def _row(
    inventory: Inventory,
    ledger: Ledger,
    kind: str,
    owners: tuple[Owner, ...],
    free: Free,
    running: Collection[str],
) -> Usage:
    size = sum(ledger.size_of(owner) for owner in owners)
    count: int | None = None
    active: int | None = None
    if Owner.EXCLUSIVE in owners:
        tagged = inventory.tagged()
        count = len(tagged)
        viewed = {view.image_id for view in inventory.views}
        active = sum(image.image_id in viewed for image in tagged)
    elif Owner.ORIGINALS in owners:
        count = len({kept for found in inventory.origins.values() for kept in found.kept})
    elif Owner.CACHE in owners:
        count = inventory.cache_count
    elif Owner.MOUNTS in owners:
        count = len(_cache_mounts(inventory) | inventory.resting.keys())
    elif Owner.WRITABLE in owners:
        count = len(ledger.writable)
        used = {os.path.basename(view.upper) for view in inventory.views if view.upper}
        active = sum(layer.name in used or layer.name in running for layer in ledger.writable)
    elif kind == UNPACKED and free.unpacked is not None:
        found = free.unpacked
        count, active = len(found.objects) + found.kept + found.recent, found.kept
    return Usage(kind, count, active, size, 0)


def _cache_mounts(inventory: Inventory) -> set[str]:
    """Return the directories of cache mounts, by the keys that they would rest under."""
    places = (file.path.split("/") for file in inventory.files if file.is_directory)
    return {resting_key(p[1]) for p in places if len(p) == 2 and p[0] == "cache-mounts"}


def df_table(usage: DiskUsage) -> Table:
    """Return the table for people."""
    rows = [
        (row.kind, _number(row.count), _number(row.active), *_sizes(row.size, row.reclaimable))
        for row in usage.rows
    ]
    rows.append((_SLACK, "", "", *_sizes(usage.slack, usage.reclaimable_slack)))
    notes = []
    if usage.doubt:
        notes.append(f"gc frees none of the packs now: {usage.doubt}")
    if usage.deferred:
        notes.append(
            f"gc frees {format_size(usage.deferred)} more when running commands have ended"
        )
    if usage.droppable:
        notes.append(
            f"gc --all frees at most {format_size(usage.droppable)} more: "
            "build cache, cache mounts, unpacked files"
        )
    if usage.ledger.unreadable_layers:
        count = len(usage.ledger.unreadable_layers)
        notes.append(
            f"{count} layer{'s' * (count != 1)} cannot be read, and what nothing else needs "
            "counts as unreferenced: run 'layerstore check'"
        )
    return Table(
        title="",
        columns=columns(["TYPE"], ["COUNT", "ACTIVE", "SIZE", "RECLAIMABLE"]),
        rows=tuple(rows),
        total=("On disk", "", "", *_sizes(usage.disk_size, usage.reclaimable)),
        notes=tuple(notes),
    )


def df_csv(usage: DiskUsage) -> Iterator[str]:
    """Yield the rows as lines of CSV, in bytes; their sizes add up to the disk."""
    slack = Usage(_SLACK, None, None, usage.slack, usage.reclaimable_slack)
    rows = map(msgspec.structs.astuple, (*usage.rows, slack))
    return csv_lines(Usage.__struct_fields__, rows)


def df_images_table(usage: DiskUsage) -> Table:
    """Return what each named image has in the store, for ``df --verbose``."""
    return Table(
        title="",
        columns=columns(["IMAGE", "ID"], ["EXCLUSIVE", "SHARED", "FREED BY RM", "LAST USED"]),
        rows=tuple(
            (
                names_in_cell(image.names),
                image.image_id.partition(":")[2][:12],
                format_size(image.exclusive_size),
                format_size(image.shared_size),
                format_size(image.freed_size),
                _day(usage.last_used.get(image.image_id)),
            )
            for image in usage.ledger.images
        ),
        notes=("freed by rm: exclusive bytes that no view and no cached step needs",),
    )


def ledger_table(ledger: Ledger) -> Table:
    """Return the parts of a ledger, to the byte."""
    rows = [(part.label, f"{part.size:,}") for part in ledger.parts]
    rows.append(("allocation slack", f"{ledger.slack:,}"))
    note = (
        "unreferenced: what is dead in packs that are mostly needed stays until 'gc --compact'; "
        "with --dry-run gc says what it frees"
    )
    return Table(
        title="",
        columns=columns(["OWNER"], ["BYTES"]),
        rows=tuple(rows),
        total=("on disk", f"{ledger.disk_size:,}"),
        notes=(note,) if ledger.size_of(Owner.UNREFERENCED) else (),
    )


def _day(moment: float | None) -> str:
    from datetime import UTC, datetime  # lazily: only --verbose says when

    return "" if moment is None else datetime.fromtimestamp(moment, UTC).date().isoformat()


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def _sizes(size: int, reclaimable: int) -> tuple[str, str]:
    return format_size(size), format_size(reclaimable) if reclaimable else ""
