"""Everything measuring asks of a store, read once: what the catalog says, who claims what.

The catalog is read in one SQLite read transaction, the disk is walked after it, so a pack that
is published in between shows as bytes without an owner and never as an owner without bytes.
Nothing is written or locked. Do not share the store's catalog with a writing thread meanwhile.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from blake3 import blake3

from layerstore.digest import DiffId, Digest
from layerstore.errors import IntegrityError, NotFoundError
from layerstore.formats.origins import NO_ORIGINS, Origins
from layerstore.formats.reference import without_index_names
from layerstore.formats.tree import decode_changeset, decode_content
from layerstore.linux.files import read_file
from layerstore.measure.disk import FileSize, walk_sizes
from layerstore.store.collect.marks import VIEW_RECORD_MAX_BYTES
from layerstore.store.collect.resting import PREFIX
from layerstore.store.locks.leases import live_leases
from layerstore.store.records import LayerRecord, decode_layer

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from layerstore.digest import ChunkId, ImageId
    from layerstore.formats.tree import Changeset
    from layerstore.measure.attribution import Sums
    from layerstore.store.catalog.catalog import Catalog
    from layerstore.store.catalog.rows import BlockRow, ImageRecord, IndexRow, PackRow
    from layerstore.store.store import Store

_STAMP_CONTEXT: Final = "layerstore 2026-11-26 stamp of the index v1"


class View(msgspec.Struct, frozen=True):
    """What measuring reads of a view's record, ``views/ID.json``.

    Attributes:
        image_id: None for a lower that several containers have in common, which holds its layers.
        upper: The writable layer's directory, None for a read-only view.
    """

    image_id: str | None
    layers: tuple[str, ...] = ()
    upper: str | None = None


class Inventory(NamedTuple):
    """A store at one moment.

    Attributes:
        images: Every image, tagged or not, oldest first.
        origins: What is remembered of how images came, where anything is.
        names: Names of each tagged image, sorted.
        layers: Every published layer with its record, in order of diff id.
        cache_layers: Layers that the build cache remembers.
        cache_count: Remembered build steps, those without a layer too.
        resting: Key and layer of each cache mount at rest.
        held_layers: Layers of mounted views and of running commands.
        held_images: Images that views show or running commands hold, whatever their names.
        views: Mounted views, read-only and writable ones.
        packs: Packs by their hexadecimal id.
        blocks: Of packs in use; empty where ``sums`` stand for them, as ``chunks`` and ``bases``.
        files: Everything under the root, the root first.
        epoch: Of the catalog.
        stamp: Equal for two inventories of a store only if packs, blocks, chunks and layers are.
        sums: What :mod:`layerstore.measure.summary` knows of these, instead of the rows.
        unreadable: Layers that could not be read when the sums were made.
        unreadable_images: Images whose manifest cannot be read.
    """

    root: Path
    images: tuple[ImageRecord, ...]
    origins: dict[ImageId, Origins]
    names: dict[ImageId, tuple[str, ...]]
    layers: dict[DiffId, LayerRecord]
    layer_bytes: dict[DiffId, bytes]
    cache_layers: frozenset[DiffId]
    cache_count: int
    resting: dict[str, DiffId]
    held_layers: frozenset[DiffId]
    held_images: frozenset[str]
    views: tuple[View, ...]
    packs: dict[str, PackRow]
    blocks: list[BlockRow]
    chunks: list[IndexRow]
    bases: dict[tuple[int, int], list[ChunkId]]
    files: list[FileSize]
    epoch: int
    stamp: bytes = b""
    sums: Sums | None = None
    unreadable: tuple[DiffId, ...] = ()
    unreadable_images: tuple[ImageId, ...] = ()

    def tagged(self) -> list[ImageRecord]:
        """Return the images that have a name, oldest first."""
        return [image for image in self.images if image.image_id in self.names]


def take_inventory(store: Store) -> Inventory:
    """Read the catalog and walk the disk.

    Raises:
        CatalogDamagedError: The catalog is not usable.
        FormatError: A layer's record is damaged.
        StorageError: The root cannot be read.
    """
    with one_moment(store.catalog):
        inventory = with_rows(read_claims(store), store.catalog)
    return walked(inventory)


def read_claims(store: Store) -> Inventory:
    """Read who claims what: an inventory without rows and files.

    Call inside :func:`one_moment`.
    """
    catalog = store.catalog
    images = sorted(catalog.images(), key=lambda image: (image.created, image.image_id))
    layer_bytes = dict(catalog.layers())
    records = {record.key: record.diff_id for record in store.cache_records()}
    cache = [diff_id for key, diff_id in records.items() if not key.startswith(PREFIX)]
    packs, epoch = catalog.pack_rows(), catalog.epoch()
    views = _views(store)
    origins, unreadable_images = _origins(store, images)
    held_layers, held_images = _held(catalog, views, images, origins)
    names: dict[ImageId, list[str]] = {}
    for name, image_id in catalog.tags().items():
        names.setdefault(image_id, []).append(name)
    return Inventory(
        root=Path(store.root),
        images=tuple(images),
        origins=origins,
        names={key: tuple(without_index_names(found)) for key, found in names.items()},
        layers={diff_id: decode_layer(data) for diff_id, data in layer_bytes.items()},
        layer_bytes=layer_bytes,
        cache_layers=frozenset(diff_id for diff_id in cache if diff_id is not None),
        cache_count=len(cache),
        resting={key: made for key, made in records.items() if made and key.startswith(PREFIX)},
        held_layers=held_layers,
        held_images=held_images,
        views=views,
        packs={row.pack_id.hex(): row for row in packs},
        blocks=[],
        chunks=[],
        bases={},
        files=[],
        epoch=epoch,
        stamp=stamp_of(epoch, packs, layer_bytes),
        unreadable_images=unreadable_images,
    )


def with_rows(inventory: Inventory, catalog: Catalog) -> Inventory:
    """Return claims with the rows of blocks and chunks; inside the same moment."""
    bases: dict[tuple[int, int], list[ChunkId]] = {}
    for pack, block, base in catalog.base_rows():
        bases.setdefault((pack, block), []).append(base)
    return inventory._replace(blocks=catalog.block_rows(), chunks=catalog.index_rows(), bases=bases)


def walked(inventory: Inventory) -> Inventory:
    """Return an inventory with what lies on the disk now."""
    return inventory._replace(files=walk_sizes(inventory.root))


def stamp_of(epoch: int, packs: Iterable[PackRow], layers: Mapping[DiffId, bytes]) -> bytes:
    """Return a digest of everything that decides what the rows of the index are.

    Rows of blocks and bases come and go with their pack. Those of chunks are given with a
    pack's row too; whoever moves them between packs in use begins an epoch. So does who takes
    a pack out of use, and a catalog that is made anew has an epoch that none had before.
    """
    facts = (
        epoch,
        [(row.pack, row.pack_id, row.size, row.retired) for row in packs],
        list(layers.items()),
    )
    return blake3(msgspec.msgpack.encode(facts), derive_key_context=_STAMP_CONTEXT).digest()


def _origins(
    store: Store, images: Iterable[ImageRecord]
) -> tuple[dict[ImageId, Origins], tuple[ImageId, ...]]:
    """Return what is remembered of images, and those whose manifest cannot be read."""
    origins: dict[ImageId, Origins] = {}
    unreadable: list[ImageId] = []
    for image in images:
        try:
            found = store.origins(image)
        except (IntegrityError, NotFoundError):
            unreadable.append(image.image_id)  # check says what is wrong
            continue
        if found:
            origins[image.image_id] = found
    return origins, tuple(unreadable)


def read_changeset(store: Store, record: LayerRecord) -> Changeset:
    """Return a layer's entries, verified.

    Raises:
        IntegrityError: The layer's tree is damaged or missing.
    """
    return decode_changeset(store.read_refs(record.tree))


class ChunkReader:
    """Finds the file chunks of layers; a layer that cannot be read is remembered, not raised.

    Attributes:
        unreadable: Layers whose trees are damaged or missing.
    """

    def __init__(self, store: Store, inventory: Inventory) -> None:
        self._store = store
        self._records = inventory.layers
        self.unreadable: list[DiffId] = []

    def __call__(self, diff_id: DiffId) -> Collection[ChunkId]:
        """Return the chunks of a layer's files, each once."""
        try:
            return decode_content(self._store.read_refs(self._records[diff_id].tree))
        except (IntegrityError, NotFoundError):
            self.unreadable.append(diff_id)
            return ()

    def changeset(self, diff_id: DiffId) -> Changeset | None:
        """Return a layer's entries; None, and remembered, if they cannot be read."""
        try:
            return read_changeset(self._store, self._records[diff_id])
        except (IntegrityError, NotFoundError):
            self.unreadable.append(diff_id)
            return None


