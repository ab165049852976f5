"""Whose are the stored bytes: from chunks to layers to images, exactly.

Every indexed item (file chunk, tree, recipe, layer record) is charged its share
of its block (:mod:`layerstore.measure.apportion`) and belongs to the set of layers
that refer to it, or to something stored as a difference against it. Items with the same
set are summed into one :class:`Group` at once: a store has hundreds of thousands of items
and few distinct sets, and every question (exclusive, shared, added, freed) is answered
from the groups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from layerstore.formats.pack import ItemKind
from layerstore.measure.runs import renumbered
from layerstore.store.records import layer_item_id

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Iterable, Mapping

    from layerstore.digest import ChunkId, DiffId
    from layerstore.measure.inventory import Inventory
    from layerstore.measure.runs import Runs

K = TypeVar("K")

NO_LAYER = 0
"""Number of the group that no layer refers to."""


class Group(NamedTuple):
    """Items that the same layers refer to.

    Attributes:
        layers: Those layers; empty for items without an owner.
        data_stored: Stored bytes of file contents.
        data_raw: The same before compression.
        meta_stored: Stored bytes of trees, recipes and layer records.
        meta_raw: The same before compression.
    """

    layers: frozenset[DiffId]
    data_stored: int
    data_raw: int
    meta_stored: int
    meta_raw: int

    @property
    def stored(self) -> int:
        """Stored bytes of data and metadata together."""
        return self.data_stored + self.meta_stored


class Attribution(NamedTuple):
    """All stored bytes of a store's packs.

    Attributes:
        groups: Items by owner; together they are the indexed items of packs on disk.
        dead: Bytes of blocks that no index entry reaches: second copies, and what gc
            left in a pack that it kept.
        framing: Headers, padding and footers of the packs.
        retired: Packs taken out of use, whose files gc has not removed yet.
        unknown: Files among the packs that the catalog does not know, or knows longer.
    """

    groups: tuple[Group, ...]
    dead: int
    framing: int
    retired: int
    unknown: int

    @property
    def total(self) -> int:
        """Every byte of every pack file."""
        owned = sum(group.stored for group in self.groups)
        return owned + self.dead + self.framing + self.retired + self.unknown


class Sets(Generic[K]):
    """Gives a small number to every distinct set of keys that occurs.

    Attributes:
        members: The sets by their numbers, each in the order in which keys were added.
        of_item: Number of the set of keys that refer to an item.
    """

    def __init__(self) -> None:
        self.members: list[tuple[K, ...]] = [()]
        self.of_item: dict[ChunkId, int] = {}

    def add(self, key: K, items: Iterable[ChunkId]) -> None:
        """Record that a key, which is new, refers to ``items``, each given once."""
        with_key: dict[int, int] = {}
        of_item, members = self.of_item, self.members
        for item in items:
            before = of_item.get(item, NO_LAYER)
            after = with_key.get(before)
            if after is None:
                after = with_key[before] = len(members)
                members.append((*members[before], key))
            of_item[item] = after


class Needs:
    """What reading an item takes beside its own block: the bases of that block, and theirs."""

    def __init__(self, inventory: Inventory) -> None:
        self._bases = inventory.bases
        self._block_of = {
            chunk_id: (pack, block)
            for chunk_id, pack, block, _, _ in (inventory.chunks if inventory.bases else ())
            if (pack, block) in inventory.bases
        }

    def with_bases(self, items: set[ChunkId]) -> set[ChunkId]:
        """Return items and everything that they are, directly or not, differences against."""
        todo = [item for item in items if item in self._block_of] if self._block_of else []
        while todo:
            for base in self._bases[self._block_of[todo.pop()]]:
                if base not in items:
                    items.add(base)
                    if base in self._block_of:
                        todo.append(base)
        return items


class Sums(NamedTuple):
    """What the index holds of the packs in use, if all of them are on disk.

    Attributes:
        groups: Items by owner.
        stored: Bytes of the blocks of each pack, by its number.
        runs: Where which group lies in the packs; None if something that a layer needs is nowhere.
    """

    groups: tuple[Group, ...]
    stored: Mapping[int, int]
    runs: Runs | None = None

    @property
    def indexed(self) -> int:
        """Bytes of blocks that an index entry reaches."""
        return sum(group.stored for group in self.groups)


def attribute(
    inventory: Inventory, file_chunks: Callable[[DiffId], Collection[ChunkId]]
) -> Attribution:
    """Attribute every byte of every pack file.

    Args:
        inventory: The store.
        file_chunks: The chunks of file data that a layer refers to, each once; not asked where
            the inventory has sums.
    """
    stored = inventory.sums.stored if inventory.sums else stored_by_pack(inventory)
    files, retired, unknown = _pack_files(inventory, stored)
    sums = inventory.sums or sum_up(inventory, file_chunks, files)
    in_blocks = sum(size for pack, size in stored.items() if pack in files)
    return Attribution(
        groups=sums.groups,
        dead=in_blocks - sums.indexed,
        framing=sum(files.values()) - in_blocks,
        retired=retired,
        unknown=unknown,
    )


def stored_by_pack(inventory: Inventory) -> dict[int, int]:
    """Return the bytes of blocks of each pack in use, by the pack's number."""
    stored: dict[int, int] = {}
    for block in inventory.blocks:
        stored[block.pack] = stored.get(block.pack, 0) + block.stored_length
    return stored


