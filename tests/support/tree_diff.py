"""The changeset that leads from one tree to another.

The law: ``stack([flatten(a), diff(a, b)])`` equals ``b``, and ``diff(a, a)`` is
empty. A changeset made here stands alone, so that tools which unpack a layer
into an empty directory can read it: a group of hard links of which anything
changed is written whole, and no link points into a lower layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from layerstore.formats.tree import Changeset, Entry, Kind, path_key
from layerstore.image.trees.stack import Node, empty_root, walk

if TYPE_CHECKING:
    from collections.abc import Iterator


def flatten(root: Node) -> Changeset:
    """Return the whole tree as one changeset: what applying it to nothing gives."""
    return diff(empty_root(), root)


def diff(lower: Node, upper: Node) -> Changeset:
    """Return what has to be added to and removed from ``lower`` to get ``upper``.

    Attributes, content (by chunk references), and hard link groups count; inode
    numbers do not.
    """
    kept = _kept_nodes(lower, upper)
    added: list[tuple[bytes, Node]] = []
    whiteouts: list[bytes] = []
    for path, below, above in _walk_both(lower, upper):
        if above is None:
            whiteouts.append(path)
        elif above.children is None:
            if id(above) not in kept:
                added.append((path, above))
        elif below is None or not _same(below, above):
            added.append((path, above))
    added.sort(key=lambda item: path_key(item[0]))
    return Changeset(
        entries=tuple(_entries(added)), whiteouts=tuple(sorted(whiteouts, key=path_key))
    )


def _entries(added: list[tuple[bytes, Node]]) -> Iterator[Entry]:
    """Yield entries in path order; all but the first name of an inode as hard links to that."""
    first_names: dict[int, bytes] = {}
    for path, node in added:
        first = path if node.nlink < 2 else first_names.setdefault(id(node), path)
        if first == path or node.children is not None:
            yield _named(node.entry, path)
        else:
            yield _link(node.entry, path, first)


def _named(entry: Entry, path: bytes) -> Entry:
    return entry if entry.path == path else msgspec.structs.replace(entry, path=path)


def _link(entry: Entry, path: bytes, target: bytes) -> Entry:
    """Return a further name of an inode; it repeats what the format asks it to."""
    return Entry(
        path=path,
        kind=Kind.HARDLINK,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        mtime_ns=entry.mtime_ns,
        target=target,
    )


def _same(below: Node, above: Node) -> bool:
    """Whether two inodes are alike in everything but their names and children."""
    left, right = below.entry, above.entry
    if left is right:
        return True
    if (below.children is None) != (above.children is None):
        return False
    return _named(left, b"") == _named(right, b"")


def _kept_nodes(lower: Node, upper: Node) -> set[int]:
    """Return the ids of files of ``upper`` that lie in ``lower`` as they should be.

    All names of such a file lead to one and the same alike inode in the lower
    tree, and no other file of the upper tree claims that inode: otherwise two
    files would come out as one.
    """
    counterpart: dict[int, Node | None] = {}
    claimed: dict[int, int] = {}
    for _, below, above in _walk_both(lower, upper):
        if above is None or above.children is not None:
            continue
        key = id(above)
        if key not in counterpart:
            free = below is not None and below.children is None and id(below) not in claimed
            counterpart[key] = below if free and below and _same(below, above) else None
            if free and below:
                claimed[id(below)] = key
        elif counterpart[key] is not below:
            counterpart[key] = None
    return {key for key, below in counterpart.items() if below is not None}


def _walk_both(lower: Node, upper: Node) -> Iterator[tuple[bytes, Node | None, Node | None]]:
    """Yield path, lower and upper node of every name; a vanished directory once, at its top."""
    above: Node | None
    yield b"", lower, upper
    pending = [(b"", lower.children or {}, upper.children or {})]
    while pending:
        prefix, left, right = pending.pop()
        for name in left:
            if name not in right:
                yield prefix + name, left[name], None
        for name, above in right.items():
            below = left.get(name)
            yield prefix + name, below, above
            if above.children:
                inside = below.children if below is not None else None
                pending.append((prefix + name + b"/", inside or {}, above.children))
            elif above.children is not None and below is not None and below.children:
                pending.append((prefix + name + b"/", below.children, {}))


def same_tree(left: Node, right: Node) -> bool:
    """Whether two trees hold the same names, attributes, content and hard link groups."""
    return _description(left) == _description(right)


def _description(root: Node) -> list[tuple[bytes, int, Entry]]:
    return [(path, node.ino, _named(node.entry, b"")) for path, node in walk(root)]
