"""One tree out of a stack of layers, and how paths are found in it.

:func:`stack` applies changesets in order, lowest first, by the rules of the OCI
layer spec: whiteouts and opaque whiteouts act on lower layers only, wherever
they stand in their own layer; a hard link names an inode of its own or of a
lower layer and shares it; what is no directory gives way to a path below it.
Nothing here follows a symlink except :func:`resolve`, which does so the way
chroot(2) would, and nothing touches the host's file system.

A tree is plain memory, made by one thread and read by any number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.errors import FormatError, UnsafeContentError
from layerstore.formats.tree import Changeset, Entry, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from layerstore.digest import DiffId
    from layerstore.store.reading import StoreReader

IMPLIED_MODE = 0o755
"""Mode of directories that no layer names (docker and containerd do the same)."""

MAX_SYMLINKS = 40
"""Links followed before giving up, as in the Linux kernel (path_resolution(7))."""


class Node:
    """An inode of a stacked tree.

    Attributes:
        entry: Attributes and content; ``entry.path`` is one of the node's names, not
            necessarily the one it was found by, and never a HARDLINK entry.
        children: Names of a directory in byte order, None for everything else.
        nlink: Names of a file; 2 and the number of subdirectories of a directory.
        ino: From 1 (the root) upwards, dense, the same for the same layers.
    """

    __slots__ = ("children", "entry", "ino", "nlink")

    def __init__(self, entry: Entry, children: dict[bytes, Node] | None = None) -> None:
        self.entry = entry
        self.children = children
        self.nlink = 0
        self.ino = 0


def empty_root() -> Node:
    """Return the tree of no layers: one root directory, 0755, owned by root."""
    root = Node(implied_directory(b""), {})
    _number(root)
    return root


def implied_directory(path: bytes) -> Entry:
    """Return the attributes of a directory that only its children mention."""
    return Entry(path=path, kind=Kind.DIR, mode=IMPLIED_MODE)


def stack(changesets: Sequence[Changeset]) -> Node:
    """Return the root of the tree that the layers make, lowest first.

    Raises:
        FormatError: A hard link names nothing, a directory, or itself.

    Source: OCI image spec, layer.md, "Applying Changesets".
    """
    root = Node(implied_directory(b""), {})
    for changeset in changesets:
        _apply(root, changeset)
    _number(root)
    return root


def load_root(store: StoreReader, diff_ids: Sequence[DiffId]) -> Node:
    """Read the layers from the store and stack them.

    Raises:
        NotFoundError: The store has no such layer.
        IntegrityError: A layer's record is damaged.
    """
    from layerstore.image.layers.layers import load_changeset  # lazily: stack() needs no store

    return stack([load_changeset(store, diff_id) for diff_id in diff_ids])


def lookup(root: Node, path: bytes) -> Node | None:
    """Return the node at exactly this path; follows nothing."""
    node = root
    if path:
        for name in path.split(b"/"):
            if node.children is None:
                return None
            child = node.children.get(name)
            if child is None:
                return None
            node = child
    return node


def resolve(root: Node, path: bytes, *, follow_last: bool = True) -> tuple[bytes, Node | None]:
    """Find a path the way a process with this root would, following symlinks.

    Args:
        root: What ``/`` means, for absolute links too.
        path: Absolute or relative to the root; ``.``, ``..`` and doubled slashes are
            understood, and ``..`` never leaves the root.
        follow_last: Whether a symlink at the very end is followed as well; one with
            a slash after it always is.

    Returns:
        The real path and its node; None when it does not exist, and then the path is
        the one that creating it with its parents would give.

    Raises:
        UnsafeContentError: More than 40 symlinks.
    """
    todo = path.split(b"/")[::-1]
    names: list[bytes] = []
    nodes: list[Node | None] = [root]
    links = 0
    while todo:
        name = todo.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            if names:
                names.pop()
                nodes.pop()
            continue
        child = _child(nodes[-1], name)
        if _is_followed(child, last=not todo, follow_last=follow_last):
            assert child is not None
            links += 1
            if links > MAX_SYMLINKS:
                raise UnsafeContentError(
                    f"too many levels of symbolic links in {path!r}: at most {MAX_SYMLINKS}"
                )
            if child.entry.target.startswith(b"/"):
                del names[:], nodes[1:]
            todo.extend(child.entry.target.split(b"/")[::-1])
            continue
        names.append(name)
        nodes.append(child)
    return b"/".join(names), nodes[-1]


def walk(root: Node) -> Iterator[tuple[bytes, Node]]:
    """Yield every name with its node: parents first, siblings in byte order.

    A node with several names is yielded once for each. The order is that of
    :func:`layerstore.formats.tree.path_key`.
    """
    yield b"", root
    pending = [(b"", iter((root.children or {}).items()))]
    while pending:
        prefix, names = pending[-1]
        for name, node in names:
            path = prefix + name
            yield path, node
            if node.children:
                pending.append((path + b"/", iter(node.children.items())))
                break
        else:
            pending.pop()


def _child(parent: Node | None, name: bytes) -> Node | None:
    if parent is None or parent.children is None:
        return None
    return parent.children.get(name)


def _is_followed(node: Node | None, *, last: bool, follow_last: bool) -> bool:
    if node is None or node.entry.kind is not Kind.SYMLINK:
        return False
    return follow_last or not last


def _apply(root: Node, changeset: Changeset) -> None:
    links = [entry for entry in changeset.entries if entry.kind is Kind.HARDLINK]
    # A link may name a lower file that this very layer removes: tools that apply
    # a tar member by member see the file until they meet its whiteout.
    lower = {link.target: lookup(root, link.target) for link in links}
    for path in changeset.opaques:
        node = lookup(root, path)
        if node is not None and node.children:
            node.children = {}
    for path in changeset.whiteouts:
        head, _, name = path.rpartition(b"/")
        node = lookup(root, head)
        if node is not None and node.children is not None:
            node.children.pop(name, None)
    directories = _add_entries(root, changeset.entries)
    if links:
        _add_links(root, links, lower, directories)


_Directories = dict[bytes, dict[bytes, Node]]
"""Children by the path of their directory: what was already found in this layer."""


def _add_entries(root: Node, entries: Sequence[Entry]) -> _Directories:
    """Add all but hard links; the hot loop of a mount's start."""
    assert root.children is not None
    directories: _Directories = {b"": root.children}
    hardlink, directory = Kind.HARDLINK, Kind.DIR
    for entry in entries:
        kind = entry.kind
        if kind is hardlink:
            continue
        path = entry.path
        if not path:
            if kind is directory:
                root.entry = entry
            continue
        head, _, name = path.rpartition(b"/")
        siblings = directories.get(head)
        if siblings is None:
            siblings = _make_directory(root, head, directories)
        if kind is not directory:
            siblings[name] = Node(entry)
            continue
        node = siblings.get(name)
        if node is None or node.children is None:
            node = siblings[name] = Node(entry, {})
        else:
            node.entry = entry
        assert node.children is not None
        directories[path] = node.children
    return directories


