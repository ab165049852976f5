"""Layers in a store: reading their changesets, and storing their trees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.formats.tree import decode_changeset
from layerstore.store.records import LayerRecord

if TYPE_CHECKING:
    from layerstore.digest import DiffId
    from layerstore.formats.tree import Changeset, Paths
    from layerstore.image.layers.tree_spool import TreeSpool
    from layerstore.store.reading import StoreReader
    from layerstore.store.records import Refs
    from layerstore.store.writing.session import WriteSession


def load_changeset(store: StoreReader, diff_id: DiffId) -> Changeset:
    """Return the entries of a layer.

    Raises:
        NotFoundError: No such layer.
        IntegrityError: Its tree is damaged.
    """
    return decode_changeset(store.read_refs(store.layer(diff_id).tree))


def publish(
    session: WriteSession,
    tree: TreeSpool,
    *,
    diff_id: DiffId,
    tar_size: int,
    recipe: Refs,
    recipe_format: str,
    whiteouts: Paths = (0, ()),
    opaques: Paths = (0, ()),
) -> LayerRecord:
    """Store a layer's tree and make the layer durable and visible."""
    record = LayerRecord(
        diff_id=diff_id,
        tar_size=tar_size,
        tree=tree.store(whiteouts, opaques),
        recipe=recipe,
        recipe_format=recipe_format,
        entry_count=tree.entry_count,
        content_size=tree.content_size,
    )
    session.publish_layer(record, content=tree.chunk_ids)
    return record
