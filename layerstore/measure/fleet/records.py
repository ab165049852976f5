"""What a store holds as records of fixed width that merge in any order.

A record is one thing of which a shared store would keep one: 32 bytes of id, a byte for its
kind, 8 bytes (big-endian) of size. A store's records are sorted, so those whose ids begin in a
range are a slice, found by bisection; slices of the same range of many stores are merged without
anybody holding everything. Merging takes the smallest size that any store has for an id: the
same thing can be compressed better in one store than in another. That is associative and
commutative, so the result depends on neither order nor partition. Pure: bytes in, values out.
"""

from __future__ import annotations

import enum
import heapq
from collections import Counter
from itertools import groupby, pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from layerstore.digest import ID_BYTES, blake3_id
from layerstore.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_PREFIX_BYTES = 8
_SIZE_BYTES = 8
RECORD_BYTES = ID_BYTES + 1 + _SIZE_BYTES

PARTITION_RECORDS = 200_000
"""Records that a merge holds at once, about: some 40 MB."""

_ALL = 1 << (8 * _PREFIX_BYTES)


class Kind(enum.IntEnum):
    """What a record stands for; its size is given in brackets."""

    ITEM = 0  # indexed item of packs: file chunk, tree, recipe, layer record [stored bytes]
    BLOB = 1  # config, manifest [bytes]
    CHUNK = 2  # chunk of file data [plain bytes]
    CONTENT = 3  # whole file content [bytes unpacked]
    CHAIN = 4  # layer on its parents [bytes unpacked]
    LAYER = 5  # layer by its diff id [bytes unpacked]


def record(kind: Kind, item_id: bytes, size: int) -> bytes:
    """Return one record."""
    return item_id + bytes((kind,)) + size.to_bytes(_SIZE_BYTES, "big")


def id_of(text: str) -> bytes:
    """Return 32 bytes for a digest: those it has, or BLAKE3 of a longer one's text."""
    value = bytes.fromhex(text.partition(":")[2])
    return value if len(value) == ID_BYTES else blake3_id(text.encode())


class Range(NamedTuple):
    """Ids whose first eight bytes are a number in ``[start, stop)``."""

    start: int
    stop: int


