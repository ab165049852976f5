"""Laws of stacking and diffing, over generated trees with shared inodes."""

import random

from hypothesis import given
from hypothesis import strategies as st

from layerstore.formats.tree import (
    Changeset,
    Entry,
    Kind,
    decode_changeset,
    path_key,
)
from layerstore.image.trees.stack import Node, empty_root, implied_directory, stack, walk
from layerstore.image.trees.tree_changes import changes_between
from tests.support.encoding import encode_changeset
from tests.support.tree_diff import diff, flatten, same_tree

NAMES = [b"a", b"b", b"c", b"a.b", b"\xff", b"-"]


@st.composite
def trees(draw: st.DrawFn) -> Node:
    """A tree from random steps: few names, so that two trees often meet."""
    root = Node(implied_directory(b""), {})
    directories: list[Node] = [root]
    files: list[Node] = []
    for _ in range(draw(st.integers(0, 14))):
        parent = draw(st.sampled_from(directories))
        assert parent.children is not None
        name = draw(st.sampled_from(NAMES))
        if name in parent.children:
            continue
        mode = draw(st.sampled_from([0o644, 0o4755]))
        match draw(st.sampled_from(["dir", "file", "link", "symlink"])):
            case "dir":
                node = Node(Entry(path=b"?", kind=Kind.DIR, mode=mode), {})
                directories.append(node)
            case "link" if files:
                node = draw(st.sampled_from(files))
            case "symlink":
                node = Node(Entry(path=b"?", kind=Kind.SYMLINK, mode=0o777, target=name))
            case _:
                size = draw(st.integers(0, 2))
                extents = ((size, bytes(32)),) if size else ()
                node = Node(Entry(path=b"?", kind=Kind.FILE, mode=mode, size=size, extents=extents))
                files.append(node)
        parent.children[name] = node
    return stack([flatten(root)])


@given(trees())
def test_flatten_then_stack_is_identity(tree: Node) -> None:
    assert same_tree(stack([flatten(tree)]), tree)


@given(trees())
def test_diff_with_itself_is_empty(tree: Node) -> None:
    assert diff(tree, tree) == Changeset()
    assert diff(tree, stack([flatten(tree)])) == Changeset()


@given(trees(), trees())
def test_diff_leads_from_one_tree_to_the_other(a: Node, b: Node) -> None:
    changes = diff(a, b)
    assert same_tree(stack([flatten(a), changes]), b)
    assert decode_changeset(encode_changeset(changes)) == changes


@given(trees(), trees(), trees())
def test_layers_add_up(a: Node, b: Node, c: Node) -> None:
    assert same_tree(stack([flatten(a), diff(a, b), diff(b, c)]), c)


@given(trees(), trees())
def test_links_of_a_diff_stay_in_their_own_layer(a: Node, b: Node) -> None:
    entries = {entry.path: entry for entry in diff(a, b).entries}
    for entry in entries.values():
        if entry.kind is Kind.HARDLINK:
            assert entries[entry.target].kind is not Kind.HARDLINK


@given(trees(), st.integers())
def test_numbers_and_link_counts_depend_on_content_alone(tree: Node, seed: int) -> None:
    entries = list(flatten(tree).entries)
    again = stack([Changeset(entries=tuple(entries))])
    described = [(p, n.ino, n.nlink) for p, n in walk(tree)]
    assert [(p, n.ino, n.nlink) for p, n in walk(again)] == described
    files = {}
    for _, node in walk(tree):
        if node.children is None:
            files.setdefault(node.ino, []).append(node.nlink)
    assert all(counts == [len(counts)] * len(counts) for counts in files.values())
    numbers = sorted({n.ino for _, n in walk(tree)})
    assert numbers == list(range(1, len(numbers) + 1))


@given(trees(), trees(), st.integers())
def test_order_of_deletions_within_a_layer_does_not_matter(a: Node, b: Node, seed: int) -> None:
    changes = diff(a, b)
    whiteouts = list(changes.whiteouts)
    random.Random(seed).shuffle(whiteouts)
    shuffled = Changeset(changes.entries, tuple(whiteouts), changes.opaques)
    assert same_tree(stack([flatten(a), shuffled]), b)


@given(trees())
def test_walk_is_in_path_order(tree: Node) -> None:
    paths = [path for path, _ in walk(tree)]
    assert paths == sorted(paths, key=path_key)


@given(trees())
def test_everything_can_be_taken_away(tree: Node) -> None:
    assert same_tree(stack([flatten(tree), diff(tree, empty_root())]), empty_root())


@given(trees(), trees())
def test_changes_between_trees_make_the_second_of_the_first(lower: Node, upper: Node) -> None:
    found = changes_between(lower, upper)
    entries = sorted(found.entries, key=lambda entry: path_key(entry.path))
    changeset = Changeset(entries=tuple(entries), whiteouts=tuple(sorted(found.whiteouts)))
    assert decode_changeset(encode_changeset(changeset)) == changeset
    assert same_tree(stack([flatten(lower), changeset]), upper)
    assert changes_between(upper, upper) == ([], [])
