"""Which packs of a store are needed wholly and which not at all, told without reading the index.

Where no pack lives in part, what gc frees follows from the packs' own tables: what nothing needs
goes, and the rest is copied as it is, if at all. The remembered sums
(:mod:`layerstore.measure.summary`) say which layers need what lies where: it is so if the plain
bytes of what is needed are all bytes of the packs in which any of it lies. Where it is not, or
anything is missing, damaged or unknown, the collector's own plan
(:mod:`layerstore.store.collect.gc`) must be made.

Why: docs/decisions/0294-what-merging-frees-is-told-by-tables.md and 0356.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.formats.origins import NO_ORIGINS
from layerstore.measure.ledger import Owner, blob_path, blob_sizes, blobs_of
from layerstore.measure.summary import remembered_sums
from layerstore.store.blobs import blob_digests
from layerstore.store.catalog.rows import IN_USE

if TYPE_CHECKING:
    from layerstore.digest import DiffId
    from layerstore.measure.attribution import Sums
    from layerstore.measure.inventory import Inventory
    from layerstore.measure.ledger import Ledger
    from layerstore.store.catalog.rows import PackRow
    from layerstore.store.collect.marks import Roots
    from layerstore.store.store import Store


class Split(NamedTuple):
    """The packs in use, apart.

    Attributes:
        needed: Every byte of their blocks is needed.
        dead: No byte of theirs is.
        dead_blob_bytes: Of configs, manifests and documents that no needed image has.
    """

    needed: list[PackRow]
    dead: list[PackRow]
    dead_blob_bytes: int

    @property
    def dead_bytes(self) -> int:
        """What goes."""
        return sum(row.size for row in self.dead) + self.dead_blob_bytes


def split_packs(store: Store, inventory: Inventory, ledger: Ledger, roots: Roots) -> Split | None:
    """Return what of a store is needed, pack by pack; None if that cannot be told so.

    Args:
        store: The store.
        inventory: Of it, with sums.
        ledger: Of the inventory.
        roots: What gc keeps.
    """
    layers = _needed_layers(inventory, roots)
    if layers is None or inventory.sums is None:
        return None
    living = _packs_of(store, inventory, inventory.sums, layers)
    plain: dict[int, int] = dict(
        store.catalog.query(f"SELECT pack, SUM(raw) FROM blocks WHERE {IN_USE} GROUP BY pack")  # type: ignore[arg-type]  # noqa: S608 -- a constant
    )
    rows = {row.pack: row for row in inventory.packs.values() if row.retired is None}
    if living is None or rows.keys() != plain.keys() or not living <= rows.keys():
        return None
    if sum(plain[pack] for pack in living) != _plain_bytes(inventory.sums, layers):
        return None  # one of them lives in part
    found = Split(
        [row for row in rows.values() if row.pack in living],
        [row for row in rows.values() if row.pack not in living],
        _dead_blob_bytes(store, inventory, roots),
    )
    dead = sum(inventory.sums.stored.get(row.pack, 0) for row in found.dead)
    # Anything else, what was retired before, say, or files that nobody knows, is for the plan.
    is_all = ledger.size_of(Owner.UNREFERENCED) == dead + found.dead_blob_bytes
    return found if is_all else None


def _needed_layers(inventory: Inventory, roots: Roots) -> set[DiffId] | None:
    """Return the layers that roots reach; None if anything of them is missing or unreadable."""
    if roots.unreadable or inventory.unreadable or inventory.unreadable_images:
        return None
    images = {image.image_id: image for image in inventory.images}
    if not images.keys() >= roots.images.keys() or not all(blob_sizes(inventory).values()):
        return None
    layers = set(roots.layers)
    for image_id in roots.images:
        origins = inventory.origins.get(image_id, NO_ORIGINS)
        layers.update((*images[image_id].layers, *origins.kept))
    return layers if layers <= inventory.layers.keys() else None


def _packs_of(
    store: Store, inventory: Inventory, sums: Sums, layers: set[DiffId]
) -> set[int] | None:
    """Return the numbers of the packs in which anything lies that layers need."""
    if not any(layers.isdisjoint(group.layers) for group in sums.groups):
        return {row.pack for row in inventory.packs.values() if row.retired is None}
    if sums.runs is None:  # they are decoded where somebody asks only
        sums = remembered_sums(store, inventory.stamp) or sums
    if sums.runs is None:
        return None
    needed = {
        number for number, group in enumerate(sums.groups) if not layers.isdisjoint(group.layers)
    }
    return {
        pack for pack, runs in sums.runs.items() if any(group in needed for _, _, group in runs)
    }


def _plain_bytes(sums: Sums, layers: set[DiffId]) -> int:
    return sum(
        group.data_raw + group.meta_raw
        for group in sums.groups
        if not layers.isdisjoint(group.layers)
    )


def _dead_blob_bytes(store: Store, inventory: Inventory, roots: Roots) -> int:
    needed: set[str] = set()
    for image in inventory.images:
        if image.image_id in roots.images:
            needed.update(blobs_of(inventory, image))
    sizes = {file.path: file.apparent_size for file in inventory.files}
    return sum(
        sizes.get(blob_path(digest), 0)
        for digest in blob_digests(store.paths)
        if digest not in needed
    )
