"""Garbage collection: a plan that names every byte, and its execution.

Mark and sweep without clocks. What nothing needs is taken out of use in a catalog
commit (packs become *retired*, in a new epoch), and unlinked only when no living
lease began before that epoch: a session that found a chunk in such a pack takes the
pack back into use when it publishes. Half-empty and small packs are copied into new
ones. Deleting always comes after the commit that makes it true, so a crash leaves
garbage and never a hole. Everything under the catalog lock is done in short turns.

Protocol and its reasons: docs/decisions/0005-garbage-collection.md and 0105.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from layerstore.progress import Silent
from layerstore.store.collect.collection import Doomed, Execution
from layerstore.store.collect.compaction import (
    MAX_EXTRA_BYTES,
    REWRITE_DEAD_FRACTION,
    Batch,
    CopyRules,
    choose_batches,
    copy_batch,
)
from layerstore.store.collect.item_table import ItemTable
from layerstore.store.collect.marks import Marks, view_roots
from layerstore.store.collect.retention import KeepRules
from layerstore.store.collect.selection import (
    Candidates,
    Dropped,
    fill,
    find_candidates,
    mark_without,
    needed_bytes,
)
from layerstore.store.collect.sweep import Leavings, dead_leases, find_leavings, may_free
from layerstore.store.config import require_writable
from layerstore.store.locks.exclusion import alone, without_gc
from layerstore.store.remotes.remote_users import forget_dead_users

if TYPE_CHECKING:
    from layerstore.digest import DiffId, ImageId, PackId
    from layerstore.progress import Progress
    from layerstore.store.catalog.rows import PackRow
    from layerstore.store.collect.collection import GcReport
    from layerstore.store.store import Store

NO_KEEP_RULES = KeepRules()
NOTHING_DROPPED = Dropped()

TIGHT_DEAD_FRACTION = 0.02
"""What is dead in a pack that must go too before a cap costs things that are still used."""


class GcRules(NamedTuple):
    """What a collection is told.

    Attributes:
        keep_cache: Whether remembered build steps keep their layers.
        dead_fraction: Packs with at least this part dead are copied.
        max_extra_bytes: Disk that copies may take before what they replace is freed; None
            for what there is room for.
        keep: What may be given up although something names it.
    """

    keep_cache: bool = True
    dead_fraction: float = REWRITE_DEAD_FRACTION
    max_extra_bytes: int | None = None
    keep: KeepRules = NO_KEEP_RULES


class GcPlan(NamedTuple):
    """What a collection would do. Nothing is done before :func:`execute`.

    Attributes:
        freed_bytes: Bytes on disk that executing frees, to the byte, while the store
            does not change: pack files, blobs and temporary files; the catalog not counted.
            Without measuring, copies count as nothing.
        deferred_bytes: Bytes that become garbage but stay until running sessions end.
        written_bytes: Bytes of new packs, already subtracted from ``freed_bytes``.
        images: Images that nothing names or shows.
        layers: Layers that nothing needs.
        cache_keys: Build steps forgotten because their layer goes.
        dead_packs: Packs without anything alive.
        sparse_packs: Packs to be copied: half-empty, or small and many.
        dangling: Why nothing may be deleted; executing raises when there is any.
        damaged_packs: Packs that would be copied but are kept because they are damaged.
        dropped: Names and build steps that are given up by rules.
        doubt: Why the clock is doubted, if rules by age would have used it.
        size_after: Bytes of packs and blobs afterwards; about, when copies were not measured.
        measured: Whether copies were measured.
    """

    store: Store
    rules: GcRules
    freed_bytes: int
    deferred_bytes: int
    written_bytes: int
    images: tuple[ImageId, ...]
    layers: tuple[DiffId, ...]
    cache_keys: tuple[str, ...]
    dead_packs: tuple[PackRow, ...]
    sparse_packs: tuple[PackId, ...]
    dangling: tuple[str, ...]
    damaged_packs: tuple[PackId, ...]
    leavings: Leavings
    marks: Marks
    batches: tuple[Batch, ...]
    epoch: int
    dropped: Dropped = NOTHING_DROPPED
    doubt: str = ""
    size_after: int = 0
    measured: bool = False


def plan_gc(
    store: Store,
    *,
    keep_cache: bool = True,
    rewrite_dead_fraction: float = REWRITE_DEAD_FRACTION,
    max_extra_bytes: int | None = None,
    keep: KeepRules = NO_KEEP_RULES,
    assume_dropped: Dropped = NOTHING_DROPPED,
    measure: bool = True,
    progress: Progress | None = None,
) -> GcPlan:
    """Return what a collection would do now; reads only.

    Args:
        store: The store.
        keep_cache: Whether remembered build steps keep their layers.
        rewrite_dead_fraction: Packs with at least this part dead are copied.
        max_extra_bytes: Disk that copies may take before what they replace is freed.
        keep: What may be given up although something names it.
        assume_dropped: Names and build steps to plan without, for questions of the kind what
            if. Such a plan is not to be executed.
        measure: Whether to make every copy once to know its size, which takes as long as
            making it. A plan that is executed at once need not know.
        progress: Told about packs that are measured.

    Raises:
        CatalogDamagedError: The catalog cannot be read.
        GcRunningError: A gc or rebuild is at work.
    """
    rules = GcRules(keep_cache, rewrite_dead_fraction, max_extra_bytes, keep)
    with without_gc(store.paths):
        progress = progress or Silent()
        plan = _plan(store, rules, progress, assume_dropped)
        return _measured(plan, progress) if measure and not plan.measured else plan


def _plan(
    store: Store, rules: GcRules, progress: Progress, assumed: Dropped = NOTHING_DROPPED
) -> GcPlan:
    """Return a plan, without the sizes of copies unless a cap had to know them."""
    # Views before rows: one that comes in between shows an image that the rows may lack.
    views = view_roots(store.paths)
    with store.catalog.pinned() as catalog:
        view = store.with_catalog(catalog)
        try:
            marks = Marks(ItemTable.load(catalog))
            candidates = find_candidates(view, rules.keep, views)
            gone = {key for key, _ in assumed.steps}
            steps = [step for step in candidates.steps if step[0] not in gone]
            candidates = candidates._replace(steps=steps)
            dropped = Dropped(
                (*assumed.names, *candidates.names),
                (*assumed.steps, *candidates.steps),
                assumed.pins,
            )
            mark_without(view, marks, views, dropped, keep_cache=rules.keep_cache)
            if rules.keep.max_size is None:
                plan = _judge(view, marks, rules)._replace(dropped=dropped)
            else:
                plan = _fitted(view, marks, rules, candidates, rules.keep.max_size, progress)
        finally:
            view.reader.close()
    by_age = rules.keep.removes_names or rules.keep.keep_cache_within_s is not None
    return plan._replace(store=store, doubt=candidates.reference.doubt if by_age else "")


def _fitted(
    store: Store,
    needed: Marks,
    rules: GcRules,
    candidates: Candidates,
    max_size: int,
    progress: Progress,
) -> GcPlan:
    """Return a measured plan that keeps as many candidates as fit, the latest used first.

    What fits is known only when packs were chosen and copied: the first answer is taken
    from the shares of blocks, and lowered by what then exceeds the cap.
    """
    budget = max_size
    while True:
        marks = needed.clone()
        dropped = fill(store, marks, candidates, budget)
        plan = _judge(store, marks, rules)
        if plan.size_after > max_size and rules.dead_fraction > TIGHT_DEAD_FRACTION:
            rules = rules._replace(dead_fraction=TIGHT_DEAD_FRACTION)
            plan = _judge(store, marks, rules)
        nothing_left = len(dropped.names) == len(candidates.names) and len(dropped.steps) == len(
            candidates.steps
        )
        if plan.size_after <= max_size or nothing_left:
            plan = _measured(plan, progress)
        if plan.size_after <= max_size or nothing_left:
            return plan._replace(dropped=dropped)
        budget = min(budget, needed_bytes(marks)) - max(plan.size_after - max_size, 1)


def _judge(store: Store, marks: Marks, rules: GcRules) -> GcPlan:
    """Return a plan without the sizes of copies."""
    catalog, table = store.catalog, marks.table
    dying = set(dead_leases(catalog))
    free = [
        index for index, row in enumerate(table.packs) if row.lease is None or row.lease in dying
    ]  # living sessions' packs are neither dead nor sparse
    dead = [table.packs[index] for index in free if not table.marked[index]]
    free_now = may_free(catalog, own_lease=None)
    leavings = find_leavings(store, marks.blobs)
    retiring = sum(row.size for row in dead)
    limit = rules.max_extra_bytes
    if limit is None:
        coming = leavings.size + retiring if free_now else leavings.size
        limit = copies_limit(store.paths.root, coming)
    batches = choose_batches(
        table, (i for i in free if table.marked[i]), CopyRules(rules.dead_fraction, limit)
    )
    if not free_now:
        # Nothing is freed until sessions end, so two batches of copies would exceed the bound.
        del batches[0 if leavings.deferred_size else 1 :]
    copied = [row for batch in batches for row in batch.packs]
    retiring += sum(row.size for row in copied)
    staying = sum(row.size for row in table.packs) - (retiring if free_now else 0)
    layers = tuple(diff_id for diff_id in _layer_ids(store) if diff_id not in marks.layers)
    return GcPlan(
        store,
        rules,
        leavings.size + (retiring if free_now else 0),
        leavings.deferred_size + (0 if free_now else retiring),
        0,
        tuple(image.image_id for image in store.images() if image.image_id not in marks.images),
        layers,
        _dying_cache_keys(store, marks),
        tuple(dead),
        tuple(row.pack_id for row in copied),
        tuple(marks.dangling),
        (),
        leavings,
        marks,
        tuple(batches),
        catalog.epoch(),
        size_after=staying
        + leavings.deferred_size
        + marks.blob_bytes
        + sum(batch.estimate for batch in batches),
    )


def copies_limit(root: str, coming: int) -> int:
    """Return the bytes that copies may take where nobody said it.

    Args:
        root: The store's.
        coming: Bytes that become free before copies are made.
    """
    status = os.statvfs(root)
    return min(MAX_EXTRA_BYTES, (status.f_bavail * status.f_frsize + coming) // 2)


def _layer_ids(store: Store) -> list[DiffId]:
    rows = store.catalog.query("SELECT diff_id FROM layers ORDER BY diff_id")
    return [row[0] for row in rows]  # type: ignore[misc]


def _dying_cache_keys(store: Store, marks: Marks) -> tuple[str, ...]:
    rows = store.catalog.query("SELECT key, diff_id FROM build_cache WHERE diff_id IS NOT NULL")
    return tuple(sorted(str(key) for key, diff_id in rows if diff_id not in marks.layers))


def _measured(plan: GcPlan, progress: Progress) -> GcPlan:
    """Return the plan with what its copies take, and without packs that cannot be copied."""
    written = kept = 0
    damaged: list[PackId] = []
    staying: set[PackId] = set()
    progress.start("measuring packs", len(plan.sparse_packs))
    try:
        for batch in plan.batches:
            copies = copy_batch(plan.store, plan.marks.table, batch.packs, None)
            written += sum(pack.size for pack in copies.packs)
            damaged += copies.damaged
            staying |= copies.staying
            kept += sum(row.size for row in batch.packs if row.pack_id in copies.staying)
            progress.advance(len(batch.packs))
    finally:
        progress.finish()
    freed_later = bool(plan.deferred_bytes - plan.leavings.deferred_size)
    return plan._replace(
        freed_bytes=plan.freed_bytes - written - (0 if freed_later else kept),
        deferred_bytes=plan.deferred_bytes - (kept if freed_later else 0),
        written_bytes=written,
        sparse_packs=tuple(i for i in plan.sparse_packs if i not in staying),
        damaged_packs=tuple(damaged),
        size_after=plan.size_after
        - sum(batch.estimate for batch in plan.batches)
        + written
        + (0 if freed_later else kept),
        measured=True,
    )


def execute(plan: GcPlan) -> GcReport:
    """Carry out a plan, allowing for what changed since it was made.

    What came alive in the meantime is kept. Safe to kill at any instant.

    Raises:
        DanglingReferenceError: Something needed is missing; nothing was deleted.
        GcRunningError: Another collection, check or rebuild is at work.
        StoreFullError: No space to copy packs; what was dead was freed.
    """
    store = plan.store
    require_writable(store.config)
    plan.marks.refuse_dangling()
    with alone(store.paths):
        forget_dead_users(store.paths)
        with store.catalog.locked():  # only who locks it sees that a rebuild has replaced it
            epoch = store.catalog.epoch()
        if epoch != plan.epoch:
            # Another collection was quicker, or a rebuild: rows are not where this plan saw them.
            plan = _plan(store, plan.rules, Silent())
            plan.marks.refuse_dangling()
        doomed = Doomed(
            plan.rules.keep_cache,
            plan.dropped,
            plan.images,
            plan.layers,
            plan.cache_keys,
            plan.dead_packs,
        )
        return Execution(store, plan.marks, doomed, plan.batches).run()
