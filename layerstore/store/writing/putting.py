"""Putting chunks into a store: what is new is gathered into blocks and packs.

What of a session (:mod:`layerstore.store.writing.session`) knows nothing of layers and images.

Against damage: a chunk that was found is only relied on when its block can be read;
otherwise it is written again and takes the damaged one's place.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from blake3 import blake3

from layerstore.chunking.cutter import CUT_MAX_BYTES
from layerstore.digest import ChunkId
from layerstore.formats.pack import BLOCK_MAX_BYTES, Item, ItemKind
from layerstore.store.locks.leases import Lease
from layerstore.store.packs.commit import publish_pack
from layerstore.store.packs.differences import (
    DIFFERENCE_MIN_BYTES,
    BaseFinder,
    DifferenceGroup,
    window,
)
from layerstore.store.packs.grouping import BlockGroup
from layerstore.store.packs.pipeline import BlockJob, Pipeline
from layerstore.store.writing.cutting import cut_and_put
from layerstore.store.writing.soundness import Soundness

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from layerstore.chunking.cutter import CutParameters
    from layerstore.digest import PackId
    from layerstore.store.packs.differences import Base
    from layerstore.store.packs.pack_writer import SealedPack
    from layerstore.store.records import Refs
    from layerstore.store.store import Store

CHUNK_MAX = CUT_MAX_BYTES
"""Longest chunk in bytes; a block must hold it."""

LOOKUP_CHUNKS = 256
"""Chunks that are looked up in the catalog together: one statement each costs 10 us a chunk."""

LOOKUP_BYTES = BLOCK_MAX_BYTES
"""Bytes after which chunks are looked up even if they are few, so that little memory waits."""


KNOWN_CHUNKS = 100_000
"""Ids a session remembers so as not to ask the catalog, and as many of before: 25 MB in all."""


class SessionStats(NamedTuple):
    """What a session has put so far.

    Attributes:
        new_bytes: Plain bytes the store did not have.
        reused_bytes: Plain bytes it had, counted each time they were put.
        stored_bytes: Bytes of finished pack files.
        new_chunks: Chunks the store did not have.
        healed_chunks: Those of them that it had, but could no longer read.
    """

    new_bytes: int
    reused_bytes: int
    stored_bytes: int
    new_chunks: int
    healed_chunks: int = 0


Like = Callable[[], "Refs"]
"""Tells, when it matters, what stored content resembles what is being put; may be nothing."""


_Stream = tuple[ItemKind, bool]
"""Chunks that share blocks: of one kind, and pieces of longer content or not."""

_STREAMS: tuple[_Stream, ...] = (
    (ItemKind.DATA, False),
    (ItemKind.DATA, True),
    (ItemKind.META, False),
)


class _Unsettled(NamedTuple):
    """A chunk that was put and not looked up yet.

    Attributes:
        cut: Whether it is a piece of longer content.
        offset: Of the chunk in its content.
        like: What the content resembles.
    """

    kind: ItemKind
    cut: bool
    item: Item
    data: bytes | memoryview
    offset: int
    like: Like | None


class ChunkPutter:
    """Takes chunks under a lease; for one thread.

    Args:
        store: Where they go.
        purpose: What the lease is for, for people.
    """

    def __init__(self, store: Store, purpose: str) -> None:
        self._store = store
        self._catalog = store.catalog
        self._paths = store.paths
        self._lease = Lease(store.catalog, purpose)
        self._staged = 0
        self._pipeline = Pipeline(self._next_staging, store.read_chunk)
        # Pieces of long files apart from whole ones: neither splits the other's runs.
        self._groups = {stream: BlockGroup() for stream in _STREAMS}
        self._differences = DifferenceGroup()
        self._bases: set[ChunkId] = set()
        self._known: set[bytes] = set()
        self._known_before: set[bytes] = set()
        self._soundness = Soundness(store)
        self._healed: set[bytes] = set()
        self._written: set[PackId] = set()
        self._unsettled: list[_Unsettled] = []
        self._unsettled_bytes = 0
        self._new_bytes = self._reused_bytes = self._stored_bytes = self._new_chunks = 0

    @property
    def store(self) -> Store:
        """The store this session writes to."""
        return self._store

    @property
    def cutting(self) -> CutParameters:
        """Where the store cuts content."""
        return self._store.config.cutting

    @property
    def lease_id(self) -> str:
        """The lease's name, part of every temporary path it may use."""
        return self._lease.lease_id

    @property
    def stats(self) -> SessionStats:
        """What was put so far."""
        self._settle()
        return SessionStats(
            self._new_bytes,
            self._reused_bytes,
            self._stored_bytes,
            self._new_chunks,
            len(self._healed),
        )

    def temporary(self, name: str) -> str:
        """Return a path in ``tmp/`` for the caller's use; gc removes it once the lease is dead."""
        return self._paths.temporary(self._lease.lease_id, name)

    def _next_staging(self) -> str:
        self._staged += 1
        return self.temporary(f"{self._staged}.pack")

    def put_chunk(
        self,
        data: bytes | bytearray | memoryview,
        *,
        meta: bool = False,
        like: Like | None = None,
    ) -> ChunkId:
        """Put one chunk of 1 byte to ``CHUNK_MAX`` and return its id.

        Durable and visible to other sessions at the latest when a layer that needs
        it is published.

        Args:
            data: The bytes.
            meta: Whether it is a tree or recipe, and no file content.
            like: Asked, if the store does not have the chunk, for content that it may be
                stored as a difference against.
        """
        return self._put(bytes(data), (ItemKind.META if meta else ItemKind.DATA, False), 0, like)

    def put_bytes(self, data: bytes | bytearray | memoryview, *, meta: bool = False) -> Refs:
        """Put bytes of any length, cut into chunks, and return the references."""
        source = io.BytesIO(data)
        return self._put_cut(source.read, len(data), ItemKind.META if meta else ItemKind.DATA)

    def put_stream(
        self,
        read: Callable[[int], bytes],
        size: int,
        *,
        meta: bool = False,
        like: Like | None = None,
    ) -> Refs:
        """Put exactly ``size`` bytes that ``read(n)`` gives in pieces of 1 to n bytes.

        ``like`` as for :meth:`put_chunk`.

        Raises:
            ShortSourceError: The source ended early: the file shrank while it was read.
        """
        return self._put_cut(read, size, ItemKind.META if meta else ItemKind.DATA, like)

    def _put_cut(
        self,
        read: Callable[[int], bytes],
        size: int,
        kind: ItemKind,
        like: Like | None = None,
    ) -> Refs:
        stream = (kind, kind is ItemKind.DATA and size > self.cutting.whole_max_bytes)

        def put(chunk: memoryview, offset: int) -> ChunkId:
            return self._put(chunk, stream, offset, like)

        return cut_and_put(read, size, self.cutting, put)

    def _put(
        self, data: bytes | memoryview, stream: _Stream, offset: int, like: Like | None
    ) -> ChunkId:
        """Take a chunk that will not change any more."""
        size = len(data)
        if not 0 < size <= CHUNK_MAX:
            raise AssertionError(f"a chunk has 1 to {CHUNK_MAX} bytes, not {size}")
        chunk_id = ChunkId(blake3(data).digest())
        if chunk_id in self._known or chunk_id in self._known_before:
            self._reused_bytes += size
            return chunk_id
        if len(self._known) >= KNOWN_CHUNKS:
            # What is forgotten must be found in the catalog: no pack may list an item twice.
            self._finish_packs()
            self._known, self._known_before = set(), self._known
        self._known.add(chunk_id)
        self._unsettled.append(_Unsettled(*stream, Item(chunk_id, size), data, offset, like))
        self._unsettled_bytes += size
        if len(self._unsettled) >= LOOKUP_CHUNKS or self._unsettled_bytes >= LOOKUP_BYTES:
            self._settle()
        return chunk_id

    def _settle(self) -> None:
        """Find out in one look which of the latest chunks are new, and add those in order."""
        unsettled, self._unsettled, self._unsettled_bytes = self._unsettled, [], 0
        with self._sure_of_known():
            absent = self._absent([put.item.item_id for put in unsettled])
            new = [put for put in unsettled if put.item.item_id in absent]
            size = sum(put.item.length for put in new)
            self._new_bytes += size
            self._new_chunks += len(new)
            self._reused_bytes += sum(put.item.length for put in unsettled) - size
            bases = self._find_bases(new)
            for put in new:
                self._add(put, bases.get(put.item.item_id))

    def _find_bases(self, new: Sequence[_Unsettled]) -> dict[ChunkId, list[Base]]:
        """Return, for new content that resembles something stored, what to compress it against."""
        near: dict[ChunkId, list[ChunkId]] = {}
        for put in new:
            if put.item.item_id in self._healed:
                continue  # what it resembles may be a difference against it
            if put.like is not None and put.item.length >= DIFFERENCE_MIN_BYTES:
                similar = put.like()
                if similar:
                    near[put.item.item_id] = window(similar, put.offset, put.item.length)
        if not near:
            return {}
        finder = BaseFinder(self._catalog)
        finder.look_up(chunk_id for candidates in near.values() for chunk_id in candidates)
        return {item_id: finder.bases(candidates) for item_id, candidates in near.items()}

    def packs_relied_on(self) -> set[PackId]:
        """Return the packs that hold what was put so far, and what that is a difference against."""
        bases = self._bases | self._catalog.bases_of(self._bases)
        places = self._catalog.places(bases).values()
        return self._written | self._soundness.packs | {place.pack_id for place in places}

    def can_read(self, chunk_ids: Iterable[ChunkId]) -> bool:
        """Return whether the store has all of these chunks and can read their blocks.

        This and the next for who relies on chunks without having their bytes.
        """
        wanted = set(chunk_ids)
        places = self._catalog.places(wanted)
        return len(places) == len(wanted) and not self._soundness.damaged(places)

    def are_whole(self, pack_ids: Iterable[PackId]) -> bool:
        """Return whether packs are as they were written, to the last bit."""
        return self._soundness.are_whole(pack_ids)

    def _absent(self, item_ids: Sequence[bytes]) -> set[bytes]:
        """Return which items must be written: those the store lacks or can no longer read."""
        places = self._catalog.places(item_ids)
        damaged = self._soundness.damaged(places)
        self._healed |= damaged
        return set(item_ids) - places.keys() | damaged

    @contextlib.contextmanager
    def _sure_of_known(self) -> Iterator[None]:
        """Forget what is known when the block fails: publishing then looks everything up."""
        try:
            yield
        except BaseException:
            self._known.clear()
            self._known_before.clear()
            raise

    def put_anew(self, kind: ItemKind, item_id: ChunkId, data: bytes) -> None:
        """Write an item whose bytes match its id, whatever the store says it has of it.

        It takes the place of what was there with the next :meth:`flush`.
        """
        item = Item(item_id, len(data))
        self._known.add(item_id)
        self._healed.add(item_id)
        with self._sure_of_known():
            if kind is ItemKind.LAYER:
                self._submit(BlockJob(kind, (item,), (data,)))
            else:
                self._add(_Unsettled(kind, False, item, data, 0, None), None)

    def flush(self) -> None:
        """Make everything put so far durable and findable, though nothing needs it yet."""
        self._finish_packs()

    def _add(self, put: _Unsettled, bases: list[Base] | None) -> None:
        # A piece is a view of a buffer many times its size, which it would keep alive.
        data = bytes(put.data) if put.cut else put.data
        if bases:
            if self._differences.offer(put.item, data, bases):
                return
            self._close_differences()
            if self._differences.offer(put.item, data, bases):
                return
        stream = (put.kind, put.cut)
        group = self._groups[stream]
        if not group.has_room_for(put.item):
            self._close_group(stream)
        group.add(put.item, data)

    def _close_differences(self) -> None:
        taken = self._differences.take()
        if taken is not None:
            self._submit(BlockJob(ItemKind.DATA, taken.items, taken.parts, taken.against))

    def _close_group(self, stream: _Stream) -> None:
        items, parts = self._groups[stream].take()
        if items:
            self._submit(BlockJob(stream[0], items, parts))

    def _close_groups(self) -> None:
        self._close_differences()
        for stream in self._groups:
            self._close_group(stream)

    def _submit(self, job: BlockJob) -> None:
        self._pipeline.submit(job)
        sealed = self._pipeline.take_sealed()
        if sealed:
            self._commit_packs(sealed)

    def _finish_packs(self) -> None:
        """Make everything put so far durable and findable."""
        self._settle()
        with self._sure_of_known():
            self._close_groups()
            sealed = self._pipeline.flush()
            if sealed:
                self._commit_packs(sealed)

    def _commit_packs(self, sealed: list[SealedPack]) -> None:
        try:
            with self._catalog.write() as connection:
                for pack in sealed:
                    publish_pack(
                        connection, self._paths, pack, self._lease.lease_id, instead=self._healed
                    )
        finally:
            for pack in sealed:
                if pack.staged is not None:
                    pack.staged.discard()  # harmless for those that have their names
        for pack in sealed:
            self._written.add(pack.pack_id)
            self._bases.update(base for block in pack.blocks for base in block.bases)
        self._stored_bytes += sum(pack.size for pack in sealed)
