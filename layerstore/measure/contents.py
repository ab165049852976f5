"""What images hold, counted as a container sees it, chain by chain.

Images share lower layers, so sizes are computed over the trie of layer chains:
a layer shared by 500 images is applied once. Applying a layer to a running
:class:`_FileSystem` costs its own entries only, and the way back from a
branch undoes them; branches that only add names are added up without being
applied. The result for one image equals a walk over
:func:`layerstore.image.trees.stack.stack` of its layers (a test holds the two
together), without building that tree for every image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from layerstore.digest import ChunkId, DiffId
from layerstore.formats.tree import DIR, FILE, HARDLINK, Changeset, Entry, Extent, Kind
from layerstore.measure.host_model import BLOCK_BYTES, allocated_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Content: TypeAlias = ChunkId | tuple[Extent, ...]
"""What makes two files' contents the same: the one chunk, or all extents."""

Chain: TypeAlias = tuple[DiffId, ...]
"""Layers in the order they are applied, lowest first."""


class ContentSize(NamedTuple):
    """Sizes of one image's file system as a container sees it.

    Attributes:
        logical_size: Bytes of regular files, each inode once, holes included.
        allocated_size: Bytes a plain copy takes on a host (``host_model``).
        files: Regular files, each inode once.
        names: Names of every kind, the root not counted.
    """

    logical_size: int
    allocated_size: int
    files: int
    names: int


class LayerContent(NamedTuple):
    """One layer on its own: what unpacking it beside others costs, and what it refers to.

    Attributes:
        logical_size: Bytes of the regular files the layer brings.
        allocated_size: Bytes they and its directories take when unpacked (``host_model``).
        entries: Names it brings, whiteouts not counted.
        contents: Each distinct file content with its logical bytes (holes included)
            and the bytes one plain copy of it takes.
        chunks: Each distinct chunk of file data with its length.
    """

    logical_size: int
    allocated_size: int
    entries: int
    contents: dict[Content, tuple[int, int]]
    chunks: dict[ChunkId, int]


def layer_content(changeset: Changeset) -> LayerContent:
    """Count one layer on its own."""
    logical = allocated = 0
    contents: dict[Content, tuple[int, int]] = {}
    chunks: dict[ChunkId, int] = {}
    for entry in changeset.entries:
        own = allocated_size(entry)
        allocated += own
        extents = entry.extents
        if not extents:
            continue
        logical += entry.size
        first = extents[0][1]
        if first is not None and len(extents) == 1:
            contents[first] = (entry.size, own)
            chunks[first] = entry.size
            continue
        contents[extents] = (entry.size, own)
        chunks.update((part, length) for length, part in extents if part is not None)
    return LayerContent(logical, allocated, len(changeset.entries), contents, chunks)


class _Inode:
    """A regular file or other leaf that one or more names share."""

    __slots__ = ("allocated", "is_file", "links", "size")

    def __init__(self, size: int, allocated: int, *, is_file: bool) -> None:
        self.size = size
        self.allocated = allocated
        self.is_file = is_file
        self.links = 0


class _FileSystem:
    """A file system as sums over its names; every change can be undone in reverse order."""

    def __init__(self) -> None:
        self.logical = 0
        self.allocated = BLOCK_BYTES  # the root directory
        self.files = 0
        self.names: dict[bytes, _Inode | None] = {}  # None: a directory
        self.children: dict[bytes, set[bytes]] = {b"": set()}
        self._undo: list[tuple[bytes, _Inode | None, bool]] = []

    def size(self) -> ContentSize:
        return ContentSize(self.logical, self.allocated, self.files, len(self.names))

    def mark(self) -> int:
        """Return a point in time to :meth:`roll_back` to."""
        return len(self._undo)

    def roll_back(self, mark: int) -> None:
        """Undo every change since ``mark``, newest first."""
        while len(self._undo) > mark:
            path, node, added = self._undo.pop()
            if added:
                self._drop(path)
            else:
                self._put(path, node)

    def apply(self, changeset: Changeset) -> None:
        """Apply one layer by the rules of :func:`layerstore.image.trees.stack.stack`."""
        links = {e.path: e for e in changeset.entries if e.kind == Kind.HARDLINK and e.path}
        # A link may name a lower file that this very layer removes.
        lower = {link.target: self.names.get(link.target) for link in links.values()}
        for path in changeset.opaques:
            for child in tuple(self.children.get(path, ())):
                self._remove(child)
        for path in changeset.whiteouts:
            self._remove(path)
        for entry in changeset.entries:
            if entry.path and entry.kind != Kind.HARDLINK:
                self._apply_entry(entry)
        while links:
            self._apply_links(links, links[next(iter(links))], lower)

    def _apply_entry(self, entry: Entry) -> None:
        path = entry.path
        if entry.kind != Kind.DIR:
            is_file = entry.kind == Kind.FILE
            size = entry.size if is_file else 0
            self._replace(path, _Inode(size, allocated_size(entry), is_file=is_file))
        elif path not in self.children:
            self._replace(path, None)

    def _apply_links(
        self, links: dict[bytes, Entry], link: Entry, lower: dict[bytes, _Inode | None]
    ) -> None:
        """Add a link after the links of the same layer that it names in turn."""
        chain = [links.pop(link.path)]
        while chain[-1].target in links:
            chain.append(links.pop(chain[-1].target))
        for member in reversed(chain):
            node = self.names.get(member.target) or lower[member.target]
            if node is not None:  # a link to nothing: stacking such layers is refused
                self._replace(member.path, node)

    def _replace(self, path: bytes, node: _Inode | None) -> None:
        if node is not None and self.names.get(path) is node:
            return
        self._remove(path)
        self._make_parents(path)
        self._add(path, node)

    def _make_parents(self, path: bytes) -> None:
        missing = []
        parent = path.rpartition(b"/")[0]
        while parent not in self.children:
            missing.append(parent)
            parent = parent.rpartition(b"/")[0]
        for directory in reversed(missing):
            self._remove(directory)  # a lower non-directory gives way to the directory
            self._add(directory, None)

    def _remove(self, path: bytes) -> None:
        """Remove a name and all below it, if it is there."""
        if path not in self.names:
            return
        doomed, pending = [], [path]
        while pending:  # not by recursion: paths may be 2,000 levels deep
            name = pending.pop()
            doomed.append(name)
            pending.extend(self.children.get(name, ()))
        for name in reversed(doomed):
            self._undo.append((name, self.names[name], False))
            self._drop(name)

    def _add(self, path: bytes, node: _Inode | None) -> None:
        self._undo.append((path, node, True))
        self._put(path, node)

    def _put(self, path: bytes, node: _Inode | None) -> None:
        self.names[path] = node
        self.children[path.rpartition(b"/")[0]].add(path)
        if node is None:
            self.children[path] = set()
            self.allocated += BLOCK_BYTES
            return
        node.links += 1
        if node.links == 1:
            self._count(node, 1)

    def _drop(self, path: bytes) -> None:
        node = self.names.pop(path)
        self.children[path.rpartition(b"/")[0]].discard(path)
        if node is None:
            del self.children[path]
            self.allocated -= BLOCK_BYTES
            return
        node.links -= 1
        if node.links == 0:
            self._count(node, -1)

    def _count(self, node: _Inode, sign: int) -> None:
        self.logical += sign * node.size
        self.allocated += sign * node.allocated
        self.files += sign * node.is_file


