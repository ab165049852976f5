"""Stretches of packs: where a place belongs, after any items were put into other groups."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from layerstore.measure.runs import group_at, painted, renumbered

BLOCKS, ITEMS, LENGTH = 3, 6, 10
PLACES = [(block, item * LENGTH) for block in range(BLOCKS) for item in range(ITEMS)]

paints = st.lists(
    st.dictionaries(st.sampled_from(PLACES), st.integers(0, 3), min_size=1), min_size=1, max_size=4
)


@given(paints)
def test_items_keep_the_group_they_were_put_into_last(history):
    runs = painted([], [(*place, LENGTH, 0) for place in PLACES])
    assert runs == [(0, 0, 0)]
    said = dict.fromkeys(PLACES, 0)
    for paint in history:
        said.update(paint)
        runs = painted(runs, [(*place, LENGTH, paint[place]) for place in sorted(paint)])
        assert {place: group_at(runs, *place) for place in PLACES} == said
        assert all(a[2] != b[2] for a, b in itertools.pairwise(runs))


def test_what_lies_before_the_first_stretch_is_in_no_group():
    assert group_at([], 0, 0) is None
    assert group_at([(0, 5, 1)], 0, 4) is None


def test_stretches_of_groups_that_are_gone_go():
    assert renumbered({7: [(0, 0, 2), (0, 9, 1)]}, {1: 0}) == {7: [(0, 9, 0)]}
