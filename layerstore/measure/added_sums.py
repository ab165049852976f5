"""Sums of a store to which layers and packs were added, from those before: the rest is not read.

Sums keep which group each stretch of a pack belongs to (:mod:`layerstore.measure.runs`): what is
stored together is mostly needed together, so stretches are few. A new layer moves the items that
were there before it from their groups to others; for these, found by their ids, and for what lies
in new packs, rows of the index are read. Items do not leave their places within an epoch (see
:attr:`~layerstore.measure.inventory.Inventory.stamp`), which whoever calls this has looked at.

Why: docs/decisions/0250-sums-of-what-was-added.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.formats.pack import ItemKind
from layerstore.measure.apportion import share
from layerstore.measure.attribution import NO_LAYER, Group, Sets, Sums
from layerstore.measure.runs import group_at, painted, renumbered
from layerstore.store.catalog.rows import IN_USE
from layerstore.store.records import layer_item_id

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from layerstore.digest import ChunkId, DiffId
    from layerstore.measure.inventory import Inventory
    from layerstore.store.catalog.catalog import Catalog
    from layerstore.store.catalog.rows import IndexRow


class Known(NamedTuple):
    """What sums are of.

    Attributes:
        packs: Numbers of all packs, retired ones too.
        layers: All layers.
    """

    packs: frozenset[int]
    layers: frozenset[DiffId]


def add_up(
    sums: Sums,
    known: Known,
    inventory: Inventory,
    catalog: Catalog,
    file_chunks: Callable[[DiffId], Collection[ChunkId]],
) -> Sums | None:
    """Return the sums of an inventory; call in the moment in which it was taken.

    Args:
        sums: Of what is ``known`` of it.
        known: A part of the inventory, in the same epoch.
        inventory: Without rows.
        catalog: Its catalog.
        file_chunks: The chunks of file data that a layer refers to, each once.

    Returns:
        None if they must be made of all rows: something that a layer needs is not there, or
        was not when ``sums`` were made.
    """
    last = max(known.packs, default=0)
    added = [row.pack for row in inventory.packs.values() if row.pack not in known.packs]
    if sums.runs is None or any(pack <= last for pack in added):
        return None
    rows: dict[bytes, IndexRow] = {row[0]: row for row in catalog.index_rows(after=last)}
    sets: Sets[DiffId] = Sets()
    for diff_id, record in inventory.layers.items():
        if diff_id in known.layers:
            continue
        items = set(file_chunks(diff_id))
        items.update(chunk_id for _, chunk_id in record.tree + record.recipe)
        items.add(layer_item_id(inventory.layer_bytes[diff_id]))
        items |= catalog.bases_of(items)
        rows.update(catalog.chunk_places([item for item in items if item not in rows]))
        if not rows.keys() >= items:
            return None
        sets.add(diff_id, items)
    tally = _Tally(sums, catalog)
    tally.add_packs(after=last)
    by_pack: dict[int, list[IndexRow]] = {}
    for row in rows.values():
        by_pack.setdefault(row[1], []).append(row)
    for pack, members in by_pack.items():
        members.sort(key=lambda row: row[2:4])
        tally.add(pack, members, sets)
    return tally.sums()


class _Tally:
    """Groups that grow and shrink."""

    def __init__(self, sums: Sums, catalog: Catalog) -> None:
        self._catalog = catalog
        self._groups = [[*group[1:]] for group in sums.groups]
        self._layers = [group.layers for group in sums.groups]
        self._numbers = {layers: number for number, layers in enumerate(self._layers)}
        self._joined: dict[tuple[int | None, int], int] = {}
        self._runs = dict(sums.runs or {})
        self._stored = dict(sums.stored)

    def add_packs(self, after: int) -> None:
        """Count the blocks of the packs behind a number."""
        self._stored.update(
            self._catalog.query(
                "SELECT pack, SUM(stored) FROM blocks"  # noqa: S608 -- a constant
                f" WHERE pack > ? AND {IN_USE} GROUP BY pack",
                (after,),
            )  # type: ignore[arg-type]
        )

    def add(self, pack: int, rows: Sequence[IndexRow], sets: Sets[DiffId]) -> None:
        """Put items of a pack, in their order, into the groups of the sets that need them too."""
        old = self._runs.get(pack, [])
        blocks = self._blocks_of(pack)
        moved: list[tuple[int, int, int, int]] = []
        for chunk_id, _, block, offset, length in rows:
            if not length:
                continue
            before = group_at(old, block, offset)
            after = self._joined_with(before, sets, sets.of_item.get(chunk_id, NO_LAYER))
            whole, kept, place = blocks[block]
            stored = share(offset, length, whole, kept)
            for number, sign in ((before, -1), (after, 1)):
                if number is not None:
                    self._groups[number][place] += sign * stored
                    self._groups[number][place + 1] += sign * length
            moved.append((block, offset, length, after))
        self._runs[pack] = painted(old, moved)

    def _blocks_of(self, pack: int) -> dict[int, tuple[int, int, int]]:
        """Return of each block its plain and stored bytes, and where a group counts its kind."""
        rows = self._catalog.query(
            "SELECT block, raw, stored, kind FROM blocks WHERE pack = ?", (pack,)
        )
        return {
            block: (raw, stored, 0 if kind == ItemKind.DATA else 2)  # type: ignore[misc]
            for block, raw, stored, kind in rows
        }

    def _joined_with(self, before: int | None, sets: Sets[DiffId], added: int) -> int:
        """Return the group of what a group's layers need, and those of a set beside."""
        found = self._joined.get((before, added))
        if found is None:
            layers = self._layers[before] if before is not None else frozenset()
            layers = layers.union(sets.members[added])
            found = self._numbers.get(layers)
            if found is None:
                found = self._numbers[layers] = len(self._layers)
                self._layers.append(layers)
                self._groups.append([0, 0, 0, 0])
            self._joined[before, added] = found
        return found

    def sums(self) -> Sums:
        """Return the sums without groups that have become empty."""
        left = [number for number, sizes in enumerate(self._groups) if sizes[1] or sizes[3]]
        return Sums(
            tuple(Group(self._layers[number], *self._groups[number]) for number in left),
            self._stored,
            renumbered(self._runs, {number: place for place, number in enumerate(left)}),
        )