@contextlib.contextmanager
def one_moment(catalog: Catalog) -> Iterator[None]:
    """Let every statement in the block see the same state of the catalog."""
    catalog.query("BEGIN")
    try:
        yield
    finally:
        catalog.query("COMMIT")


def _held(
    catalog: Catalog,
    views: Iterable[View],
    all_images: Iterable[ImageRecord],
    origins: Mapping[ImageId, Origins],
) -> tuple[frozenset[DiffId], frozenset[str]]:
    """Return the layers and images that views and living leases hold; gc keeps the same."""
    alive = {lease.lease_id for lease in live_leases(catalog)}
    rows = catalog.query("SELECT lease, kind, id FROM lease_holds")
    holds = [(kind, str(what)) for lease, kind, what in rows if lease in alive]
    images = {what for kind, what in holds if kind == "image"}
    images.update(view.image_id for view in views if view.image_id is not None)
    layers = {DiffId(Digest(what)) for kind, what in holds if kind == "layer"}
    for image in all_images:
        if image.image_id in images:
            layers.update((*image.layers, *origins.get(image.image_id, NO_ORIGINS).kept))
    for view in views:
        layers.update(DiffId(Digest(name)) for name in view.layers)
    return frozenset(layers), frozenset(images)


def _views(store: Store) -> tuple[View, ...]:
    """Return the records of views; one that is just being written or removed is left out."""
    views = []
    for path in sorted(Path(store.paths.views).glob("*.json")):
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            record = read_file(str(path), max_bytes=VIEW_RECORD_MAX_BYTES)
            views.append(msgspec.json.decode(record, type=View))
    return tuple(views)