def ranges(records: int) -> list[Range]:
    """Return ranges that cover all ids, each with about ``PARTITION_RECORDS`` of ``records``."""
    parts = max(1, -(-records // PARTITION_RECORDS))
    edges = [_ALL * part // parts for part in range(parts + 1)]
    return [Range(*pair) for pair in pairwise(edges)]


def bounds_of(records: bytes | memoryview, part: Range) -> tuple[int, int]:
    """Return the byte offsets of the slice of sorted ``records`` that ``part`` covers."""
    return _first(records, part.start), _first(records, part.stop)


def _first(records: bytes | memoryview, prefix: int) -> int:
    """Return the offset of the first record whose id begins with ``prefix`` or more."""
    low, high = 0, len(records) // RECORD_BYTES
    while low < high:
        middle = (low + high) // 2
        at = middle * RECORD_BYTES
        if int.from_bytes(records[at : at + _PREFIX_BYTES], "big") < prefix:
            low = middle + 1
        else:
            high = middle
    return low * RECORD_BYTES


class SharedThing(msgspec.Struct, frozen=True):
    """Something that several stores hold.

    Attributes:
        item_id: 64 hexadecimal digits.
        stores: How many hold it.
        size: Bytes of one.
        saved: What all but the smallest of them take.
    """

    item_id: str
    stores: int
    size: int
    saved: int

    def rank(self) -> tuple[int, str]:
        """Return what sorts the ones that save most to the front."""
        return -self.saved, self.item_id


class Merged(msgspec.Struct, frozen=True):
    """A range of ids over all stores; ranges add up with :func:`add`.

    Attributes:
        separate: Bytes of each kind, every store's own counted.
        shared: Bytes of each kind when everything is kept once.
        exclusive: Bytes of items and blobs that only one store has, by the store's number.
        held_by: Number of stores → items and bytes (as if kept once) that so many hold.
        top: Of each kind that is listed, what saves most.
    """

    separate: dict[int, int]
    shared: dict[int, int]
    exclusive: dict[int, int]
    held_by: dict[int, tuple[int, int]]
    top: dict[int, tuple[SharedThing, ...]]


LISTED = (Kind.LAYER, Kind.CHUNK)
_STORED = (Kind.ITEM, Kind.BLOB)


def merge(slices: Sequence[bytes], top: int) -> Merged:
    """Merge slices of one range, one of each store, in the order of the stores.

    Args:
        slices: Sorted records.
        top: How many shared things of a kind to list.

    Raises:
        FormatError: A slice is no sequence of records.
    """
    separate: Counter[int] = Counter()
    shared: Counter[int] = Counter()
    exclusive: Counter[int] = Counter()
    held_items: Counter[int] = Counter()
    held_bytes: Counter[int] = Counter()
    listed: dict[int, list[SharedThing]] = {kind: [] for kind in LISTED}
    streams = [_records_of(part, number) for number, part in enumerate(slices)]
    for (item_id, kind), found in groupby(heapq.merge(*streams), key=itemgetter(0, 1)):
        same = list(found)
        sizes = [size for _, _, size, _ in same]
        least, total = sizes[0], sum(sizes)
        separate[kind] += total
        shared[kind] += least
        if kind in _STORED:
            held_items[len(same)] += 1
            held_bytes[len(same)] += least
            if len(same) == 1:
                exclusive[same[0][3]] += least
        elif kind in listed and len(same) > 1:
            thing = SharedThing(item_id.hex(), len(same), least, total - least)
            _keep(listed[kind], thing, top)
    return Merged(
        separate=dict(separate),
        shared=dict(shared),
        exclusive=dict(exclusive),
        held_by={stores: (held_items[stores], held_bytes[stores]) for stores in held_items},
        top={kind: _best(things, top) for kind, things in listed.items()},
    )


def _records_of(part: bytes, number: int) -> Iterator[tuple[bytes, int, int, int]]:
    """Yield id, kind, size and store; each id and kind once for a store."""
    if len(part) % RECORD_BYTES:
        raise FormatError(f"{len(part)} bytes of records: expected a multiple of {RECORD_BYTES}")
    for at in range(0, len(part), RECORD_BYTES):
        size = int.from_bytes(part[at + ID_BYTES + 1 : at + RECORD_BYTES], "big")
        yield part[at : at + ID_BYTES], part[at + ID_BYTES], size, number


def _keep(things: list[SharedThing], thing: SharedThing, top: int) -> None:
    things.append(thing)
    if len(things) > 4 * top + 64:
        things[:] = _best(things, top)


def _best(things: Iterable[SharedThing], top: int) -> tuple[SharedThing, ...]:
    return tuple(heapq.nsmallest(top, things, key=SharedThing.rank))


def add(parts: Iterable[Merged], top: int) -> Merged:
    """Return what ranges hold together."""
    separate: Counter[int] = Counter()
    shared: Counter[int] = Counter()
    exclusive: Counter[int] = Counter()
    held: dict[int, tuple[int, int]] = {}
    listed: dict[int, tuple[SharedThing, ...]] = dict.fromkeys(map(int, LISTED), ())
    for part in parts:
        separate.update(part.separate)
        shared.update(part.shared)
        exclusive.update(part.exclusive)
        for stores, (items, size) in part.held_by.items():
            before = held.get(stores, (0, 0))
            held[stores] = before[0] + items, before[1] + size
        for kind, things in part.top.items():
            listed[kind] = _best((*listed[kind], *things), top)
    return Merged(dict(separate), dict(shared), dict(exclusive), dict(sorted(held.items())), listed)
