"""Sizes over the trie of chains are those of a walk over each image's own stacked tree."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from layerstore.errors import FormatError
from layerstore.formats.tree import Changeset, Kind
from layerstore.image.trees.stack import stack, walk
from layerstore.measure.contents import ContentSize, image_sizes, layer_content
from layerstore.measure.host_model import BLOCK_BYTES, allocated_size
from tests.support.measure import changesets


def size_by_walking(layers: list[Changeset]) -> ContentSize:
    logical = allocated = files = names = 0
    seen = set()
    for path, node in walk(stack(layers)):
        names += path != b""
        if id(node) in seen:
            continue
        seen.add(id(node))
        entry = node.entry
        is_dir = node.children is not None
        allocated += BLOCK_BYTES if is_dir else allocated_size(entry)
        if entry.kind == Kind.FILE:
            logical += entry.size
            files += 1
    return ContentSize(logical, allocated, files, names)


@given(st.lists(changesets(), min_size=1, max_size=5), st.data())
def test_chains_cost_what_their_stacked_trees_cost(layers, data):
    numbers = st.integers(0, len(layers) - 1)
    chains = data.draw(st.lists(st.lists(numbers, max_size=5).map(tuple), min_size=1, max_size=5))
    expected = {}
    for chain in chains:
        try:
            expected[chain] = size_by_walking([layers[number] for number in chain])
        except FormatError:
            assume(False)
    found = image_sizes(chains, layers.__getitem__, lambda number: layer_content(layers[number]))
    assert found == expected
