"""The tree a COPY, ADD or WORKDIR writes to, and the layer that comes of it.

A :class:`TargetTree` changes a stacked tree in memory and remembers what it
touched; :meth:`TargetTree.items` are the entries of the new layer. Directories that
get or lose a name take the time of the build, as they do when docker copies into a
mounted root. Nothing here reads or writes a disk. Single-threaded.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from layerstore.errors import BuildError, UnsafeContentError
from layerstore.formats.tree import Entry, Kind, path_key
from layerstore.image.layers.layer_item import LayerItem
from layerstore.image.trees.chain_trees import TreeEditor
from layerstore.image.trees.stack import Node, lookup, resolve

if TYPE_CHECKING:
    from collections.abc import Callable

Owner = tuple[int, int]

NEW_DIRECTORY_MODE = 0o755
_PATH_MAX_BYTES = 4096
_NAME_MAX_BYTES = 255


class TargetTree:
    """A root file system in memory that takes new files.

    Args:
        root: The tree below, which stays as it is.
        now_ns: The build's time, for new directories and for touched parents.
    """

    def __init__(self, root: Node, *, now_ns: int) -> None:
        self._editor = TreeEditor(root)
        self.now_ns = now_ns
        self._touched: set[bytes] = set()
        self._written: dict[bytes, Node] = {}
        self._contents: dict[int, LayerItem] = {}
        self._emptied: set[bytes] = set()

    @property
    def root(self) -> Node:
        """The tree as it is now."""
        return self._editor.root

    def resolve(self, path: bytes) -> tuple[bytes, Node | None]:
        """Return the real path of ``path``, symlinks followed inside the tree, and its node."""
        return resolve(self.root, path)

    def lookup(self, path: bytes) -> Node | None:
        """Return the node at exactly ``path``, following nothing."""
        return lookup(self.root, path)

    def make_directories(self, path: bytes, owner: Owner = (0, 0)) -> None:
        """Make ``path`` and its missing parents, 0755, with the build's time.

        ``path`` is a real path, as :meth:`resolve` returns it.

        Raises:
            BuildError: A component exists and is no directory.
        """
        done = b""
        for name in path.split(b"/") if path else ():
            done = done + b"/" + name if done else name
            node = lookup(self.root, done)
            if node is None:
                uid, gid = owner
                self.put(
                    Entry(
                        path=done, kind=Kind.DIR, mode=NEW_DIRECTORY_MODE, uid=uid, gid=gid,
                        mtime_ns=self.now_ns,
                    )
                )  # fmt: skip
            elif node.children is None:
                raise BuildError(f"cannot create a directory: /{os.fsdecode(done)} is a file")

    def put(
        self,
        entry: Entry,
        open_content: Callable[[], BinaryIO] | None = None,
        holes: tuple[tuple[int, int], ...] = (),
    ) -> Node:
        """Make a new file or directory at ``entry.path``; what had that name is gone.

        The parent must be a directory. A directory put over a directory replaces only
        its attributes. Content and holes are as in
        :class:`~layerstore.image.layers.layer_item.LayerItem`.
        """
        path = entry.path
        _check_path(path)
        siblings, name = self._parent(path)
        old = siblings.get(name)
        if entry.kind is Kind.DIR and old is not None and old.children is not None:
            own = self._editor.node(path)
            own.entry = entry
            self._touched.add(path)
            return own
        if old is not None:
            self._forget(path, old)
        node = Node(entry, {} if entry.kind is Kind.DIR else None)
        self._editor.put(path, node)
        if entry.kind is Kind.DIR:
            self._touched.add(path)
        else:
            self._written[path] = node
            self._contents[id(node)] = LayerItem(entry, open_content, holes)
        self._touch(path.rpartition(b"/")[0])
        return node

    def link(self, path: bytes, node: Node) -> None:
        """Give a file of this tree another name."""
        _check_path(path)
        siblings, name = self._parent(path)
        old = siblings.get(name)
        if old is node:
            return
        if old is not None:
            self._forget(path, old)
        self._editor.put(path, node)
        self._written[path] = node
        self._touch(path.rpartition(b"/")[0])

    def set_attributes(self, path: bytes, entry: Entry) -> None:
        """Give an existing directory the attributes of ``entry``."""
        self._editor.node(path).entry = msgspec.structs.replace(entry, path=path)
        self._touched.add(path)

    def items(self) -> tuple[list[LayerItem], list[bytes]]:
        """Return the new layer's entries in canonical order, and its opaque directories."""
        items = [LayerItem(self._directory(path), None) for path in self._touched if path]
        first_names: dict[int, bytes] = {}
        for path in sorted(self._written, key=path_key):
            node = self._written[path]
            if lookup(self.root, path) is node:
                items.append(self._file(path, node, first_names))
        items.sort(key=lambda item: path_key(item.entry.path))
        opaques = [path for path in self._emptied if self._is_directory(path)]
        return items, sorted(opaques)

    @property
    def changed(self) -> bool:
        """Return whether anything but the root's own attributes was touched."""
        return bool(self._written) or any(self._touched)

    def _directory(self, path: bytes) -> Entry:
        node = lookup(self.root, path)
        assert node is not None
        return msgspec.structs.replace(node.entry, path=path)

    def _file(self, path: bytes, node: Node, first_names: dict[int, bytes]) -> LayerItem:
        first = first_names.setdefault(id(node), path)
        content = self._contents.get(id(node))
        if first == path and content is not None:
            return content._replace(entry=msgspec.structs.replace(node.entry, path=path))
        # Another name of a file of this layer, or of one that a lower layer holds.
        target = first if content is not None else node.entry.path
        return LayerItem(Entry(path=path, kind=Kind.HARDLINK, target=target), None)

    def _parent(self, path: bytes) -> tuple[dict[bytes, Node], bytes]:
        head, _, name = path.rpartition(b"/")
        parent = lookup(self.root, head)
        if parent is None or parent.children is None:
            raise BuildError(f"/{os.fsdecode(head)} is not a directory")
        return self._editor.directory(head), name

    def _touch(self, path: bytes) -> None:
        node = self._editor.node(path)
        node.entry = msgspec.structs.replace(node.entry, path=path, mtime_ns=self.now_ns)
        self._touched.add(path)

    def _forget(self, path: bytes, node: Node) -> None:
        """Drop what this layer wrote at and below a name that goes away."""
        self._written.pop(path, None)
        if node.children is None:
            return
        # By what lies below, not by all that was written: an archive may replace any number.
        gone = [(path, node)]
        while gone:
            name, each = gone.pop()
            self._written.pop(name, None)
            self._touched.discard(name)
            gone += [(name + b"/" + below, child) for below, child in (each.children or {}).items()]
        # Should a directory take this name again in this step, lower children must stay hidden.
        self._emptied.add(path)

    def _is_directory(self, path: bytes) -> bool:
        node = lookup(self.root, path)
        return node is not None and node.children is not None


def _check_path(path: bytes) -> None:
    name = path.rpartition(b"/")[2]
    shown = os.fsdecode(path[:200])
    if len(path) > _PATH_MAX_BYTES or len(name) > _NAME_MAX_BYTES:
        raise UnsafeContentError(
            f"/{shown!r} is longer than a Linux path can be: at most "
            f"{_PATH_MAX_BYTES} bytes, {_NAME_MAX_BYTES} a name"
        )
    if name.startswith(b".wh."):
        raise UnsafeContentError(
            f"/{shown} cannot be stored in a layer: names that begin with .wh. mean deletion there"
        )
