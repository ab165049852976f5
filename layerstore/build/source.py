"""What COPY and ADD read from: trees of files, wherever they come from.

A :class:`SourceNode` is one file of a build context, of a stage or image, or of a
here-document. :func:`resolve` walks names in such a tree as a process chrooted to
it would, so a symlink in a context never leads out of it. :func:`select` finds what
a source pattern names and applies the include and exclude patterns, once, for both
the cache key and the copy.

Single-threaded; nodes may read from disk when asked for children or content.
"""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from layerstore.build.ignore import IgnoreRules, has_wildcards, match_source, unescape_source
from layerstore.errors import LimitExceededError, UnsafeContentError
from layerstore.formats.tree import Entry, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from collections.abc import Set as AbstractSet

    from layerstore.image.trees.chain_trees import ChainTree
    from layerstore.image.trees.stack import Node

MAX_SYMLINKS = 40
MAX_DEPTH = 250
"""Nested directories below a copied one; bounds our recursion, far above real projects."""


class SourceNode(ABC):
    """One file or directory to copy from.

    Attributes:
        entry: Its attributes; ``entry.path`` is not meaningful.
    """

    __slots__ = ("entry",)

    def __init__(self, entry: Entry) -> None:
        self.entry = entry

    @abstractmethod
    def children(self) -> Mapping[bytes, SourceNode]:
        """Return a directory's names in byte order; empty for everything else."""

    @abstractmethod
    def opener(self) -> Callable[[], BinaryIO] | None:
        """Return how to read a regular file, None when ``entry.extents`` holds it already."""

    @abstractmethod
    def content_digest(self) -> bytes:
        """Return bytes that are equal for equal contents of a regular file."""

    def check(self) -> None:  # noqa: B027 -- nothing to refuse, unless a subclass says so
        """Refuse what must not be copied.

        Raises:
            InputError: This file must not.
        """

    def link_identity(self) -> object | None:
        """Return what other names of the same file share, None when there are none."""
        return None


class TreeNode(SourceNode):
    """A file of a stage or an image, read from the store without unpacking anything.

    Args:
        node: Of a stacked tree, or of a chain's.
        shared: The id() of the nodes that have several names, in a chain's tree.
    """

    __slots__ = ("_node", "_shared")

    def __init__(self, node: Node, shared: AbstractSet[int] | None = None) -> None:
        super().__init__(node.entry)
        self._node = node
        self._shared = shared

    def children(self) -> Mapping[bytes, SourceNode]:
        """Return the names of the directory."""
        below = self._node.children or {}
        shared = self._shared
        return {name: TreeNode(node, shared) for name, node in below.items()}

    def opener(self) -> Callable[[], BinaryIO] | None:
        """Return None: the chunks are shared, not copied."""
        return None

    def content_digest(self) -> bytes:
        """Return the chunk ids with their lengths."""
        parts = [b"%d:%b" % (length, chunk or b"-") for length, chunk in self.entry.extents]
        return b",".join(parts)

    def link_identity(self) -> object | None:
        """Return the shared node's identity."""
        shared = self._shared
        has_several = self._node.nlink > 1 if shared is None else id(self._node) in shared
        return id(self._node) if has_several else None


def tree_node(tree: ChainTree) -> TreeNode:
    """Return the root of a chain's tree as a source."""
    return TreeNode(tree.root, tree.shared)


class InlineNode(SourceNode):
    """A here-document, or a directory that holds some."""

    __slots__ = ("_children", "_data")

    def __init__(self, entry: Entry, data: bytes, children: dict[bytes, SourceNode]) -> None:
        super().__init__(entry)
        self._data = data
        self._children = children

    def children(self) -> Mapping[bytes, SourceNode]:
        """Return the documents by file name."""
        return self._children

    def opener(self) -> Callable[[], BinaryIO] | None:
        """Return how to read the document's bytes."""
        return lambda: io.BytesIO(self._data)

    def content_digest(self) -> bytes:
        """Return the document itself."""
        return self._data


def inline_file(data: bytes, *, now_ns: int) -> InlineNode:
    """Return a here-document as the file that docker makes of it: 0644, owned by root."""
    entry = Entry(path=b"", kind=Kind.FILE, mode=0o644, mtime_ns=now_ns, size=len(data))
    return InlineNode(entry, data, {})


