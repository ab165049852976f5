"""What becomes unreferenced when named images lose their names: of a set, and image by image.

A group of items goes with the last of the images that need it, if no view, command, step or
cache mount does; so does a blob. Exact for what is referenced: ``gc`` then frees it, and a little
more or less with the packs that it leaves or writes anew, which only its own plan knows
(:mod:`layerstore.store.collect.removal`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.measure.ledger import Census, uses_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from layerstore.digest import ImageId
    from layerstore.measure.attribution import Attribution
    from layerstore.measure.inventory import Inventory


class RemovalShare(NamedTuple):
    """What one image's removal makes unreferenced.

    Attributes:
        alone_bytes: If it goes alone.
        added_bytes: If those before it in the set are gone already; over the set these add up.
    """

    image_id: ImageId
    alone_bytes: int
    added_bytes: int


def removal_shares(
    inventory: Inventory, attribution: Attribution, image_ids: Sequence[ImageId]
) -> list[RemovalShare]:
    """Return what each of some named images frees that lose all their names in this order."""
    ranks = {image_id: rank for rank, image_id in enumerate(dict.fromkeys(image_ids))}
    alone, added = [0] * len(ranks), [0] * len(ranks)
    for users, size, is_free in uses_of(inventory, attribution, Census(inventory)):
        if is_free and ranks.keys() >= set(users):
            last = max(ranks[image_id] for image_id in users)
            added[last] += size
            alone[last] += size if len(users) == 1 else 0
    return [RemovalShare(image_id, alone[rank], added[rank]) for image_id, rank in ranks.items()]


def freed_by_removing(
    inventory: Inventory, attribution: Attribution, image_ids: Collection[ImageId]
) -> int:
    """Return the bytes that become unreferenced when these named images lose all their names."""
    shares = removal_shares(inventory, attribution, list(image_ids))
    return sum(share.added_bytes for share in shares)