def packs_on_disk(inventory: Inventory) -> Container[int]:
    """Return the numbers of the packs in use whose files are there."""
    return _pack_files(inventory, stored_by_pack(inventory))[0]


def has_every_pack(inventory: Inventory, stored: Mapping[int, int]) -> bool:
    """Return whether every pack that has blocks lies on disk, so that sums of all count."""
    return stored.keys() <= _pack_files(inventory, stored)[0].keys()


def sum_up(
    inventory: Inventory,
    file_chunks: Callable[[DiffId], Collection[ChunkId]],
    packs: Container[int] | None = None,
) -> Sums:
    """Sum the items of packs by the layers that need them.

    Args:
        inventory: The store, with rows.
        file_chunks: See :func:`attribute`.
        packs: Numbers of those that are on disk; None for all.
    """
    sets: Sets[DiffId] = Sets()
    needs = Needs(inventory)
    for diff_id, record in inventory.layers.items():
        items = set(file_chunks(diff_id))
        items.update(chunk_id for _, chunk_id in record.tree + record.recipe)
        items.add(layer_item_id(inventory.layer_bytes[diff_id]))
        sets.add(diff_id, needs.with_bases(items))
    data, meta, runs = _charge_items(inventory, sets.of_item, len(sets.members), packs)
    groups: list[Group] = []
    numbers: dict[int, int] = {}
    for number, layers in enumerate(sets.members):
        if data[number][1] or meta[number][1]:
            numbers[number] = len(groups)
            groups.append(Group(frozenset(layers), *data[number], *meta[number]))
    left = None if runs is None else renumbered(runs, numbers)
    return Sums(tuple(groups), stored_by_pack(inventory), left)


def _charge_items(
    inventory: Inventory,
    set_of_item: Mapping[ChunkId, int],
    count: int,
    packs: Container[int] | None,
) -> tuple[list[tuple[int, int]], list[tuple[int, int]], Runs | None]:
    """Return the stored and the plain bytes of each set's data, and of its metadata; their runs.

    Args:
        inventory: With rows.
        set_of_item: Numbers of sets below ``count``; items in none have ``NO_LAYER``.
        count: Of sets.
        packs: As :func:`sum_up` is told.
    """
    # One list of numbers: metadata lies behind data.
    stored, raw = [0] * (2 * count), [0] * (2 * count)
    blocks = {
        (row.pack, row.block): (
            row.raw_length,
            row.stored_length,
            0 if row.kind == ItemKind.DATA else count,
        )
        for row in inventory.blocks
        if packs is None or row.pack in packs
    }
    runs: Runs = {}
    none, found = (0, 0, 0), 0
    last_pack = last_block = last_number = -1
    # Rows come in order of position: what is looked up once serves its whole block.
    for chunk_id, pack, block, offset, length in inventory.chunks:
        if block != last_block or pack != last_pack:
            whole, kept, kind = blocks.get((pack, block), none)
            if pack != last_pack:
                of_pack, last_number = runs.setdefault(pack, []), -1
            last_pack, last_block = pack, block
        if not whole:
            continue  # its pack is not on disk: check reports it, there is nothing to charge
        number = set_of_item.get(chunk_id, NO_LAYER)
        if number != last_number:
            of_pack.append((block, offset, number))
            last_number = number
        found += number != NO_LAYER
        place = kind + number
        # apportion.share, inlined: a call for every chunk of a store is most of the work
        stored[place] += (offset + length) * kept // whole - offset * kept // whole
        raw[place] += length
    both = list(zip(stored, raw, strict=True))
    return both[:count], both[count:], runs if found == len(set_of_item) else None


def _pack_files(inventory: Inventory, stored: Mapping[int, int]) -> tuple[dict[int, int], int, int]:
    """Return sizes of the pack files in use by number, and bytes of retired and unknown ones.

    Args:
        inventory: The store.
        stored: Bytes of each pack's blocks; a file that is shorter is not that pack.
    """
    in_use: dict[int, int] = {}
    retired = unknown = 0
    for file in inventory.files:
        if file.is_directory or not file.path.startswith("packs/"):
            continue
        pack_id = file.path.rpartition("/")[2].removesuffix(".pack")
        row = inventory.packs.get(pack_id)
        misplaced = file.path != f"packs/{pack_id[:2]}/{pack_id}.pack"
        if row is None or misplaced or file.apparent_size < stored.get(row.pack, 0):
            unknown += file.apparent_size
        elif row.retired is not None:
            retired += file.apparent_size
        else:
            in_use[row.pack] = file.apparent_size
    return in_use, retired, unknown
