"""Writing into a store: a session holds a lease and gathers chunks into packs.

Nothing a session does is visible as a layer or image before ``publish_layer`` or
``publish_image`` returns; what they acknowledge is durable. A session that ends
without publishing leaves only dead bytes for gc. A session belongs to one thread;
many sessions of many processes may work in one store.

Against damage: a chunk that was found is only relied on when its block can be read;
otherwise it is written again and takes the damaged one's place.

Against gc: packs that a session wrote are its own while its lease lives. A chunk
that was *found* in the store may be collected before the session publishes: then
the epoch has moved on, and publishing looks every needed chunk up again and takes
retired packs back into use, which gc keeps on disk for as long as an older lease
lives (docs/decisions/0005).
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Self

from blake3 import blake3

from layerstore.chunking.cutter import CUT_MAX_BYTES
from layerstore.digest import ChunkId, ImageId, sha256_digest
from layerstore.errors import FormatError, IntegrityError, LimitExceededError
from layerstore.formats.origins import decode_origins
from layerstore.formats.pack import BLOCK_MAX_BYTES, Item, ItemKind
from layerstore.formats.reference import parse_stored_name
from layerstore.store.adopt import adopt_missing
from layerstore.store.blobs import put_blob
from layerstore.store.catalog_rows import ImageRecord
from layerstore.store.commit import publish_pack
from layerstore.store.cutting import cut_and_put
from layerstore.store.differences import (
    DIFFERENCE_MIN_BYTES,
    BaseFinder,
    DifferenceGroup,
    window,
)
from layerstore.store.failures import ImageNotFoundError, LayerNotFoundError
from layerstore.store.grouping import BlockGroup
from layerstore.store.leases import Lease, hold
from layerstore.store.origins import allow_origins, with_known_origins
from layerstore.store.pipeline import BlockJob, Pipeline
from layerstore.store.records import LayerRecord, cache_seal, encode_layer, layer_item_id
from layerstore.store.references import layer_chunks, published_chunks
from layerstore.store.soundness import Soundness
from layerstore.store.tags import image_facts, insert_image, manifest_config, tag_all
from layerstore.store.usage import note_image_use, note_step_uses

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence

    from layerstore.chunking.cutter import CutParameters
    from layerstore.digest import DiffId, PackId
    from layerstore.store.differences import Base
    from layerstore.store.pack_writer import SealedPack
    from layerstore.store.records import CacheRecord, Refs
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


_LOOKS_MAX = 3
"""Times what a layer needs is looked up while collections go on, before they have to wait."""

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


class WriteSession:
    """See the module. Get one from ``Store.begin`` and use it in a ``with`` block."""

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
        self._used_steps: set[str] = set()
        self._held: set[DiffId] = set()
        self._held_epoch = self._lease.epoch
        self._unsettled: list[_Unsettled] = []
        self._unsettled_bytes = 0
        self._new_bytes = self._reused_bytes = self._stored_bytes = self._new_chunks = 0
        self._closed = False

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

    def close(self) -> None:
        """End the session; what was not published becomes garbage. Harmless when repeated."""
        if not self._closed:
            self._closed = True
            self._unsettled.clear()
            try:
                self._pipeline.close()
            finally:
                self._lease.close(self._record_uses)

    def _record_uses(self, connection: sqlite3.Connection) -> None:
        note_step_uses(connection, self._used_steps, time.time())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- chunks

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
        with self._catalog.write() as connection:
            for pack in sealed:
                publish_pack(
                    connection, self._paths, pack, self._lease.lease_id, instead=self._healed
                )
        for pack in sealed:
            self._written.add(pack.pack_id)
            self._bases.update(base for block in pack.blocks for base in block.bases)
        self._stored_bytes += sum(pack.size for pack in sealed)

    # -- publishing

    def publish_layer(
        self, record: LayerRecord, *, content: Callable[[], Iterator[set[ChunkId]]] | None = None
    ) -> None:
        """Make a layer durable and visible; the same layer again changes nothing.

        Args:
            record: The layer; everything it names was put, or is in the store.
            content: Yields the chunks that ``record.tree`` names, some at a time, as often as
                it is called; without it the tree is decoded.

        Raises:
            IntegrityError: The record or its tree names a chunk the store does not have.
            LimitExceededError: Its record does not fit a block.
        """
        encoded = encode_layer(record)
        if len(encoded) > BLOCK_MAX_BYTES:
            raise LimitExceededError(
                f"layer {record.diff_id} has {len(record.tree) + len(record.recipe)} chunks of "
                f"metadata; its record would have {len(encoded)} bytes, over the limit of "
                f"{BLOCK_MAX_BYTES}"
            )
        item_id = layer_item_id(encoded)
        if self._absent([item_id]):
            self._settle()
            self._close_groups()
            self._submit(BlockJob(ItemKind.LAYER, (Item(item_id, len(encoded)),), (encoded,)))
        self._finish_packs()
        meta: set[bytes] = {chunk_id for _, chunk_id in record.tree + record.recipe}
        if self._missing(meta):  # gc took them: the tree must be readable first
            with self._catalog.write() as connection:
                self._require_chunks(connection, meta, record.diff_id)
        read_refs = self._store.read_refs
        if content is None:
            needed = set(layer_chunks(record, read_refs))
            content = lambda: iter((needed,))  # noqa: E731
        batches = published_chunks(record, read_refs, content)
        # Looked up before others have to wait: a layer may need millions.
        epoch, doubtful = self._look_up(batches)
        with self._catalog.write() as connection:
            if self._epoch() != epoch:
                for batch in batches():
                    self._require_chunks(connection, batch, record.diff_id)
            self._require_chunks(connection, {item_id, *self._bases, *doubtful}, record.diff_id)
            connection.execute(
                "INSERT OR REPLACE INTO layers VALUES (?, ?, ?)",
                (record.diff_id, item_id, encoded),
            )
            hold(connection, self._lease.lease_id, "layer", [record.diff_id])
        self._held.add(record.diff_id)

    def _epoch(self) -> int:
        return self._catalog.epoch()

    def _look_up(self, batches: Callable[[], Iterator[set[ChunkId]]]) -> tuple[int, set[bytes]]:
        """Return an epoch, and what is not there as long as it lasts.

        In the epoch of the lease what was put or found is there; after a collection it, and
        what it is a difference against, may not be. Looked up anew if another one ends meanwhile.
        """
        for _ in range(_LOOKS_MAX):
            epoch = self._epoch()
            missing: set[bytes] = set()
            for batch in batches():
                if epoch == self._lease.epoch:
                    missing |= self._catalog.missing(batch - self._known - self._known_before)
                else:
                    missing |= self._missing(set(batch))
            if self._epoch() == epoch:
                break
        return epoch, missing

    def _require_chunks(
        self, connection: sqlite3.Connection, needed: Iterable[bytes], diff_id: DiffId
    ) -> None:
        """See to it, inside a write transaction, that every needed chunk can be found and read.

        gc keeps bases for living blocks only: of a difference that was found, and dead for
        a while, they may be gone although its own pack stayed.
        """
        wanted = set(needed)
        # Each round finds what the blocks taken back in the one before are against.
        while missing := self._missing(wanted):
            lost = adopt_missing(connection, self._store.reader, missing, self.lease_id)
            if lost:
                raise IntegrityError(
                    f"layer {diff_id} needs {len(lost)} chunks that the store does not have, "
                    f"one is {min(lost).hex()}"
                )

    def _missing(self, chunk_ids: set[bytes]) -> set[bytes]:
        """Return what is not there of chunks and of what they are differences against."""
        return self._catalog.missing(chunk_ids | self._catalog.bases_of(chunk_ids))

    def publish_image(
        self,
        config: bytes,
        manifest: bytes,
        layers: Sequence[DiffId],
        *,
        names: Sequence[str] = (),
        documents: Sequence[bytes] = (),
    ) -> ImageRecord:
        """Make an image durable and visible under ``names``, in one commit.

        The SHA-256 of ``config`` is the image's id; its ``rootfs.diff_ids`` must
        equal ``layers``, lowest first. A name moves here from the image that had it. What
        the store remembers of how the image came already is remembered further.

        Args:
            config: As it came.
            manifest: Our own of the image; what it remembers (:mod:`layerstore.formats.origins`)
                is in ``documents``, in the store, and in layers that this session holds.
            layers: Of the image.
            names: With a tag, or ``repository@digest`` of a document it came under.
            documents: Manifests and indexes that ``manifest`` remembers.

        Raises:
            LayerNotFoundError: A layer was not published.
            FormatError: The config is not one or lists other layers, or the manifest
                is not that of this config.
        """
        facts = image_facts(config)
        if facts.diff_ids != tuple(layers):
            raise FormatError("the image config lists other layers than the image has")
        if manifest_config(manifest) != sha256_digest(config):
            raise FormatError("the image manifest belongs to another config")
        full_names = [parse_stored_name(name) for name in names]
        if decode_origins(manifest):
            allow_origins(self._paths)
        with self._catalog.write() as connection:
            # Blobs are written under the lock: gc removes unused ones under it.
            image_id = put_blob(self._paths, config, self.temporary("config"))
            for document in documents:
                put_blob(self._paths, document, self.temporary("document"))
            manifest = with_known_origins(self._catalog, image_id, manifest)
            manifest_digest = put_blob(self._paths, manifest, self.temporary("manifest"))
            record = ImageRecord(
                ImageId(image_id),
                manifest_digest,
                facts.created,
                facts.diff_ids,
                sum(self._content_size(diff_id) for diff_id in layers),
            )
            insert_image(connection, record)
            hold(connection, self._lease.lease_id, "image", [image_id])
            tag_all(connection, self._paths.names_log, full_names, record.image_id)
        note_image_use(self._paths, record.image_id)
        return record

    def _content_size(self, diff_id: DiffId) -> int:
        return self._store.layer(diff_id).content_size

    def hold_layers(self, diff_ids: Sequence[DiffId]) -> None:
        """Keep layers of the store from gc until this session ends.

        Call it before relying on layers found in the store, such as a base image's. What the
        session holds already costs nothing as long as the epoch lasts: no row disappears in it.

        Raises:
            LayerNotFoundError: One is not (or no longer) there.
        """
        epoch = self._epoch()
        if epoch != self._held_epoch:
            self._held.clear()
            self._held_epoch = epoch
        wanted = [diff_id for diff_id in diff_ids if diff_id not in self._held]
        if not wanted:
            return
        with self._catalog.write() as connection:
            for diff_id in wanted:
                if self._catalog.layer(diff_id) is None:
                    raise LayerNotFoundError(f"the store holds no layer {diff_id}")
            hold(connection, self._lease.lease_id, "layer", wanted)
        self._held.update(wanted)

    def hold_images(self, image_ids: Sequence[ImageId]) -> None:
        """Keep images of the store, with all they need, from gc until this session ends.

        Raises:
            ImageNotFoundError: One is not (or no longer) there.
        """
        with self._catalog.write() as connection:
            for image_id in image_ids:
                if self._catalog.image(image_id) is None:
                    raise ImageNotFoundError(f"the store holds no image {image_id}")
            hold(connection, self._lease.lease_id, "image", image_ids)

    def note_step_use(self, key: str) -> None:
        """Remember that a build step was used; written when the session ends."""
        self._used_steps.add(key)

    def cache_put(self, *records: CacheRecord) -> None:
        """Remember build steps, all of them or none; their layers must be published.

        Raises:
            LayerNotFoundError: One is not.
        """
        with self._catalog.write() as connection:
            for record in records:
                if record.diff_id is not None and self._catalog.layer(record.diff_id) is None:
                    raise LayerNotFoundError(f"the store holds no layer {record.diff_id}")
                connection.execute(
                    "INSERT OR REPLACE INTO build_cache VALUES (?, ?, ?, ?, ?)",
                    (record.key, record.diff_id, record.value, record.created, cache_seal(record)),
                )
