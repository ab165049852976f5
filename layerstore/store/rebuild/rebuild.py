"""Making the catalog again from what it indexes: packs, blobs and names.log.

Layers come from the LAYER items of packs, images from manifests and configs, names
from names.log. Where one of these is damaged the old catalog is asked, so that a store is never
the poorer for it. Leases and the build cache are lost. The new catalog is made
beside the old one and takes its place; the old one is kept in
``quarantine/`` (:mod:`layerstore.store.catalog.replacing`). May be killed at any instant and run
again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import TYPE_CHECKING, NamedTuple

from layerstore.digest import DiffId, Digest, ImageId
from layerstore.errors import FormatError, IntegrityError, NotFoundError, StorageError
from layerstore.formats.origins import decode_origins
from layerstore.formats.pack import ItemKind
from layerstore.linux.files import (
    fsync_directory,
    make_private_dir,
    open_private,
    remove_if_present,
)
from layerstore.linux.locks import exclusive
from layerstore.progress import Silent
from layerstore.store.blobs import blob_digests, get_blob, has_blob
from layerstore.store.catalog.catalog import Catalog
from layerstore.store.catalog.catalog_file import create_tables
from layerstore.store.catalog.replacing import catalog_alone, replace_catalog
from layerstore.store.catalog.rows import ImageRecord
from layerstore.store.collect.sweep import pack_files
from layerstore.store.config import load_config, require_writable
from layerstore.store.failures import (
    CorruptPackError,
    catalog_error,
    storage_errors,
)
from layerstore.store.names import names_log
from layerstore.store.names.pins import insert_pins
from layerstore.store.names.tags import (
    image_facts,
    insert_image,
    insert_tags,
    manifest_config,
    record_stamp,
)
from layerstore.store.packs.commit import insert_blocks, insert_pack
from layerstore.store.packs.pack_reader import PackReader
from layerstore.store.paths import StorePaths
from layerstore.store.rebuild.copies import Copies
from layerstore.store.rebuild.old_index import KnownPack, OldIndex
from layerstore.store.records import LayerRecord, decode_layer, encode_layer, layer_item_id
from layerstore.store.references import layer_chunks
from layerstore.store.rewriting.depths import refresh_depths
from layerstore.store.store import Store

if TYPE_CHECKING:
    from layerstore.digest import PackId
    from layerstore.formats.pack import Block
    from layerstore.progress import Progress
    from layerstore.store.config import StoreConfig


class RebuildReport(NamedTuple):
    """What a new catalog holds, and what could not be used.

    Attributes:
        damaged_packs: Packs whose footer cannot be read, with the reason; their chunks
            are missing but for those that the old catalog knew. The files are left where they are.
        lost_layers: Layer records that could not be read.
        lost_names: Names with the images they named, whose layers are not all there any more.
        unreadable_names: Lines of names.log that could not be read.
    """

    packs: int
    chunks: int
    layers: int
    images: int
    tags: int
    damaged_packs: dict[PackId, str]
    lost_layers: int
    lost_names: dict[str, ImageId]
    unreadable_names: int

    @property
    def losses(self) -> list[str]:
        """What is lost, in words, one loss an item."""
        packs = [f"pack {pack.hex()}: {why}" for pack, why in self.damaged_packs.items()]
        names = [
            f"{name}: a layer of its image {image_id} is lost"
            for name, image_id in self.lost_names.items()
        ]
        layers = [f"{self.lost_layers} layer records are damaged"] if self.lost_layers else []
        return packs + layers + names


def rebuild_catalog(root: str, progress: Progress | None = None) -> RebuildReport:
    """Make the catalog of the store at ``root`` again and put it in its place.

    Works when the catalog is missing or damaged, and waits for a running gc.
    Running sessions go on: they look up anew what they rely on.

    Raises:
        NotFoundError: No store there.
        StorageError: It cannot be written.
    """
    paths = StorePaths(os.path.realpath(root))
    config = load_config(paths)
    require_writable(config)
    with (
        storage_errors("rebuild the catalog"),
        exclusive(paths.gc_lock),
        catalog_alone(paths),
    ):
        return _Rebuild(paths, config, progress or Silent()).run()


def _is_whole(store: Store, diff_id: DiffId) -> bool:
    try:
        needed = set(layer_chunks(store.layer(diff_id), store.read_refs))
    except (IntegrityError, NotFoundError):
        return False
    return not store.catalog.missing(needed | store.catalog.bases_of(needed))


class _Rebuild:
    """One rebuild, under the gc lock and the catalog lock."""

    def __init__(self, paths: StorePaths, config: StoreConfig, progress: Progress) -> None:
        self._paths = paths
        self._config = config
        self._progress = progress
        self._reader = PackReader(paths)
        self._old = OldIndex(paths)
        self._damaged: dict[PackId, str] = {}
        self._layers: dict[DiffId, list[LayerRecord]] = {}
        self._lost_layers = 0
        self._torn_images: set[ImageId] = set()

    def run(self) -> RebuildReport:
        # Named like a dead lease's leaving: gc, locked out meanwhile, removes what a crash left.
        draft = StorePaths(self._paths.temporary("rebuild", "catalog"))
        self._clear_draft(draft)
        make_private_dir(draft.root)
        os.close(open_private(draft.catalog, os.O_RDWR | os.O_CREAT))
        try:
            connection = sqlite3.connect(draft.catalog, isolation_level=None)
            with contextlib.closing(connection):
                # A draft that fails is thrown away, and _swap forces it as a whole: a journal
                # and flushes on the way would protect nothing.
                connection.execute("PRAGMA journal_mode=OFF")
                connection.execute("PRAGMA synchronous=OFF")
                create_tables(connection)
                report = self._fill(connection)
                # Beside a catalog of the old one's time, leases must never compare as current.
                epoch = (1 << 32) + int.from_bytes(os.urandom(4), "big")
                connection.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (epoch,))
                connection.execute("COMMIT")
                remnants = self._remnants(draft)
                connection.executemany("DELETE FROM layers WHERE diff_id = ?", remnants)
                connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.Error as err:
            raise catalog_error(err) from err
        finally:
            self._reader.close()
            self._old.close()
        self._swap(draft)
        return report._replace(layers=report.layers - len(remnants))

    def _remnants(self, draft: StorePaths) -> list[tuple[DiffId]]:
        """Return the layers of no image that are not whole.

        gc forgets a layer, but its record may lie in a pack that stays for other reasons while
        what it needs went. Whole ones stay: a session that goes on may have published them.
        """
        with contextlib.closing(Catalog(draft)) as catalog:
            store = Store(self._paths, self._config, catalog)
            rows = catalog.query(
                "SELECT diff_id FROM layers WHERE diff_id NOT IN (SELECT diff_id FROM image_layers)"
            )
            unused = [DiffId(Digest(str(diff_id))) for (diff_id,) in rows]
            return [(diff_id,) for diff_id in unused if not _is_whole(store, diff_id)]

    def _clear_draft(self, draft: StorePaths) -> None:
        for suffix in ("", "-wal", "-shm", "-journal"):
            remove_if_present(draft.catalog + suffix)

    def _fill(self, connection: sqlite3.Connection) -> RebuildReport:
        connection.execute("BEGIN IMMEDIATE")
        packs = self._add_packs(connection)
        self._add_layers(connection)
        images = self._add_images(connection)
        tags, lost_names, unreadable = self._add_tags(connection, images)
        (chunks,) = connection.execute("SELECT count(*) FROM chunks").fetchone()
        (layers,) = connection.execute("SELECT count(*) FROM layers").fetchone()
        return RebuildReport(
            packs,
            chunks,
            layers,
            len(images),
            tags,
            self._damaged,
            self._lost_layers,
            lost_names,
            unreadable,
        )

    def _add_packs(self, connection: sqlite3.Connection) -> int:
        files = list(pack_files(self._paths))
        copies = Copies(connection, self._reader)
        self._progress.start("reading packs", len(files))
        for pack_id, size in files:
            known = self._known_pack(pack_id, size)
            if known is not None:
                number = insert_pack(connection, pack_id, size, (), None, known.effort)
                copies.note(number, known.blocks)
                insert_blocks(connection, number, known.blocks)
                self._read_layers(pack_id, known.blocks)
            self._progress.advance(1)
        self._progress.finish()
        copies.choose()
        refresh_depths(connection)
        return len(files) - len(self._damaged)

    def _known_pack(self, pack_id: PackId, size: int) -> KnownPack | None:
        """Return what lies in a pack: as it says itself, else as the old catalog had it."""
        try:
            return KnownPack(self._reader.footer(pack_id), self._reader.effort(pack_id))
        except FileNotFoundError as err:
            self._damaged[pack_id] = str(err)
            return None
        except CorruptPackError as err:
            self._refuse_failing_medium(err, pack_id)
            known = self._old.pack(pack_id) if size else None  # nothing is in an empty one
            kept = "; what the old index has of it is kept for repair" if known else ""
            self._damaged[pack_id] = f"{err}{kept}"
            return known

    def _refuse_failing_medium(self, err: Exception, pack_id: PackId) -> None:
        """Raise if the medium did not give a pack's bytes: it may the next time.

        An index without them makes garbage of what its layers need.
        """
        if isinstance(err, CorruptPackError) and err.is_of_the_medium:
            path = self._paths.pack(pack_id)
            raise StorageError(
                f"could not read {path}: {err.message}; the index is as it was",
                hint="run it again; if the disk goes on failing, move the file to "
                f"{self._paths.quarantine} and do without what it holds",
            ) from err

    def _read_layers(self, pack_id: PackId, blocks: list[Block]) -> None:
        for block in blocks:
            if block.kind is not ItemKind.LAYER:
                continue
            try:
                raw = self._reader.block(
                    pack_id, block.offset, block.stored_length, block.raw_length
                )
            except CorruptPackError as err:
                self._refuse_failing_medium(err, pack_id)
                raw = b""
            offset = 0
            for item_id, length in block.items:
                if item_id:  # else what lies there is in no use
                    self._read_layer(item_id, raw[offset : offset + length])
                offset += length

    def _read_layer(self, item_id: bytes, encoded: bytes) -> None:
        """Remember a layer by its item, or by the old catalog's copy where that is damaged."""
        if layer_item_id(encoded) != item_id:
            encoded = self._old.layer_record(item_id) or b""
        try:
            record = decode_layer(encoded)
        except FormatError:
            self._lost_layers += 1
        else:
            self._layers.setdefault(record.diff_id, []).append(record)

    def _add_layers(self, connection: sqlite3.Connection) -> None:
        """Insert a record for each layer, preferring one whose chunks are all there."""

        def whole(record: LayerRecord) -> bool:
            return all(
                connection.execute("SELECT 1 FROM chunks WHERE id = ?", (chunk_id,)).fetchone()
                for _, chunk_id in record.tree + record.recipe
            )

        for diff_id, records in sorted(self._layers.items()):
            best = next((record for record in records if whole(record)), records[0])
            encoded = encode_layer(best)
            connection.execute(
                "INSERT INTO layers VALUES (?, ?, ?)", (diff_id, layer_item_id(encoded), encoded)
            )

    def _add_images(self, connection: sqlite3.Connection) -> set[str]:
        """Insert every image whose manifest, config and layers are there; return their ids."""
        best: dict[ImageId, tuple[tuple[bool, int], ImageRecord]] = {}
        for digest in blob_digests(self._paths):
            found = self._image(digest)
            if found is not None:
                known = best.get(found[1].image_id)
                if known is None or known[0] < found[0]:
                    best[found[1].image_id] = found
        for _, record in best.values():
            insert_image(connection, record)
        return set(best)

    def _image(self, digest: Digest) -> tuple[tuple[bool, int], ImageRecord] | None:
        """Return the image of a blob that is a manifest, and how good that is; or None.

        An image that came from elsewhere has several: one of ours, which remembers the others.
        Of ours there may be earlier ones, until the next gc. The best names nothing that is
        not there, and remembers most.
        """
        try:
            manifest = get_blob(self._paths, digest)
            image_id = manifest_config(manifest)
            facts = image_facts(get_blob(self._paths, image_id))
            origins = decode_origins(manifest)
        except (IntegrityError, NotFoundError):
            return None  # and a disk that failed is told: leaving an image out would lose it
        if not self._layers.keys() >= set(facts.diff_ids):
            self._torn_images.add(ImageId(Digest(image_id)))
            return None
        size = sum(self._layers[diff_id][0].content_size for diff_id in facts.diff_ids)
        record = ImageRecord(ImageId(Digest(image_id)), digest, facts.created, facts.diff_ids, size)
        whole = self._layers.keys() >= set(origins.kept) and all(
            has_blob(self._paths, document) for document in origins.documents
        )
        return (whole, len(origins.documents) + len(origins.encodings)), record

    def _add_tags(
        self, connection: sqlite3.Connection, images: set[str]
    ) -> tuple[int, dict[str, ImageId], int]:
        """Insert the names; return how many, those of torn images, and unreadable lines."""
        log = names_log.read_log(self._paths.names_log)
        names = names_log.replay(log.records, images)
        # The log may name images that were collected: a size that differs makes the
        # next change of a name write a snapshot first.
        stamp = names_log.stamp(self._paths.names_log)
        wanted = names_log.replay(log.records, images | self._torn_images)
        lost = {name: ImageId(Digest(i)) for name, i in wanted.items() if i in self._torn_images}
        if lost:
            stamp = stamp._replace(size=-1)  # gc leaves alone what the catalog does not know
        if log.unreadable or not stamp.size:
            # An image without a name goes with the next gc.
            old = {name: image for name, image in self._old.names().items() if image in images}
            names = {**names, **old}
            stamp = stamp._replace(size=-1)
        insert_tags(connection, sorted(names.items()))
        insert_pins(connection, names_log.replay_pins(log.records, names, images))
        record_stamp(connection, stamp)
        return len(names), lost, log.unreadable

    def _force_names(self) -> None:
        """Force the names of packs and blobs, on which the new catalog counts.

        Who gave one may have been killed before it was on disk: a pack without a row gets one here,
        and what comes next finds its chunks and does not store them again.
        """
        packs = {self._paths.pack_dir(pack_id) for pack_id, _ in pack_files(self._paths)}
        for directory in (self._paths.packs, self._paths.blobs, *sorted(packs)):
            fsync_directory(directory)

    def _swap(self, draft: StorePaths) -> None:
        """Put the draft in the catalog's place, the old one into quarantine."""
        fd = os.open(draft.catalog, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        self._force_names()
        replace_catalog(self._paths, draft.catalog)
        self._clear_draft(draft)
        with contextlib.suppress(OSError):
            os.rmdir(draft.root)
