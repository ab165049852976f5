"""Layers in a store: reading their changesets, and storing their trees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.formats.tree import Changeset, Kind, decode_changeset, encode_changeset
from layerstore.store.records import LayerRecord

if TYPE_CHECKING:
    from layerstore.digest import DiffId
    from layerstore.store.records import Refs
    from layerstore.store.session import WriteSession
    from layerstore.store.store import Store


def load_changeset(store: Store, diff_id: DiffId) -> Changeset:
    """Return the entries of a layer.

    Raises:
        NotFoundError: No such layer.
        IntegrityError: Its tree is damaged.
    """
    return decode_changeset(store.read_refs(store.layer(diff_id).tree))


def publish(
    session: WriteSession,
    changeset: Changeset,
    *,
    diff_id: DiffId,
    tar_size: int,
    recipe: Refs,
    recipe_format: str,
) -> LayerRecord:
    """Store a layer's tree and make the layer durable and visible."""
    record = LayerRecord(
        diff_id=diff_id,
        tar_size=tar_size,
        tree=session.put_bytes(encode_changeset(changeset), meta=True),
        recipe=recipe,
        recipe_format=recipe_format,
        entry_count=len(changeset.entries),
        content_size=sum(e.size for e in changeset.entries if e.kind is Kind.FILE),
    )
    session.publish_layer(record, changeset=changeset)
    return record
