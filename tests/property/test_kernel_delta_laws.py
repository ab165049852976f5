"""A delta over a tree shows the other tree, by the rules that overlayfs merges by."""

from __future__ import annotations

import stat
from collections import defaultdict
from typing import TYPE_CHECKING

from hypothesis import given

from layerstore.image.kernel_delta import delta_tree
from layerstore.image.kernel_tree import KernelTree, inode_of
from layerstore.image.stack import stack, walk
from tests.property.test_stack_diff_laws import trees
from tests.support.tree_diff import diff, flatten

if TYPE_CHECKING:
    from layerstore.formats.erofs import Inode
    from layerstore.image.stack import Node

Shown = dict[bytes, tuple["Inode", object]]
"""By path: the inode without its place in an image, and what tells it from others."""


def of_tree(root: Node) -> Shown:
    return {path: (inode_of(node, [], 0, {}), node.ino) for path, node in walk(root)}


def overlaid(base: Node, above: KernelTree) -> Shown:
    """Merge as overlayfs does: by name; directories with directories, all else hides."""
    shown: Shown = {}
    pending: list[tuple[bytes, Node | None, int | None]] = [(b"", base, 0)]
    while pending:
        path, below, index = pending.pop()
        names: dict[bytes, tuple[Node | None, int | None]] = {}
        if below is not None and below.children is not None:
            names = {name: (node, None) for name, node in below.children.items()}
        if index is not None:
            inode = above.inodes[index]
            shown[path] = (inode._replace(children=[], parent=0), ("above", index))
            for name, child in inode.children:
                names[name] = (names.get(name, (None, None))[0], child)
        else:
            assert below is not None
            shown[path] = (inode_of(below, [], 0, {}), ("below", below.ino))
        for name, (node, number) in names.items():
            inner = path + b"/" + name if path else name
            if number is None:
                pending.append((inner, node, None))
                continue
            mode = above.inodes[number].mode
            if stat.S_ISCHR(mode):
                assert node is not None, "a whiteout over nothing"
                continue
            merges = stat.S_ISDIR(mode) and node is not None and node.children is not None
            pending.append((inner, node if merges else None, number))
    return shown


def groups(shown: Shown) -> set[frozenset[bytes]]:
    """Return which paths are names of one inode."""
    paths = defaultdict(set)
    for path, (_, identity) in shown.items():
        paths[identity].add(path)
    return {frozenset(names) for names in paths.values()}


def same(one: Shown, other: Shown) -> bool:
    attributes = [{path: inode for path, (inode, _) in each.items()} for each in (one, other)]
    return attributes[0] == attributes[1] and groups(one) == groups(other)


@given(trees(), trees())
def test_a_delta_shows_the_other_tree(a: Node, b: Node) -> None:
    assert same(overlaid(a, delta_tree(a, b)), of_tree(b))


@given(trees(), trees())
def test_a_layer_is_all_that_differs(a: Node, b: Node) -> None:
    """As in a build, where both trees come from the same entries."""
    top = stack([flatten(a), diff(a, b)])
    base = stack([flatten(a)])
    above = delta_tree(base, top)
    assert same(overlaid(base, above), of_tree(top))


@given(trees())
def test_nothing_is_above_where_nothing_differs(a: Node) -> None:
    assert len(delta_tree(a, stack([flatten(a)])).inodes) == 1
