"""What two images have differently: files, packages, config, and the bytes of it.

Both trees grow over the layers that the images have in common, so what is common is one node in
memory and is passed over, however large (:mod:`layerstore.image.trees.chain_trees`). Files are
compared by what the store knows of them: content by its chunks, nothing is read. The same bytes cut
otherwise, with a hole for zeros say, count as another content.
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

from layerstore.formats.oci_config import container_config_to_json
from layerstore.formats.tree import FILE, path_key
from layerstore.image.images import load_config
from layerstore.image.layers.layers import load_changeset
from layerstore.image.trees.chain_trees import ChainTree, chain_tree
from layerstore.image.trees.path_changes import Change
from layerstore.image.trees.stack import Node, lookup, walk
from layerstore.measure.beyond import layers_beyond
from layerstore.measure.packages import package_changes, packages_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from layerstore.digest import ChunkId, DiffId, ImageId
    from layerstore.formats.oci_config import ImageConfig
    from layerstore.formats.tree import Changeset, Entry
    from layerstore.measure.beyond import Beyond
    from layerstore.measure.packages import PackageChange
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store

    _Load = Callable[[DiffId], Changeset]

TIME = "time"
"""The one difference that costs no bytes and is mostly noise."""

LINKS = "links"
"""A file is one with other paths than before."""


class FileChange(NamedTuple):
    """One path that two images have differently.

    Attributes:
        path: Relative to the root.
        differs: Of a changed one: ``type``, ``content``, ``target``, ``mode``, ``owner``,
            ``xattrs``, ``device``, ``time``.
        old: In the first image, None if it was added.
        new: In the second, None if it was removed.
        new_stored: Stored bytes of its content that the first image does not have. Content at
            several paths is charged to the first of them.
    """

    kind: Change
    path: bytes
    differs: tuple[str, ...]
    old: Entry | None
    new: Entry | None
    new_stored: int

    @property
    def is_of_time(self) -> bool:
        """Whether nothing but the time of last modification differs."""
        return self.differs == (TIME,)


class ConfigChange(NamedTuple):
    """One setting; None where an image has none of this name."""

    field: str
    old: object
    new: object


class TreeSize(NamedTuple):
    """What a container sees of an image: bytes and number of its files, each inode once."""

    logical_size: int
    files: int


class ImageDiff(NamedTuple):
    """Everything that two images have differently.

    Attributes:
        common_layers: Layers at the bottom that are the same.
        files: Sorted by path.
        packages: None when they were not asked for.
        left_out: Package databases that could not be read whole.
        beyond: What the second needs that the first has not.
        back: What the first needs that the second has not.
    """

    old_image: ImageId
    new_image: ImageId
    common_layers: int
    old_size: TreeSize
    new_size: TreeSize
    files: list[FileChange]
    packages: list[PackageChange] | None
    left_out: tuple[str, ...]
    config: list[ConfigChange]
    beyond: Beyond
    back: Beyond

    @property
    def is_empty(self) -> bool:
        """Whether nothing is listed."""
        return not (self.files or self.packages or self.config)


def diff_images(
    store: Store, old: ImageRecord, new: ImageRecord, *, packages: bool = True
) -> ImageDiff:
    """Compare two images.

    Args:
        store: Which has both.
        old: The one that changes are counted from.
        new: The other one.
        packages: Whether package databases are read and compared.

    Raises:
        IntegrityError: The store is damaged.
    """
    layers: dict[DiffId, Changeset] = {}

    def load(diff_id: DiffId) -> Changeset:
        if diff_id not in layers:
            layers[diff_id] = load_changeset(store, diff_id)
        return layers[diff_id]

    common, old_tree, new_tree = _trees(old, new, load)
    beyond = layers_beyond(store, new.layers, old.layers, load)
    back = layers_beyond(store, old.layers, new.layers, load)
    files, trees = _compare(old_tree, new_tree, dict(beyond.items))
    changes: list[PackageChange] | None = None
    left_out: tuple[str, ...] = ()
    if packages:
        changes, left_out = _packages(store, (old_tree.root, new_tree.root), trees)
    return ImageDiff(
        old_image=old.image_id,
        new_image=new.image_id,
        common_layers=common,
        old_size=tree_size(old_tree.root),
        new_size=tree_size(new_tree.root),
        files=files,
        packages=changes,
        left_out=left_out,
        config=_config_changes(load_config(store, old.image_id), load_config(store, new.image_id)),
        beyond=beyond,
        back=back,
    )


def tree_size(root: Node) -> TreeSize:
    """Return what the files of a tree hold; a file with several names counts once."""
    seen: set[int] = set()
    size = files = 0
    for _, node in walk(root):
        if node.entry.kind is FILE and id(node) not in seen:
            seen.add(id(node))
            size += node.entry.size
            files += 1
    return TreeSize(size, files)


def _trees(old: ImageRecord, new: ImageRecord, load: _Load) -> tuple[int, ChainTree, ChainTree]:
    pairs = zip(old.layers, new.layers, strict=False)
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    below = chain_tree([load(diff_id) for diff_id in old.layers[:common]])
    trees = [
        chain_tree([load(diff_id) for diff_id in image.layers[common:]], below)
        for image in (old, new)
    ]
    return common, trees[0], trees[1]


class _Pruned:
    """A tree of only what differs, for whoever looks through a tree for something."""

    def __init__(self, root: Node) -> None:
        self.root = Node(root.entry, {})

    def add(self, path: bytes, node: Node) -> None:
        """Put a node, with all below it, at a path whose directories are there or are made."""
        directory = self.root
        names = path.split(b"/")
        for name in names[:-1]:
            assert directory.children is not None
            child = directory.children.get(name)
            if child is None or child.children is None:
                child = directory.children[name] = Node(directory.entry, {})
            directory = child
        assert directory.children is not None
        directory.children[names[-1]] = node


def _compare(
    old_tree: ChainTree, new_tree: ChainTree, sizes: dict[ChunkId, int]
) -> tuple[list[FileChange], tuple[Node, Node]]:
    """Return the changes, and of both trees what is not the same in the other.

    Args:
        old_tree: The first.
        new_tree: The second; what both have in common may be the same nodes.
        sizes: Stored bytes of the chunks that only the second has; used up.
    """
    found: list[tuple[bytes, Node | None, Node | None, tuple[str, ...]]] = []
    kept = _Pruned(old_tree.root), _Pruned(new_tree.root)
    for path, old, new in _different(old_tree.root, new_tree.root):
        for tree, node in zip(kept, (old, new), strict=True):
            if node is not None and node.children is None and path:
                tree.add(path, node)
        differs = () if old is None or new is None else _differences(old.entry, new.entry)
        if old is not None and new is not None and _links_differ(path, old_tree, new_tree):
            differs = (*differs, LINKS)
        if differs or old is None or new is None:
            found.append((path, old, new, differs))
    found.sort(key=lambda change: path_key(change[0]))  # so that the first path pays, always
    changes = [_change(*each, sizes) for each in found]
    return changes, (kept[0].root, kept[1].root)


def _links_differ(path: bytes, old: ChainTree, new: ChainTree) -> bool:
    """Whether a file is one with other names than before, of those that both trees have.

    Where links became copies, or copies links: a change through one name shows at others or not.
    """
    ours, theirs = _linked(path, old), _linked(path, new)
    if ours == theirs:
        return False
    return _there(ours, new) != _there(theirs, old)


def _linked(path: bytes, tree: ChainTree) -> frozenset[bytes]:
    return tree.names.get(id(lookup(tree.root, path)), frozenset((path,)))


def _there(paths: frozenset[bytes], tree: ChainTree) -> frozenset[bytes]:
    return frozenset(path for path in paths if lookup(tree.root, path) is not None)


def _different(old_root: Node, new_root: Node) -> Iterator[tuple[bytes, Node | None, Node | None]]:
    """Yield each path whose two nodes are not one; whole directories that are one are skipped."""
    pending: list[tuple[bytes, Node | None, Node | None]] = [(b"", old_root, new_root)]
    while pending:
        path, old, new = pending.pop()
        if old is new:
            continue
        yield path, old, new
        before = (old.children if old is not None else None) or {}
        after = (new.children if new is not None else None) or {}
        prefix = path + b"/" if path else b""
        names = dict.fromkeys((*before, *after))
        pending.extend((prefix + name, before.get(name), after.get(name)) for name in names)


def _differences(old: Entry, new: Entry) -> tuple[str, ...]:
    if old is new:
        return ()
    pairs = (
        ("type", old.kind, new.kind),
        ("content", (old.size, old.extents), (new.size, new.extents)),
        ("target", old.target, new.target),
        ("mode", old.mode, new.mode),
        ("owner", (old.uid, old.gid), (new.uid, new.gid)),
        ("xattrs", old.xattrs, new.xattrs),
        ("device", (old.dev_major, old.dev_minor), (new.dev_major, new.dev_minor)),
        (TIME, old.mtime_ns, new.mtime_ns),
    )
    return tuple(name for name, before, after in pairs if before != after)


def _change(
    path: bytes,
    old: Node | None,
    new: Node | None,
    differs: tuple[str, ...],
    sizes: dict[ChunkId, int],
) -> FileChange:
    kind = Change.ADDED if old is None else Change.DELETED if new is None else Change.CHANGED
    entry = new.entry if new is not None else None
    extents = entry.extents if entry is not None else ()
    stored = sum(sizes.pop(chunk, 0) for _, chunk in extents if chunk is not None)
    return FileChange(kind, path, differs, old.entry if old is not None else None, entry, stored)


def _packages(
    store: Store, roots: tuple[Node, Node], changed: tuple[Node, Node]
) -> tuple[list[PackageChange], tuple[str, ...]]:
    """Compare packages; those of languages are looked for only where something changed."""
    old = packages_of(store, roots[0], changed[0])
    new = packages_of(store, roots[1], changed[1])
    left_out = tuple(dict.fromkeys((*old.left_out, *new.left_out)))
    return package_changes(old.packages, new.packages), left_out


def _config_changes(old: ImageConfig, new: ImageConfig) -> list[ConfigChange]:
    before, after = _settings(old), _settings(new)
    return [
        ConfigChange(field, before.get(field), after.get(field))
        for field in sorted(before.keys() | after.keys())
        if before.get(field) != after.get(field)
    ]


def _settings(config: ImageConfig) -> dict[str, object]:
    """Return docker's ``Config`` and the platform, variables and labels each by itself."""
    plain = container_config_to_json(config.config)
    found: dict[str, object] = {"Architecture": config.architecture, "Os": config.os}
    if config.variant:
        found["Variant"] = config.variant
    labels = plain.pop("Labels", None)
    for name, value in labels.items() if isinstance(labels, dict) else ():
        found[f"Labels.{name}"] = value
    for word in _words(plain.pop("Env", None)):
        name, _, value = word.partition("=")
        found[f"Env.{name}"] = value
    found.update(plain)
    return found


def _words(value: object) -> Sequence[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