class Selected(NamedTuple):
    """A file to copy, or a directory some of whose content is copied.

    Attributes:
        included: False for a directory that only leads to included ones.
        children: Of a directory, in byte order, those with something to copy.
    """

    node: SourceNode
    included: bool
    children: tuple[tuple[bytes, Selected], ...] = ()


class Match(NamedTuple):
    """What one source argument stands for.

    Attributes:
        name: Last component as written: the name below a destination directory.
        path: The path in the source tree, for messages.
    """

    name: bytes
    path: bytes
    selected: Selected


def resolve(root: SourceNode, path: bytes) -> SourceNode | None:
    """Return the node at ``path``, symlinks followed as a chroot would; None when absent.

    Raises:
        UnsafeContentError: More than 40 symlinks.
    """
    todo = path.split(b"/")[::-1]
    trail: list[SourceNode] = [root]
    links = 0
    while todo:
        name = todo.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            if len(trail) > 1:
                trail.pop()
            continue
        child = trail[-1].children().get(name)
        if child is None:
            return None
        if child.entry.kind is Kind.SYMLINK:
            links += 1
            if links > MAX_SYMLINKS:
                raise UnsafeContentError(
                    f"too many levels of symbolic links in {os.fsdecode(path)!r}: "
                    f"at most {MAX_SYMLINKS}"
                )
            if child.entry.target.startswith(b"/"):
                del trail[1:]
            todo.extend(child.entry.target.split(b"/")[::-1])
            continue
        trail.append(child)
    return trail[-1]


def find(root: SourceNode, pattern: str) -> list[tuple[bytes, SourceNode]]:
    """Return (path, node) of everything a source pattern names, in byte order.

    Symlinks are followed in the part before the first wildcard, and where a match
    itself is one. A pattern without wildcards that names nothing gives an empty list.
    """
    fixed, components = _split_pattern(pattern)
    base_path = os.fsencode(fixed)
    base = resolve(root, base_path)
    if base is None:
        return []
    level = [(base_path, base)]
    for component in components:
        level = [
            (path + b"/" + name if path else name, child)
            for path, node in level
            for name, child in node.children().items()
            if match_source(component, name)
        ]
    if not components:
        return level
    followed = ((path, resolve(root, path)) for path, _ in level)
    return [(path, node) for path, node in followed if node is not None]


def _split_pattern(pattern: str) -> tuple[str, list[str]]:
    """Return the leading components without wildcards as one path, and the others."""
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    for index, part in enumerate(parts):
        if has_wildcards(part):
            return "/".join(map(unescape_source, parts[:index])), parts[index:]
    return "/".join(map(unescape_source, parts)), []


def select(
    node: SourceNode, includes: IgnoreRules | None = None, excludes: IgnoreRules | None = None
) -> Selected:
    """Return what is copied of ``node``, which itself is always included.

    Args:
        node: The match.
        includes: When given, only what these patterns match is copied.
        excludes: What these match is not.

    Raises:
        LimitExceededError: Directories nested more than ``MAX_DEPTH`` deep.
    """
    selected = _select(node, "", includes, excludes, 0)
    assert selected is not None
    return selected


def _select(
    node: SourceNode,
    path: str,
    includes: IgnoreRules | None,
    excludes: IgnoreRules | None,
    depth: int,
) -> Selected | None:
    included = not path or includes is None or includes.excluded(path)
    if included and path and excludes is not None:
        included = not excludes.excluded(path)
    if node.entry.kind is not Kind.DIR:
        if not included:
            return None
        node.check()
        return Selected(node, included=True)
    if depth > MAX_DEPTH:
        raise LimitExceededError(
            f"{path!r} lies more than {MAX_DEPTH} directories deep, the limit of COPY and ADD"
        )
    children: list[tuple[bytes, Selected]] = []
    prefix = f"{path}/" if path else ""
    for name, child in node.children().items():
        below = _select(child, prefix + os.fsdecode(name), includes, excludes, depth + 1)
        if below is not None:
            children.append((name, below))
    if path and not included and not children:
        return None
    return Selected(node, included, tuple(children))
