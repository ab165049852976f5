"""The needless files of images: what later layers hide, and what was left lying about.

Hidden files are found layer by layer over the trie of chains, so that what images share is
looked at once. What is left in an image is found in its whole tree.

A file with several names is hidden when its last name is, and then counts once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.formats.tree import DIR, FILE, path_key
from layerstore.image.sbom.files import ImageFiles
from layerstore.image.sbom.system import system_packages
from layerstore.image.trees.stack import lookup, walk
from layerstore.measure.package_lists import PackageLists
from layerstore.measure.waste_rules import ANY, Rule, cause_of, is_build_tool

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Set as AbstractSet

    from layerstore.formats.tree import Entry
    from layerstore.image.trees.chain_trees import ChainTree
    from layerstore.image.trees.stack import Node
    from layerstore.measure.chains import AppliedLayer, ChainNode
    from layerstore.store.store import Store

DUPLICATE_MIN_BYTES = 4096
"""Smaller copies take one block of a disk, as a link to the other would take an inode."""

_BYTECODE = b".pyc"
_CACHE_FOLDER = b"__pycache__"


class Needless(NamedTuple):
    """One file that an image could do without.

    Attributes:
        cause: A name of :data:`layerstore.measure.waste_rules.CAUSES`, or what else it is.
        entry: The bytes that are needless; its size is that of the file.
        layer: Which holds them.
        by: The layer that makes them needless: which hides them, or has had the same content
            before; None for what is left in the image.
    """

    rule: Rule
    cause: str
    path: bytes
    entry: Entry
    layer: ChainNode
    by: ChainNode | None


class Owners:
    """Which layer an entry came with, by the id() of entries that are alive."""

    def __init__(self) -> None:
        self._layers: dict[int, ChainNode] = {}
        self._copied: dict[int, Entry] = {}

    def note(self, applied: AppliedLayer) -> None:
        """Learn the files of a layer that was read just now."""
        node = applied.node
        for entry in applied.changeset.entries:
            if entry.kind is FILE:
                self._layers[id(entry)] = node
                self._copied.pop(id(entry), None)  # another's that is gone and had this id

    def of(self, entry: Entry) -> ChainNode:
        """Return the layer of a file."""
        return self._layers[id(entry)]

    def note_copy(self, copy: Entry, of: Entry) -> None:
        """Learn that a file is needless because it is only another's content again."""
        self._copied[id(copy)] = of

    def first(self, entry: Entry) -> Entry:
        """Return the file whose copies, all told already, lead to this one."""
        while (lower := self._copied.get(id(entry))) is not None:
            entry = lower
        return entry


def hidden_files(applied: AppliedLayer, owners: Owners) -> Iterator[Needless]:
    """Yield the files below a layer that nobody sees any more above it."""
    told: set[int] = set()
    names = applied.before.names
    for path, old in _touched(applied):
        entry = old.entry
        if entry.kind is not FILE or not entry.size or id(old) in told:
            continue
        new = lookup(applied.after.root, path)
        if new is old or _has_name(old, names.get(id(old), frozenset()), applied.after):
            continue
        told.add(id(old))
        rule = _rule_of(entry, new)
        cause = cause_of(path) or ANY
        if rule in (Rule.DELETED, Rule.OVERWRITTEN):
            entry = owners.first(entry)
            yield Needless(rule, cause, path, entry, owners.of(entry), applied.node)
        elif new is not None and id(new) not in told:
            # Whole again: the copy is the layer's own, and without it what is below would do.
            told.add(id(new))
            owners.note_copy(new.entry, entry)
            yield Needless(rule, cause, path, new.entry, owners.of(new.entry), owners.of(entry))


def _touched(applied: AppliedLayer) -> Iterator[tuple[bytes, Node]]:
    """Yield every leaf of the tree below at a path that the layer says something of."""
    below = applied.before.root
    changeset = applied.changeset
    done: set[bytes] = set()  # hostile layers take a tree away once for each of its directories
    for path in sorted((*changeset.opaques, *changeset.whiteouts), key=path_key):
        node = lookup(below, path)
        if node is None or _is_below(path, done):
            continue
        if node.children is not None:
            done.add(path)
        yield from _leaves(path, node)
    for entry in changeset.entries:
        if entry.path:
            node = lookup(below, entry.path)
            if node is not None and (node.children is None or entry.kind is not DIR):
                yield from _leaves(entry.path, node)


