"""The chunk index at one moment in 17 bytes a row, with a mark on every row that is needed.

What gc must remember of millions of chunks. Python's sets would take 120 bytes an id;
here the first 8 bytes of each id lie in one sorted array, beside it the block and the
length. Chunk ids are hashes, so those 8 bytes tell them apart: among ten million ids two
meet with a probability of 3 in a million, and rows that meet are marked together, so the
worst that happens is that a dead chunk stays. Not for several threads.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, bisect_right
from copy import copy
from typing import TYPE_CHECKING

from layerstore.store.catalog.rows import IN_USE
from layerstore.store.failures import CatalogDamagedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from layerstore.store.catalog.catalog import Catalog
    from layerstore.store.catalog.rows import PackRow

_KEY_BYTES = 8
_BUCKET_SHIFT = 48
_BUCKETS = 1 << (64 - _BUCKET_SHIFT)


class ItemTable:
    """See the module. Make one with :meth:`load`.

    Attributes:
        packs: Packs in use, by number; ``index_of`` finds one's place in this list.
        marked: Rows marked so far, per pack.
        living_stored: Stored bytes of what is marked, each item's share of its block.
    """

    def __init__(self, packs: list[PackRow]) -> None:
        """Use :meth:`load`."""
        self.packs = packs
        self.index_of = {row.pack: index for index, row in enumerate(packs)}
        self.marked = array("Q", bytes(8 * len(packs)))
        self._first_block = array("L", bytes(array("L").itemsize * (len(packs) + 1)))
        self._differences = array("L")
        self._first_base = array("L", [0])
        self._base_keys = array("Q")
        self._pending: list[int] = []
        self._stored = array("I")
        self._raw = array("I")
        self._living = array("I")
        self._keys = array("Q")
        self._block_of = array("I")
        self._length = array("I")
        self._mark = bytearray()
        self._bucket = array("Q")
        self._twins: frozenset[int] = frozenset()
        self._later: set[bytes] = set()
        self.living_stored = 0.0

    def clone(self) -> ItemTable:
        """Return a copy whose marks are its own; the index itself is shared."""
        other = copy(self)
        other.marked = self.marked[:]
        other._living = self._living[:]
        other._mark = self._mark[:]
        other._pending = list(self._pending)
        other._later = set(self._later)
        return other

    @classmethod
    def load(cls, catalog: Catalog) -> ItemTable:
        """Read the chunk index of a pinned catalog.

        Raises:
            CatalogDamagedError: Rows speak of packs or blocks that are not there.
        """
        table = cls([row for row in catalog.pack_rows() if row.retired is None])
        table._load_blocks(catalog)
        table._load_bases(catalog)
        table._load_chunks(catalog)
        return table

    def _load_blocks(self, catalog: Catalog) -> None:
        counts = array("L", bytes(self._first_block.itemsize * len(self.packs)))
        last = -1
        for rows in catalog.scan(
            f"SELECT pack, block, stored, raw FROM blocks WHERE {IN_USE} ORDER BY pack, block"  # noqa: S608 -- a constant
        ):
            for pack, block, stored, raw in rows:
                index = self.index_of.get(pack, -1)  # type: ignore[call-overload]
                if index < last or block != counts[index] or not stored or not raw:
                    raise CatalogDamagedError("the catalog's rows of blocks make no sense")
                last = index
                counts[index] += 1
                self._stored.append(stored)  # type: ignore[arg-type]
                self._raw.append(raw)  # type: ignore[arg-type]
        total = 0
        for index, count in enumerate(counts):
            self._first_block[index] = total
            total += count
        self._first_block[len(counts)] = total
        self._living = array("I", bytes(self._raw.itemsize * total))

    def _load_bases(self, catalog: Catalog) -> None:
        """Remember what blocks are differences against, by the first bytes of the ids."""
        sql = f"SELECT pack, block, id FROM bases WHERE {IN_USE} ORDER BY pack, block, position"  # noqa: S608 -- a constant
        for rows in catalog.scan(sql):
            for pack, block, item_id in rows:
                index = self.index_of.get(pack, -1)  # type: ignore[call-overload]
                if index < 0 or not isinstance(block, int) or not isinstance(item_id, bytes):
                    raise CatalogDamagedError("the catalog's rows of bases make no sense")
                at = self._first_block[index] + block
                if not self._first_block[index] <= at < self._first_block[index + 1]:
                    raise CatalogDamagedError("the catalog's rows of bases make no sense")
                if not self._differences or self._differences[-1] != at:
                    self._differences.append(at)
                    self._first_base.append(self._first_base[-1])
                self._base_keys.append(int.from_bytes(item_id[:_KEY_BYTES], "big"))
                self._first_base[-1] += 1

    def _load_chunks(self, catalog: Catalog) -> None:
        first = {row.pack: self._first_block[i] for i, row in enumerate(self.packs)}
        end = {row.pack: self._first_block[i + 1] for i, row in enumerate(self.packs)}
        try:
            for rows in catalog.scan(
                f"SELECT substr(id, 1, 8), pack, block, length FROM chunks WHERE {IN_USE}"  # noqa: S608 -- a constant
                " ORDER BY id"
            ):
                keys = b"".join([row[0] for row in rows])  # type: ignore[misc]
                blocks = [first[pack] + block for _, pack, block, _ in rows]  # type: ignore[index,operator]
                if len(keys) != _KEY_BYTES * len(rows) or any(
                    not first[row[1]] <= block < end[row[1]]  # type: ignore[index]
                    for row, block in zip(rows, blocks, strict=True)
                ):
                    raise CatalogDamagedError("the catalog's rows of chunks make no sense")
                self._keys.frombytes(keys)
                self._block_of.extend(blocks)
                self._length.extend([row[3] for row in rows])  # type: ignore[misc]
        except (KeyError, TypeError, OverflowError) as err:
            raise CatalogDamagedError("the catalog's rows of chunks make no sense") from err
        if sys.byteorder == "little":
            self._keys.byteswap()
        self._mark = bytearray(len(self._keys))
        self._find_buckets()

    def _find_buckets(self) -> None:
        keys = self._keys
        self._bucket = array("Q", bytes(8 * (_BUCKETS + 1)))
        position = 0
        for bucket in range(_BUCKETS):
            self._bucket[bucket] = position
            position = bisect_left(keys, (bucket + 1) << _BUCKET_SHIFT, position) if keys else 0
        self._bucket[_BUCKETS] = len(keys)
        twins = set()
        before = -1
        for key in keys:
            if key == before:
                twins.add(key)
            before = key
        self._twins = frozenset(twins)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._keys)

    # -- marking

    def mark(self, item_ids: Iterable[bytes]) -> set[bytes]:
        """Mark the rows of these ids and return the ids that have no row.

        What newly living blocks are differences against is marked by :meth:`mark_bases`.
        """
        absent = {
            item_id
            for item_id in item_ids
            if not self._mark_key(int.from_bytes(item_id[:_KEY_BYTES], "big"))
        }
        return absent - self._later if self._later else absent

    def mark_bases(self) -> set[tuple[int, int]]:
        """Mark what living blocks are differences against, until nothing new comes up.

        Returns:
            Number of the pack, and of the block in it, of living differences with a base that has
            no row.
        """
        lacking: set[tuple[int, int]] = set()
        while self._pending:
            block = self._pending.pop()
            at = bisect_left(self._differences, block)
            for base in range(self._first_base[at], self._first_base[at + 1]):
                # One that is merely kept, as its writer lives, may have lost its bases before.
                if not self._mark_key(self._base_keys[base]) and self._living[block]:
                    index = self.pack_of_block(block)
                    lacking.add((self.packs[index].pack, block - self._first_block[index]))
        return lacking

    def keep_bases_of(self, number: int) -> None:
        """Let every difference in a pack keep its bases, living or not: its writer lives."""
        index = self.index_of.get(number)
        if index is not None:
            start = bisect_left(self._differences, self._first_block[index])
            end = bisect_left(self._differences, self._first_block[index + 1])
            self._pending += self._differences[start:end]

    def _mark_key(self, key: int) -> bool:
        """Mark the row of an id that begins like this; return whether there is one."""
        keys, start = self._keys, key >> _BUCKET_SHIFT
        end = self._bucket[start + 1]
        row = bisect_left(keys, key, self._bucket[start], end)
        if row == end or keys[row] != key:
            return False
        if not self._mark[row]:
            self._mark_row(row)
            if key in self._twins:
                for twin in range(row + 1, bisect_right(keys, key, row)):
                    self._mark_row(twin)
        return True

    def _mark_row(self, row: int) -> None:
        self._mark[row] = 1
        block = self._block_of[row]
        if not self._living[block] and self._is_difference(block):
            self._pending.append(block)
        self._living[block] += self._length[row]
        self.living_stored += self._length[row] * self._stored[block] / self._raw[block]
        self.marked[self.pack_of_block(block)] += 1

    def _is_difference(self, block: int) -> bool:
        at = bisect_left(self._differences, block)
        return at < len(self._differences) and self._differences[at] == block

    def add_later(self, item_ids: Iterable[bytes]) -> None:
        """Remember ids that are needed and came after the table was made: not absent any more."""
        self._later.update(item_ids)

    def holds(self, pack: PackRow) -> bool:
        """Return whether a pack was in use already when the table was made.

        Asked by its id as well: the number of a pack that is gone is given to the next one.
        """
        index = self.index_of.get(pack.pack)
        return index is not None and self.packs[index].pack_id == pack.pack_id

    def is_needed(self, item_id: bytes) -> bool:
        """Return whether an id is marked, or came later and is needed."""
        return item_id in self._later or any(self._mark[row] for row in self._rows(item_id))

    def is_marked_in(self, item_id: bytes, index: int) -> bool:
        """Return whether an id is marked and its row lies in the pack at ``index``."""
        return any(
            self._mark[row] and self.pack_of_block(self._block_of[row]) == index
            for row in self._rows(item_id)
        )

    def lives_wholly(self, index: int, block: int) -> bool:
        """Return whether all of a block, by its number in the pack at ``index``, is marked."""
        at = self._first_block[index] + block
        return at < self._first_block[index + 1] and self._living[at] == self._raw[at]

    def is_row_in(self, item_id: bytes, index: int) -> bool:
        """Return whether the row of an id lies in the pack at ``index``, marked or not."""
        return any(self.pack_of_block(self._block_of[row]) == index for row in self._rows(item_id))

    def pack_numbers(self, item_id: bytes) -> set[int]:
        """Return the numbers of the packs that an id's row may point into: one, or none."""
        return {
            self.packs[self.pack_of_block(self._block_of[row])].pack for row in self._rows(item_id)
        }

    def _rows(self, item_id: bytes) -> range:
        """Return the rows whose id begins like this one: one, none, or hardly ever more."""
        key = int.from_bytes(item_id[:_KEY_BYTES], "big")
        start = key >> _BUCKET_SHIFT
        end = self._bucket[start + 1]
        row = bisect_left(self._keys, key, self._bucket[start], end)
        after = bisect_right(self._keys, key, row, end) if key in self._twins else row + 1
        return range(row, after if row < end and self._keys[row] == key else row)

    def pack_of_block(self, block: int) -> int:
        """Return the index of the pack that holds a block of the table."""
        return bisect_right(self._first_block, block) - 1

    # -- how full packs are

    def stored(self, index: int) -> int:
        """Return the stored bytes of all blocks of the pack at ``index``."""
        return sum(self._stored[self._first_block[index] : self._first_block[index + 1]])

    def living_share(self, index: int) -> float:
        """Return the stored bytes of what is marked in a pack: each block's share of its bytes."""
        return sum(
            self._stored[block] * self._living[block] / self._raw[block]
            for block in self._living_blocks(index)
        )

    def copy_estimate(self, index: int) -> float:
        """Return about what a copy of the living part takes.

        Half-dead differences do not shrink: their living items stand alone afterwards, or
        they are copied whole.
        """
        return sum(
            self._stored[block] * self._living[block] / self._raw[block]
            if not self._is_difference(block) or self._living[block] == self._raw[block]
            else min(self._stored[block], self._living[block] / 2)
            for block in self._living_blocks(index)
        )

    def copy_bound(self, index: int) -> int:
        """Return what a copy of the living part takes at most.

        Every block that has any, whole, except differences that may stand alone afterwards.
        """
        return sum(
            max(
                self._stored[block],
                self._living[block]
                if self._is_difference(block) and self._living[block] < self._raw[block]
                else 0,
            )
            for block in self._living_blocks(index)
        )

    def _living_blocks(self, index: int) -> Iterator[int]:
        start, end = self._first_block[index], self._first_block[index + 1]
        return (block for block in range(start, end) if self._living[block])

    def living_counts(self, index: int) -> tuple[int, int]:
        """Return how many blocks of a pack have anything marked, and how many items are."""
        start, end = self._first_block[index], self._first_block[index + 1]
        return sum(living > 0 for living in self._living[start:end]), self.marked[index]

    def living_bases(self, index: int) -> int:
        """Return how many bases the living differences of a pack name together."""
        first = bisect_left(self._differences, self._first_block[index])
        end = bisect_left(self._differences, self._first_block[index + 1])
        return sum(
            self._first_base[at + 1] - self._first_base[at]
            for at in range(first, end)
            if self._living[self._differences[at]]
        )


class PackItems:
    """The items of one pack, as a collection that only answers ``in``.

    Its ``held`` are all that the index has in this pack, its ``alive`` the marked ones:
    a pack file may hold more, which the index has elsewhere.
    """

    def __init__(self, table: ItemTable, index: int) -> None:
        self.alive = _Items(table.is_marked_in, index)
        self.held = _Items(table.is_row_in, index)
        self._table = table
        self._index = index

    def has_all_of(self, block: int) -> bool:
        """Return whether a block of the pack, by its number, is wholly marked."""
        return self._table.lives_wholly(self._index, block)


class _Items:
    def __init__(self, is_in: Callable[[bytes, int], bool], index: int) -> None:
        self._is_in = is_in
        self._index = index

    def __contains__(self, item_id: object) -> bool:
        return isinstance(item_id, bytes) and self._is_in(item_id, self._index)
