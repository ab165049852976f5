"""Images of a remote as trees, without their content.

What describes an image - config, layer records, trees - is fetched whole when a view of it is
made, and verified as far as it can be: the config by the image's id, every chunk of a tree by
its own. That a tree belongs to its layer's diff ID cannot be seen before all content is here:
there the remote is believed, as every remote is that one pulls from by a name. Where the
local store has the layer, its own tree is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from layerstore.errors import FormatError, IntegrityError, LimitExceededError, NotFoundError
from layerstore.formats.tree import decode_changeset
from layerstore.image.layers.layers import load_changeset
from layerstore.image.lazy.fetching import fetch_all
from layerstore.image.trees.stack import stack
from layerstore.store.records import refs_length

if TYPE_CHECKING:
    from layerstore.digest import DiffId
    from layerstore.formats.tree import Changeset
    from layerstore.image.trees.stack import Node
    from layerstore.store.remotes.remote import Remote, RemoteImage
    from layerstore.store.store import Store

TREE_MAX_BYTES: Final = 1 << 30
"""Longest tree that is taken from a remote: some five million entries."""


def load_remote_root(store: Store, remote: Remote, image: RemoteImage) -> Node:
    """Return the tree of an image whose layers the remote describes.

    Raises:
        NotFoundError: The remote lacks a layer.
        IntegrityError: What describes it is damaged.
        LimitExceededError: A tree is too long.
    """
    return stack([_changeset(store, remote, diff_id) for diff_id in image.layers])


def _changeset(store: Store, remote: Remote, diff_id: DiffId) -> Changeset:
    try:
        return load_changeset(store, diff_id)
    except (NotFoundError, IntegrityError):
        return _remote_changeset(remote, diff_id)


def _remote_changeset(remote: Remote, diff_id: DiffId) -> Changeset:
    record = remote.layer(diff_id)
    if record.diff_id != diff_id:
        raise IntegrityError(f"{remote.location} gave another layer's record for {diff_id}")
    if refs_length(record.tree) > TREE_MAX_BYTES:
        raise LimitExceededError(
            f"the tree of layer {diff_id} has {refs_length(record.tree)} bytes, "
            f"at most {TREE_MAX_BYTES} are taken from a remote"
        )
    chunks = fetch_all(remote, [chunk_id for _, chunk_id in record.tree])
    for length, chunk_id in record.tree:
        if len(chunks[chunk_id]) != length:
            raise FormatError(
                f"chunk {chunk_id.hex()} of the tree of layer {diff_id} has "
                f"{len(chunks[chunk_id])} bytes where {length} are referenced"
            )
    return decode_changeset(b"".join(chunks[chunk_id] for _, chunk_id in record.tree))
