"""One store as a summary and sorted records: what its reader hands to whoever merges.

Runs where the store is, on a worker of a cluster say. Reads the catalog and the trees of
layers, no content; writes nothing. The records are of what the named images need, as
:func:`layerstore.measure.savings.take_savings` counts it: with one store the sums are the same.
"""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from layerstore.digest import ID_BYTES, blake3_id, chain_id
from layerstore.errors import StorageError
from layerstore.formats.pack import ItemKind
from layerstore.measure.apportion import share
from layerstore.measure.attribution import Needs
from layerstore.measure.contents import layer_content
from layerstore.measure.fleet.records import Kind, id_of, record
from layerstore.measure.inventory import read_changeset, take_inventory
from layerstore.measure.ledger import blob_sizes, blobs_of
from layerstore.measure.savings import Scheme, take_savings
from layerstore.store.records import layer_item_id
from layerstore.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from layerstore.digest import ChunkId, DiffId
    from layerstore.errors import LayerstoreError
    from layerstore.measure.contents import Content, LayerContent
    from layerstore.measure.inventory import Inventory
    from layerstore.store.catalog.rows import ImageRecord


class StoreImage(msgspec.Struct, frozen=True):
    """A named image of a store.

    Attributes:
        copy_size: Bytes of one full copy on the host's disk.
    """

    image_id: str
    names: tuple[str, ...]
    copy_size: int


class StoreSummary(msgspec.Struct, frozen=True):
    """What is told of one store beside its records.

    Attributes:
        version: Of the layerstore that read it.
        overhead_size: Bytes of framing, catalog, locks and slack, as ``savings`` has it.
        full_copies: Bytes of one container of each image.
        records: How many there are.
    """

    version: str
    images: tuple[StoreImage, ...]
    overhead_size: int
    full_copies: int
    records: int


def summarize(root: str) -> tuple[StoreSummary, bytes]:
    """Return a store's summary and its records, sorted.

    Raises:
        NotFoundError: There is no store.
        IntegrityError: Its catalog or a layer's tree is damaged.
        StorageError: It cannot be read.
    """
    try:
        return _summarized(root)
    except OSError as err:
        where = f"{os.fsdecode(err.filename)}: " if err.filename else ""
        raise StorageError(f"{where}{err.strerror or err}") from err


def named(error: LayerstoreError, label: str) -> LayerstoreError:
    """Return an error whose message names the store that it is about."""
    if label not in error.message:
        error.message = f"{label}: {error.message}"
        error.hint = None  # what it tells to type would be done to another store
    return error


def _summarized(root: str) -> tuple[StoreSummary, bytes]:
    with Store.open(Path(root)) as store:
        savings = take_savings(store)
        inventory = take_inventory(store)
        chosen = inventory.tagged()
        wanted = {diff_id for image in chosen for diff_id in image.layers}
        layers = {
            diff_id: layer_content(read_changeset(store, inventory.layers[diff_id]))
            for diff_id in sorted(wanted)
        }
    found = sorted(set(_records(inventory, chosen, layers)))
    summary = StoreSummary(
        version=metadata.version("layerstore"),
        images=tuple(StoreImage(i.image_id, i.names, i.copy_size) for i in savings.images),
        overhead_size=savings.overhead_size,
        full_copies=savings.size_of(Scheme.FULL_COPIES),
        records=len(found),
    )
    return summary, b"".join(found)


def _records(
    inventory: Inventory, chosen: Iterable[ImageRecord], layers: Mapping[DiffId, LayerContent]
) -> Iterator[bytes]:
    sizes = blob_sizes(inventory)
    for image in chosen:
        for digest in blobs_of(inventory, image):
            yield record(Kind.BLOB, id_of(digest), sizes[digest])
        for depth in range(1, len(image.layers) + 1):
            chain = image.layers[:depth]
            unpacked = layers[chain[-1]].allocated_size
            yield record(Kind.CHAIN, id_of(chain_id(chain)), unpacked)
    for diff_id, content in layers.items():
        yield record(Kind.LAYER, id_of(diff_id), content.allocated_size)
        for key, (_, allocated) in content.contents.items():
            yield record(Kind.CONTENT, _content_id(key), allocated)
    yield from _items(inventory, layers)


def _content_id(content: Content) -> bytes:
    if isinstance(content, bytes):
        return content
    return blake3_id(msgspec.msgpack.encode(content))


def _items(inventory: Inventory, layers: Mapping[DiffId, LayerContent]) -> Iterator[bytes]:
    """Yield the records of what the layers refer to, and of what that is a difference against."""
    needed: set[ChunkId] = set()
    for diff_id, content in layers.items():
        layer = inventory.layers[diff_id]
        needed.update(content.chunks)
        needed.update(chunk_id for _, chunk_id in layer.tree + layer.recipe)
        needed.add(layer_item_id(inventory.layer_bytes[diff_id]))
    Needs(inventory).with_bases(needed)
    files = {file.path for file in inventory.files if file.path.startswith("packs/")}
    on_disk = {
        row.pack
        for name, row in inventory.packs.items()
        if f"packs/{name[:2]}/{name}.pack" in files
    }
    blocks = {(row.pack, row.block): row for row in inventory.blocks if row.pack in on_disk}
    for chunk_id, pack, block, offset, length in inventory.chunks:
        row = blocks.get((pack, block))
        if row is None or chunk_id not in needed or len(chunk_id) != ID_BYTES:
            continue
        stored = share(offset, length, row.raw_length, row.stored_length)
        yield record(Kind.ITEM, chunk_id, stored)
        if row.kind == ItemKind.DATA:
            yield record(Kind.CHUNK, chunk_id, length)
