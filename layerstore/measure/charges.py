"""Stored bytes of what is in images, file by file: who alone needs them, who shares them.

A file of a layer is charged for its chunks, each the share of its block that
:mod:`layerstore.measure.apportion` gives it, and for what these chunks are differences against.
Whoever asks puts files under keys: an image, a layer, a directory, whatever; bytes that only one
key needs are that key's alone, others are shared and split among their keys in equal parts, to the
byte. So the parts of all keys add up to what the ledger says of file contents, whatever the keys,
and :func:`rows <Charges.rows>` asserts it.

Files are those of layers: what an upper layer hides or removes is stored all the same, and has a
row. Every tree is read once, and only names, lengths and chunks of files are kept of it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from layerstore.formats.origins import NO_ORIGINS
from layerstore.formats.pack import ItemKind
from layerstore.formats.tree import FILE
from layerstore.measure.apportion import share
from layerstore.measure.attribution import Needs, Sets, attribute, packs_on_disk
from layerstore.measure.inventory import ChunkReader, Inventory, take_inventory
from layerstore.measure.ledger import Census, Ledger, assert_exact, ledger_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence

    from layerstore.digest import ChunkId, DiffId, ImageId
    from layerstore.formats.tree import Changeset
    from layerstore.measure.attribution import Attribution
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store

K = TypeVar("K", bound="Hashable")


class Holding(NamedTuple):
    """Stored bytes of one key.

    Attributes:
        exclusive_size: Bytes that no other key of the table needs.
        shared_size: Bytes that others need, too.
        share_size: The exclusive ones and an equal part of each shared one; over all keys
            these add up to everything.
    """

    exclusive_size: int
    shared_size: int
    share_size: int

    @property
    def stored_size(self) -> int:
        """Everything that it needs."""
        return self.exclusive_size + self.shared_size


class LayerFile(NamedTuple):
    """A regular file of a layer.

    Attributes:
        size: Its logical bytes.
        chunks: Its content, each chunk once; holes have none.
    """

    path: bytes
    size: int
    chunks: tuple[ChunkId, ...]


class FileCharge(NamedTuple):
    """A file with what it takes.

    Attributes:
        images: Those of the selection that have its layer, oldest first.
        holding: Against every other file of the selection's layers.
    """

    images: tuple[ImageId, ...]
    layer: DiffId
    path: bytes
    size: int
    holding: Holding


class Charges:
    """What the contents of some images take; made once, asked in many ways.

    Attributes:
        images: The selection.
        layers: Its layers, each with the images that have it, in order of the images.
        originals: Those of these layers that are compressed originals: one file each.
        contents_size: Stored bytes of file contents that the selection needs.
        metadata_size: Stored bytes of its trees, recipes and layer records.
        ledger: Of the whole store.
        unreadable: Layers whose trees cannot be read; they have no files here.
    """

    def __init__(
        self,
        inventory: Inventory,
        images: Sequence[ImageRecord],
        read: Callable[[DiffId], Changeset | None],
    ) -> None:
        """Use :func:`take_charges`, unless an inventory is at hand.

        Args:
            inventory: Of the store, with rows.
            images: The selection.
            read: Returns a layer's entries, None if they cannot be read; asked once a layer.
        """
        self.images = tuple(images)
        self.layers: dict[DiffId, tuple[ImageRecord, ...]] = {}
        self.originals: set[DiffId] = set()
        for image in self.images:
            kept = inventory.origins.get(image.image_id, NO_ORIGINS).kept
            self.originals.update(kept)
            for diff_id in dict.fromkeys((*image.layers, *kept)):
                if diff_id not in inventory.layers:
                    continue  # its record is lost: check says so
                self.layers[diff_id] = (*self.layers.get(diff_id, ()), image)
        self._inventory = inventory
        self._files = {diff_id: _files_of(read(diff_id)) for diff_id in inventory.layers}
        self._needs = Needs(inventory)
        attribution = attribute(inventory, self._chunks_of)
        self._sizes = data_sizes(inventory)
        self.ledger: Ledger = ledger_of(inventory, attribution)
        assert_exact(self.ledger)
        self.contents_size, self.metadata_size = _sizes_of(inventory, attribution, self.images)
        self.unreadable: tuple[DiffId, ...] = ()

    def files(self, layer: DiffId) -> Sequence[LayerFile]:
        """Return the regular files of a layer of the selection, sorted by path."""
        return self._files[layer]

    def rows(self, key: Callable[[DiffId, LayerFile], K]) -> dict[K, Holding]:
        """Return what each key holds.

        Args:
            key: What to put a file of a layer under.
        """
        items: dict[K, set[ChunkId]] = {}
        for layer in self.layers:
            for file in self._files[layer]:
                items.setdefault(key(layer, file), set()).update(file.chunks)
        return self.rows_of(items)

    def rows_by_image(self) -> dict[ImageId, Holding]:
        """Return what each image of the selection holds."""
        # By layer first: 500 images over one base are 500 times its files.
        by_layer = self._groups({layer: self._chunks_of(layer) for layer in self.layers})
        ranks = {image.image_id: rank for rank, image in enumerate(self.images)}
        groups = (
            (sorted({i.image_id for m in members for i in self.layers[m]}, key=ranks.get), stored)  # type: ignore[arg-type]
            for members, stored in by_layer
        )
        return self._whole(_spread(ranks, groups))

    def rows_of(self, items: Mapping[K, set[ChunkId]]) -> dict[K, Holding]:
        """Return what keys hold that need these chunks; together all of the selection's files.

        Raises:
            AssertionError: The parts do not add up: a bug of layerstore.
        """
        return self._whole(_spread(items, self._groups(items)))

    def of_files(self) -> Iterator[FileCharge]:
        """Yield every file of the selection's layers with what it takes, layer by layer."""
        numbers = {
            (layer, index): set(file.chunks)
            for layer in self.layers
            for index, file in enumerate(self._files[layer])
        }
        for (layer, index), holding in self.rows_of(numbers).items():
            file = self._files[layer][index]
            images = tuple(image.image_id for image in self.layers[layer])
            yield FileCharge(images, layer, file.path, file.size, holding)

    def _groups(self, items: Mapping[K, set[ChunkId]]) -> list[tuple[tuple[K, ...], int]]:
        """Return stored bytes by the keys that need them."""
        sets: Sets[K] = Sets()
        for key, chunks in items.items():
            sets.add(key, self._needs.with_bases(chunks))
        sums = [0] * len(sets.members)
        sizes = self._sizes
        for chunk_id, number in sets.of_item.items():
            sums[number] += sizes.get(chunk_id, 0)
        return list(zip(sets.members, sums, strict=True))

    def _whole(self, found: dict[K, Holding]) -> dict[K, Holding]:
        total = sum(holding.share_size for holding in found.values())
        if total != self.contents_size - self._in_no_file:
            raise AssertionError(f"parts add up to {total} of {self.contents_size} bytes")
        return found

    def _chunks_of(self, layer: DiffId) -> set[ChunkId]:
        return {chunk_id for file in self._files[layer] for chunk_id in file.chunks}

    @functools.cached_property
    def _in_no_file(self) -> int:
        """The content bytes that only trees and records refer to: none, by what writes."""
        of_files: set[ChunkId] = set()
        of_records: set[ChunkId] = set()
        for layer in self.layers:
            record = self._inventory.layers[layer]
            of_files |= self._chunks_of(layer)
            of_records.update(chunk_id for _, chunk_id in record.tree + record.recipe)
        alone = self._needs.with_bases(of_records) - self._needs.with_bases(of_files)
        return sum(self._sizes.get(item, 0) for item in alone)


