"""Repairing a store: damaged packs move aside, what they still hold is kept.

A plan names the packs and what is lost; executing copies every readable chunk of
them into new packs, forgets the unreadable ones and moves the files to
``quarantine/``. Importing or building a harmed image again then stores the lost
chunks anew: they have the same ids. May be killed at any instant.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from layerstore.linux.files import fsync_directory
from layerstore.store.check.findings import Problem
from layerstore.store.config import require_writable
from layerstore.store.failures import storage_errors
from layerstore.store.locks.exclusion import alone
from layerstore.store.locks.leases import Lease
from layerstore.store.packs.commit import begin_epoch, publish_pack
from layerstore.store.rewriting.rewrite import Rewriter

if TYPE_CHECKING:
    from collections.abc import Container

    from layerstore.digest import ImageId, PackId
    from layerstore.store.check.findings import CheckReport
    from layerstore.store.packs.pack_writer import SealedPack
    from layerstore.store.store import Store

_OF_PACKS = frozenset(
    {
        Problem.PACK_MISSING,
        Problem.PACK_DAMAGED,
        Problem.BLOCK_DAMAGED,
        Problem.CHUNK_DAMAGED,
        Problem.DEAD_BYTES_DAMAGED,
    }
)


class RepairPlan(NamedTuple):
    """Packs to move aside, and the images that lost data with them."""

    store: Store
    packs: tuple[PackId, ...]
    images: tuple[ImageId, ...]


class RepairReport(NamedTuple):
    """What a repair did: packs moved aside or forgotten, chunks saved and lost."""

    packs: int
    saved_chunks: int
    lost_chunks: int


def plan_repair(store: Store, report: CheckReport) -> RepairPlan:
    """Return what to do about the packs that a check found damaged or missing.

    Only a check that read the data knows every damaged block.
    """
    known = {store.paths.pack(row.pack_id): row.pack_id for row in store.catalog.pack_rows()}
    packs: set[PackId] = set()
    images: set[ImageId] = set()
    for finding in report.findings:
        pack_id = known.get(finding.where.partition(" offset ")[0])
        if finding.problem in _OF_PACKS and pack_id is not None:
            packs.add(pack_id)
            images.update(finding.images)
    return RepairPlan(store, tuple(sorted(packs)), tuple(sorted(images)))


def execute_repair(plan: RepairPlan) -> RepairReport:
    """Carry out a repair.

    Raises:
        GcRunningError: A gc, check or rebuild is at work.
        StoreFullError: No space for what can be saved; nothing was changed.
    """
    store = plan.store
    require_writable(store.config)
    with storage_errors("repair the store"), alone(store.paths):
        lease = Lease(store.catalog, "repair")
        try:
            report = RepairReport(0, 0, 0)
            for pack_id in plan.packs:
                if store.catalog.pack_row(pack_id) is None:
                    continue  # nothing needed it, and gc was at work since the check
                saved, lost = _move_aside(store, pack_id, lease)
                report = RepairReport(
                    report.packs + 1, report.saved_chunks + saved, report.lost_chunks + lost
                )
            return report
        finally:
            lease.close()


class Salvage(NamedTuple):
    """What a repair would save: all items of its packs, and those that can be read."""

    held: frozenset[bytes]
    saved: frozenset[bytes]


def foresee_salvage(plan: RepairPlan) -> Salvage:
    """Return what :func:`execute_repair` would save of its packs, by reading them; changes nothing.

    What is a difference against something that is still to be healed counts as not saved.
    """
    held: set[bytes] = set()
    saved: set[bytes] = set()
    for pack_id in plan.packs:
        items = _items_in(plan.store, pack_id)
        rewriter = Rewriter(plan.store, None)
        _save(rewriter, pack_id, items)
        held |= items
        saved |= _items_of(rewriter.finish())
    return Salvage(frozenset(held), frozenset(saved))


class _Held(NamedTuple):
    """Of a damaged pack everything is saved that the catalog has there."""

    alive: Container[bytes]
    held: Container[bytes]

    def has_all_of(self, block: int) -> bool:  # noqa: ARG002 -- nobody counted
        """Of none it is known."""
        return False


def _move_aside(store: Store, pack_id: PackId, lease: Lease) -> tuple[int, int]:
    """Save what one pack still holds, forget it, move its file; return chunks saved and lost.

    Where the medium failed the pack stays with what was not saved: it may be read the next time.
    """
    held = _items_in(store, pack_id)
    staging = iter(range(1 << 30))
    rewriter = Rewriter(
        store,
        lambda: store.paths.temporary(lease.lease_id, f"{pack_id.hex()}.{next(staging)}.pack"),
    )
    try:
        stays = _save(rewriter, pack_id, held)
        packs = rewriter.finish()
        saved = _items_of(packs)
        with store.catalog.write() as connection:
            if stays:
                for pack in packs:
                    publish_pack(connection, store.paths, pack, None, instead=saved)
                return len(saved), len(held - saved)
            row = connection.execute("SELECT pack FROM packs WHERE id = ?", (pack_id,)).fetchone()
            for table in ("chunks", "blocks", "bases", "packs"):
                # Table names are ours, not input.
                connection.execute(f"DELETE FROM {table} WHERE pack = ?", row)  # noqa: S608
            begin_epoch(connection)
            for pack in packs:
                publish_pack(connection, store.paths, pack, None)
    finally:
        rewriter.discard()
    store.reader.forget(pack_id)
    path = store.paths.pack(pack_id)
    # A pack damaged only outside its frames comes out whole under the same id and name.
    healed = any(pack.pack_id == pack_id for pack in packs)
    if os.path.lexists(path) and not healed:
        os.rename(path, f"{store.paths.quarantine}/{os.path.basename(path)}")
        fsync_directory(store.paths.quarantine)
        fsync_directory(os.path.dirname(path))
    return len(saved), len(held - saved)


def _items_in(store: Store, pack_id: PackId) -> set[bytes]:
    """Return the items that the catalog has in a pack."""
    rows = store.catalog.query(
        "SELECT c.id FROM chunks c JOIN packs p ON p.pack = c.pack WHERE p.id = ?", (pack_id,)
    )
    return {row[0] for row in rows if isinstance(row[0], bytes)}


def _items_of(packs: list[SealedPack]) -> set[bytes]:
    return {item.item_id for pack in packs for block in pack.blocks for item in block.items}


def _save(rewriter: Rewriter, pack_id: PackId, held: set[bytes]) -> bool:
    """Copy what can be read of a pack; return whether the medium may give more the next time."""
    try:
        rewriter.copy_pack(pack_id, _Held(held, held), salvage=True)
    except FileNotFoundError:
        return False
    return rewriter.medium_failed
