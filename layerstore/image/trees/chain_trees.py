"""Trees of chains of layers that share with each other what they have in common.

A build goes through chains that differ by one layer, and asks each for a few names.
:meth:`ChainTree.over` costs what the layer holds, where :func:`layerstore.image.trees.stack.stack`
costs what all layers hold: directories on the way to what changes are copied, all other nodes are
those of the tree below. So nobody may change a node; numbers of inodes and links, which depend on
the whole tree, are not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.formats.tree import Changeset, Kind
from layerstore.image.trees.stack import Node, add_link, implied_directory, link_chains, lookup

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from layerstore.formats.tree import Entry


class ChainTree:
    """What a chain of layers shows. Any number of threads may read it.

    Attributes:
        root: The tree; the names in a directory are in byte order.
    """

    __slots__ = ("_links", "_names", "_shared", "root")

    def __init__(self, root: Node, links: tuple[tuple[Node, bytes], ...]) -> None:
        self.root = root
        # Every name that a file with several once had; layers above may have taken some.
        self._links = links
        self._names: dict[int, frozenset[bytes]] | None = None
        self._shared: frozenset[int] | None = None

    @property
    def shared(self) -> frozenset[int]:
        """The id() of each node of a file that has several names."""
        if self._shared is None:
            self._shared = frozenset(self.names)
        return self._shared

    @property
    def names(self) -> dict[int, frozenset[bytes]]:
        """All names of each file that has several, by the id() of its node."""
        if self._names is None:
            names: dict[int, set[bytes]] = {}
            for node, path in self._links:
                if lookup(self.root, path) is node:
                    names.setdefault(id(node), set()).add(path)
            self._names = {key: frozenset(all_) for key, all_ in names.items() if len(all_) > 1}
        return self._names

    def over(self, layer: Changeset) -> ChainTree:
        """Return the tree of these layers with one more on top.

        Raises:
            FormatError: A hard link names nothing, a directory, or itself.

        Source: OCI image spec, layer.md, "Applying Changesets".
        """
        editor = TreeEditor(self.root)
        links = [entry for entry in layer.entries if entry.kind is Kind.HARDLINK]
        # As in layerstore.image.trees.stack: a link may name a file that this very layer removes.
        lower = {link.target: lookup(self.root, link.target) for link in links}
        _hide(editor, layer)
        _add(editor, layer.entries)
        named = list(self._links)
        for link in link_chains(links):
            node = add_link(editor.root, link, lower, editor.directory)
            named += [(node, link.path), (node, link.target)]
        editor.sort()
        return ChainTree(editor.root, tuple(named))


def empty_tree() -> ChainTree:
    """Return the tree of no layers: one root directory, 0755, owned by root."""
    return ChainTree(Node(implied_directory(b""), {}), ())


class TreeEditor:
    """Changes a copy of a tree: whatever is asked for to be changed is copied before.

    Attributes:
        root: Of the copy.
    """

    def __init__(self, root: Node) -> None:
        self.root = Node(root.entry, dict(root.children or {}))
        self._own: dict[bytes, Node] = {b"": self.root}

    def directory(self, path: bytes) -> dict[bytes, Node]:
        """Return the children, to be changed, of a directory, made where it is not one."""
        children = self.node(path).children
        assert children is not None
        return children

    def node(self, path: bytes) -> Node:
        """Return the node, to be changed, of a directory; it and its parents are made if need be.

        A file or symlink in the way is replaced, never followed.
        """
        node = self._own.get(path)
        if node is not None:
            return node
        head, _, name = path.rpartition(b"/")
        siblings = self.directory(head)
        old = siblings.get(name)
        if old is None or old.children is None:
            node = Node(implied_directory(path), {})
        else:
            node = Node(old.entry, dict(old.children))
        siblings[name] = self._own[path] = node
        return node

    def put(self, path: bytes, node: Node) -> None:
        """Give a name to a node, which is this tree's own if it is a directory."""
        head, _, name = path.rpartition(b"/")
        self.forget(path)
        self.directory(head)[name] = node
        if node.children is not None:
            self._own[path] = node

    def forget(self, path: bytes) -> None:
        """Learn that a name is another node's now, or nobody's."""
        if self._own.pop(path, None) is not None:
            prefix = path + b"/"
            for below in [name for name in self._own if name.startswith(prefix)]:
                del self._own[below]

    def sort(self) -> None:
        """Bring the names of changed directories into byte order."""
        for node in self._own.values():
            node.children = dict(sorted((node.children or {}).items()))


def _hide(editor: TreeEditor, layer: Changeset) -> None:
    """Take away what a layer removes from those below."""
    for path in layer.opaques:
        node = lookup(editor.root, path)
        if node is not None and node.children:
            own = editor.node(path)
            for name in own.children or {}:
                editor.forget(path + b"/" + name if path else name)
            own.children = {}
    for path in layer.whiteouts:
        head, _, name = path.rpartition(b"/")
        node = lookup(editor.root, head)
        if node is not None and name in (node.children or {}):
            editor.forget(path)
            del editor.directory(head)[name]


def _add(editor: TreeEditor, entries: Iterable[Entry]) -> None:
    """Add all but hard links; the hot loop."""
    directories: dict[bytes, dict[bytes, Node]] = {}
    hardlink, directory = Kind.HARDLINK, Kind.DIR
    for entry in entries:
        kind = entry.kind
        if kind is hardlink:
            continue
        path = entry.path
        if kind is directory:
            node = editor.node(path)
            node.entry = entry
            assert node.children is not None
            directories[path] = node.children
        elif path:
            head, _, name = path.rpartition(b"/")
            siblings = directories.get(head)
            if siblings is None:
                siblings = directories[head] = editor.directory(head)
            old = siblings.get(name)
            if old is not None and old.children is not None:
                editor.forget(path)
            siblings[name] = Node(entry)


def chain_tree(layers: Sequence[Changeset], below: ChainTree | None = None) -> ChainTree:
    """Return the tree of layers, lowest first, over another tree or over nothing."""
    tree = below or empty_tree()
    for layer in layers:
        tree = tree.over(layer)
    return tree
