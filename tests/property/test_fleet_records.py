"""Laws of merging the records of many stores."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from layerstore.measure.fleet import records
from layerstore.measure.fleet.records import (
    RECORD_BYTES,
    Kind,
    Range,
    add,
    bounds_of,
    merge,
    record,
)

_IDS = st.integers(0, 12).map(lambda n: bytes([n * 21]) + bytes(30) + bytes([n]))
_STORES = st.lists(
    st.dictionaries(st.tuples(_IDS, st.sampled_from(list(Kind))), st.integers(0, 1 << 40)),
    min_size=1,
    max_size=5,
)


def encoded(store) -> bytes:
    return b"".join(sorted(record(kind, one, size) for (one, kind), size in store.items()))


def whole(stores):
    return merge([encoded(store) for store in stores], 5)


def first_bytes(edges) -> list[Range]:
    cuts = [0, *(edge << 56 for edge in sorted(edges)), 1 << 64]
    return [Range(*pair) for pair in itertools.pairwise(cuts)]


@given(_STORES, st.sets(st.integers(1, 255), max_size=6))
def test_any_partition_gives_the_same(stores, edges):
    found = []
    for part in first_bytes(edges):
        slices = []
        for store in stores:
            data = encoded(store)
            start, stop = bounds_of(data, part)
            slices.append(data[start:stop])
        found.append(merge(slices, 5))
    assert add(found, 5) == add([whole(stores)], 5)


@given(_STORES)
def test_everything_is_counted_once_and_by_whom_it_is_held(stores):
    merged = whole(stores)
    for kind in Kind:
        sizes: dict[bytes, list[int]] = {}
        for store in stores:
            for (one, own), size in store.items():
                if own is kind:
                    sizes.setdefault(one, []).append(size)
        assert merged.separate.get(kind, 0) == sum(map(sum, sizes.values()))
        assert merged.shared.get(kind, 0) == sum(map(min, sizes.values()))
    stored = merged.shared.get(Kind.ITEM, 0) + merged.shared.get(Kind.BLOB, 0)
    assert sum(size for _, size in merged.held_by.values()) == stored
    assert sum(merged.exclusive.values()) == merged.held_by.get(1, (0, 0))[1]


@given(_STORES, st.randoms())
def test_the_order_of_stores_changes_nothing_but_their_numbers(stores, source):
    shuffled = source.sample(stores, len(stores))
    one, other = whole(stores), whole(shuffled)
    assert (one.separate, one.shared, one.top) == (other.separate, other.shared, other.top)
    assert sorted(one.held_by.items()) == sorted(other.held_by.items())


@given(st.integers(0, 5_000_000))
def test_ranges_cover_every_id_once(count):
    parts = records.ranges(count)
    assert parts[0].start == 0
    assert parts[-1].stop == 1 << 64
    assert all(one.stop == two.start for one, two in itertools.pairwise(parts))
    assert len(record(Kind.ITEM, bytes(32), 1)) == RECORD_BYTES
