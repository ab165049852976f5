"""A stacked tree as the kernel is to show it: inodes of an EROFS image, and objects.

Every regular file that is not empty becomes a hole with two attributes of overlayfs that
send its reader to the object with the file's content. What an image itself has under
overlayfs' names is escaped, so that an overlay shows it and does not obey it.

Source: Linux, Documentation/filesystems/overlayfs.rst, "Data-only lower layers" and
"Nesting overlayfs mounts".
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import UnsupportedError
from layerstore.formats.erofs import Inode
from layerstore.formats.tree import FILE_TYPES, Kind
from layerstore.store.objects.objects import object_id

if TYPE_CHECKING:
    from layerstore.digest import ObjectId
    from layerstore.formats.erofs_xattrs import Xattrs
    from layerstore.formats.tree import Entry
    from layerstore.image.trees.stack import Node
    from layerstore.store.objects.objects import Extents

_OVERLAY = b"trusted.overlay."
_ESCAPED = b"trusted.overlay.overlay."
_METACOPY = (b"trusted.overlay.metacopy", b"")
_REDIRECT = b"trusted.overlay.redirect"


class KernelTree(NamedTuple):
    """What an image consists of for the kernel.

    Attributes:
        inodes: The root first; directories name theirs by index.
        objects: What its files redirect to, with what they are made of.
    """

    inodes: list[Inode]
    objects: dict[ObjectId, Extents]


def kernel_tree(root: Node) -> KernelTree:
    """Return a tree in the kernel's form.

    Raises:
        UnsupportedError: It holds something that no overlay over EROFS can show.
    """
    nodes, parents = _numbered(root)
    index = {node.ino: number for number, node in enumerate(nodes)}
    objects: dict[ObjectId, Extents] = {}
    inodes = []
    for node, parent in zip(nodes, parents, strict=True):
        children = [(name, index[child.ino]) for name, child in (node.children or {}).items()]
        inodes.append(inode_of(node, children, parent, objects))
    return KernelTree(inodes, objects)


def inode_of(
    node: Node, children: list[tuple[bytes, int]], parent: int, objects: dict[ObjectId, Extents]
) -> Inode:
    """Return a node in the kernel's form.

    Args:
        node: Of a stacked tree.
        children: Names of a directory, each with the index of its inode.
        parent: The index of the directory that it lies in.
        objects: Gets what a file redirects to.

    Raises:
        UnsupportedError: No overlay over EROFS can show it.
    """
    entry = node.entry
    return Inode(
        FILE_TYPES[entry.kind] | entry.mode,
        entry.uid,
        entry.gid,
        entry.mtime_ns,
        node.nlink,
        entry.size,
        kernel_device(entry),
        entry.target if entry.kind is Kind.SYMLINK else b"",
        _xattrs(entry, objects),
        children,
        parent,
    )


def _numbered(root: Node) -> tuple[list[Node], list[int]]:
    """Return every inode once, directories followed by what is in them, and its parent's index.

    What lies in one directory lies together in the image, as it is read together.
    """
    nodes, parents = [root], [0]
    seen = {root.ino}
    pending = [(root, 0)]
    while pending:
        directory, number = pending.pop()
        below = []
        for node in (directory.children or {}).values():
            if node.ino in seen:
                continue
            seen.add(node.ino)
            if node.children is not None:
                below.append((node, len(nodes)))
            nodes.append(node)
            parents.append(number)
        pending.extend(reversed(below))
    return nodes, parents


def kernel_device(entry: Entry) -> int:
    """Return the device number of an entry, 0 of what is no device.

    Raises:
        UnsupportedError: An overlay would take it for a whiteout.
    """
    if entry.kind not in (Kind.CHAR, Kind.BLOCK):
        return 0
    if entry.kind is Kind.CHAR and entry.dev_major == entry.dev_minor == 0:
        raise UnsupportedError(
            f"the image holds a character device 0/0, {os.fsdecode(entry.path)!r}, "
            "which overlayfs takes for a whiteout",
            hint="mount it with --backend fuse",
        )
    return os.makedev(entry.dev_major, entry.dev_minor)


def escaped_xattrs(xattrs: Xattrs) -> Xattrs:
    """Return an image's attributes in a form that an overlay shows and does not obey."""
    return xattrs and tuple(
        (_ESCAPED + name[len(_OVERLAY) :] if name.startswith(_OVERLAY) else name, value)
        for name, value in xattrs
    )


def _xattrs(entry: Entry, objects: dict[ObjectId, Extents]) -> Xattrs:
    xattrs = escaped_xattrs(entry.xattrs)
    if entry.kind is not Kind.FILE or not entry.size:
        return xattrs
    name = object_id(entry.extents)
    objects[name] = entry.extents
    text = name.hex().encode()
    return (_METACOPY, (_REDIRECT, b"/%b/%b" % (text[:2], text)), *xattrs)