class _Added:
    """Layers over a file system that only add names: most of those that end an image."""

    def __init__(self, system: _FileSystem) -> None:
        self._system = system
        self._names: set[bytes] = set()
        self._directories: set[bytes] = set()
        self.size = system.size()

    def add(self, changeset: Changeset, content: LayerContent) -> bool:
        """Count one layer more; return whether it only adds names."""
        if changeset.whiteouts or changeset.opaques:
            return False
        below, lower = self._system.names, self._system.children
        names, directories = self._names, self._directories
        kept = files = 0
        for entry in changeset.entries:
            path, kind = entry.path, entry.kind
            if kind is DIR:
                if path in lower or path in directories:
                    kept += 1
                    continue
                directories.add(path)
            elif kind is FILE:
                files += 1
            elif kind is HARDLINK:
                return False
            parent = path.rpartition(b"/")[0]
            if path in below or path in names:
                return False
            if parent not in lower and parent not in directories:
                return False
            names.add(path)
        self.size = ContentSize(
            self.size.logical_size + content.logical_size,
            self.size.allocated_size + content.allocated_size - kept * BLOCK_BYTES,
            self.size.files + files,
            self.size.names + content.entries - kept,
        )
        return True


class _ChainNode:
    """A node of the trie of chains: the layers that lie on this one."""

    __slots__ = ("above", "wanted")

    def __init__(self) -> None:
        self.above: dict[DiffId, _ChainNode] = {}
        self.wanted = False


def image_sizes(
    chains: Iterable[Chain],
    load: Callable[[DiffId], Changeset],
    count: Callable[[DiffId], LayerContent],
) -> dict[Chain, ContentSize]:
    """Return the sizes of the file systems that chains of layers (lowest first) make.

    Args:
        chains: What to size; equal chains are computed once.
        load: Gives a layer's changeset; called once or twice for each node of the trie of chains.
        count: Gives what :func:`layer_content` makes of a layer that was just loaded.
    """
    root = _ChainNode()
    for chain in chains:
        node = root
        for diff_id in chain:
            node = node.above.setdefault(diff_id, _ChainNode())
        node.wanted = True
    sizes: dict[Chain, ContentSize] = {}
    system = _FileSystem()
    # An explicit stack: 512 layers would exhaust the interpreter's.
    pending: list[tuple[Chain, _ChainNode | None, int]] = [((), root, 0)]
    branches: set[Chain] = set()
    unvisited = 1
    while unvisited:  # what is applied last need not be undone
        chain, visited, mark = pending.pop()
        if visited is None:
            system.roll_back(mark)
            continue
        if chain in branches:
            branches.remove(chain)
            added = _sizes_added(system, chain, visited, load, count)
            if added is not None:
                sizes.update(added)
                unvisited -= 1
                continue
        unvisited += len(visited.above) - 1
        pending.append((chain, None, system.mark()))
        if chain:
            system.apply(load(chain[-1]))
        if visited.wanted:
            sizes[chain] = system.size()
        above = [((*chain, diff), node, 0) for diff, node in visited.above.items()]
        pending.extend(above)
        if len(above) > 1:
            branches.update(chain for chain, _, _ in above)
    return sizes


def _sizes_added(
    system: _FileSystem,
    chain: Chain,
    node: _ChainNode,
    load: Callable[[DiffId], Changeset],
    count: Callable[[DiffId], LayerContent],
) -> dict[Chain, ContentSize] | None:
    """Return the sizes of a branch without branches whose layers only add names, else None."""
    sizes: dict[Chain, ContentSize] = {}
    added = _Added(system)
    while True:
        if len(node.above) > 1 or not added.add(load(chain[-1]), count(chain[-1])):
            return None
        if node.wanted:
            sizes[chain] = added.size
        if not node.above:
            return sizes
        [(diff_id, node)] = node.above.items()
        chain = (*chain, diff_id)
