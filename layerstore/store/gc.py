"""Garbage collection: a plan that names every byte, and its execution.

Mark and sweep without clocks. What nothing needs is first taken out of use in one
catalog commit (packs become *retired*, in a new epoch), and unlinked only when no
living lease began before that epoch: a session that found a chunk in such a pack
takes the pack back into use when it publishes. Half-empty packs are copied into
new ones first. Deleting always comes after the commit that makes it true, and
under the catalog lock, so a crash leaves garbage and never a hole.

Protocol and its reasons: docs/decisions/0005-garbage-collection.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.progress import Silent
from layerstore.store.commit import publish_pack
from layerstore.store.config import require_writable
from layerstore.store.exclusion import alone, without_gc
from layerstore.store.failures import DanglingReferenceError
from layerstore.store.leases import Lease, drop_lease_rows
from layerstore.store.marks import Marks, find_roots
from layerstore.store.rewrite import rewrite_packs
from layerstore.store.sweep import (
    Leavings,
    dead_leases,
    find_leavings,
    free_retired,
    may_free,
    remove_leavings,
)

if TYPE_CHECKING:
    import sqlite3

    from layerstore.digest import DiffId, ImageId, PackId
    from layerstore.progress import Progress
    from layerstore.store.catalog import PackRow
    from layerstore.store.pack_writer import SealedPack
    from layerstore.store.rewrite import Rewritten
    from layerstore.store.store import Store

REWRITE_DEAD_FRACTION = 0.25
"""Packs with at least this part dead are rewritten: copying three bytes to free one."""


class GcPlan(NamedTuple):
    """What a collection would do. Nothing is done before :func:`execute`.

    Attributes:
        freed_bytes: Bytes on disk that executing frees, to the byte, while the store
            does not change: pack files, blobs and temporary files; the catalog not counted.
        deferred_bytes: Bytes that become garbage but stay until running sessions end.
        written_bytes: Bytes of new packs, already subtracted from ``freed_bytes``.
        images: Images that nothing names or shows.
        layers: Layers that nothing needs.
        cache_keys: Build steps forgotten because their layer goes.
        dead_packs: Packs without anything alive.
        sparse_packs: Packs to be copied, with the ids that live in them.
        dangling: Why nothing may be deleted; executing raises when there is any.
        damaged_packs: Half-empty packs that are kept because they are damaged.
    """

    store: Store
    keep_cache: bool
    freed_bytes: int
    deferred_bytes: int
    written_bytes: int
    images: tuple[ImageId, ...]
    layers: tuple[DiffId, ...]
    cache_keys: tuple[str, ...]
    dead_packs: tuple[PackRow, ...]
    sparse_packs: dict[PackId, set[bytes]]
    dangling: tuple[str, ...]
    damaged_packs: tuple[PackId, ...]
    leavings: Leavings
    marks: Marks


class GcReport(NamedTuple):
    """What a collection did; byte counts as in :class:`GcPlan`."""

    freed_bytes: int
    deferred_bytes: int
    written_bytes: int
    images: int
    layers: int
    packs_removed: int
    packs_rewritten: int


class _Usage(NamedTuple):
    """How much of each pack lives."""

    dead: list[PackRow]
    sparse: dict[PackId, set[bytes]]


def plan_gc(
    store: Store,
    *,
    keep_cache: bool = True,
    rewrite_dead_fraction: float = REWRITE_DEAD_FRACTION,
    progress: Progress | None = None,
) -> GcPlan:
    """Return what a collection would do now; reads only.

    Args:
        store: The store.
        keep_cache: Whether remembered build steps keep their layers.
        rewrite_dead_fraction: Packs with at least this part dead are copied.
        progress: Told about packs that are measured.

    Raises:
        CatalogDamagedError: The catalog cannot be read.
        GcRunningError: A gc or rebuild is at work.
    """
    with without_gc(store.paths), store.catalog.pinned() as catalog:
        view = store.with_catalog(catalog)
        try:
            plan = _plan(view, keep_cache, rewrite_dead_fraction, progress or Silent())
        finally:
            view.reader.close()
    return plan._replace(store=store)


def _plan(store: Store, keep_cache: bool, dead_fraction: float, progress: Progress) -> GcPlan:
    marks = Marks()
    marks.extend(store, find_roots(store, keep_cache=keep_cache))
    usage = _usage(store, marks, dead_fraction)
    rewritten = _measure(store, usage.sparse, progress)
    for pack_id in rewritten.damaged:
        usage.sparse.pop(pack_id)
    written = sum(pack.size for pack in rewritten.packs)
    leavings = find_leavings(store, marks)
    sizes = {row.pack_id: row.size for row in store.catalog.pack_rows()}
    retiring = sum(row.size for row in usage.dead) + sum(sizes[p] for p in usage.sparse)
    free_now = may_free(store.catalog, own_lease=None)
    freed = leavings.size + (retiring if free_now else 0) - written
    return GcPlan(
        store,
        keep_cache,
        freed,
        leavings.deferred_size + (0 if free_now else retiring),
        written,
        tuple(image.image_id for image in store.images() if image.image_id not in marks.images),
        tuple(diff_id for diff_id, _ in store.catalog.layers() if diff_id not in marks.layers),
        _dying_cache_keys(store, marks),
        tuple(usage.dead),
        usage.sparse,
        tuple(marks.dangling),
        tuple(rewritten.damaged),
        leavings,
        marks,
    )


def _dying_cache_keys(store: Store, marks: Marks) -> tuple[str, ...]:
    rows = store.catalog.query("SELECT key, diff_id FROM build_cache WHERE diff_id IS NOT NULL")
    return tuple(sorted(str(key) for key, diff_id in rows if diff_id not in marks.layers))


def _usage(store: Store, marks: Marks, dead_fraction: float) -> _Usage:
    """Sort packs into dead ones and sparse ones; living sessions' packs are neither."""
    dying = set(dead_leases(store.catalog))
    alive_raw: dict[tuple[int, int], int] = {}
    for row in store.catalog.scan_chunks():
        if row.chunk_id in marks.items:
            key = (row.pack, row.block)
            alive_raw[key] = alive_raw.get(key, 0) + row.length
    alive_stored: dict[int, float] = {}
    stored: dict[int, int] = {}
    for block in store.catalog.block_rows():
        raw = alive_raw.get((block.pack, block.block), 0)
        share = block.stored_length * raw / block.raw_length
        alive_stored[block.pack] = alive_stored.get(block.pack, 0) + share
        stored[block.pack] = stored.get(block.pack, 0) + block.stored_length
    usage = _Usage([], {})
    for pack in store.catalog.pack_rows():
        if pack.retired is not None or (pack.lease is not None and pack.lease not in dying):
            continue
        alive = alive_stored.get(pack.pack, 0)
        if not alive:
            usage.dead.append(pack)
        elif 1 - alive / stored[pack.pack] >= dead_fraction:
            usage.sparse[pack.pack_id] = _alive_items(store, pack, marks)
    return usage


