"""What sharing saves, each figure against a named baseline.

Five ways to keep the same containers on a disk:

full copies
    Every container has a root file system of its own, as virtual machines do:
    each image's visible files, times its containers.
plain layers
    Every layer is unpacked once and mounted under the layers above it, as Docker's
    overlay2 does. Like there, a layer is identified by its chain ID: the same
    changeset above another parent is another directory.
whole files
    Every distinct file content once, not compressed, as in OSTree or composefs.
chunks
    Every distinct chunk once, not compressed.
stored
    What this store takes: the chunks compressed, with all trees, recipes,
    configs, pack framing, catalog and allocation slack.

The first three are computed with :mod:`layerstore.measure.host_model`: what ``du``
would print after unpacking to ext4. Writable layers of containers cost the same in every
scheme; their measured size stands beside the table and in none of the rows.
"""

from __future__ import annotations

import enum
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from layerstore.digest import chain_id
from layerstore.errors import InputError
from layerstore.measure.apportion import share
from layerstore.measure.attribution import attribute
from layerstore.measure.contents import LayerContent, image_sizes, layer_content
from layerstore.measure.inventory import read_changeset, take_inventory
from layerstore.measure.ledger import (
    Ledger,
    Owner,
    assert_exact,
    blob_sizes,
    blobs_of,
    ledger_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from layerstore.digest import DiffId, ImageId
    from layerstore.formats.tree import Changeset
    from layerstore.measure.attribution import Attribution
    from layerstore.measure.contents import Chain, Content, ContentSize
    from layerstore.measure.inventory import Inventory
    from layerstore.store.catalog_rows import ImageRecord
    from layerstore.store.store import Store


class Scheme(enum.StrEnum):
    """A way to keep images on a disk, most expensive first."""

    FULL_COPIES = "full_copies"
    PLAIN_LAYERS = "plain_layers"
    WHOLE_FILES = "whole_files"
    CHUNKS = "chunks"
    STORED = "stored"


SCHEME_LABELS = {
    Scheme.FULL_COPIES: "full copies (virtual machines)",
    Scheme.PLAIN_LAYERS: "plain layers (docker overlay2)",
    Scheme.WHOLE_FILES: "whole files once, plain",
    Scheme.CHUNKS: "chunks once, plain",
    Scheme.STORED: "layerstore, on disk",
}


class SchemeSize(msgspec.Struct, frozen=True):
    """What one scheme takes for the selected images and their containers.

    Attributes:
        size: Bytes: of allocated blocks for the schemes that unpack files, of plain
            chunks for ``chunks``, of the store's disk for ``stored``.
    """

    scheme: Scheme
    size: int

    @property
    def label(self) -> str:
        """What people read."""
        return SCHEME_LABELS[self.scheme]


class ImageSavings(msgspec.Struct, frozen=True):
    """One image of the selection.

    Attributes:
        copies: Containers it was counted for.
        logical_size: File bytes as one container sees them.
        copy_size: Bytes of one full copy on the host's disk.
        exclusive_size: Stored bytes that no other image of the selection has.
        shared_size: Stored bytes that others of the selection have too.
        added_size: Stored bytes that were new when the images came in this order;
            over the selection they add up to all its stored bytes.
    """

    image_id: str
    names: tuple[str, ...]
    copies: int
    logical_size: int
    copy_size: int
    exclusive_size: int
    shared_size: int
    added_size: int


class Savings(msgspec.Struct, frozen=True):
    """The comparison for a set of images.

    Attributes:
        schemes: Most expensive way first, ``stored`` last.
        images: In the order given, or oldest first.
        containers: Root file systems counted.
        logical_size: File bytes as all containers see them.
        unique_size: File bytes after deduplication, before compression.
        stored_content_size: Stored bytes of these images' chunks, metadata and configs.
        overhead_size: Their part of what the store needs beside: pack framing, catalog,
            locks, allocation slack; in proportion to ``stored_content_size``.
        writable_size: Bytes on disk of all writable layers of the store, in no scheme.
        not_counted_size: Bytes on disk that these images do not need: other images,
            build cache, cache mounts, unreferenced bytes, files unpacked for kernel views.
    """

    schemes: tuple[SchemeSize, ...]
    images: tuple[ImageSavings, ...]
    containers: int
    logical_size: int
    unique_size: int
    stored_content_size: int
    overhead_size: int
    writable_size: int
    not_counted_size: int

    def size_of(self, scheme: Scheme) -> int:
        """Return one scheme's bytes."""
        return next(item.size for item in self.schemes if item.scheme is scheme)

    def saved(self, baseline: Scheme) -> int:
        """Return the bytes saved here against ``baseline``; negative when it is cheaper."""
        return self.size_of(baseline) - self.size_of(Scheme.STORED)

    def ratio(self, baseline: Scheme) -> float:
        """Return how many times more ``baseline`` takes; 0 for an empty selection."""
        stored = self.size_of(Scheme.STORED)
        return self.size_of(baseline) / stored if stored else 0.0


class _Layers:
    """Changesets of a store's layers and their counts; a changeset is read and dropped."""

    def __init__(self, store: Store, inventory: Inventory) -> None:
        self._store = store
        self._records = inventory.layers
        self._contents: dict[DiffId, LayerContent] = {}

    def changeset(self, diff_id: DiffId) -> Changeset:
        """Read a layer."""
        changeset = read_changeset(self._store, self._records[diff_id])
        if diff_id not in self._contents:
            self._contents[diff_id] = layer_content(changeset)
        return changeset

    def content(self, diff_id: DiffId) -> LayerContent:
        """Return a layer's counts, reading it if it was not read before."""
        if diff_id not in self._contents:
            self.changeset(diff_id)
        return self._contents[diff_id]


def take_savings(
    store: Store, references: Sequence[str] = (), *, copies: int | None = 1
) -> Savings:
    """Compare the schemes for images of a store.

    Args:
        store: Where the images are.
        references: Names or ids, in the order they were built; none means all named
            images, oldest first. An image named twice counts once.
        copies: Containers of each image. None counts its mounted views, and without
            references leaves out images that have none.

    Raises:
        NotFoundError: A reference names nothing.
        InputError: A negative number of copies.
        IntegrityError: The catalog or a layer's tree is damaged.
    """
    inventory = take_inventory(store)
    layers = _Layers(store, inventory)
    if copies is not None and copies < 0:
        raise InputError(f"{copies} copies of an image make no sense: expected 0 or more")
    chosen = _choose(store, inventory, references)
    if copies is None:
        views = Counter(view.image_id for view in inventory.views)
        chosen = [image for image in chosen if references or views[image.image_id]]
        numbers = {image.image_id: views[image.image_id] for image in chosen}
    else:
        numbers = {image.image_id: copies for image in chosen}
    sizes = image_sizes([image.layers for image in chosen], layers.changeset)
    attribution = attribute(inventory, lambda diff_id: layers.content(diff_id).chunks)
    return _compare(inventory, attribution, chosen, numbers, sizes, layers)


def _choose(store: Store, inventory: Inventory, references: Sequence[str]) -> list[ImageRecord]:
    if not references:
        return list(inventory.tagged())
    chosen = {image.image_id: image for image in map(store.resolve, references)}
    return list(chosen.values())


def _compare(
    inventory: Inventory,
    attribution: Attribution,
    chosen: list[ImageRecord],
    copies: dict[ImageId, int],
    sizes: dict[Chain, ContentSize],
    layers: _Layers,
) -> Savings:
    distinct = {diff_id: layers.content(diff_id) for i in chosen for diff_id in i.layers}
    tally = _tally(inventory, attribution, chosen)
    images = [_image_row(inventory, image, copies, sizes, tally) for image in chosen]
    content = sum(row.added_size for row in images)
    ledger = ledger_of(inventory, attribution)
    assert_exact(ledger)
    overhead, writable = _overhead(ledger, content)
    schemes = (
        SchemeSize(Scheme.FULL_COPIES, sum(row.copy_size * row.copies for row in images)),
        SchemeSize(Scheme.PLAIN_LAYERS, _plain_layers(chosen, distinct)),
        SchemeSize(Scheme.WHOLE_FILES, _whole_files(distinct.values())),
        SchemeSize(Scheme.CHUNKS, tally.unique_size),
        SchemeSize(Scheme.STORED, content + overhead),
    )
    return Savings(
        schemes=schemes,
        images=tuple(images),
        containers=sum(copies.values()),
        logical_size=sum(row.logical_size * row.copies for row in images),
        unique_size=tally.unique_size,
        stored_content_size=content,
        overhead_size=overhead,
        writable_size=writable,
        not_counted_size=ledger.disk_size - writable - content - overhead,
    )


class _Tally:
    """Stored bytes of the selection, image by image."""

    def __init__(self, blobs: dict[ImageId, int]) -> None:
        self.exclusive = dict(blobs)
        self.shared = dict.fromkeys(blobs, 0)
        self.added = dict(blobs)
        self.unique_size = 0


def _tally(inventory: Inventory, attribution: Attribution, chosen: list[ImageRecord]) -> _Tally:
    blobs = blob_sizes(inventory)
    tally = _Tally({i.image_id: sum(blobs[d] for d in blobs_of(inventory, i)) for i in chosen})
    ranks: dict[DiffId, set[int]] = {}
    for rank, image in enumerate(chosen):
        for diff_id in image.layers:
            ranks.setdefault(diff_id, set()).add(rank)
    for group in attribution.groups:
        owners = set().union(*(ranks.get(diff_id, ()) for diff_id in group.layers))
        if not owners:
            continue
        tally.unique_size += group.data_raw
        tally.added[chosen[min(owners)].image_id] += group.stored
        part = tally.exclusive if len(owners) == 1 else tally.shared
        for rank in owners:
            part[chosen[rank].image_id] += group.stored
    return tally


def _image_row(
    inventory: Inventory,
    image: ImageRecord,
    copies: dict[ImageId, int],
    sizes: dict[Chain, ContentSize],
    tally: _Tally,
) -> ImageSavings:
    size, image_id = sizes[image.layers], image.image_id
    return ImageSavings(
        image_id=image_id,
        names=inventory.names.get(image_id, ()),
        copies=copies[image_id],
        logical_size=size.logical_size,
        copy_size=size.allocated_size,
        exclusive_size=tally.exclusive[image_id],
        shared_size=tally.shared[image_id],
        added_size=tally.added[image_id],
    )


def _plain_layers(chosen: list[ImageRecord], layers: Mapping[DiffId, LayerContent]) -> int:
    """Unpack every layer of every distinct chain once, each in a directory of its own."""
    unpacked: dict[str, int] = {}
    for image in chosen:
        for depth in range(1, len(image.layers) + 1):
            chain = image.layers[:depth]
            unpacked[chain_id(chain)] = layers[chain[-1]].allocated_size
    return sum(unpacked.values())


def _whole_files(layers: Iterable[LayerContent]) -> int:
    contents: dict[Content, int] = {}
    for layer in layers:
        contents.update((key, allocated) for key, (_, allocated) in layer.contents.items())
    return sum(contents.values())


def _overhead(ledger: Ledger, content: int) -> tuple[int, int]:
    """Return the selection's part of the store's overhead, and the writable layers' disk size."""
    writable = sum(layer.disk_size for layer in ledger.writable)
    charged = (
        Owner.EXCLUSIVE,
        Owner.SHARED,
        Owner.METADATA,
        Owner.BLOBS,
        Owner.CACHE,
        Owner.RESTING,
        Owner.HELD,
        Owner.UNREFERENCED,
    )
    all_content = sum(ledger.size_of(owner) for owner in charged)
    apart = writable + ledger.unpacked_disk_size + ledger.cache_mounts_disk_size
    apart += ledger.size_of(Owner.ORIGINALS)  # no other scheme of the table keeps them
    overhead = ledger.disk_size - apart - all_content
    if not content:
        return 0, writable
    return share(0, content, all_content, overhead), writable