def _spread(keys: Iterable[K], groups: Iterable[tuple[Sequence[K], int]]) -> dict[K, Holding]:
    """Give every key its part of the groups that it is among."""
    alone = dict.fromkeys(keys, 0)
    shared = dict.fromkeys(alone, 0)
    parts = dict.fromkeys(alone, 0)
    for members, stored in groups:
        own = alone if len(members) == 1 else shared
        for place, key in enumerate(members):
            own[key] += stored
            parts[key] += share(place, 1, len(members), stored)
    return {key: Holding(alone[key], shared[key], parts[key]) for key in alone}


def take_charges(
    store: Store,
    references: Sequence[str] = (),
    look: Callable[[DiffId, Changeset], None] | None = None,
) -> Charges:
    """Return what the contents of images take in a store as it is now.

    Args:
        store: The store.
        references: Names or ids; none means all named images, oldest first.
        look: Is shown every layer's entries as they are read.

    Raises:
        NotFoundError: A reference names nothing.
        IntegrityError: The catalog or a layer's record is damaged. A damaged tree is none:
            see ``unreadable``.
        StorageError: The store cannot be read.
    """
    inventory = take_inventory(store)
    chosen = {image.image_id: image for image in map(store.resolve, references)}
    reader = ChunkReader(store, inventory)

    def read(layer: DiffId) -> Changeset | None:
        changeset = reader.changeset(layer)
        if changeset is not None and look is not None:
            look(layer, changeset)
        return changeset

    found = Charges(inventory, list(chosen.values()) or inventory.tagged(), read)
    found.unreadable = tuple(reader.unreadable)
    return found


def _files_of(changeset: Changeset | None) -> tuple[LayerFile, ...]:
    if changeset is None:
        return ()
    return tuple(
        LayerFile(
            entry.path,
            entry.size,
            tuple({chunk_id: None for _, chunk_id in entry.extents if chunk_id is not None}),
        )
        for entry in changeset.entries
        if entry.kind is FILE
    )


def data_sizes(inventory: Inventory) -> dict[ChunkId, int]:
    """Return the stored bytes of every chunk of file contents that lies in a pack on disk."""
    on_disk = packs_on_disk(inventory)
    blocks = {
        (row.pack, row.block): (row.raw_length, row.stored_length)
        for row in inventory.blocks
        if row.kind == ItemKind.DATA and row.pack in on_disk
    }
    return {
        chunk_id: share(offset, length, *block)
        for chunk_id, pack, number, offset, length in inventory.chunks
        if (block := blocks.get((pack, number))) is not None
    }


def _sizes_of(
    inventory: Inventory, attribution: Attribution, images: Iterable[ImageRecord]
) -> tuple[int, int]:
    """Return the stored bytes of contents and of metadata that images need."""
    census = Census(inventory, images)
    needed = [group for group in attribution.groups if census.images(group)]
    return sum(group.data_stored for group in needed), sum(group.meta_stored for group in needed)