def _alive_items(store: Store, pack: PackRow, marks: Marks) -> set[bytes]:
    rows = store.catalog.query("SELECT id FROM chunks WHERE pack = ?", (pack.pack,))
    return {row[0] for row in rows if isinstance(row[0], bytes)} & marks.items


def _measure(store: Store, sparse: dict[PackId, set[bytes]], progress: Progress) -> Rewritten:
    progress.start("measuring packs", len(sparse))
    try:
        return rewrite_packs(store, sparse, lambda: None)
    finally:
        progress.finish()


def execute(plan: GcPlan) -> GcReport:
    """Carry out a plan, allowing for what changed since it was made.

    What came alive in the meantime is kept. Safe to kill at any instant.

    Raises:
        DanglingReferenceError: Something needed is missing; nothing was deleted.
        GcRunningError: Another collection, check or rebuild is at work.
        StoreFullError: No space to copy packs; nothing was deleted.
    """
    store = plan.store
    require_writable(store.config)
    _refuse_dangling(plan.marks)
    with alone(store.paths):
        return _Execution(plan).run()


def _refuse_dangling(marks: Marks) -> None:
    if marks.dangling:
        more = f", and {len(marks.dangling) - 1} more" if len(marks.dangling) > 1 else ""
        raise DanglingReferenceError(
            f"gc deletes nothing while references dangle: {marks.dangling[0]}{more}",
            hint="run 'layerstore check' to see what is harmed and what to do",
        )


