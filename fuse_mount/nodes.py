"""Image views as trees of numbered nodes, as /dev/fuse asks for them.

A node's id is its inode number in the view (the root's is 1, as the kernel wants), so it
follows from the image alone: a server that takes over from a dead one understands every
id that the dead one gave, and nothing need be counted or forgotten. In a growing tree of
views each view has a range of ids of its own, in the order in which they were asked for.

Two shapes: one image, or a directory of images that grows on request, which lets all steps
of a build share one server. For one thread.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

from fuse_mount.protocol import ROOT
from layerstore.errors import NotFoundError
from layerstore.formats.tree import Entry, Kind
from layerstore.vfs.view import (
    ImageView,
    NotADirectoryInViewError,
    Totals,
    absent,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from layerstore.image.trees.stack import Node

VIEWS_MAX = 8
"""Views kept loaded; one that is asked for again is loaded again, with the same numbers."""

LISTINGS_MAX = 16
"""Directories whose names are kept in order, for requests that go on where another ended."""

_RANGE_BITS = 40
"""Node ids of a view in a growing tree: more than an image can have inodes."""


class StaleNodeError(NotFoundError):
    """The kernel asks for a node that this tree does not have: it was made of another image."""


class NumberedView:
    """A view whose nodes are found by number.

    Args:
        view: The image.
        base: Added to the inode numbers of the view.
    """

    def __init__(self, view: ImageView, base: int = 0) -> None:
        self.view = view
        self.base = base
        self._nodes: dict[int, Node] = {}
        self._parents: dict[int, Node] = {}
        self._listings: OrderedDict[int, Sequence[tuple[bytes, Node]]] = OrderedDict()
        self._index()

    def _index(self) -> None:
        root = self.view.root
        nodes, parents = self._nodes, self._parents
        nodes[root.ino] = parents[root.ino] = root
        pending = [root]
        while pending:
            directory = pending.pop()
            for node in (directory.children or {}).values():
                nodes[node.ino] = node
                if node.children is not None:
                    parents[node.ino] = directory
                    pending.append(node)

    def node(self, number: int) -> Node:
        """Return the node of an id.

        Raises:
            StaleNodeError: There is none.
        """
        node = self._nodes.get(number - self.base)
        if node is None:
            raise StaleNodeError(f"the image has no inode {number - self.base}")
        return node

    def child(self, parent: Node, name: bytes) -> Node:
        """Return what a directory has under a name, ``.`` and ``..`` included.

        Raises:
            NotADirectoryInViewError: The parent is none.
            NoSuchPathError: It has no such name.
        """
        if name == b".":  # of any node: asked for by whoever holds a file handle
            return parent
        if parent.children is None:
            raise NotADirectoryInViewError(f"{parent.entry.path!r} is not a directory")
        if name == b"..":
            return self._parents[parent.ino]
        node = parent.children.get(name)
        if node is None:
            raise absent(name, f"{parent.entry.path!r} holds no {name!r}")
        return node

    def listing(self, directory: Node) -> Sequence[tuple[bytes, Node]]:
        """Return a directory's names with their nodes, ``.`` and ``..`` first.

        Raises:
            NotADirectoryInViewError: It is none.
        """
        known = self._listings.get(directory.ino)
        if known is not None:
            return known
        if directory.children is None:
            raise NotADirectoryInViewError(f"{directory.entry.path!r} is not a directory")
        dots = ((b".", directory), (b"..", self._parents[directory.ino]))
        made = self._listings[directory.ino] = (*dots, *directory.children.items())
        if len(self._listings) > LISTINGS_MAX:
            self._listings.popitem(last=False)
        return made


class NodeTree(Protocol):
    """What is served. Every call raises what :mod:`fuse_mount.errno_map` knows."""

    def locate(self, number: int) -> tuple[NumberedView, Node]:
        """Return the node of an id with its view."""
        ...

    def lookup(self, parent: int, name: bytes) -> tuple[NumberedView, Node]:
        """Return the node that a directory has under a name, with its view."""
        ...

    def has_xattrs(self) -> bool:
        """Whether any file has an extended attribute; False lets the kernel stop asking."""
        ...

    def has_acls(self) -> bool:
        """Whether any file has a POSIX ACL; False lets the kernel never ask."""
        ...

    def totals(self) -> Totals:
        """Return what statfs(2) says."""
        ...

    def end(self) -> None:
        """Take note that the last mount is gone."""
        ...


class SingleNodes:
    """One view, at the root of the mount."""

    def __init__(self, view: ImageView) -> None:
        self._numbered = NumberedView(view)

    def locate(self, number: int) -> tuple[NumberedView, Node]:
        """Return the node of an id with the view."""
        return self._numbered, self._numbered.node(number)

    def lookup(self, parent: int, name: bytes) -> tuple[NumberedView, Node]:
        """Return the node that a directory has under a name, with the view."""
        numbered = self._numbered
        return numbered, numbered.child(numbered.node(parent), name)

    def has_xattrs(self) -> bool:
        """Whether any file has an extended attribute."""
        return self._numbered.view.has_xattrs()

    def has_acls(self) -> bool:
        """Whether any file has a POSIX ACL."""
        return self._numbered.view.has_acls()

    def totals(self) -> Totals:
        """Return what statfs(2) says."""
        return self._numbered.view.totals()

    def end(self) -> None:
        """Take note that the last mount is gone."""
        self._numbered.view.end()


class GrowingNodes:
    """A directory of views, each loaded when its name is first asked for.

    The top belongs to whoever serves it and lists nothing.

    Args:
        load: Gives the view of a name, or raises NoSuchPathError.
    """

    def __init__(self, load: Callable[[bytes], ImageView]) -> None:
        self._load = load
        self._names: list[bytes] = []
        self._numbers: dict[bytes, int] = {}
        self._views: OrderedDict[int, NumberedView] = OrderedDict()
        self._top = NumberedView(ImageView(_NoChunks(), _top()))

    def end(self) -> None:
        """Take note that the last mount is gone."""

    def locate(self, number: int) -> tuple[NumberedView, Node]:
        """Return the node of an id with its view."""
        index = number >> _RANGE_BITS
        numbered = self._view(index) if index else self._top
        return numbered, numbered.node(number)

    def lookup(self, parent: int, name: bytes) -> tuple[NumberedView, Node]:
        """Return the node that a directory has under a name, with its view."""
        if parent == ROOT and name not in (b".", b".."):
            numbered = self._named(name)
            return numbered, numbered.view.root
        numbered, node = self.locate(parent)
        if name == b".." and node is numbered.view.root:
            return self._top, self._top.view.root
        return numbered, numbered.child(node, name)

    def has_xattrs(self) -> bool:
        """Say yes: a view that comes later may have some."""
        return True

    def has_acls(self) -> bool:
        """Say no: steps of a build act as root, whom ACLs do not bind."""
        return False

    def totals(self) -> Totals:
        """Return nothing: what is free is asked of the overlay, which answers for its upper."""
        return Totals(0, 0)

    def _named(self, name: bytes) -> NumberedView:
        index = self._numbers.get(name)
        if index is not None:
            return self._view(index)
        view = self._load(name)
        self._names.append(name)
        index = self._numbers[name] = len(self._names)
        return self._keep(index, view)

    def _view(self, index: int) -> NumberedView:
        numbered = self._views.get(index)
        if numbered is not None:
            self._views.move_to_end(index)
            return numbered
        if index > len(self._names):
            raise StaleNodeError(f"no view has the number {index}")
        return self._keep(index, self._load(self._names[index - 1]))

    def _keep(self, index: int, view: ImageView) -> NumberedView:
        while len(self._views) >= VIEWS_MAX:
            self._views.popitem(last=False)
        numbered = self._views[index] = NumberedView(view, index << _RANGE_BITS)
        return numbered


class _NoChunks:
    """The reader of a tree without files."""

    def read_chunk(self, chunk_id: bytes) -> bytes:
        """Refuse: nothing refers to a chunk."""
        raise NotFoundError(f"the directory of views holds no chunk {chunk_id.hex()}")


def _top() -> Node:
    from layerstore.image.trees.stack import empty_root

    root = empty_root()
    root.entry = Entry(b"", Kind.DIR, 0o755, os.getuid(), os.getgid())
    return root
