"""Making cold packs smaller: regrouped, turned into differences, recompressed harder.

Ingest writes content as it comes. This pass knows everything that is there: it puts
files that resemble each other next to each other, stores all but one of several
versions as differences, and takes the time that a high zstd level needs. Reading
costs the same afterwards: blocks and differences keep their bounds.

Crash behaviour: each new pack is published by one commit that moves its items' rows
to it; whatever is killed, every item has one good place, and the next run goes on with
what is left. Old packs whose items have moved are gc's. gc and rebuild wait outside
meanwhile; sessions, readers and checks go on. What the files are, and in which
order, is said by the floor that knows trees (:mod:`layerstore.image.optimize`).
Docs: docs/decisions/0112.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import IntegrityError, NotFoundError
from layerstore.formats.pack import PREFIX_MAX_BYTES, Item, ItemKind
from layerstore.linux.locks import FileLock, LockBusyError
from layerstore.progress import Silent
from layerstore.store.catalog.rows import ChunkPlace
from layerstore.store.config import require_writable
from layerstore.store.failures import GcRunningError, storage_errors
from layerstore.store.locks.exclusion import without_gc
from layerstore.store.locks.leases import Lease
from layerstore.store.packs.commit import begin_epoch, publish_pack
from layerstore.store.packs.differences import (
    DIFFERENCE_MIN_BYTES,
    WINDOW_MARGIN_BYTES,
    Base,
    DifferenceGroup,
    affordable,
    is_good_base,
    window,
)
from layerstore.store.packs.grouping import BlockGroup
from layerstore.store.packs.pack_writer import ALONE, Against, PackWriter
from layerstore.store.packs.press import Press
from layerstore.store.rewriting.depths import refresh_depths_beside_writers

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence

    from layerstore.digest import ChunkId, PackId
    from layerstore.progress import Progress
    from layerstore.store.packs.pack_writer import SealedPack
    from layerstore.store.packs.press import PressedBlock
    from layerstore.store.records import Refs
    from layerstore.store.store import Store

OPTIMIZE_LEVEL = 19
"""zstd's highest level without windows larger than a block."""

RUN_BLOCKS = 5
"""Blocks of one kind of file that lie together: the middle one stands alone, its neighbours
are differences against it, the outer ones against both; docs/decisions/0112."""

HUB_ITEMS_MAX = 48
"""Items of a block that its neighbours name as bases: in the largest most of its bytes are."""


class FileContent(NamedTuple):
    """One content to be placed, and what it resembles.

    Attributes:
        refs: Its chunks.
        like: Content placed earlier that it may be a difference against; may be empty.
        is_base: Whether others are like it: then it stands alone, so that they may be
            differences two deep.
        generation: What it is like is of an earlier one. Contents of one come together.
    """

    refs: Refs
    like: Refs
    is_base: bool = False
    generation: int = 0


class Coldness(NamedTuple):
    """What an optimization has to do.

    Attributes:
        packs: Packs in use that were written with less effort, by nobody alive.
        stored_bytes: Their bytes.
    """

    packs: dict[int, PackId]
    stored_bytes: int


class OptimizeReport(NamedTuple):
    """What an optimization did.

    Attributes:
        packs: New packs.
        items: Items that moved there.
        read_bytes: Plain bytes of them.
        stored_bytes: Bytes of the new packs.
        skipped: Items left where they were because they cannot be read.
    """

    packs: int
    items: int
    read_bytes: int
    stored_bytes: int
    skipped: int


def find_cold(store: Store, level: int = OPTIMIZE_LEVEL) -> Coldness:
    """Return the packs that an optimization at ``level`` would take apart."""
    rows = [
        row
        for row in store.catalog.pack_rows()
        if row.retired is None and row.lease is None and row.effort < level
    ]
    return Coldness({row.pack: row.pack_id for row in rows}, sum(row.size for row in rows))


