"""Images of layers, one over the other, show what the layers make together.

They are merged here by the rules of overlayfs: by name, directories with directories unless they
are opaque, attributes from the uppermost, and whiteouts.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from layerstore.formats.erofs import encode_image, retime
from layerstore.formats.tree import Changeset, Entry, Kind, path_key
from layerstore.image.kernel.kernel_tree import inode_of
from layerstore.image.kernel.layer_image import (
    existing_below,
    implied_directories,
    layer_inodes,
    times_apart,
)
from layerstore.image.trees.stack import lookup, stack, walk
from layerstore.store.objects.objects import object_id
from tests.property.test_stack_diff_laws import NAMES, trees
from tests.support.tree_diff import diff, flatten

if TYPE_CHECKING:
    from layerstore.formats.erofs import Inode
    from layerstore.image.trees.stack import Node

OPAQUE = (b"trusted.overlay.opaque", b"y")
Shown = dict[bytes, tuple[object, ...]]


def images_of(layers: list[Changeset]) -> list[list[Inode]]:
    images = []
    for count, layer in enumerate(layers):
        contents = {
            object_id(entry.extents): b"x" * entry.size
            for entry in layer.entries
            if entry.kind is Kind.FILE and entry.size
        }
        implied = implied_directories(layer, layers[:count])
        images.append(layer_inodes(layer, implied, contents))
    return images


def merged(images: list[list[Inode]]) -> Shown:
    """Return what an overlay of images, the last one uppermost, shows by path."""
    shown: Shown = {}
    pending = [(b"", [(image, 0) for image in reversed(images)])]
    while pending:
        path, found = pending.pop()
        above = found[0][0][found[0][1]]
        if stat.S_ISCHR(above.mode):
            continue
        shown[path] = attributes(above)
        if not stat.S_ISDIR(above.mode):
            continue
        names: dict[bytes, list[tuple[list[Inode], int]]] = {}
        for image, number in found:
            inode = image[number]
            if not stat.S_ISDIR(inode.mode):
                break
            for name, child in inode.children:
                names.setdefault(name, []).append((image, child))
            if OPAQUE in inode.xattrs:
                break
        pending += [(path + b"/" + name if path else name, each) for name, each in names.items()]
    return shown


def attributes(inode: Inode) -> tuple[object, ...]:
    overlay = b"trusted.overlay."
    xattrs = tuple(pair for pair in inode.xattrs if not pair[0].startswith(overlay))
    size = 0 if stat.S_ISDIR(inode.mode) else inode.size
    return inode.mode, inode.uid, inode.gid, inode.mtime_ns, size, inode.target, xattrs


def expected(layers: list[Changeset]) -> Shown:
    return {path: attributes(inode_of(node, [], 0, {})) for path, node in walk(stack(layers))}


@given(trees(), trees(), trees())
def test_images_show_what_the_layers_make(a: Node, b: Node, c: Node) -> None:
    layers = [flatten(a), diff(a, b), diff(b, c)]
    assert merged(images_of(layers)) == expected(layers)


_paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(b"/".join)


@st.composite
def sparse_layers(draw: st.DrawFn) -> Changeset:
    """A layer that names only some of the directories on the way, as imported ones may."""
    entries: dict[bytes, Entry] = {}
    for path in draw(st.sets(_paths, max_size=5)):
        above = {path[:at] for at in range(len(path)) if path[at : at + 1] == b"/"}
        if any(
            entries.get(parent, entries.get(b"?")) is not None
            and entries[parent].kind is not Kind.DIR
            for parent in above
        ):
            continue
        if any(other.startswith(path + b"/") for other in entries):
            kind = Kind.DIR
        else:
            kind = draw(st.sampled_from([Kind.DIR, Kind.FILE]))
        mode = draw(st.sampled_from([0o700, 0o755]))
        entries[path] = Entry(path=path, kind=kind, mode=mode, mtime_ns=draw(st.integers(0, 9)))
    directories = [path for path, entry in entries.items() if entry.kind is Kind.DIR]
    files = [path for path, entry in entries.items() if entry.kind is Kind.FILE]

    def beside(path: bytes) -> bool:
        return not any(path.startswith(file + b"/") or path == file for file in files)

    whiteouts = [path for path in draw(st.sets(_paths, max_size=2)) if beside(path)]
    opaques = draw(st.sets(st.sampled_from(directories), max_size=2)) if directories else set()
    return Changeset(
        entries=tuple(sorted(entries.values(), key=lambda entry: path_key(entry.path))),
        whiteouts=tuple(sorted(whiteouts, key=path_key)),
        opaques=tuple(sorted(opaques, key=path_key)),
    )


@given(trees(), st.lists(sparse_layers(), min_size=1, max_size=3))
def test_layers_that_do_not_name_their_directories(a: Node, above: list[Changeset]) -> None:
    layers = [flatten(a), *above]
    assert merged(images_of(layers)) == expected(layers)


@given(trees())
def test_what_is_removed_and_made_again_has_nothing_from_below(a: Node) -> None:
    again = Entry(path=b"a/b", kind=Kind.FILE, mode=0o600)
    layers = [flatten(a), Changeset((again,), (b"a",), ())]
    assert merged(images_of(layers)) == expected(layers)


@given(trees(), st.lists(sparse_layers(), max_size=3), st.sets(_paths, max_size=6))
def test_what_exists_is_known_without_a_tree(
    a: Node, above: list[Changeset], paths: set[bytes]
) -> None:
    layers = [flatten(a), *above]
    root = stack(layers)
    there = {path for path in paths if lookup(root, path) is not None}
    assert existing_below(layers, paths) == there


@given(trees(), trees(), st.dictionaries(_paths, st.integers(0, 2**40), max_size=4))
def test_an_image_of_a_layer_with_other_times_is_made_of_the_first(
    a: Node, b: Node, times: dict[bytes, int]
) -> None:
    layer = diff(a, b)
    entries = tuple(
        msgspec.structs.replace(entry, mtime_ns=times.get(entry.path, entry.mtime_ns))
        for entry in layer.entries
    )
    other = Changeset(entries, layer.whiteouts, layer.opaques)
    implied = implied_directories(layer, [flatten(a)])
    apart = times_apart(layer, implied, other, implied)
    changed = [old for old, new in zip(layer.entries, entries, strict=True) if old != new]
    if any(entry.kind is not Kind.DIR for entry in changed):
        assert apart is None
        return
    assert apart is not None
    assert set(apart) == {entry.path for entry in changed}
    first, offsets = image_of(layer, implied, bytes(16))
    second, _ = image_of(other, implied, bytes(range(16)))
    retime(first, bytes(range(16)), [(offsets[path], time) for path, time in apart.items()])
    assert first == second


def image_of(
    layer: Changeset, implied: dict[bytes, Entry], uuid: bytes
) -> tuple[bytearray, dict[bytes, int]]:
    offsets: list[int] = []
    contents = {
        object_id(entry.extents): bytes(entry.size) for entry in layer.entries if entry.extents
    }
    inodes = layer_inodes(layer, implied, contents)
    image = encode_image(inodes, uuid=uuid, offsets=offsets)
    paths = {0: b""}
    for number, inode in enumerate(inodes):
        for name, child in inode.children:
            paths[child] = paths[number] + b"/" + name if paths[number] else name
    return image, {
        path: offsets[number] for number, path in paths.items() if stat.S_ISDIR(inodes[number].mode)
    }
