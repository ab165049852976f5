"""A selection of images of a store, read once for everything that is asked about its savings.

Every scheme is counted as what each image *adds* when the images come in their order: the sums
are the schemes' sizes, the running sums are how they grow.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from layerstore.digest import chain_id
from layerstore.errors import InputError
from layerstore.measure.apportion import share
from layerstore.measure.attribution import attribute
from layerstore.measure.contents import LayerContent, image_sizes, layer_content
from layerstore.measure.inventory import read_changeset, take_inventory
from layerstore.measure.ledger import Owner, assert_exact, blob_sizes, blobs_of, ledger_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from layerstore.digest import DiffId, ImageId
    from layerstore.formats.tree import Changeset
    from layerstore.measure.attribution import Attribution
    from layerstore.measure.contents import Chain, Content, ContentSize
    from layerstore.measure.inventory import Inventory
    from layerstore.measure.ledger import Ledger
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store


class Layers:
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


class Survey(NamedTuple):
    """Images that were chosen, and the store around them.

    Attributes:
        chosen: In the order given, or oldest first.
        copies: Containers of each.
        sizes: Of each image's file system.
        ranks: Numbers (from 0) of the chosen images that a layer is of.
    """

    inventory: Inventory
    layers: Layers
    attribution: Attribution
    ledger: Ledger
    chosen: tuple[ImageRecord, ...]
    copies: dict[ImageId, int]
    sizes: dict[Chain, ContentSize]
    ranks: dict[DiffId, set[int]]

    def new_layers(self) -> Iterator[tuple[int, DiffId]]:
        """Yield each layer once, with the number of the first image that has it."""
        seen: set[DiffId] = set()
        for rank, image in enumerate(self.chosen):
            for diff_id in image.layers:
                if diff_id not in seen:
                    seen.add(diff_id)
                    yield rank, diff_id

    def owners(self, layers: frozenset[DiffId]) -> set[int]:
        """Return the numbers of the chosen images that have any of these layers."""
        return set().union(*(self.ranks.get(diff_id, ()) for diff_id in layers))


def take_survey(store: Store, references: Sequence[str] = (), *, copies: int | None = 1) -> Survey:
    """Read what the savings of images are computed from.

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
    layers = Layers(store, inventory)
    if copies is not None and copies < 0:
        raise InputError(f"{copies} copies of an image make no sense: expected 0 or more")
    chosen = _choose(store, inventory, references)
    if copies is None:
        views = Counter(view.image_id for view in inventory.views)
        chosen = [image for image in chosen if references or views[image.image_id]]
        numbers = {image.image_id: views[image.image_id] for image in chosen}
    else:
        numbers = {image.image_id: copies for image in chosen}
    sizes = image_sizes([image.layers for image in chosen], layers.changeset, layers.content)
    attribution = attribute(inventory, lambda diff_id: layers.content(diff_id).chunks)
    ledger = ledger_of(inventory, attribution)
    assert_exact(ledger)
    ranks: dict[DiffId, set[int]] = {}
    for rank, image in enumerate(chosen):
        for diff_id in image.layers:
            ranks.setdefault(diff_id, set()).add(rank)
    return Survey(inventory, layers, attribution, ledger, tuple(chosen), numbers, sizes, ranks)


def _choose(store: Store, inventory: Inventory, references: Sequence[str]) -> list[ImageRecord]:
    if not references:
        return list(inventory.tagged())
    chosen = {image.image_id: image for image in map(store.resolve, references)}
    return list(chosen.values())


# -- what each image adds, scheme by scheme


def full_copies(survey: Survey) -> list[int]:
    """A file system of its own for every container."""
    return [
        survey.sizes[image.layers].allocated_size * survey.copies[image.image_id]
        for image in survey.chosen
    ]


def plain_layers(survey: Survey) -> list[int]:
    """Every layer of every distinct chain, each in a directory of its own."""
    unpacked: set[str] = set()
    added = [0] * len(survey.chosen)
    for rank, image in enumerate(survey.chosen):
        for depth in range(1, len(image.layers) + 1):
            chain = image.layers[:depth]
            name = chain_id(chain)
            if name not in unpacked:
                unpacked.add(name)
                added[rank] += survey.layers.content(chain[-1]).allocated_size
    return added


def whole_files(survey: Survey) -> list[int]:
    """Every distinct file content of the layers once."""
    seen: set[Content] = set()
    added = [0] * len(survey.chosen)
    for rank, diff_id in survey.new_layers():
        for content, (_, allocated) in survey.layers.content(diff_id).contents.items():
            if content not in seen:
                seen.add(content)
                added[rank] += allocated
    return added


class Stored(NamedTuple):
    """What the store keeps of each image of a selection.

    Attributes:
        exclusive: Stored bytes that no other image of the selection has.
        shared: Stored bytes that others have too.
        added: Stored bytes that were new with it.
        unique: Plain bytes of chunks that were new with it.
        overhead: Its part of what the store needs beside; in proportion to ``added``.
    """

    exclusive: list[int]
    shared: list[int]
    added: list[int]
    unique: list[int]
    overhead: list[int]


def stored(survey: Survey) -> Stored:
    """Attribute the stored bytes of a selection to its images."""
    blobs = blob_sizes(survey.inventory)
    own = [sum(blobs[d] for d in blobs_of(survey.inventory, image)) for image in survey.chosen]
    tally = Stored(list(own), [0] * len(own), list(own), [0] * len(own), [])
    for group in survey.attribution.groups:
        owners = survey.owners(group.layers)
        if not owners:
            continue
        first = min(owners)
        tally.unique[first] += group.data_raw
        tally.added[first] += group.stored
        part = tally.exclusive if len(owners) == 1 else tally.shared
        for rank in owners:
            part[rank] += group.stored
    return tally._replace(overhead=_overhead(survey.ledger, tally.added))


def writable_size(ledger: Ledger) -> int:
    """Return the bytes on disk of all writable layers."""
    return sum(layer.disk_size for layer in ledger.writable)


def _overhead(ledger: Ledger, added: Sequence[int]) -> list[int]:
    """Return each image's part of the store's overhead."""
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
    apart = writable_size(ledger) + ledger.unpacked_disk_size + ledger.cache_mounts_disk_size
    apart += ledger.size_of(Owner.ORIGINALS)  # no other scheme of the table keeps them
    overhead = ledger.disk_size - apart - all_content
    parts = []
    before = 0
    for size in added:
        parts.append(share(before, size, all_content, overhead) if size else 0)
        before += size
    return parts