def optimize(
    store: Store,
    contents: Iterable[FileContent],
    *,
    level: int = OPTIMIZE_LEVEL,
    workers: int | None = None,
    progress: Progress | None = None,
) -> OptimizeReport:
    """Place everything cold among ``contents`` anew, in their order; durable pack by pack.

    Items of cold packs that no content names stay; gc copes with what is left of packs.

    Args:
        store: The store.
        contents: In the order they are to lie; a base before what resembles it. Read
            lazily, under the lock that keeps gc out.
        level: Of zstd.
        workers: Threads that compress; None for one a processor, up to ``WORKERS_MAX``.
        progress: Told plain bytes.

    Raises:
        GcRunningError: A gc or rebuild is at work, or another optimization.
        StoreFullError: No space for the next pack; those before are in use.
    """
    require_writable(store.config)
    with _only_one(store), without_gc(store.paths):
        lease = Lease(store.catalog, "optimize")
        try:
            work = _Optimization(
                store, lease, level, Press(store.read_chunk, level, workers), progress or Silent()
            )
            return work.run(contents)
        finally:
            lease.close()


@contextlib.contextmanager
def _only_one(store: Store) -> Iterator[None]:
    try:
        with storage_errors("lock the store"):
            lock = FileLock(f"{store.paths.locks}/optimize", wait=False)
    except LockBusyError as err:
        raise GcRunningError("another optimization is at work in this store") from err
    with lock:
        yield


