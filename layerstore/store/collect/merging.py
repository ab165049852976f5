"""What merging small packs would free of a store in which everything is needed.

Then a collection does nothing else, and how large a merged pack becomes follows from the tables
of blocks alone: no item is looked at, no tree read, no index. Asked by who knows that nothing is
dead (:mod:`layerstore.measure.reclaim`); what is said is what the collector's own plan says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.store.collect.compaction import batches_of, mergeable
from layerstore.store.packs.pack_writer import PackSize

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from layerstore.digest import PackId
    from layerstore.formats.pack import Shape
    from layerstore.store.catalog.rows import PackRow
    from layerstore.store.store import Store


class Merged(NamedTuple):
    """What merging does: bytes of packs that go, and of new ones."""

    replaced_bytes: int
    written_bytes: int


def measure_merges(store: Store, packs: Iterable[PackRow], limit: int, *, only_one: bool) -> Merged:
    """Return what merging small packs of a store does where every item of theirs is needed.

    Args:
        store: The store; its packs' tables are read, and nothing else.
        packs: All that nobody is writing, by their numbers.
        limit: Bytes that copies may take before what they replace is freed.
        only_one: Whether one batch is all that may be made, as beside a running command.

    Raises:
        CorruptPackError: The tables of one cannot be read.
        FileNotFoundError: One is not there.
    """
    small = mergeable(packs)
    table = _Whole(small, [store.reader.shapes(row.pack_id) for row in small])
    batches = batches_of(table, range(len(small)), limit)
    if only_one:
        del batches[1:]
    replaced = written = 0
    for batch in batches:
        copies = _Copies()
        for row in batch.packs:
            copies.add(row, table.shapes[row.pack_id])
        copies.close()
        written += copies.written
        replaced += sum(row.size for row in batch.packs if row.pack_id not in copies.same)
    return Merged(replaced, written)


class _Whole:
    """Packs of which everything lives; see :class:`~layerstore.store.collect.compaction.Living`."""

    def __init__(self, packs: Sequence[PackRow], shapes: Sequence[list[Shape]]) -> None:
        self.packs = packs
        self.shapes = {row.pack_id: found for row, found in zip(packs, shapes, strict=True)}
        self.marked = [sum(shape.items for shape in found) for found in shapes]
        self._stored = [sum(shape.stored_length for shape in found) for found in shapes]
        self._bases = [sum(shape.bases for shape in found) for found in shapes]

    def copy_estimate(self, index: int) -> float:
        return self._stored[index]

    def copy_bound(self, index: int) -> int:
        return self._stored[index]

    def living_counts(self, index: int) -> tuple[int, int]:
        return len(self.shapes[self.packs[index].pack_id]), self.marked[index]

    def living_bases(self, index: int) -> int:
        return self._bases[index]


class _Copies:
    """The packs that whole ones become, one behind the other, as the rewriter makes them.

    Attributes:
        written: Bytes of new packs.
        same: Packs whose copy is the same file: they stay.
    """

    def __init__(self) -> None:
        self.written = 0
        self.same: set[PackId] = set()
        self._size = PackSize()
        self._of: list[PackRow] = []
        self._begins_one = False

    def add(self, row: PackRow, shapes: Sequence[Shape]) -> None:
        """Copy all blocks of a pack."""
        for number, shape in enumerate(shapes):
            if not self._of:
                self._begins_one = number == 0
            if not self._of or self._of[-1] is not row:
                self._of.append(row)
            self._size.add(shape.stored_length, shape.items, shape.bases)
            if self._size.full:
                self.close(ends_one=number + 1 == len(shapes))

    def close(self, *, ends_one: bool = True) -> None:
        """End the new pack that is open, if there is one."""
        if not self._of:
            return
        size, row = self._size.sealed(), self._of[0]
        whole = len(self._of) == 1 and self._begins_one and ends_one
        # The size tells packs of an older version, whose tables are shorter.
        if whole and size == row.size:
            self.same.add(row.pack_id)
        else:
            self.written += size
        self._size, self._of = PackSize(), []
