"""Merging: several root file systems in one, without running anything.

The first input stays as it is. Of each further input the *own* layers are applied over
what is there, in order: those behind the longest beginning that it shares with an earlier
input. Two stages that each add a layer to one base are merged into the base and both
layers. They are applied as layers are:

- what a later one puts at a name replaces what was there; directories are united, and
  take the later one's attributes;
- its whiteouts and opaque directories remove what earlier inputs have there, too;
- a hard link stays one. Where it names a file that only the shared beginning has, which
  an earlier input may have changed or removed, the layer is written anew with that file
  in it. No layer that RUN or COPY make has such links; layers of others may.

Otherwise the merge makes no layer, so equal parts have equal layers in every image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from layerstore.formats.tree import Kind
from layerstore.image.layers.layer_item import LayerItem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.build.resources import BuildResources
    from layerstore.digest import DiffId
    from layerstore.formats.tree import Changeset, Entry
    from layerstore.image.trees.stack import Node


class OwnLayers(NamedTuple):
    """What an input adds to a merge, lowest first.

    Attributes:
        shared: The beginning of its stack that an earlier input has as well.
        own: The rest.
    """

    shared: tuple[DiffId, ...]
    own: tuple[DiffId, ...]


def own_layers(stacks: Sequence[tuple[DiffId, ...]]) -> list[OwnLayers]:
    """Return what each input but the first adds; the module says how.

    Args:
        stacks: The inputs' layers, lowest first.
    """
    added = []
    for number, layers in enumerate(stacks[1:], start=1):
        shared = max(_common(layers, earlier) for earlier in stacks[:number])
        added.append(OwnLayers(layers[:shared], layers[shared:]))
    return added


def _common(one: Sequence[DiffId], other: Sequence[DiffId]) -> int:
    for count, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return count
    return min(len(one), len(other))


def stand_alone(
    resources: BuildResources, shared: Sequence[DiffId], below: Sequence[DiffId], layer: DiffId
) -> DiffId | None:
    """Return the layer that replaces ``layer`` where something else may lie below it.

    Args:
        resources: The build's.
        shared: What lay below it and stays behind.
        below: Own layers of the same input, which go with it.
        layer: The layer.

    Returns:
        None when it may stay as it is: all its hard links name files that go with it.
    """
    changeset = resources.changeset(layer)
    links = [entry for entry in changeset.entries if entry.kind is Kind.HARDLINK]
    if not links:
        return None
    dangling = _dangling(links, changeset, resources.load(below))
    if not dangling:
        return None
    whole = resources.load((*shared, *below, layer))
    items = [LayerItem(entry) for entry in _with_files(changeset, dangling, whole)]
    return resources.publish(items, changeset.opaques, changeset.whiteouts, near=(layer,))


def _dangling(links: list[Entry], changeset: Changeset, below: Node) -> set[bytes]:
    """Return the names of links whose file is neither in the layer nor goes with it."""
    from layerstore.image.trees.stack import lookup

    present = {entry.path for entry in changeset.entries}
    missing = set()
    for link in links:
        if link.target not in present:
            node = lookup(below, link.target)
            if node is None or node.children is not None:
                missing.add(link.path)
    return missing


def _with_files(changeset: Changeset, dangling: set[bytes], whole: Node) -> list[Entry]:
    """Return the entries with a file in the place of the first link to each lost one."""
    from layerstore.image.trees.stack import lookup

    first_names: dict[int, bytes] = {}
    entries = []
    for entry in changeset.entries:
        if entry.path in dangling:
            node = lookup(whole, entry.path)
            assert node is not None  # a stack whose link names nothing does not load
            first = first_names.setdefault(id(node), entry.path)
            if first == entry.path:
                entry = msgspec.structs.replace(node.entry, path=entry.path)
            else:
                entry = msgspec.structs.replace(entry, target=first)
        entries.append(entry)
    return entries
