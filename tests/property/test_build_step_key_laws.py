"""What is in the key of files that a step takes, and what is not: laws over trees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from layerstore.build.cache_key import selection_digest
from layerstore.build.source import Match, TreeNode, select
from layerstore.digest import ChunkId
from layerstore.formats.tree import Entry, Kind
from layerstore.image.trees.stack import Node

if TYPE_CHECKING:
    from collections.abc import Callable

_names = st.sampled_from([b"a", b"b", b"c.txt", b"\xff"])
_ids = st.integers(0, 2000)
_modes = st.integers(0, 0o7777)
_times = st.integers(0, 2**40)
_xattrs = st.dictionaries(
    st.sampled_from([b"security.capability", b"user.x"]), st.binary(max_size=4), max_size=2
).map(lambda found: tuple(sorted(found.items())))
_contents = st.binary(min_size=1, max_size=3)


def _chunks(content: bytes) -> tuple[tuple[int, ChunkId], ...]:
    return ((len(content), ChunkId(content.ljust(32, b"\0"))),)


@st.composite
def _file(draw: st.DrawFn) -> Node:
    content = draw(_contents)
    return Node(
        Entry(
            path=b"", kind=Kind.FILE, mode=draw(_modes), uid=draw(_ids), gid=draw(_ids),
            mtime_ns=draw(_times), size=len(content), extents=_chunks(content),
            xattrs=draw(_xattrs),
        )
    )  # fmt: skip


@st.composite
def _symlink(draw: st.DrawFn) -> Node:
    target = draw(_contents.map(lambda data: data.replace(b"\0", b"0")))
    return Node(
        Entry(path=b"", kind=Kind.SYMLINK, mode=0o777, mtime_ns=draw(_times), target=target)
    )


@st.composite
def _directory(draw: st.DrawFn, children: st.SearchStrategy[Node]) -> Node:
    entry = Entry(
        path=b"", kind=Kind.DIR, mode=draw(_modes), uid=draw(_ids), gid=draw(_ids),
        mtime_ns=draw(_times), xattrs=draw(_xattrs),
    )  # fmt: skip
    below = draw(st.dictionaries(_names, children, max_size=3))
    return Node(entry, dict(sorted(below.items())))


_trees = _directory(st.recursive(_file() | _symlink(), _directory, max_leaves=6))


def _key(root: Node) -> str:
    return selection_digest([("/", [Match(b"", b"", select(TreeNode(root)))])])


def _changed(node: Node, change: Callable[[Entry], Entry]) -> Node:
    """Return a copy of a tree with every entry changed."""
    children = node.children
    below = None if children is None else {n: _changed(c, change) for n, c in children.items()}
    return Node(change(node.entry), below)


def _nodes(root: Node) -> list[Node]:
    found = [root]
    for node in found:
        found.extend((node.children or {}).values())
    return found


@settings(deadline=None)
@given(tree=_trees, time=_times)
def test_times_are_not_in_it(tree: Node, time: int) -> None:
    later = _changed(tree, lambda entry: msgspec.structs.replace(entry, mtime_ns=time))
    assert _key(later) == _key(tree)


_CHANGES: dict[str, Callable[[Entry], Entry]] = {
    "mode": lambda entry: msgspec.structs.replace(entry, mode=entry.mode ^ 0o100),
    "owner": lambda entry: msgspec.structs.replace(entry, uid=entry.uid + 1),
    "group": lambda entry: msgspec.structs.replace(entry, gid=entry.gid + 1),
    "attributes": lambda entry: msgspec.structs.replace(
        entry, xattrs=(*entry.xattrs, (b"user.z", b""))
    ),
}


@settings(deadline=None)
@given(data=st.data(), tree=_trees, what=st.sampled_from(sorted(_CHANGES)))
def test_attributes_are_in_it(data: st.DataObject, tree: Node, what: str) -> None:
    before = _key(tree)
    node = data.draw(st.sampled_from(_nodes(tree)))
    node.entry = _CHANGES[what](node.entry)
    assert _key(tree) != before


@settings(deadline=None)
@given(data=st.data(), tree=_trees)
def test_contents_and_targets_are_in_it(data: st.DataObject, tree: Node) -> None:
    files = [node for node in _nodes(tree) if node.children is None]
    if not files:
        return
    before = _key(tree)
    node = data.draw(st.sampled_from(files))
    if node.entry.kind is Kind.SYMLINK:
        node.entry = msgspec.structs.replace(node.entry, target=node.entry.target + b"x")
    else:
        (length, chunk), *_ = node.entry.extents
        other = bytes(chunk or b"\0" * 32)
        flipped = ChunkId(bytes([other[0] ^ 1]) + other[1:])
        node.entry = msgspec.structs.replace(node.entry, extents=((length, flipped),))
    assert _key(tree) != before


@settings(deadline=None)
@given(data=st.data(), tree=_trees)
def test_names_are_in_it(data: st.DataObject, tree: Node) -> None:
    before = _key(tree)
    directories = [node for node in _nodes(tree) if node.children]
    if not directories:
        return
    children = data.draw(st.sampled_from(directories)).children
    assert children is not None
    children[b"~renamed"] = children.pop(data.draw(st.sampled_from(sorted(children))))
    assert _key(tree) != before


@settings(deadline=None)
@given(file=_file())
def test_whether_names_share_a_file_is_in_it_but_not_its_number(file: Node) -> None:
    def tree(one: Node, two: Node) -> Node:
        return Node(Entry(path=b"", kind=Kind.DIR), {b"one": one, b"two": two})

    shared = Node(file.entry)
    shared.nlink, shared.ino = 2, 7
    again = Node(file.entry)
    again.nlink, again.ino = 2, 8
    assert _key(tree(shared, shared)) == _key(tree(again, again))
    assert _key(tree(shared, shared)) != _key(tree(Node(file.entry), Node(file.entry)))
