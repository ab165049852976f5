"""Compaction: copying what lives of half-empty and small packs into new ones.

Copies are made batch by batch. A batch's new packs are durable and named before a row
moves to them, every row moves in a commit of its own batch of rows and always points at
a good copy, and only then do the old packs leave use. So at no time is more disk taken
beside the old packs than the bound that a batch was chosen by, and a crash leaves at
most one batch of copies that nothing points at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from layerstore.digest import ID_BYTES
from layerstore.formats.pack import ALIGNMENT_BYTES, BLOCK_ENTRY_2, ITEM_ENTRY
from layerstore.store.collect.item_table import PackItems
from layerstore.store.locks.pacing import Pace, turns
from layerstore.store.packs.commit import begin_epoch, publish_pack
from layerstore.store.rewriting.rewrite import rewrite_packs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from layerstore.digest import PackId
    from layerstore.store.catalog.catalog import Catalog
    from layerstore.store.catalog.rows import PackRow
    from layerstore.store.collect.item_table import ItemTable
    from layerstore.store.packs.pack_writer import SealedPack
    from layerstore.store.store import Store

REWRITE_DEAD_FRACTION = 0.25
"""Packs with at least this part dead are rewritten: copying three bytes to free one."""

MAX_EXTRA_BYTES = 512 * 1024 * 1024
"""Disk that copies may take before what they replace is freed, where there is that much."""

SMALL_PACK_BYTES = 16 * 1024 * 1024
"""Packs below this are merged once there are enough of about the same size."""

BATCH_ITEMS = 250_000
"""Items that are copied together: what is known of each until its row has moved takes 200 bytes."""

MERGE_COUNT = 8
"""How many make enough. Each merge lifts bytes one class up: each is copied at most thrice."""

_CLASSES = (SMALL_PACK_BYTES // MERGE_COUNT**2, SMALL_PACK_BYTES // MERGE_COUNT, SMALL_PACK_BYTES)


class CopyRules(NamedTuple):
    """Which packs are copied, and how much disk that may take meanwhile.

    Attributes:
        dead_fraction: Packs with at least this part dead are copied.
        max_extra_bytes: Bytes of copies beside what they replace.
    """

    dead_fraction: float
    max_extra_bytes: int


class Living(Protocol):
    """What lives in packs, which are asked for by their places in ``packs``.

    :class:`~layerstore.store.collect.item_table.ItemTable` says what the methods mean.
    """

    @property
    def packs(self) -> Sequence[PackRow]: ...  # noqa: D102

    @property
    def marked(self) -> Sequence[int]: ...  # noqa: D102

    def copy_estimate(self, index: int) -> float: ...  # noqa: D102

    def copy_bound(self, index: int) -> int: ...  # noqa: D102

    def living_counts(self, index: int) -> tuple[int, int]: ...  # noqa: D102

    def living_bases(self, index: int) -> int: ...  # noqa: D102


class Batch(NamedTuple):
    """Packs that are copied together, with the bytes their copies take at most, and about."""

    packs: tuple[PackRow, ...]
    bound: int
    estimate: int


def choose_batches(table: ItemTable, usable: Iterable[int], rules: CopyRules) -> list[Batch]:
    """Return what to copy: emptiest packs first, then small ones that are to be merged.

    Args:
        table: What lives.
        usable: Indexes of packs with something alive that nobody is writing.
        rules: What is worth it. A pack whose copy alone could exceed the bound stays.
    """
    candidates = list(usable)
    living = {
        index: table.copy_estimate(index) / max(table.stored(index), 1) for index in candidates
    }
    sparse = [index for index in candidates if 1 - living[index] >= rules.dead_fraction]
    sparse.sort(key=lambda index: (living[index], table.packs[index].pack_id))
    chosen = set(sparse)
    rest = {table.packs[index]: index for index in candidates if index not in chosen}
    small = [rest[row] for row in mergeable(rest)]
    batches: list[Batch] = []
    for group in (sparse, small):
        batches += batches_of(table, group, rules.max_extra_bytes)
    return batches


def batches_of(table: Living, group: Sequence[int], limit: int) -> list[Batch]:
    """Return packs in batches of the same effort whose copies take no more than ``limit``."""
    batches: list[Batch] = []
    for effort in sorted({table.packs[index].effort for index in group}):
        same = [index for index in group if table.packs[index].effort == effort]
        batches += _batches(table, same, limit)
    return batches


def mergeable(candidates: Iterable[PackRow]) -> list[PackRow]:
    """Return small packs of each size and effort of which there are enough, oldest first."""
    classes: dict[tuple[int, int], list[PackRow]] = {}
    for row in candidates:
        if row.size < SMALL_PACK_BYTES:
            size = next(place for place, below in enumerate(_CLASSES) if row.size < below)
            classes.setdefault((row.effort, size), []).append(row)
    enough = [members for _, members in sorted(classes.items()) if len(members) >= MERGE_COUNT]
    return [row for members in enough for row in members]


def _batches(table: Living, indexes: Iterable[int], limit: int) -> list[Batch]:
    batches: list[Batch] = []
    packs: list[PackRow] = []
    bound = estimate = items = 0
    for index in indexes:
        most = copy_bound(table, index)
        if most > limit:
            continue
        if packs and (bound + most > limit or items + table.marked[index] > BATCH_ITEMS):
            batches.append(Batch(tuple(packs), bound, estimate))
            packs, bound, estimate, items = [], 0, 0, 0
        packs.append(table.packs[index])
        items += table.marked[index]
        bound += most
        estimate += round(table.copy_estimate(index)) + _framing(table, index)
    if packs:
        batches.append(Batch(tuple(packs), bound, estimate))
    return batches


def copy_bound(table: Living, index: int) -> int:
    """Return the bytes that copying a pack's living items takes at most.

    Blocks that live in part are compressed anew; what lives of one never takes more than
    the block did, give or take a frame's header, or of a difference more than its plain bytes.
    """
    return table.copy_bound(index) + _framing(table, index) + ALIGNMENT_BYTES


def _framing(table: Living, index: int) -> int:
    """Return the bytes of headers and footer that a copy of a pack takes."""
    blocks, items = table.living_counts(index)
    entries = blocks * (BLOCK_ENTRY_2.size + 64) + items * ITEM_ENTRY.size
    return ALIGNMENT_BYTES + entries + table.living_bases(index) * ID_BYTES


class Copies(NamedTuple):
    """New packs, and the packs that stay.

    Attributes:
        packs: The new packs.
        present: Copies that came out as one of the old packs, byte for byte: it stays, and may
            hold items of others now.
        staying: Packs that are damaged, or whose copy would be the same file.
        damaged: Those that are damaged.
    """

    packs: list[SealedPack]
    present: list[SealedPack]
    staying: frozenset[PackId]
    damaged: tuple[PackId, ...]


def copy_batch(
    store: Store, table: ItemTable, packs: Sequence[PackRow], staging: Callable[[], str] | None
) -> Copies:
    """Copy what is marked in some packs into new packs, or only measure it without ``staging``.

    Raises:
        StorageError: The new packs could not be written; nothing is left of them.
    """
    living = {row.pack_id: PackItems(table, table.index_of[row.pack]) for row in packs}
    done = rewrite_packs(store, living, staging, min((row.effort for row in packs), default=0))
    same = {pack.pack_id for pack in done.packs} & living.keys()
    for pack in done.packs:
        if pack.pack_id in same and pack.staged is not None:
            pack.staged.discard()
    new = [pack for pack in done.packs if pack.pack_id not in same]
    present = [pack for pack in done.packs if pack.pack_id in same]
    return Copies(new, present, frozenset(same | done.damaged.keys()), tuple(done.damaged))


def publish_copies(store: Store, table: ItemTable, copies: Copies) -> None:
    """Name new packs and let the rows of all copied items point at where they are now.

    The old packs keep the rows of what was not copied.
    """
    for pack in copies.packs:
        with store.catalog.write() as connection:
            number = publish_pack(connection, store.paths, pack, None, with_chunks=False)
        _move_rows(store.catalog, table, pack, number)
    numbers = {row.pack_id: row.pack for row in table.packs}
    for pack in copies.present:
        _move_rows(store.catalog, table, pack, numbers[pack.pack_id])


def _move_rows(catalog: Catalog, table: ItemTable, pack: SealedPack, number: int) -> None:
    moves: list[tuple[bytes, int, int, int, int]] = []
    for index, block in enumerate(pack.blocks):
        offset = 0
        for item_id, length in block.items:
            moves += [(item_id, number, index, offset, old) for old in table.pack_numbers(item_id)]
            offset += length
    moves.sort()  # in key order each turn touches few pages
    for some in turns(moves, Pace(1024)):
        with catalog.write() as connection:
            begin_epoch(connection)
            connection.executemany(
                "UPDATE chunks SET pack = ?2, block = ?3, offset = ?4 WHERE id = ?1 AND pack = ?5",
                some,
            )
