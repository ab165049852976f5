"""What a tree became under somebody's hands, as people read it: paths added, changed, deleted.

Pure. The words are docker's: ``A``, ``C`` and ``D``. A directory is changed when something
directly in it was added or removed, for that changes its time; the root itself is never told.

Source: ``docker diff`` (behaviour).
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from layerstore.formats.tree import Kind, path_key
from layerstore.image.trees.stack import lookup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.image.layers.scan import UpperScan
    from layerstore.image.trees.stack import Node


class Change(StrEnum):
    """What became of a path."""

    ADDED = "A"
    CHANGED = "C"
    DELETED = "D"


class PathChange(NamedTuple):
    """One path, relative to the root, and what became of it."""

    kind: Change
    path: bytes


def changes_of_upper(scan: UpperScan, lower: Node) -> list[PathChange]:
    """Return what an overlay's upper directory does to the tree below it, sorted by path.

    Args:
        scan: Of the upper directory.
        lower: Root of the tree that the overlay lies over.
    """
    found = [
        PathChange(Change.DELETED, path)
        for path in scan.whiteouts
        if lookup(lower, path) is not None
    ]
    for item in scan.items:
        path = item.entry.path
        if path:
            is_new = lookup(lower, path) is None
            found.append(PathChange(Change.ADDED if is_new else Change.CHANGED, path))
    found += (PathChange(Change.DELETED, path) for path in _hidden(scan, lower))
    return sorted(found, key=lambda change: path_key(change.path))


def _hidden(scan: UpperScan, lower: Node) -> Iterator[bytes]:
    """Yield what is gone because a directory above it is opaque: its top alone, as of a whiteout.

    Directories inside of an opaque one show nothing of the lower tree either.
    """
    if not scan.opaques:
        return
    told = {item.entry.path for item in scan.items}
    told.update(scan.whiteouts)
    opaque = set(scan.opaques)
    for item in scan.items:  # directories come before what is in them
        path = item.entry.path
        if item.entry.kind is not Kind.DIR:
            continue
        if path not in opaque and (not path or path.rpartition(b"/")[0] not in opaque):
            continue
        opaque.add(path)
        below = lookup(lower, path)
        prefix = path + b"/" if path else b""
        for name in (below.children if below is not None else None) or ():
            if prefix + name not in told:
                yield prefix + name
