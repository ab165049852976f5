"""The trie of the layer chains of images, and a walk over it that reads every layer once.

Images share lower layers, so what a layer does to those below it is the same for all images that
have the same chain up to it: it is looked at once, however many they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.image.trees.chain_trees import ChainTree, empty_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from layerstore.digest import DiffId
    from layerstore.formats.tree import Changeset
    from layerstore.store.catalog.rows import ImageRecord


class ChainNode:
    """A layer over a chain of others.

    Attributes:
        diff_id: The layer; None for the bottom, which is no layer.
        below: What it lies on.
        depth: Its number in the image, from 1 for the lowest layer.
        above: The layers that lie on it.
        images: Every image that has the whole chain.
        ends: Those of which it is the top.
    """

    __slots__ = ("above", "below", "depth", "diff_id", "ends", "images")

    def __init__(self, diff_id: DiffId | None, below: ChainNode | None) -> None:
        self.diff_id = diff_id
        self.below = below
        self.depth: int = below.depth + 1 if below is not None else 0
        self.above: dict[DiffId, ChainNode] = {}
        self.images: list[ImageRecord] = []
        self.ends: list[ImageRecord] = []

    def chain(self) -> list[ChainNode]:
        """Return the nodes from the lowest layer up to this one."""
        found: list[ChainNode] = []
        node: ChainNode | None = self
        while node is not None and node.diff_id is not None:
            found.append(node)
            node = node.below
        return found[::-1]


class AppliedLayer(NamedTuple):
    """A layer, and the trees without it and with it."""

    node: ChainNode
    changeset: Changeset
    before: ChainTree
    after: ChainTree


def trie_of(images: Iterable[ImageRecord]) -> ChainNode:
    """Return the bottom of the trie of images; an image given twice is there once."""
    root = ChainNode(None, None)
    for image in {image.image_id: image for image in images}.values():
        node = root
        node.images.append(image)
        for diff_id in image.layers:
            node = node.above.setdefault(diff_id, ChainNode(diff_id, node))
            node.images.append(image)
        node.ends.append(image)
    return root


def walk_trees(root: ChainNode, load: Callable[[DiffId], Changeset]) -> Iterator[AppliedLayer]:
    """Yield every layer of a trie with the trees below and above it.

    Trees share what they have in common; in memory are those of one branch at a time.

    Raises:
        FormatError: A hard link names nothing.
    """
    pending = [(node, empty_tree()) for node in reversed(root.above.values())]
    while pending:
        node, before = pending.pop()
        assert node.diff_id is not None
        changeset = load(node.diff_id)
        after = before.over(changeset)
        yield AppliedLayer(node, changeset, before, after)
        pending.extend((above, after) for above in reversed(node.above.values()))