class _Optimization:
    """One run, under its locks."""

    def __init__(
        self, store: Store, lease: Lease, level: int, press: Press, progress: Progress
    ) -> None:
        self._store = store
        self._lease = lease
        self._level = level
        self._progress = progress
        self._press = press
        self._known_packs = {row.pack for row in store.catalog.pack_rows() if row.retired is None}
        self._cold = find_cold(store, level)
        self._fixed = _bases_of_others(store, self._cold)
        # Where items of new blocks lie, before and after their pack is committed: depth and
        # cost are those that were planned, which a block that stands alone in the end is below.
        self._placed: dict[bytes, ChunkPlace] = {}
        self._taken: set[bytes] = set()
        # What others have become differences against meanwhile, and what therefore stays.
        self._late: set[bytes] = set()
        self._staying: set[bytes] = set()
        self._generation = 0
        self._blocks = 0
        self._groups = {kind: BlockGroup() for kind in _KINDS}
        self._differences = {kind: DifferenceGroup() for kind in _KINDS}
        self._run_block = BlockGroup()
        self._run: list[_Block] = []
        self._writer: PackWriter | None = None
        self._packs = self._items = self._read_bytes = self._stored_bytes = self._skipped = 0

    def run(self, contents: Iterable[FileContent]) -> OptimizeReport:
        self._progress.start("optimizing", self._cold_bytes())
        try:
            for content in contents:
                self._place(content)
            self._place_layer_records()
            self._close_groups()
            self._write(self._press.finish())
            self._commit()
            refresh_depths_beside_writers(self._store.catalog)
        finally:
            self._press.close()
            if self._writer is not None:
                self._writer.discard()
        self._progress.finish()
        return OptimizeReport(
            self._packs, self._items, self._read_bytes, self._stored_bytes, self._skipped
        )

    def _cold_bytes(self) -> int:
        return sum(
            row.length for row in self._store.catalog.scan_chunks() if row.pack in self._cold.packs
        )

    # -- placing

    def _place(self, content: FileContent) -> None:
        if content.generation != self._generation:
            # What waits in open blocks is what this one may be like: it gets its place first.
            self._generation = content.generation
            self._close_groups()
        places = self._store.catalog.places(chunk_id for _, chunk_id in content.refs)
        offset = 0
        for length, chunk_id in content.refs:
            place = places.get(chunk_id)
            if place is not None and self._is_cold(chunk_id, place):
                kind = ItemKind(place.kind)
                self._move(content, kind, Item(chunk_id, length), offset)
            offset += length

    def _is_cold(self, chunk_id: bytes, place: ChunkPlace) -> bool:
        return place.pack in self._cold.packs and chunk_id not in self._taken

    def _move(self, content: FileContent, kind: ItemKind, item: Item, offset: int) -> None:
        try:
            data = self._store.read_chunk(item.item_id)
        except (IntegrityError, NotFoundError):
            self._skipped += 1  # damaged: check and repair are for that
            return
        self._taken.add(item.item_id)
        if not self._as_difference(content, kind, item, data, offset):
            self._alone(content, kind, item, data)

    def _as_difference(
        self, content: FileContent, kind: ItemKind, item: Item, data: bytes, offset: int
    ) -> bool:
        fixed = item.item_id in self._fixed or item.length < DIFFERENCE_MIN_BYTES
        if fixed or not content.like:
            return False
        # Trees shift by megabytes where a package was added; they are small enough to take whole.
        margin = WINDOW_MARGIN_BYTES if kind is ItemKind.DATA else PREFIX_MAX_BYTES
        bases = self._bases(window(content.like, offset, item.length, margin), item.item_id)
        if not bases:
            return False
        group = self._differences[kind]
        if not group.offer(item, data, bases):
            self._close_differences(kind)
            return group.offer(item, data, bases)
        return True

    def _bases(self, candidates: Sequence[ChunkId], chunk_id: ChunkId) -> list[Base]:
        """Return bases among what has its final place already."""
        unknown = [c for c in candidates if c not in self._placed]
        for found, place in self._store.catalog.places(unknown).items():
            if place.pack not in self._cold.packs:
                self._placed[found] = place
        placed = ((c, self._placed.get(c)) for c in candidates if c != chunk_id)
        return affordable(
            Base(c, place) for c, place in placed if place is not None and is_good_base(place)
        )

    def _alone(self, content: FileContent, kind: ItemKind, item: Item, data: bytes) -> None:
        in_run = kind is ItemKind.DATA and not content.is_base and item.item_id not in self._fixed
        group = self._run_block if in_run else self._groups[kind]
        if not group.has_room_for(item):
            self._close_run_block() if in_run else self._close_group(kind)
        group.add(item, data)

    def _place_layer_records(self) -> None:
        """Take the layer records of cold packs along: they are small and lie everywhere."""
        group = BlockGroup()
        for (item_id,) in self._store.catalog.query("SELECT item FROM layers ORDER BY diff_id"):
            place = self._store.catalog.locate(item_id) if isinstance(item_id, bytes) else None
            if place is None or not self._is_cold(item_id, place):  # type: ignore[arg-type]
                continue
            try:
                data = self._store.read_chunk(item_id)  # type: ignore[arg-type]
            except (IntegrityError, NotFoundError):
                self._skipped += 1
                continue
            self._taken.add(item_id)  # type: ignore[arg-type]
            item = Item(item_id, len(data))  # type: ignore[arg-type]
            if not group.has_room_for(item):
                self._submit(ItemKind.LAYER, *group.take(), ALONE)
            group.add(item, data)
        items, parts = group.take()
        if items:
            self._submit(ItemKind.LAYER, items, parts, ALONE)

    # -- blocks

    def _close_groups(self) -> None:
        self._close_run_block()
        self._close_run()
        for kind in _KINDS:
            self._close_differences(kind)
            self._close_group(kind)

    def _close_run_block(self) -> None:
        items, parts = self._run_block.take()
        if items:
            self._run.append(_Block(items, parts))
        if len(self._run) == RUN_BLOCKS:
            self._close_run()

    def _close_run(self) -> None:
        """Submit the blocks of a run from the middle outwards."""
        run, self._run = self._run, []
        middle = len(run) // 2
        costs: dict[int, int] = {}
        for index in sorted(range(len(run)), key=lambda index: abs(index - middle)):
            inner = _inwards(index, middle)
            costs[index] = run[index].size + sum(costs[other] for other in inner)
            bases = tuple(base for other in inner for base in run[other].large_items())
            against = Against(bases, len(inner), costs[index]) if inner else ALONE
            self._submit(ItemKind.DATA, run[index].items, run[index].parts, against)

    def _close_group(self, kind: ItemKind) -> None:
        items, parts = self._groups[kind].take()
        if items:
            self._submit(kind, items, parts, ALONE)

    def _close_differences(self, kind: ItemKind) -> None:
        taken = self._differences[kind].take()
        if taken is not None:
            self._submit(kind, taken.items, taken.parts, taken.against)

    def _submit(
        self,
        kind: ItemKind,
        items: Sequence[Item],
        parts: Sequence[bytes | memoryview],
        against: Against,
    ) -> None:
        raw = b"".join(parts)
        self._remember(items, len(raw), against)
        self._write(self._press.submit(kind, items, raw, against))

    def _remember(self, items: Sequence[Item], raw_length: int, against: Against) -> None:
        """Note where items will lie; numbers below 0 are blocks no catalog knows yet."""
        self._blocks += 1
        cost = against.cost or raw_length
        for item in items:
            self._placed[item.item_id] = ChunkPlace(
                PLANNED_PACK, -1, -self._blocks, 0, 0, raw_length, 0, item.length,
                against.depth, cost, ItemKind.DATA,
            )  # fmt: skip

    def _write(self, blocks: Iterable[PressedBlock]) -> None:
        """Write finished blocks, in order."""
        for block in blocks:
            if self._writer is None:
                staging = self._store.paths.temporary(
                    self._lease.lease_id, f"{self._packs + 1}.pack"
                )
                self._writer = PackWriter(staging, self._level)
            self._writer.add_frame(*block)
            self._items += len(block.items)
            self._read_bytes += block.raw_length
            self._progress.advance(block.raw_length)
            if self._writer.full:
                self._commit()

    def _commit(self) -> None:
        """Publish the pack being written and move its items' rows there."""
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        try:
            pack = writer.seal()
        except BaseException:
            writer.discard()
            raise
        try:
            with self._store.catalog.write() as connection:
                number = publish_pack(
                    connection, self._store.paths, pack, self._lease.lease_id, with_chunks=False
                )
                self._move_rows(connection, number, pack)
        finally:
            if pack.staged is not None:
                pack.staged.discard()
        self._packs += 1
        self._stored_bytes += pack.size

    def _move_rows(self, connection: sqlite3.Connection, number: int, pack: SealedPack) -> None:
        """Give the items of a published pack their new place, but for late bases.

        A session may have begun a difference against an item while this pack was written.
        Such an item stays where it is if it would get deeper by moving, and so does
        whatever was to be a difference against it here: where it stays it may itself be
        one against that. gc copes with items that stay.
        """
        self._note_late_bases(connection, number)
        moved: list[tuple[int, int, int, bytes]] = []
        for index, block in enumerate(pack.blocks):
            if block.depth:
                ids = {item.item_id for item in block.items}
                is_stranded = not self._staying.isdisjoint(block.bases)
                self._staying |= ids if is_stranded else ids & self._late
            offset = 0
            for item in block.items:
                if item.item_id not in self._staying:
                    moved.append((number, index, offset, item.item_id))
                offset += item.length
        begin_epoch(connection)
        connection.executemany(
            "UPDATE chunks SET pack = ?, block = ?, offset = ? WHERE id = ?", moved
        )

    def _note_late_bases(self, connection: sqlite3.Connection, own: int) -> None:
        """Learn what packs that came into use since the last time are differences against."""
        in_use = connection.execute("SELECT pack FROM packs WHERE retired IS NULL").fetchall()
        new = {pack for (pack,) in in_use} - self._known_packs
        for pack in new - {own}:
            rows = connection.execute("SELECT id FROM bases WHERE pack = ?", (pack,))
            self._late.update(row[0] for row in rows)
        self._known_packs |= new


_KINDS = (ItemKind.DATA, ItemKind.META)


class _Block(NamedTuple):
    """A block of a run that was not submitted yet."""

    items: Sequence[Item]
    parts: Sequence[bytes | memoryview]

    @property
    def size(self) -> int:
        """Its plain bytes."""
        return sum(item.length for item in self.items)

    def large_items(self) -> list[ChunkId]:
        """Return the ids of its largest items, in their order."""
        largest = sorted(self.items, key=lambda item: item.length, reverse=True)
        chosen = {item.item_id for item in largest[:HUB_ITEMS_MAX]}
        return [item.item_id for item in self.items if item.item_id in chosen]


def _inwards(index: int, middle: int) -> list[int]:
    """Return the places from the middle of a run to a block: what that is a difference against."""
    step = 1 if index < middle else -1
    return list(range(middle, index, -step)) if index != middle else []


PLANNED_PACK: PackId = b"planned"  # type: ignore[assignment]
"""Stands for the pack of a block that is not written yet; never read from."""


def _bases_of_others(store: Store, cold: Coldness) -> set[ChunkId]:
    """Return what blocks that stay are differences against: it may not get deeper."""
    return {base for pack, _, base in store.catalog.base_rows() if pack not in cold.packs}
