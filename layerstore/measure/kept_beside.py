"""What package managers keep of the packages that they install: archives and caches in layers.

A proposed base has these in cache mounts and leaves none, so a package that moves into it takes
its part of them along. Which file is whose is not looked up: a manager's are shared out among its
packages of the same layer by their size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from layerstore.formats.tree import FILE
from layerstore.image.trees.stack import lookup, walk
from layerstore.measure.apportion import split
from layerstore.measure.placed import NPM, PIP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from layerstore.image.trees.stack import Node
    from layerstore.measure.chains import ChainNode

DEB: Final = "deb"
FOLDERS: Final = {DEB: b"var/cache/apt/archives", PIP: b"root/.cache/pip", NPM: b"root/.npm"}
"""Where each manager keeps them, as root and without other settings."""


class Sized(NamedTuple):
    """A package with the bytes of its files, and the layer that has them."""

    manager: str
    name: str
    layer: ChainNode
    size: int


def kept_beside(
    root: Node, packages: Iterable[Sized], layer_of: Callable[[Node], ChainNode | None]
) -> Iterator[tuple[str, ChainNode, int]]:
    """Yield packages with their layer and the bytes that their manager keeps of them in it.

    Args:
        root: Of an image.
        packages: All that its managers have installed.
        layer_of: Gives the layer of a file; None for one that is not looked at.
    """
    by_layer: dict[tuple[str, int], list[Sized]] = {}
    for package in packages:
        by_layer.setdefault((package.manager, id(package.layer)), []).append(package)
    for manager, folder in FOLDERS.items():
        for layer, kept in _sizes(lookup(root, folder), layer_of):
            some = by_layer.get((manager, id(layer)), [])
            parts = split(kept, [package.size for package in some])
            for package, part in zip(some, parts, strict=True):
                yield package.name, layer, part


def _sizes(
    folder: Node | None, layer_of: Callable[[Node], ChainNode | None]
) -> Iterator[tuple[ChainNode, int]]:
    """Yield the layers that have files below a directory, with the bytes of these."""
    found: dict[int, tuple[ChainNode, int]] = {}
    for _, node in walk(folder) if folder is not None and folder.children is not None else ():
        layer = layer_of(node) if node.entry.kind is FILE else None
        if layer is not None:
            before = found.get(id(layer), (layer, 0))[1]
            found[id(layer)] = layer, before + node.entry.size
    yield from found.values()
