"""Images as plain files, for tars and directories: what lies beside their root file systems.

What is attested of an image is a file each, about every other file; images for several
platforms lie in a folder each. Both are layers over the image's own, which share its content.

Source: BuildKit, exporter/local (behaviour): names, modes and places.
"""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, cast

from layerstore.formats.tree import Entry, Kind
from layerstore.image.layers.layer_item import LayerItem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from layerstore.build.outputs import BuiltImage
    from layerstore.build.resources import BuildResources
    from layerstore.digest import DiffId

_MODE = 0o600


def files_of(
    resources: BuildResources, built: Sequence[BuiltImage], *, prefix: str
) -> tuple[DiffId, ...]:
    """Return layers that show images as plain files.

    Args:
        resources: Of the build.
        built: One image, or one for each platform.
        prefix: What the names of files with attestations begin with.
    """
    stacks = [_attested(resources, each, prefix) for each in built]
    if not built[0].folder:
        return stacks[0]
    from layerstore.build.copy import CopyOptions, copy_match
    from layerstore.build.source import Match, TreeNode, select

    target = resources.target(())
    for each, layers in zip(built, stacks, strict=True):
        tree = TreeNode(resources.load(layers))
        copy_match(target, Match(b"", b"", select(tree)), f"/{each.folder}/", CopyOptions())
    layer = resources.publish(*target.items())
    return () if layer is None else (layer,)


def _attested(resources: BuildResources, image: BuiltImage, prefix: str) -> tuple[DiffId, ...]:
    """Return an image's layers, and one with what is attested of their files if there is any."""
    layers = tuple(image.parts.layers)
    if not image.parts.predicates:
        return layers
    from layerstore.image.exchange.attestations import file_statements

    texts = file_statements(_digests(resources, layers), image.parts.predicates)
    items = [
        _item(f"{prefix}{name}", text, resources.now_ns()) for name, text in sorted(texts.items())
    ]
    layer = resources.publish(items)
    return layers if layer is None else (*layers, layer)


def _item(name: str, text: bytes, now_ns: int) -> LayerItem:
    entry = Entry(path=name.encode(), kind=Kind.FILE, mode=_MODE, size=len(text), mtime_ns=now_ns)
    return LayerItem(entry, lambda: io.BytesIO(text))


def _digests(resources: BuildResources, layers: Sequence[DiffId]) -> Mapping[str, str]:
    """Return the SHA-256 of every regular file of a stack by its path, read and verified."""
    from layerstore.build.stored_file import open_stored
    from layerstore.image.trees.stack import walk

    found: dict[str, str] = {}
    for path, node in walk(resources.load(layers)):
        if node.entry.kind is Kind.FILE:
            with open_stored(resources.store, node.entry) as stream:
                digest = hashlib.file_digest(cast("io.BufferedReader", stream), "sha256")
            found[path.decode("utf-8", "replace")] = digest.hexdigest()
    return found
