"""Writing into a store: what a session puts, it publishes as layers and images.

Nothing a session does is visible as a layer or image before ``publish_layer`` or
``publish_image`` returns; what they acknowledge is durable. A session that ends
without publishing leaves only dead bytes for gc. A session belongs to one thread;
many sessions of many processes may work in one store.

Against gc: packs that a session wrote are its own while its lease lives. A chunk
that was *found* in the store may be collected before the session publishes: then
the epoch has moved on, and publishing looks every needed chunk up again and takes
retired packs back into use, which gc keeps on disk for as long as an older lease
lives (docs/decisions/0005).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Self

from layerstore.digest import ImageId, sha256_digest
from layerstore.errors import FormatError, IntegrityError, LimitExceededError
from layerstore.formats.origins import decode_origins
from layerstore.formats.pack import BLOCK_MAX_BYTES, Item, ItemKind
from layerstore.formats.reference import parse_stored_name
from layerstore.store.blobs import put_blob
from layerstore.store.catalog.rows import ImageRecord, cache_seal
from layerstore.store.failures import ImageNotFoundError, LayerNotFoundError
from layerstore.store.locks.leases import hold
from layerstore.store.names.origins import allow_origins, with_known_origins
from layerstore.store.names.tags import image_facts, insert_image, manifest_config, tag_all
from layerstore.store.names.usage import note_image_use, note_step_uses
from layerstore.store.packs.pipeline import BlockJob
from layerstore.store.records import LayerRecord, encode_layer, layer_item_id
from layerstore.store.references import layer_chunks, published_chunks
from layerstore.store.writing.adopt import adopt_missing
from layerstore.store.writing.putting import ChunkPutter

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from layerstore.digest import ChunkId, DiffId
    from layerstore.store.records import CacheRecord
    from layerstore.store.store import Store

_LOOKS_MAX: Final = 3
"""Times what a layer needs is looked up while collections go on, before they have to wait."""


class WriteSession(ChunkPutter):
    """See the module. Get one from ``Store.begin`` and use it in a ``with`` block."""

    def __init__(self, store: Store, purpose: str) -> None:
        super().__init__(store, purpose)
        self._used_steps: set[str] = set()
        self._held: set[DiffId] = set()
        self._held_epoch = self._lease.epoch
        self._closed = False

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
            known = self._catalog.image(sha256_digest(config))
            named = () if known is None else (known.image_id, known.manifest_digest)
            image_id = put_blob(self._paths, config, self.temporary("config"), named=named)
            for document in documents:
                put_blob(self._paths, document, self.temporary("document"))
            manifest = with_known_origins(self._catalog, image_id, manifest)
            manifest_digest = put_blob(
                self._paths, manifest, self.temporary("manifest"), named=named
            )
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
