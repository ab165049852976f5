"""Packs for somebody else: what they lack, as small as it gets, against what they have.

A parcel is a pack (docs/format/pack.md) that no catalog knows: it goes into a bundle or a
registry. Its differences are against content that the receiver is known to have. Where that lies
in packs of its own that nobody here has seen, the footer's depth and cost are those of a
reader for whom every base stands alone; a receiver puts what it takes into blocks of its
own. Nothing here changes the store; the files lie in ``tmp/`` under the caller's lease.
Docs: docs/decisions/0195.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.formats.pack import PREFIX_MAX_BYTES, Item, ItemKind
from layerstore.progress import Silent
from layerstore.store.catalog.rows import ChunkPlace
from layerstore.store.packs.differences import DIFFERENCE_MIN_BYTES, Base, DifferenceGroup
from layerstore.store.packs.grouping import BlockGroup
from layerstore.store.packs.pack_writer import ALONE, PackWriter
from layerstore.store.packs.press import Press

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from layerstore.digest import ChunkId, PackId
    from layerstore.progress import Progress
    from layerstore.store.packs.pack_writer import Against, SealedPack
    from layerstore.store.packs.press import PressedBlock
    from layerstore.store.store import Store

PARCEL_LEVEL = 19
"""zstd's highest level without windows larger than a block: transferred once, read seldom."""

_FAR_PACK: PackId = b"elsewhere"  # type: ignore[assignment]
"""Stands for a pack of the receiver; never read from."""


class Lacking(NamedTuple):
    """An item that the receiver lacks.

    Attributes:
        near: Items that it has, and that this one may be a difference against, best first.
    """

    kind: ItemKind
    item: Item
    near: Sequence[tuple[int, ChunkId]] = ()


class ParcelReport(NamedTuple):
    """What went into parcels so far."""

    items: int = 0
    plain_bytes: int = 0
    bases: int = 0


class ParcelWriter:
    """Lacking items in, sealed packs out, in order. Close it."""

    def __init__(
        self,
        store: Store,
        staging: Callable[[], str],
        *,
        bases: Callable[[Sequence[tuple[int, ChunkId]]], Sequence[Base]] | None = None,
        level: int = PARCEL_LEVEL,
        workers: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Prepare.

        Args:
            store: Has the items, and what they are differences against.
            staging: Gives a new path for each pack.
            bases: Which of an item's nearest it may be a difference against, by where they lie
                at the receiver; :func:`far_bases` if nobody knows that.
            level: Of zstd, 1 to 22.
            workers: Threads that compress; None for one a processor.
            progress: Told plain bytes.
        """
        self._store = store
        self._staging = staging
        self._bases = bases or far_bases
        self._level = level
        self._progress = progress or Silent()
        self._press = Press(store.read_chunk, level, workers)
        self._groups = {kind: BlockGroup() for kind in (ItemKind.DATA, ItemKind.META)}
        self._differences = {kind: DifferenceGroup() for kind in self._groups}
        self._writer: PackWriter | None = None
        self.report = ParcelReport()

    def write(self, lacking: Iterable[Lacking]) -> Iterator[SealedPack]:
        """Yield packs with all these items, each once it is full; whoever takes one discards it.

        Raises:
            IntegrityError: An item cannot be read.
            NotFoundError: There is no such item.
            StorageError: No room for a pack.
        """
        kind = ItemKind.META
        for one in lacking:
            if one.kind is not kind:
                yield from self._close(kind)  # what comes first is of use before the rest
                kind = one.kind
            data = self._store.read_chunk(one.item.item_id)
            yield from self._add(one, data)
        yield from self._close(kind)
        yield from self._packed(self._press.finish())
        if self._writer is not None:
            yield self._seal(self._writer)

    def close(self) -> None:
        """End the threads and remove the pack that was not finished."""
        self._press.close()
        if self._writer is not None:
            self._writer.discard()
            self._writer = None

    def _add(self, one: Lacking, data: bytes) -> Iterator[SealedPack]:
        kind = one.kind
        bases = self._bases(one.near) if one.item.length >= DIFFERENCE_MIN_BYTES else []
        if bases:
            if self._differences[kind].offer(one.item, data, bases):
                return
            yield from self._close_difference(kind)
            if self._differences[kind].offer(one.item, data, bases):
                return
        if not self._groups[kind].has_room_for(one.item):
            yield from self._close_group(kind)
        self._groups[kind].add(one.item, data)

    def _close(self, kind: ItemKind) -> Iterator[SealedPack]:
        yield from self._close_difference(kind)
        yield from self._close_group(kind)

    def _close_difference(self, kind: ItemKind) -> Iterator[SealedPack]:
        taken = self._differences[kind].take()
        if taken is not None:
            yield from self._submit(kind, taken.items, taken.parts, taken.against)

    def _close_group(self, kind: ItemKind) -> Iterator[SealedPack]:
        items, parts = self._groups[kind].take()
        if items:
            yield from self._submit(kind, items, parts, ALONE)

    def _submit(
        self,
        kind: ItemKind,
        items: Sequence[Item],
        parts: Sequence[bytes | memoryview],
        against: Against,
    ) -> Iterator[SealedPack]:
        yield from self._packed(self._press.submit(kind, items, b"".join(parts), against))

    def _packed(self, blocks: Iterable[PressedBlock]) -> Iterator[SealedPack]:
        for block in blocks:
            if self._writer is None:
                self._writer = PackWriter(self._staging(), self._level)
            self._writer.add_frame(*block)
            self.report = ParcelReport(
                self.report.items + len(block.items),
                self.report.plain_bytes + block.raw_length,
                self.report.bases + len(block.against.bases),
            )
            self._progress.advance(block.raw_length)
            if self._writer.full:
                yield self._seal(self._writer)

    def _seal(self, writer: PackWriter) -> SealedPack:
        self._writer = None
        try:
            return writer.seal()
        except BaseException:
            writer.discard()
            raise


def far_bases(near: Iterable[tuple[int, ChunkId]]) -> list[Base]:
    """Return what an item may be a difference against for somebody who has it, as if alone.

    As much as one prefix may hold.
    """
    bases: list[Base] = []
    left = PREFIX_MAX_BYTES
    for length, chunk_id in near:
        left -= length
        if left < 0:
            break
        block = int.from_bytes(chunk_id[:7])  # a block of its own: two that meet cost nothing
        place = ChunkPlace(_FAR_PACK, -1, block, 0, 0, length, 0, length, 0, length, ItemKind.DATA)
        bases.append(Base(chunk_id, place))
    return bases