def _make_directory(root: Node, path: bytes, directories: _Directories) -> dict[bytes, Node]:
    """Return the children of a directory, making it and its parents where they lack.

    A file or symlink in the way is replaced, never followed.
    """
    assert root.children is not None
    children = root.children
    done = b""
    for name in path.split(b"/"):
        done = done + b"/" + name if done else name
        node = children.get(name)
        if node is None or node.children is None:
            node = children[name] = Node(implied_directory(done), {})
        assert node.children is not None
        children = directories[done] = node.children
    return children


def _add_links(
    root: Node, links: list[Entry], lower: dict[bytes, Node | None], directories: _Directories
) -> None:
    """Give the named inodes their further names; links may name links, in any order."""

    def directory(path: bytes) -> dict[bytes, Node]:
        siblings = directories.get(path)
        return siblings if siblings is not None else _make_directory(root, path, directories)

    for link in link_chains(links):
        add_link(root, link, lower, directory)


def link_chains(links: Sequence[Entry]) -> Iterator[Entry]:
    """Yield the hard links of a layer, each after the one that it names."""
    pending = {link.path: link for link in links}
    for link in links:
        chain: list[Entry] = []
        step: Entry | None = link
        while step is not None and step.path in pending:
            chain.append(pending.pop(step.path))
            step = pending.get(step.target)
        yield from reversed(chain)


def add_link(
    root: Node,
    link: Entry,
    lower: dict[bytes, Node | None],
    directory: Callable[[bytes], dict[bytes, Node]],
) -> Node:
    """Give an inode a further name; return it.

    Args:
        root: The tree.
        link: The hard link.
        lower: What links named before the layer was applied.
        directory: Returns the children of a directory, made where it lacks.

    Raises:
        FormatError: It names nothing, a directory, or itself.
    """
    node = lookup(root, link.target)
    if node is None or node.children is not None:
        node = lower[link.target]
    if node is None or node.children is not None or not link.path:
        what = "which does not exist" if node is None else "which is a directory"
        raise FormatError(f"{link.path!r} is a hard link to {link.target!r}, {what}")
    head, _, name = link.path.rpartition(b"/")
    directory(head)[name] = node
    return node


def _number(root: Node) -> None:
    """Sort all children and give inode numbers and link counts in one pass."""
    root.ino = 1
    number = 2
    pending = [root]
    while pending:
        directory = pending.pop()
        assert directory.children is not None
        directory.children = children = dict(sorted(directory.children.items()))
        below = []
        for node in children.values():
            if node.ino == 0:
                node.ino = number
                number += 1
            if node.children is None:
                node.nlink += 1
            else:
                below.append(node)
        directory.nlink = 2 + len(below)
        pending.extend(reversed(below))
