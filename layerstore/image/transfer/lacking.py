"""What a receiver lacks of layers, in the order in which it compresses and is received best.

Trees and recipes come first: a receiver then knows what the rest is for. Content follows in the
order of paths, which is mostly that in which the receiver got what it resembles. An item
that resembles what the receiver has names that: the file at the same path of its newest
layers, or at one that differs in digits only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.formats.pack import PREFIX_MAX_BYTES, Item, ItemKind
from layerstore.formats.tree import Kind
from layerstore.image.layers.similar import SimilarFiles, brief_entries
from layerstore.store.packs.differences import WINDOW_MARGIN_BYTES, window
from layerstore.store.remotes.parcels import Lacking

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from layerstore.digest import ChunkId
    from layerstore.image.transfer.having import Having
    from layerstore.store.records import LayerRecord, Refs
    from layerstore.store.store import Store


def lacking_of(store: Store, records: Sequence[LayerRecord], having: Having) -> list[Lacking]:
    """Return what somebody lacks of layers, each item once.

    Raises:
        NotFoundError: A part of a tree is missing here.
        IntegrityError: A tree is damaged.
    """
    return list(_Lacking(store, having).of(records))


class _Lacking:
    def __init__(self, store: Store, having: Having) -> None:
        self._store = store
        self._having = having
        self._similar = SimilarFiles(store, having.layers, only_near=True)
        self._seen: set[ChunkId] = set()
        self._earlier = [store.layer(diff_id) for diff_id in having.layers]

    def of(self, records: Sequence[LayerRecord]) -> Iterator[Lacking]:
        for record in records:
            near = self._nearest(record)
            margin = PREFIX_MAX_BYTES
            yield from self._items(ItemKind.META, record.tree, near.tree if near else (), margin)
            yield from self._items(
                ItemKind.META, record.recipe, near.recipe if near else (), margin
            )
        for record in records:
            for entry in brief_entries(self._store.read_refs(record.tree)):
                if entry.kind == Kind.FILE:
                    refs = tuple((length, chunk) for length, chunk in entry.extents if chunk)
                    if any(self._is_new(chunk) for _, chunk in refs):
                        near_refs = self._similar.find(entry.path)
                        yield from self._items(ItemKind.DATA, refs, near_refs, WINDOW_MARGIN_BYTES)

    def _nearest(self, record: LayerRecord) -> LayerRecord | None:
        """Return the layer of the receiver that is most like one: that of about its size."""
        return min(
            self._earlier,
            key=lambda other: abs(other.entry_count - record.entry_count),
            default=None,
        )

    def _is_new(self, chunk_id: ChunkId) -> bool:
        return chunk_id not in self._seen and chunk_id not in self._having.ids

    def _items(self, kind: ItemKind, refs: Refs, near: Refs, margin: int) -> Iterator[Lacking]:
        lengths = {chunk: length for length, chunk in near if chunk in self._having.ids}
        offset = 0
        for length, chunk_id in refs:
            if self._is_new(chunk_id):
                self._seen.add(chunk_id)
                close = window(near, offset, length, margin)
                found = [(lengths[chunk], chunk) for chunk in close if chunk in lengths]
                yield Lacking(kind, Item(chunk_id, length), found)
            offset += length
