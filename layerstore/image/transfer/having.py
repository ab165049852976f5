"""What a receiver has: the content of images, or what its own list says."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import IntegrityError, NotFoundError
from layerstore.formats.have_list import SHORT_BYTES
from layerstore.store.references import layer_chunks

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence

    from layerstore.digest import ChunkId, DiffId
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.records import LayerRecord
    from layerstore.store.store import Store


class Having(NamedTuple):
    """What somebody has, as far as this store knows it.

    Attributes:
        ids: Chunks.
        layers: Layers of this store whose content is all there, upper and newer ones first.
    """

    ids: Container[bytes]
    layers: tuple[DiffId, ...] = ()


NOTHING = Having(frozenset())


def having_images(store: Store, images: Sequence[ImageRecord]) -> Having:
    """Return what somebody has who has these images.

    Raises:
        NotFoundError: A layer is missing here.
        IntegrityError: A layer's tree is damaged.
    """
    layers = tuple(dict.fromkeys(d for image in images for d in reversed(image.layers)))
    return Having(frozenset(chunks_of(store, layers)), layers)


def having_list(store: Store, short_ids: frozenset[bytes]) -> Having:
    """Return what somebody has whose have-list holds these ids."""
    ids = _ShortIds(short_ids)
    layers = [
        record.diff_id
        for record in _newest_first(store)
        if record.tree and all(chunk in ids for _, chunk in record.tree)
    ]
    return Having(ids, tuple(layers))


class _ShortIds:
    """Chunk ids, known by their beginnings."""

    def __init__(self, short_ids: frozenset[bytes]) -> None:
        self._short_ids = short_ids

    def __contains__(self, chunk_id: object) -> bool:
        return isinstance(chunk_id, bytes) and chunk_id[:SHORT_BYTES] in self._short_ids


def chunks_of(store: Store, layers: Iterable[DiffId]) -> set[ChunkId]:
    """Return every chunk that layers need.

    Raises:
        NotFoundError: A layer is missing.
        IntegrityError: A layer's tree is damaged.
    """
    found: set[ChunkId] = set()
    for diff_id in layers:
        found.update(layer_chunks(store.layer(diff_id), store.read_refs))
    return found


def _newest_first(store: Store) -> Iterator[LayerRecord]:
    """Yield the layers of all images that can be read, those of new images and upper ones first."""
    seen: set[DiffId] = set()
    for image in store.images():
        for diff_id in reversed(image.layers):
            if diff_id not in seen:
                seen.add(diff_id)
                try:
                    yield store.layer(diff_id)
                except (IntegrityError, NotFoundError):
                    continue
