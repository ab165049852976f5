"""Several layers of a build as one (``--squash``), and what the history says then.

The one layer is the difference between the base and the result, so what a step made and a
later one removed is in no layer. The words of the history are docker's.

Source: docker, ``docker build --squash`` (behaviour).
"""

from __future__ import annotations

import enum
import hashlib
import time
from typing import TYPE_CHECKING

import msgspec

from layerstore.digest import chain_id
from layerstore.formats.oci_config import History
from layerstore.store.records import CacheRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.build.resources import BuildResources
    from layerstore.digest import DiffId, ImageId


class Squash(enum.Enum):
    """What becomes one layer."""

    NOTHING = "nothing"
    NEW_LAYERS = "new layers"
    ALL_LAYERS = "all layers"


def squashed_layers(
    resources: BuildResources, layers: Sequence[DiffId], kept: int
) -> tuple[DiffId, ...]:
    """Return a stack that shows what ``layers`` show, with one layer over the lowest ``kept``.

    The result is remembered, so that a build that finds its steps in the cache finds this, too.
    """
    base = tuple(layers[:kept])
    if len(layers) == kept:
        return base
    key = _key(base, layers, resources.epoch)
    record = resources.store.cache_get(key)
    if record is None:
        from layerstore.image.layers.layer_item import LayerItem
        from layerstore.image.trees.tree_changes import changes_between

        changes = changes_between(resources.load(base), resources.load(layers))
        items = [LayerItem(entry) for entry in changes.entries]
        diff_id = resources.publish(items, whiteouts=sorted(changes.whiteouts), near=layers)
        record = CacheRecord(key, diff_id, b"", time.time())
        resources.session.cache_put(record)
    else:
        resources.session.note_step_use(key)
    return base if record.diff_id is None else (*base, record.diff_id)


def squashed_history(
    history: Sequence[History],
    base: Sequence[History],
    image_id: ImageId,
    base_id: ImageId | None,
    *,
    has_layer: bool,
) -> list[History]:
    """Return an image's history after its new layers became one.

    Args:
        history: Of the image as it was; begins with ``base``, which keeps its layers.
        base: Of the base image; empty when its layers are squashed as well.
        image_id: What the image's id was.
        base_id: The base's id, None for none.
        has_layer: Whether the new layers came to anything.
    """
    words = f"merge {image_id} to {base_id}" if base_id else f"create new from {image_id}"
    created = next((step.created for step in reversed(history) if step.created), "")
    new = [msgspec.structs.replace(step, empty_layer=True) for step in history[len(base) :]]
    merged = History(created=created, comment=words, empty_layer=not has_layer)
    return [*base, *new, merged]


def _key(base: Sequence[DiffId], layers: Sequence[DiffId], epoch: int | None) -> str:
    # With the epoch, to which the one layer's times are held: those of the base may be later.
    parts = ["layerstore squash 2", chain_id(base), chain_id(layers), epoch]
    return "step:" + hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
