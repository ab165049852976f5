"""The cache of one build: the store's own, with what ``--cache-from`` and ``--cache-to`` add."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from layerstore.build.graph import MergeOp
from layerstore.errors import LayerstoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from layerstore.build.cache_exchange import CacheExport, CacheImport
    from layerstore.build.executor import BuildExecutor
    from layerstore.build.graph import Vertex
    from layerstore.build.notes import Notes
    from layerstore.build.solver import Cache
    from layerstore.build.ui import BuildUi
    from layerstore.store.records import CacheRecord
    from layerstore.store.store import Store


class StoreCache:
    """The build cache of a store; writes go through the build's session.

    Attributes:
        records: Of every step that was found or made.
    """

    def __init__(self, store: Store, executor: BuildExecutor) -> None:
        self._store = store
        self._executor = executor
        self.records: list[CacheRecord] = []

    def get(self, key: str) -> CacheRecord | None:
        """Return a remembered step whose layer is there."""
        record = self._store.cache_get(key)
        if record is not None:
            self._executor.session.note_step_use(key)
            self.records.append(record)
        return record

    def put(self, records: Sequence[CacheRecord]) -> None:
        """Remember steps.

        Each counts as used now: with SOURCE_DATE_EPOCH it says that it was made then, which rules
        by age would take for a store that nobody used since.
        """
        self.records += records
        session = self._executor.session
        session.cache_put(*records)
        for record in records:
            session.note_step_use(record.key)


class Forgetful:
    """Remembers nothing: for builds whose steps run as no other build's do."""

    def get(self, key: str) -> CacheRecord | None:  # noqa: ARG002 -- the protocol's
        """Return None."""
        return None

    def put(self, records: Sequence[CacheRecord]) -> None:
        """Forget them."""


@contextlib.contextmanager
def importing(
    store: Store, local: StoreCache, imports: Sequence[CacheImport], ui: BuildUi
) -> Iterator[Cache]:
    """Give the cache that a build looks its steps up in: its own, and those it imports from."""
    if not imports:
        yield local
        return
    from layerstore.build.cache_exchange import ImportingCache, open_source

    with ImportingCache(store, local, [open_source(each) for each in imports], ui) as cache:
        yield cache


def export_cache(
    store: Store,
    notes: Notes,
    targets: Sequence[Vertex],
    exports: Sequence[CacheExport],
    ui: BuildUi,
) -> None:
    """Give a build's steps to the caches it was told to export to.

    Args:
        store: Has the layers.
        notes: Know the steps.
        targets: What was built.
        exports: Where to.
        ui: Hears of each.

    Raises:
        LayerstoreError: One could not be written, and may not fail.
    """
    if not exports:
        return
    from layerstore.build.cache_exchange import export_steps

    for export in exports:
        numbers = None if export.everything else notes.numbers_of(_of_the_images(targets))
        steps = list(notes.steps(numbers))
        try:
            export_steps(store, export, steps)
        except LayerstoreError as err:
            if not export.may_fail:
                raise
            ui.message(f"the build cache {export.location} was not written: {err}")
            continue
        layers = {step.layer for step in steps if step.layer is not None}
        ui.message(
            f"the build cache {export.location} has {_count(len(layers), 'layer')} of this build"
        )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _of_the_images(targets: Sequence[Vertex]) -> set[int]:
    """Return the identities of the vertices whose layers lie in the images."""
    found: set[int] = set()
    todo = list(targets)
    while todo:
        vertex = todo.pop()
        if id(vertex) not in found:
            found.add(id(vertex))
            todo += vertex.inputs if isinstance(vertex.op, MergeOp) else vertex.inputs[:1]
    return found
