"""What an overlay lays over one tree's metadata image to show another tree.

A build goes through trees that differ little from the image it began with. Of such a tree
only what differs is written as a metadata image of its own: changed and new inodes, and
whiteouts (character devices 0/0) for names that are gone. Over the first tree's image, an
overlay shows the second one: attributes, content and hard links alike.

Two things need care. A directory that is in both trees is merged by name, so the one above
has its attributes, changed or not, whenever anything below it changed. And an inode has one
number and one count of links only within one layer: if one of its names is above, all are.

Source: Linux, Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories".
"""

from __future__ import annotations

import io
import re
import stat
from collections import Counter
from typing import TYPE_CHECKING

from layerstore.errors import FormatError, UnsupportedError
from layerstore.formats.erofs import Inode, write_image
from layerstore.image.kernel_tree import KernelTree, inode_of
from layerstore.image.stack import walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.digest import ObjectId
    from layerstore.image.stack import Node
    from layerstore.store.objects import Extents

_PREFIX = re.compile(rb"[0-9a-f]{2}")


class _Directory:
    """A directory above: its node of the second tree, and what of its names is above.

    A name is a directory's, a file's node, or None for a whiteout.
    """

    __slots__ = ("names", "node")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.names: dict[bytes, _Directory | Node | None] = {}


def delta_tree(base: Node, top: Node) -> KernelTree:
    """Return what lies over ``base`` to show ``top``; both roots were stacked apart.

    Raises:
        UnsupportedError: ``top`` holds what no overlay can show, or ``base`` a name where
            overlayfs would look for objects.
    """
    # A redirect is looked up in the layer below before it is in the objects.
    if any(_PREFIX.fullmatch(name) for name in base.children or {}):
        raise UnsupportedError("the image has a directory where an overlay looks for objects")
    above = _compare(base, top)
    _complete_links(above, top)
    return _to_tree(above)


def write_delta(tree: KernelTree, uuid: bytes) -> bytes:
    """Return the EROFS image of a delta.

    Raises:
        UnsupportedError: EROFS has no place for something in it.
    """
    out = io.BytesIO()
    try:
        write_image(tree.inodes, out, uuid=uuid)
    except FormatError as err:
        raise UnsupportedError(f"the kernel cannot show this tree: {err.message}") from err
    return out.getvalue()


def _compare(base: Node, top: Node) -> _Directory:
    root = _Directory(top)
    seen: list[tuple[_Directory, bytes, _Directory, bool]] = []
    pending: list[tuple[Node | None, _Directory]] = [(base, root)]
    while pending:
        below, above = pending.pop()
        old = (below.children if below is not None else None) or {}
        new = above.node.children or {}
        for name, node in new.items():
            was = old.get(name)
            if node.children is None:
                if was is None or _differs(was, node):
                    above.names[name] = node
                continue
            inner = above.names[name] = _Directory(node)
            merged = was if was is not None and was.children is not None else None
            changed = merged is None or merged.entry != node.entry
            seen.append((above, name, inner, changed))
            pending.append((merged, inner))
        for name in old.keys() - new.keys():
            above.names[name] = None
    # Innermost first: directories in which nothing is different are not above.
    for above, name, inner, changed in reversed(seen):
        if not changed and not inner.names:
            del above.names[name]
    return root


def _differs(was: Node, node: Node) -> bool:
    if was.children is not None or was.nlink != node.nlink:
        return True
    return was.entry is not node.entry and was.entry != node.entry


def _directories(root: _Directory) -> Iterator[_Directory]:
    pending = [root]
    while pending:
        directory = pending.pop()
        yield directory
        pending += [inner for inner in directory.names.values() if isinstance(inner, _Directory)]


def _complete_links(root: _Directory, top: Node) -> None:
    """Bring all names of an inode above that has one there."""
    above = Counter(
        node.ino
        for directory in _directories(root)
        for node in directory.names.values()
        if node is not None and not isinstance(node, _Directory) and node.nlink > 1
    )
    if not above:
        return
    for path, node in walk(top):
        if (
            node.children is None
            and node.nlink > 1
            and above.get(node.ino, node.nlink) < node.nlink
        ):
            _put(root, path, node)


def _put(root: _Directory, path: bytes, node: Node) -> None:
    *parents, last = path.split(b"/")
    directory = root
    for name in parents:
        inner = directory.names.get(name)
        if not isinstance(inner, _Directory):
            inner = directory.names[name] = _Directory((directory.node.children or {})[name])
        directory = inner
    directory.names[last] = node


def _to_tree(root: _Directory) -> KernelTree:
    """Number everything, what lies in one directory together."""
    objects: dict[ObjectId, Extents] = {}
    above: list[tuple[_Directory | Node | None, int]] = [(root, 0)]
    children: dict[int, list[tuple[bytes, int]]] = {}
    numbers: dict[int, int] = {}
    pending = [(root, 0)]
    while pending:
        directory, number = pending.pop()
        listed = children[number] = []
        below = []
        for name, item in sorted(directory.names.items(), key=lambda named: named[0]):
            known = None
            if item is not None and not isinstance(item, _Directory):
                known = numbers.get(item.ino)
            index = len(above) if known is None else known
            listed.append((name, index))
            if known is not None:
                continue
            above.append((item, number))
            if isinstance(item, _Directory):
                below.append((item, index))
            elif item is not None:
                numbers[item.ino] = index
        pending.extend(reversed(below))
    inodes = []
    for number, (item, parent) in enumerate(above):
        if item is None:
            inodes.append(_whiteout(parent))
            continue
        node = item.node if isinstance(item, _Directory) else item
        inodes.append(inode_of(node, children.get(number, []), parent, objects))
    return KernelTree(inodes, objects)


def _whiteout(parent: int) -> Inode:
    return Inode(stat.S_IFCHR, 0, 0, 0, 1, 0, 0, b"", (), [], parent)
