"""Carrying out a collection: what is done, in which order, and what is looked at again.

Under the gc lock. Records first (images, build steps, layers that nothing needs), then
dead packs, then copies; whatever can be freed is freed in between, so that a full disk
gets room before copies need some. Every commit looks at the roots again under the
catalog lock and spares what came alive since the plan was made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.store.collect.compaction import copy_batch, publish_copies
from layerstore.store.collect.marks import find_roots, view_roots
from layerstore.store.collect.names_compaction import compact_names
from layerstore.store.collect.retire import free_retired, retire_packs
from layerstore.store.collect.selection import named_uses
from layerstore.store.collect.sweep import dead_leases, remove_leavings, retired_size
from layerstore.store.locks.leases import Lease, drop_lease_rows
from layerstore.store.locks.pacing import Pace, turns
from layerstore.store.names.tags import untag_all
from layerstore.store.names.usage import step_uses
from layerstore.store.reserve import give_up, set_aside

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from layerstore.digest import DiffId, ImageId, PackId
    from layerstore.store.catalog.rows import PackRow
    from layerstore.store.collect.compaction import Batch
    from layerstore.store.collect.marks import Marks
    from layerstore.store.collect.selection import Dropped
    from layerstore.store.store import Store

_RECORDS_A_TURN = 64


class Doomed(NamedTuple):
    """What a plan found dead; each is looked at again before it goes."""

    keep_cache: bool
    dropped: Dropped
    images: tuple[ImageId, ...]
    layers: tuple[DiffId, ...]
    cache_keys: tuple[str, ...]
    dead_packs: tuple[PackRow, ...]


class GcReport(NamedTuple):
    """What a collection did; byte counts as in :class:`layerstore.store.collect.gc.GcPlan`."""

    freed_bytes: int
    deferred_bytes: int
    written_bytes: int
    images: int
    layers: int
    packs_removed: int
    packs_rewritten: int
    names: int
    steps: int


class Execution:
    """One collection, under the gc lock."""

    def __init__(
        self, store: Store, marks: Marks, doomed: Doomed, batches: Sequence[Batch]
    ) -> None:
        """Prepare what a plan says."""
        self._store = store
        self._catalog = store.catalog
        self._marks = marks
        self._doomed = doomed
        self._batches = batches
        self._staged = 0
        self._removed = self._written = self._rewritten = self._packs_removed = 0
        self._images = self._layers = self._names = self._steps = 0

    def run(self) -> GcReport:
        """Do it and say what was done.

        Raises:
            DanglingReferenceError: Something needed is missing; nothing more is deleted.
            StoreFullError: No space to copy packs; what was dead was freed.
        """
        self._removed += remove_leavings(self._store, own_lease=None)  # needs no room
        give_up(self._store.paths)
        try:
            return self._collect()
        finally:
            set_aside(self._store.paths)

    def _collect(self) -> GcReport:
        self._free(None)
        self._drop_names()
        self._drop_steps()
        self._catch_up()
        self._delete_records()
        self._retire({row.pack_id for row in self._doomed.dead_packs}, {})
        self._free(None)
        self._copy_packs()
        compact_names(self._store)
        return GcReport(
            self._removed - self._written,
            retired_size(self._catalog),
            self._written,
            self._images,
            self._layers,
            self._packs_removed,
            self._rewritten,
            self._names,
            self._steps,
        )

    def _free(self, own_lease: str | None) -> None:
        self._packs_removed += free_retired(self._catalog, own_lease=own_lease)
        self._removed += remove_leavings(self._store, own_lease=own_lease)

    # -- looking again

    def _catch_up(self) -> None:
        """Mark what came since the plan, without the lock: little is left for under it."""
        views = view_roots(self._store.paths)
        with self._catalog.pinned() as catalog:
            view = self._store.with_catalog(catalog)
            try:
                roots = find_roots(view, views, keep_cache=self._doomed.keep_cache)
                self._marks.extend(view, roots)
            finally:
                view.reader.close()
        self._marks.refuse_dangling()

    def _look_again(self) -> None:
        """Mark what is needed now; the caller is in a write transaction."""
        views = view_roots(self._store.paths)
        roots = find_roots(self._store, views, keep_cache=self._doomed.keep_cache)
        self._marks.extend(self._store, roots)
        self._marks.refuse_dangling()

    # -- what rules give up

    def _drop_names(self) -> None:
        """Forget names unless they were pinned, moved, used or mounted since the plan."""
        store = self._store
        for some in turns(self._doomed.dropped.names, Pace(_RECORDS_A_TURN)):
            with self._catalog.write() as connection:
                uses = named_uses(store, view_roots(store.paths))
                now = {named.name: named for named in uses}
                names = [named.name for named in some if now.get(named.name) == named]
                untag_all(connection, store.paths.names_log, names)
                self._names += len(names)

    def _drop_steps(self) -> None:
        """Forget build steps unless they were used since the plan."""
        for some in turns(self._doomed.dropped.steps, Pace(_RECORDS_A_TURN)):
            with self._catalog.write() as connection:
                now = step_uses(self._catalog)
                keys = [(key,) for key, used in some if now.get(key) == used]
                connection.executemany("DELETE FROM build_cache WHERE key = ?", keys)
                self._steps += len(keys)

    # -- records

    def _delete_records(self) -> None:
        """Delete planned rows of build steps, images and layers, in this order."""
        marks = self._marks
        for keys in turns(self._doomed.cache_keys, Pace(_RECORDS_A_TURN)):
            with self._catalog.write() as connection:
                self._look_again()
                _delete_steps(connection, self._known_steps(keys), marks)
        for images in turns(self._doomed.images, Pace(_RECORDS_A_TURN)):
            with self._catalog.write() as connection:
                self._look_again()
                self._delete_images(connection, images)
        for layers in turns(self._doomed.layers, Pace(_RECORDS_A_TURN)):
            with self._catalog.write() as connection:
                self._look_again()
                self._delete_layers(connection, layers)

    def _known_steps(self, keys: Iterable[str]) -> list[tuple[str, str]]:
        found = []
        for key in keys:
            row = self._catalog.one("SELECT key, diff_id FROM build_cache WHERE key = ?", (key,))
            if row is not None and row[1] is not None:
                found.append((str(row[0]), str(row[1])))
        return found

    def _delete_images(self, connection: sqlite3.Connection, images: Iterable[ImageId]) -> None:
        for image_id in images:
            if image_id not in self._marks.images:
                cursor = connection.execute("DELETE FROM images WHERE image_id = ?", (image_id,))
                self._images += cursor.rowcount
                connection.execute("DELETE FROM image_layers WHERE image_id = ?", (image_id,))

    def _delete_layers(self, connection: sqlite3.Connection, layers: Iterable[DiffId]) -> None:
        for diff_id in layers:
            if diff_id not in self._marks.layers:
                cursor = connection.execute("DELETE FROM layers WHERE diff_id = ?", (diff_id,))
                self._layers += cursor.rowcount

    # -- packs

    def _retire(self, planned: set[PackId], marked: dict[PackId, int]) -> set[PackId]:
        """Take packs out of use unless something came alive in them; return which.

        Args:
            planned: Packs without anything alive, or whose living items were copied.
            marked: Of the latter, how many items were marked when they were copied.
        """
        table = self._marks.table
        with self._catalog.write() as connection:
            self._look_again()
            for lease_id in dead_leases(self._catalog):
                drop_lease_rows(connection, lease_id)
            self._delete_newly_dead(connection)
            connection.execute(
                "DELETE FROM step_uses WHERE key NOT IN (SELECT key FROM build_cache)"
            )
            rows = connection.execute(
                "SELECT pack, id FROM packs WHERE retired IS NULL AND lease IS NULL"
            ).fetchall()
            leaving = {
                pack_id: number
                for number, pack_id in rows
                if pack_id in planned
                and (index := table.index_of.get(number)) is not None
                and table.marked[index] == marked.get(pack_id, 0)
            }
            retire_packs(connection, leaving.values())
        return set(leaving)

    def _delete_newly_dead(self, connection: sqlite3.Connection) -> None:
        """Delete records that came since the plan and are dead already.

        Their chunks may lie in packs that leave use in this very transaction.
        """
        rows = connection.execute("SELECT image_id FROM images").fetchall()
        self._delete_images(connection, (row[0] for row in rows))
        rows = connection.execute("SELECT diff_id FROM layers").fetchall()
        layers = [row[0] for row in rows if row[0] not in self._marks.layers]
        if layers:
            steps = connection.execute(
                "SELECT key, diff_id FROM build_cache WHERE diff_id IS NOT NULL"
            ).fetchall()
            _delete_steps(connection, steps, self._marks)
            self._delete_layers(connection, layers)

    def _copy_packs(self) -> None:
        if not self._batches:
            return
        lease = Lease(self._catalog, "gc")
        try:
            for batch in self._batches:
                self._copy_batch(batch, lease)
                self._free(lease.lease_id)
                if retired_size(self._catalog):
                    break  # what was copied cannot go yet: another batch would exceed the bound
        finally:
            lease.close()

    def _copy_batch(self, batch: Batch, lease: Lease) -> None:
        def staging() -> str:
            self._staged += 1
            return self._store.paths.temporary(lease.lease_id, f"{self._staged}.pack")

        table = self._marks.table
        marked = {row.pack_id: table.marked[table.index_of[row.pack]] for row in batch.packs}
        copies = copy_batch(self._store, table, batch.packs, staging)
        try:
            publish_copies(self._store, table, copies)
        finally:
            for pack in copies.packs:
                if pack.staged is not None:
                    pack.staged.discard()  # harmless for those that have their names
        self._written += sum(pack.size for pack in copies.packs)
        copied = {pack_id: n for pack_id, n in marked.items() if pack_id not in copies.staying}
        self._rewritten += len(self._retire(set(copied), copied))


def _delete_steps(
    connection: sqlite3.Connection, steps: Iterable[tuple[str, str]], marks: Marks
) -> None:
    """Forget build steps whose layer nothing needs."""
    connection.executemany(
        "DELETE FROM build_cache WHERE key = ? AND diff_id = ?",
        [step for step in steps if step[1] not in marks.layers],
    )