def _is_below(path: bytes, directories: AbstractSet[bytes]) -> bool:
    """Return whether a path is one of some directories or lies in one."""
    while path and path not in directories:
        path = path.rpartition(b"/")[0]
    return path in directories


def _leaves(path: bytes, node: Node) -> Iterator[tuple[bytes, Node]]:
    if node.children is None:
        yield path, node
        return
    prefix = path + b"/" if path else b""
    for below, child in walk(node):
        if child.children is None:
            yield prefix + below, child


def _has_name(node: Node, names: Iterable[bytes], tree: ChainTree) -> bool:
    return any(lookup(tree.root, name) is node for name in names)


def _rule_of(old: Entry, new: Node | None) -> Rule:
    if new is None or new.children is not None:
        return Rule.DELETED
    entry = new.entry
    if entry.kind is not FILE or (entry.size, entry.extents) != (old.size, old.extents):
        return Rule.OVERWRITTEN
    rights = (entry.mode, entry.uid, entry.gid, entry.xattrs)
    same = rights == (old.mode, old.uid, old.gid, old.xattrs)
    return Rule.REPEATED if same else Rule.ATTRIBUTES


def left_files(
    store: Store, tree: ChainTree, owners: Owners, told: AbstractSet[int]
) -> Iterator[Needless]:
    """Yield what an image shows and could do without.

    Args:
        store: Of the image.
        tree: Of the image.
        owners: Of its files.
        told: The id() of each entry that is needless for another reason.

    Raises:
        IntegrityError: The store is damaged.
    """
    seen: set[int] = set()
    first: dict[tuple[object, ...], Needless] = {}
    for path, node in walk(tree.root):
        entry = node.entry
        if entry.kind is not FILE or not entry.size or id(node) in seen:
            continue
        seen.add(id(node))
        is_told = id(entry) in told
        if is_told:  # a copy of what lies below it, and that may have duplicates
            entry = owners.first(entry)
        owner = owners.of(entry)
        cause = cause_of(path)
        if is_told and (cause is not None or _is_bytecode(tree.root, path)):
            continue
        if cause is not None:
            yield Needless(Rule.CACHES, cause, path, entry, owner, None)
        elif _is_bytecode(tree.root, path):
            yield Needless(Rule.BYTECODE, ANY, path, entry, owner, None)
        elif entry.size >= DUPLICATE_MIN_BYTES:
            copy = Needless(Rule.DUPLICATES, ANY, path, entry, owner, None)
            other = first.setdefault((entry.size, entry.extents), copy)
            if other is not copy:
                later = max(other, copy, key=lambda each: (each.layer.depth, each.path))
                yield later
    yield from _build_tools(store, tree, owners)


def _is_bytecode(root: Node, path: bytes) -> bool:
    """Return whether a path is compiled Python whose source is there, too."""
    if not path.endswith(_BYTECODE):
        return False
    folder, _, name = path.rpartition(b"/")
    parent, _, last = folder.rpartition(b"/")
    if last != _CACHE_FOLDER and folder != _CACHE_FOLDER:
        return False
    source = name.partition(b".")[0] + b".py"
    return lookup(root, parent + b"/" + source if parent else source) is not None


def _build_tools(store: Store, tree: ChainTree, owners: Owners) -> Iterator[Needless]:
    """Yield the files of packages of dpkg that serve to build others, as its lists have them."""
    files = ImageFiles(store, tree.root)
    lists = PackageLists(files)
    seen: set[int] = set()
    for package in system_packages(files):
        if package.kind != "deb" or not is_build_tool(package.name) or "/" in package.name:
            continue
        for path, node in lists.files_of(package.name, package.architecture):
            if id(node) in seen or not node.entry.size:
                continue
            seen.add(id(node))
            owner = owners.of(node.entry)
            yield Needless(Rule.BUILD_TOOLS, package.name, path, node.entry, owner, None)
