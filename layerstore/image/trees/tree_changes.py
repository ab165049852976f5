"""What one tree has that another has not: the layer that makes the second of the first.

Pure, over trees in memory. Applying the result to ``lower`` gives ``upper``, hard links
included; equal trees give no changes.

Source: OCI image spec, layer.md, "Change Types".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from layerstore.image.layers.changeset_builder import hard_link
from layerstore.image.trees.stack import walk

if TYPE_CHECKING:
    from layerstore.formats.tree import Entry
    from layerstore.image.trees.stack import Node

_Groups = dict[int, list[bytes]]
"""All names of each file that has several, by inode number."""


class TreeChanges(NamedTuple):
    """A changeset without its order.

    Attributes:
        entries: New or changed, each with its own path.
        whiteouts: What is gone.
    """

    entries: list[Entry]
    whiteouts: list[bytes]


def changes_between(lower: Node, upper: Node) -> TreeChanges:
    """Return what turns ``lower`` into ``upper``; both are roots."""
    found = TreeChanges([], [])
    lower_names, upper_names = _groups(lower), _groups(upper)
    pending: list[tuple[bytes, Node | None, Node]] = [(b"", lower, upper)]
    while pending:
        path, old, new = pending.pop()
        if not _is_same(path, old, new, lower_names, upper_names):
            found.entries.append(_entry_of(path, new, upper_names))
        if new.children is None:
            continue
        old_children = (old.children if old is not None else None) or {}
        prefix = path + b"/" if path else b""
        found.whiteouts.extend(prefix + name for name in old_children if name not in new.children)
        pending.extend(
            (prefix + name, old_children.get(name), child) for name, child in new.children.items()
        )
    return found


def _groups(root: Node) -> _Groups:
    groups: _Groups = {}
    for path, node in walk(root):
        if node.children is None and node.nlink > 1:
            groups.setdefault(node.ino, []).append(path)
    return groups


def _is_same(
    path: bytes, old: Node | None, new: Node, lower_names: _Groups, upper_names: _Groups
) -> bool:
    if old is None or (old.children is None) != (new.children is None):
        return False
    if new.children is None and lower_names.get(old.ino) != upper_names.get(new.ino):
        return False  # a file is all its names: one more or less makes all of them new
    return old.entry is new.entry or _at(path, old.entry) == _at(path, new.entry)


def _entry_of(path: bytes, node: Node, names: _Groups) -> Entry:
    group = names.get(node.ino) if node.children is None else None
    if group is not None and group[0] != path:
        return hard_link(path, group[0], node.entry)
    return _at(path, node.entry)


def _at(path: bytes, entry: Entry) -> Entry:
    return entry if entry.path == path else msgspec.structs.replace(entry, path=path)