class _Execution:
    """One run of :func:`execute`, under the gc lock."""

    def __init__(self, plan: GcPlan) -> None:
        self._plan = plan
        self._store = plan.store
        self._marks = plan.marks
        self._staged = 0

    def run(self) -> GcReport:
        lease = Lease(self._store.catalog, "gc")
        try:
            retired = self._retire(lease)
            freed = free_retired(self._store.catalog, own_lease=lease.lease_id)
            leavings = remove_leavings(self._store, self._marks, own_lease=lease.lease_id)
        finally:
            lease.close()
        written = sum(pack.size for pack in retired.published)
        return GcReport(
            leavings.size - written,
            leavings.deferred_size,
            written,
            retired.images,
            retired.layers,
            freed,
            retired.rewritten,
        )

    def _retire(self, lease: Lease) -> _Retired:
        def staging() -> str:
            self._staged += 1
            return self._store.paths.temporary(lease.lease_id, f"{self._staged}.pack")

        # Another collection may have been quicker than this plan; none is now.
        rows = self._store.catalog.pack_rows()
        in_use = {row.pack_id for row in rows if row.retired is None}
        sparse = {i: alive for i, alive in self._plan.sparse_packs.items() if i in in_use}
        rewritten = rewrite_packs(self._store, sparse, staging)
        try:
            with self._store.catalog.write() as connection:
                return self._commit(connection, rewritten)
        finally:
            for pack in rewritten.packs:
                if pack.staged is not None:
                    pack.staged.discard()

    def _commit(self, connection: sqlite3.Connection, rewritten: Rewritten) -> _Retired:
        """Take everything dead out of use, in the transaction that ``connection`` is in."""
        roots = find_roots(self._store, keep_cache=self._plan.keep_cache)
        fresh = self._marks.extend(self._store, roots)
        _refuse_dangling(self._marks)
        for lease_id in dead_leases(self._store.catalog):
            drop_lease_rows(connection, lease_id)
        leaving = self._still_leaving(connection, fresh, rewritten)
        sparse = [pack_id for pack_id in self._plan.sparse_packs if pack_id in leaving]
        published = rewritten.packs if sparse else []
        if leaving:
            self._take_out_of_use(connection, leaving)
        for pack in published:
            publish_pack(connection, self._store.paths, pack, None)
        images, layers = self._delete_records(connection)
        return _Retired(published, images, layers, len(sparse))

    def _still_leaving(
        self, connection: sqlite3.Connection, fresh: set[bytes], rewritten: Rewritten
    ) -> dict[PackId, int]:
        """Return planned packs, with their numbers, that may still be retired."""
        planned = {row.pack_id for row in self._plan.dead_packs} | set(self._plan.sparse_packs)
        planned -= set(rewritten.damaged)
        # Marks of the plan's time are in the plan; only what was marked since can save a pack.
        saved = {place.pack_id for i in fresh if (place := self._store.catalog.locate(i))}
        rows = connection.execute(
            "SELECT id, pack FROM packs WHERE retired IS NULL AND lease IS NULL"
        ).fetchall()
        return {pack_id: number for pack_id, number in rows if pack_id in planned - saved}

    @staticmethod
    def _take_out_of_use(connection: sqlite3.Connection, leaving: dict[PackId, int]) -> None:
        connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'epoch'")
        connection.execute("CREATE TEMP TABLE IF NOT EXISTS leaving (pack INTEGER PRIMARY KEY)")
        connection.execute("DELETE FROM temp.leaving")
        connection.executemany(
            "INSERT INTO temp.leaving VALUES (?)", [(n,) for n in leaving.values()]
        )
        for statement in (
            "DELETE FROM chunks WHERE pack IN (SELECT pack FROM temp.leaving)",
            "DELETE FROM blocks WHERE pack IN (SELECT pack FROM temp.leaving)",
            "DELETE FROM bases WHERE pack IN (SELECT pack FROM temp.leaving)",
            (
                "UPDATE packs SET retired = (SELECT value FROM meta WHERE key = 'epoch')"
                " WHERE pack IN (SELECT pack FROM temp.leaving)"
            ),
        ):
            connection.execute(statement)

    def _delete_records(self, connection: sqlite3.Connection) -> tuple[int, int]:
        """Delete rows of images, layers and build steps that nothing needs; count the first two."""
        images = [
            (image.image_id,)
            for image in self._store.images()
            if image.image_id not in self._marks.images
        ]
        layers = [
            (diff_id,)
            for diff_id, _ in self._store.catalog.layers()
            if diff_id not in self._marks.layers
        ]
        connection.executemany("DELETE FROM images WHERE image_id = ?", images)
        connection.executemany("DELETE FROM image_layers WHERE image_id = ?", images)
        connection.executemany("DELETE FROM layers WHERE diff_id = ?", layers)
        connection.executemany("DELETE FROM build_cache WHERE diff_id = ?", layers)
        return len(images), len(layers)


class _Retired(NamedTuple):
    """What the retiring commit did."""

    published: list[SealedPack]
    images: int
    layers: int
    rewritten: int
