"""Layers of the store seen as a build context.

As in a directory of the host, owners are root, of the extended attributes only file
capabilities count, and pipes and devices are refused when they are copied.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from layerstore.build.context import CAPABILITY, refuse_special
from layerstore.build.source import SourceNode, TreeNode
from layerstore.formats.tree import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from layerstore.build.ignore import IgnoreRules
    from layerstore.image.trees.stack import Node


class StoredTrees:
    """The tree of a stored context behind its rules."""

    def __init__(self, root: Node, ignore: IgnoreRules, *, is_bare: bool = False) -> None:
        self.is_bare = is_bare
        self._root = root
        self._ignore = ignore
        self.looked: list[bytes] = []

    def tree(self) -> SourceNode:
        """Return the root."""
        return StoredContextNode(self._root, b"", self._ignore)


class StoredContextNode(TreeNode):
    """A file or directory of a stored context.

    Args:
        node: In the stacked tree.
        path: In the context.
        ignore: What is left out.
    """

    __slots__ = ("_children", "_ignore", "_path")

    def __init__(self, node: Node, path: bytes, ignore: IgnoreRules) -> None:
        super().__init__(node)
        entry = node.entry
        kept = tuple(pair for pair in entry.xattrs if pair[0] == CAPABILITY)
        if entry.uid or entry.gid or len(kept) != len(entry.xattrs):
            self.entry = msgspec.structs.replace(entry, uid=0, gid=0, xattrs=kept)
        self._path = path
        self._ignore = ignore
        self._children: dict[bytes, SourceNode] | None = None

    def children(self) -> Mapping[bytes, SourceNode]:
        """Return the directory's names that the rules leave, in byte order."""
        if self._children is None:
            below = self._node.children or {}
            found = ((name, self._child(name, below[name])) for name in sorted(below))
            self._children = {name: child for name, child in found if child is not None}
        return self._children

    def _child(self, name: bytes, node: Node) -> SourceNode | None:
        path = self._path + b"/" + name if self._path else name
        child = StoredContextNode(node, path, self._ignore)
        if self._ignore and self._ignore.excluded(path):
            is_entered = node.entry.kind is Kind.DIR and self._ignore.may_contain_included(path)
            if not is_entered or not child.children():
                return None
        return child

    def check(self) -> None:
        """Refuse pipes and devices, as in any build context.

        Raises:
            InputError: It is one.
        """
        refuse_special(self.entry.kind, os.fsdecode(self._path))
