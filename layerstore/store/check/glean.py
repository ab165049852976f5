"""Taking from copies at hand what a store has lost.

A :class:`Gleaner` stands in for a write session while a source is read the way an
import reads it: the source is cut with the store's parameters, every piece is named by
its hash, and the pieces that the store has lost are kept. Everything else passes by.
What is kept takes its place in the catalog when :meth:`Gleaner.settle` returns, durably;
a gleaner that dies before leaves garbage for gc and can be run again.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from typing import TYPE_CHECKING, NamedTuple, Self

from blake3 import blake3

from layerstore.digest import ChunkId, DiffId, Digest
from layerstore.errors import FormatError, IntegrityError, LayerstoreError, NotFoundError
from layerstore.formats.pack import ItemKind
from layerstore.linux.files import read_at
from layerstore.store.blobs import put_blob
from layerstore.store.check.findings import Problem
from layerstore.store.collect.sweep import pack_files
from layerstore.store.packs.codec import decompress_block
from layerstore.store.packs.pack_reader import OpenPack, read_footer
from layerstore.store.paths import PACK_SUFFIX
from layerstore.store.records import encode_layer, layer_item_id
from layerstore.store.references import layer_chunks
from layerstore.store.rewriting.rewrite import item_matches
from layerstore.store.writing.cutting import cut_and_put

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from layerstore.chunking.cutter import CutParameters
    from layerstore.formats.pack import Block
    from layerstore.store.check.findings import CheckReport
    from layerstore.store.records import LayerRecord, Refs
    from layerstore.store.store import Store
    from layerstore.store.writing.putting import Like
    from layerstore.store.writing.session import WriteSession


class Lost(NamedTuple):
    """What a store lacks and a copy may bring back.

    Attributes:
        items: Chunks and layer records that are missing or cannot be read.
        dependents: Chunks that are whole, but differences against lost ones.
        layers: Layers that images name and the catalog does not have.
        blobs: Manifests and configs.
        harmed: Layers that any of these harm; the others need no source.
    """

    items: frozenset[bytes]
    dependents: frozenset[bytes]
    layers: frozenset[DiffId]
    blobs: frozenset[Digest]
    harmed: frozenset[DiffId]

    def __bool__(self) -> bool:
        return bool(self.items or self.dependents or self.layers or self.blobs)

    def by_depending(self, store: Store) -> Lost:
        """Return this with those dependents alone that still depend on something lost."""
        places = store.catalog.places(self.dependents)
        bases = {
            item_id: store.catalog.bases(place.pack, place.block)
            for item_id, place in places.items()
        }
        lost: set[bytes] = set()
        grew = True
        while grew:
            bad = self.items | lost
            more = {i for i, needed in bases.items() if not bad.isdisjoint(needed)} - lost
            lost |= more
            grew = bool(more)
        return self._replace(dependents=frozenset(lost))


def lost_of(report: CheckReport) -> Lost:
    """Return what a check found to be lost; only one that read the data knows everything."""

    def named(*problems: Problem) -> frozenset[Digest]:
        return frozenset(
            Digest(finding.digest) for finding in report.findings if finding.problem in problems
        )

    layers = frozenset(DiffId(digest) for digest in named(Problem.LAYER_MISSING))
    return Lost(
        report.lost_items,
        report.dependent_items,
        layers,
        named(Problem.BLOB_MISSING, Problem.BLOB_DAMAGED),
        report.harmed_layers | layers,
    )


class Gleaned(NamedTuple):
    """What a source had: chunks and layer records, layers, manifests and configs."""

    items: int
    layers: int
    blobs: int

    def __bool__(self) -> bool:
        return any(self)


class Gleaner:
    """Keeps what was lost of everything it is offered. Belongs to one thread."""

    def __init__(self, store: Store, lost: Lost, *, dry_run: bool) -> None:
        self.store = store
        self._session = None if dry_run else store.begin("repair")
        self._items = set(lost.items)
        self._layers = set(lost.layers)
        self._blobs = set(lost.blobs)
        self._lost = lost
        self._kept: set[ChunkId] = set()
        self._records: dict[DiffId, LayerRecord] = {}
        self._count = Gleaned(0, 0, 0)
        self._outside: tempfile.TemporaryDirectory[str] | None = None

    @property
    def missing(self) -> Lost:
        """What nothing offered so far has brought back."""
        return self._lost._replace(
            items=frozenset(self._items),
            layers=frozenset(self._layers),
            blobs=frozenset(self._blobs),
        )

    @property
    def wants_more(self) -> bool:
        """Whether another copy could help; dependents are helped by their bases."""
        return bool(self._items or self._layers or self._blobs)

    @property
    def session(self) -> WriteSession | None:
        """The session that writes, or None when nothing is written."""
        return self._session

    def close(self) -> None:
        """End the session; what was not settled is garbage."""
        if self._session is not None:
            self._session.close()
        if self._outside is not None:
            self._outside.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- as a session, for what reads sources

    def temporary(self, name: str) -> str:
        """Return a path in ``tmp/`` that gc removes once the lease is dead.

        Where nothing is written to the store, one outside of it, gone with this gleaner.
        """
        if self._session is not None:
            return self._session.temporary(name)
        if self._outside is None:
            self._outside = tempfile.TemporaryDirectory(prefix="layerstore-repair-")
        return f"{self._outside.name}/{name}"

    @property
    def cutting(self) -> CutParameters:
        """Where the store cuts content."""
        return self.store.config.cutting

    def put_chunk(
        self,
        data: bytes | bytearray | memoryview,
        *,
        meta: bool = False,
        like: Like | None = None,
    ) -> ChunkId:
        """Offer one chunk; return its id. What is kept is never a difference."""
        del like
        chunk_id = ChunkId(blake3(data).digest())
        if chunk_id in self._items or self._may_be_of_a_layer(chunk_id):
            self._keep(ItemKind.META if meta else ItemKind.DATA, chunk_id, bytes(data))
        return chunk_id

    def put_bytes(self, data: bytes | bytearray | memoryview, *, meta: bool = False) -> Refs:
        """Offer bytes of any length, cut into chunks; return the references."""
        return self.put_stream(io.BytesIO(data).read, len(data), meta=meta)

    def put_stream(
        self,
        read: Callable[[int], bytes],
        size: int,
        *,
        meta: bool = False,
        like: Like | None = None,
    ) -> Refs:
        """Offer exactly ``size`` bytes that ``read(n)`` gives in pieces.

        Raises:
            ShortSourceError: The source ended early.
        """
        del like

        def put(chunk: memoryview, _offset: int) -> ChunkId:
            return self.put_chunk(chunk, meta=meta)

        return cut_and_put(read, size, self.cutting, put)

    def publish_layer(
        self, record: LayerRecord, *, content: Callable[[], Iterator[set[ChunkId]]] | None = None
    ) -> None:
        """Offer a layer: its record is kept if it was lost, the layer too."""
        del content
        encoded = encode_layer(record)
        item_id = layer_item_id(encoded)
        if item_id in self._items:
            self._keep(ItemKind.LAYER, item_id, encoded)
        if record.diff_id in self._layers:
            self._layers.discard(record.diff_id)
            self._records[record.diff_id] = record

    def _may_be_of_a_layer(self, chunk_id: ChunkId) -> bool:
        """Return whether a chunk is new here while layers are lost: nobody knows what they need."""
        return bool(self._layers) and not self.store.has_chunk(chunk_id)

    def _keep(self, kind: ItemKind, item_id: ChunkId, data: bytes) -> None:
        """Keep an item, once: no pack may list one twice."""
        self._items.discard(item_id)
        if item_id in self._kept:
            return
        self._kept.add(item_id)
        self._count = self._count._replace(items=self._count.items + 1)
        if self._session is not None:
            self._session.put_anew(kind, item_id, data)

    # -- other offers

    def offer_blob(self, data: bytes, digest: Digest) -> None:
        """Offer a manifest or config whose digest was verified."""
        if digest not in self._blobs:
            return
        self._blobs.discard(digest)
        self._count = self._count._replace(blobs=self._count.blobs + 1)
        if self._session is not None:
            # Under the lock: gc removes unused blobs under it.
            with self.store.catalog.write():
                put_blob(self.store.paths, data, self.temporary("blob"))

    def offer_own_packs(self) -> None:
        """Offer what lies in packs of this store that the catalog does not read it from.

        Retired and unknown ones, second copies, and what earlier repairs moved aside.
        """
        paths = self.store.paths
        files = [paths.pack(pack_id) for pack_id, _ in pack_files(paths)]
        files += [f"{paths.quarantine}/{name}" for name in sorted(os.listdir(paths.quarantine))]
        for path in files:
            if not self._items:
                return
            if path.endswith(PACK_SUFFIX):
                with contextlib.suppress(OSError, FormatError):
                    self._offer_pack(path)

    def _offer_pack(self, path: str) -> None:
        with contextlib.closing(OpenPack(path)) as file:
            for block in read_footer(file.fd):
                if self._items.isdisjoint(item.item_id for item in block.items):
                    continue
                with contextlib.suppress(IntegrityError, NotFoundError, OSError):
                    prefix = self.store.prefix_of(os.path.basename(path), block)
                    frame = read_at(file.fd, block.stored_length, block.offset)
                    raw = decompress_block(frame, block.raw_length, prefix() if prefix else b"")
                    self._offer_block(block, raw)

    def _offer_block(self, block: Block, raw: bytes) -> None:
        offset = 0
        for item in block.items:
            data = raw[offset : offset + item.length]
            if item.item_id in self._items and item_matches(block.kind, item, data):
                self._keep(block.kind, item.item_id, data)
            offset += item.length

    def offer_own_catalog(self) -> None:
        """Offer the layer records that the catalog has a copy of."""
        for (diff_id,) in self.store.catalog.query("SELECT diff_id FROM layers"):
            with contextlib.suppress(IntegrityError, NotFoundError):
                self.publish_layer(self.store.layer(DiffId(Digest(str(diff_id)))))

    def offer_store(self, other: Store) -> None:
        """Offer everything that another store has, each thing verified as it is read."""
        self._offer_layers(other)
        # In the order of the other store's packs, so that each block is decoded once.
        places = other.catalog.places(sorted(self._items))
        for item_id in sorted(places, key=lambda item_id: places[item_id]):
            with contextlib.suppress(IntegrityError, NotFoundError):
                kind = ItemKind(places[item_id].kind)
                self._keep(kind, item_id, other.read_chunk(item_id))
        for digest in sorted(self._blobs):
            with contextlib.suppress(LayerstoreError):
                self.offer_blob(other.get_blob(digest), digest)

    def _offer_layers(self, other: Store) -> None:
        for diff_id in sorted(self._layers):
            with contextlib.suppress(IntegrityError, NotFoundError):
                record = other.layer(diff_id)
                needed = layer_chunks(record, other.read_refs)
                self._items |= self.store.catalog.missing(needed)
                self.publish_layer(record)

    # -- the end

    def settle(self) -> Gleaned:
        """Make what was kept durable and findable; return what it was since the last call."""
        if self._session is not None:
            self._session.flush()
            for record in self._records.values():
                try:
                    self._session.publish_layer(record)
                except IntegrityError:
                    self._layers.add(record.diff_id)  # some of its chunks are still lost
        published = len(self._records.keys() - self._layers)
        self._records.clear()
        count, self._count = self._count._replace(layers=published), Gleaned(0, 0, 0)
        return count
