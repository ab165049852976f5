"""What layers need that others do not have: the stored bytes that an image adds to a host.

An item is a chunk of file content, of a tree or of a recipe, or a layer's record. What items are
differences against is needed with them. Each item is charged its share of its block
(:mod:`layerstore.measure.apportion`), so sums agree with the ledger's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.image.layers.layers import load_changeset
from layerstore.measure.apportion import share
from layerstore.store.failures import LayerNotFoundError
from layerstore.store.records import decode_layer, layer_item_id
from layerstore.store.references import tree_chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from layerstore.digest import ChunkId, DiffId
    from layerstore.formats.tree import Changeset
    from layerstore.store.store import Store


class Beyond(NamedTuple):
    """What layers need beyond others.

    Attributes:
        stored_size: Bytes in packs, metadata and bases of differences included.
        unique_size: The same before compression.
        layers: Layers that the others do not have, each once, lowest first.
        tar_size: Bytes of their uncompressed tars: what moves without deduplication.
        items: Stored bytes of each item.
    """

    stored_size: int
    unique_size: int
    layers: tuple[DiffId, ...]
    tar_size: int
    items: dict[ChunkId, int]


def layers_beyond(
    store: Store,
    layers: Sequence[DiffId],
    known: Iterable[DiffId],
    load: Callable[[DiffId], Changeset] | None = None,
) -> Beyond:
    """Return what ``layers`` need that ``known`` ones do not.

    Args:
        store: Which has all of them.
        layers: Lowest first.
        known: What is there already.
        load: Reads a layer, for callers that keep some.

    Raises:
        NotFoundError: A layer is not in the store.
        IntegrityError: A layer's record or tree is damaged.
    """
    read = load or (lambda diff_id: load_changeset(store, diff_id))
    there = set(known)
    missing = tuple(dict.fromkeys(each for each in layers if each not in there))
    if not missing:
        return Beyond(0, 0, (), 0, {})
    wanted: set[ChunkId] = set()
    for diff_id in missing:
        wanted |= layer_items(store, diff_id, read(diff_id))
    wanted |= store.catalog.bases_of(wanted)
    has_differences = bool(store.catalog.query("SELECT 1 FROM bases LIMIT 1"))
    for diff_id in sorted(there):
        items = layer_items(store, diff_id, read(diff_id))
        wanted -= items
        if has_differences:
            wanted -= store.catalog.bases_of(items)
    sizes = stored_sizes(store, wanted)
    return Beyond(
        stored_size=sum(stored for stored, _ in sizes.values()),
        unique_size=sum(plain for _, plain in sizes.values()),
        layers=missing,
        tar_size=sum(store.layer(diff_id).tar_size for diff_id in missing),
        items={item: stored for item, (stored, _) in sizes.items()},
    )


def layer_items(store: Store, diff_id: DiffId, changeset: Changeset) -> set[ChunkId]:
    """Return every item that a layer refers to by itself.

    Raises:
        NotFoundError: The layer is not in the store.
        IntegrityError: Its record is damaged.
    """
    encoded = store.catalog.layer(diff_id)
    if encoded is None:
        raise LayerNotFoundError(f"the store holds no layer {diff_id}")
    record = decode_layer(encoded, expected=diff_id)
    items = set(tree_chunks(changeset))
    items.update(chunk_id for _, chunk_id in record.tree + record.recipe)
    items.add(layer_item_id(encoded))
    return items


def stored_sizes(store: Store, items: Collection[ChunkId]) -> dict[ChunkId, tuple[int, int]]:
    """Return the stored and the plain bytes of those items that the store has."""
    return {
        item: (share(at.offset, at.length, at.raw_length, at.stored_length), at.length)
        for item, at in store.catalog.places(items).items()
    }
