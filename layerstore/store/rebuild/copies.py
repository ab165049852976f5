"""Which of several copies of an item a new catalog points at.

A store may hold an item twice: after a crash, an optimization, or because damage was
healed. The catalog that is lost knew which copies to use; another choice can be worse
than any damage: of two items each copy may be a difference against the other, and a
choice of one copy each can close a circle that nobody can read.
Normative: docs/format/catalog.md.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import IntegrityError, StorageError
from layerstore.store.catalog.catalog_file import LOOKUP_MAX

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from layerstore.formats.pack import Block
    from layerstore.store.packs.pack_reader import PackReader

_Key = tuple[int, int]


class _Place(NamedTuple):
    """A slice of a block of a pack, by their numbers in the catalog."""

    pack: int
    block: int
    offset: int

    @property
    def key(self) -> _Key:
        return self.pack, self.block


class Copies:
    """Gathers the places of items that lie in more than one, then chooses.

    Call :meth:`note` for every pack before its rows are inserted, :meth:`choose` at the end.
    """

    def __init__(self, connection: sqlite3.Connection, reader: PackReader) -> None:
        self._connection = connection
        self._reader = reader
        self._places: dict[bytes, list[_Place]] = {}
        self._readable: dict[_Key, bool] = {}

    def note(self, number: int, blocks: Sequence[Block]) -> None:
        """Remember the places of a pack's items that it or packs before it hold elsewhere, too.

        Args:
            number: The pack's number in the catalog to be.
            blocks: Of its footer.
        """
        first = self._first_places([item.item_id for block in blocks for item in block.items])
        for index, block in enumerate(blocks):
            offset = 0
            for item_id, length in block.items:
                place = _Place(number, index, offset)
                if item_id in first:
                    self._places.setdefault(item_id, [first[item_id]]).append(place)
                elif item_id:  # known_blocks has some without
                    first[item_id] = place
                offset += length

    def _first_places(self, ids: Sequence[bytes]) -> dict[bytes, _Place]:
        found: dict[bytes, _Place] = {}
        for start in range(0, len(ids), LOOKUP_MAX):
            some = ids[start : start + LOOKUP_MAX]
            marks = ", ".join("?" * len(some))
            sql = f"SELECT id, pack, block, offset FROM chunks WHERE id IN ({marks})"  # noqa: S608 -- marks
            rows = self._connection.execute(sql, some)
            found.update((row[0], _Place(*row[1:])) for row in rows)
        return found

    def choose(self) -> None:
        """Point every item at a copy that leads to blocks that stand alone, if any does.

        Of those that stand alone themselves one that can be read is taken; what an item
        has only as differences follows as their bases are found, shallowest first.
        """
        missing, waiting = self._differences()
        grounded: set[bytes] = set()
        holds: dict[_Key, list[tuple[bytes, _Place]]] = {}
        for item_id, places in self._all_places(waiting):
            alone = [place for place in places if place.key not in missing]
            sound = self._first_readable(alone) if len(places) > 1 else next(iter(alone), None)
            if sound is not None:
                self._point(item_id, sound)
                grounded.add(item_id)
            for place in places:
                if place.key in missing:
                    holds.setdefault(place.key, []).append((item_id, place))
        found = deque(grounded)
        while found:
            base = found.popleft()
            for key in waiting.pop(base, ()):
                missing[key] -= 1
                if missing[key]:
                    continue
                for item_id, place in holds.pop(key, ()):
                    if item_id not in grounded:
                        self._point(item_id, place)
                        grounded.add(item_id)
                        found.append(item_id)

    def _differences(self) -> tuple[dict[_Key, int], dict[bytes, list[_Key]]]:
        """Return how many bases each difference has, and which differences each base has."""
        missing: dict[_Key, int] = {}
        waiting: dict[bytes, list[_Key]] = {}
        rows = self._connection.execute("SELECT DISTINCT pack, block, id FROM bases")
        for pack, block, base in rows:
            missing[pack, block] = missing.get((pack, block), 0) + 1
            waiting.setdefault(base, []).append((pack, block))
        return missing, waiting

    def _all_places(self, bases: Iterable[bytes]) -> Iterable[tuple[bytes, list[_Place]]]:
        """Yield every base and every item of several places with all its places."""
        yield from self._places.items()
        single = [base for base in bases if base not in self._places]
        yield from ((base, [place]) for base, place in self._first_places(single).items())

    def _first_readable(self, places: Iterable[_Place]) -> _Place | None:
        return next((place for place in places if self._is_readable(place.key)), None)

    def _is_readable(self, key: _Key) -> bool:
        """Return whether a block that stands alone can be decoded."""
        if key not in self._readable:
            row = self._connection.execute(
                "SELECT p.id, b.offset, b.stored, b.raw FROM blocks b"
                " JOIN packs p ON p.pack = b.pack WHERE b.pack = ? AND b.block = ?",
                key,
            ).fetchone()
            try:
                self._reader.block(*row)
                self._readable[key] = True
            except (IntegrityError, OSError, StorageError):
                self._readable[key] = False
        return self._readable[key]

    def _point(self, item_id: bytes, place: _Place) -> None:
        if item_id in self._places and place != self._places[item_id][0]:
            self._connection.execute(
                "UPDATE chunks SET pack = ?, block = ?, offset = ? WHERE id = ?",
                (*place, item_id),
            )
