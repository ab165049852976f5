"""A tree that is made layer by layer is the tree that all layers make together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given

from layerstore.image.trees.chain_trees import TreeEditor, chain_tree
from layerstore.image.trees.stack import stack, walk
from tests.property.test_stack_diff_laws import trees
from tests.support.tree_diff import diff, flatten

if TYPE_CHECKING:
    from layerstore.formats.tree import Entry
    from layerstore.image.trees.chain_trees import ChainTree
    from layerstore.image.trees.stack import Node


def described(
    root: Node, shared: frozenset[int] | None
) -> list[tuple[bytes, Entry, frozenset[bytes]]]:
    """Return all names in order, with attributes and the names of the same file."""
    names: dict[int, set[bytes]] = {}
    for path, node in walk(root):
        names.setdefault(id(node), set()).add(path)
    for path, node in walk(root):
        several = node.nlink > 1 if shared is None else id(node) in shared
        assert node.children is not None or several == (len(names[id(node)]) > 1), path
    return [(path, node.entry, frozenset(names[id(node)])) for path, node in walk(root)]


def same(tree: ChainTree, whole: Node) -> bool:
    return described(tree.root, tree.shared) == described(whole, None)


@given(trees(), trees(), trees())
def test_layer_by_layer_is_all_at_once(a: Node, b: Node, c: Node) -> None:
    layers = [flatten(a), diff(a, b), diff(b, c)]
    tree = chain_tree([])
    for count, layer in enumerate(layers, 1):
        tree = tree.over(layer)
        assert same(tree, stack(layers[:count]))


@given(trees(), trees(), trees())
def test_layers_over_a_tree_leave_it_as_it_was(a: Node, b: Node, c: Node) -> None:
    base = chain_tree([flatten(a)])
    one = base.over(diff(a, b))
    other = base.over(diff(a, c))
    for tree, layers in (
        (base, [flatten(a)]),
        (one, [flatten(a), diff(a, b)]),
        (other, [flatten(a), diff(a, c)]),
    ):
        assert same(tree, stack(layers))


@given(trees())
def test_an_editor_changes_a_copy(a: Node) -> None:
    tree = chain_tree([flatten(a)])
    editor = TreeEditor(tree.root)
    for path, node in list(walk(tree.root)):
        if node.children is not None:
            editor.directory(path).clear()
    assert same(tree, stack([flatten(a)]))
