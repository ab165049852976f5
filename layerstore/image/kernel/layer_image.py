"""One layer as a file system image of its own, content included, for overlays to lie over.

A build shows the layers that it needs as an overlay of them, as docker does. A small layer
becomes an EROFS image with everything in it: one file is written, where a directory would take a
system call or two for each of its files, and as many again to remove it. Whiteouts are character
devices 0/0, opaque directories have overlayfs' mark.

A directory has in an overlay the attributes that the uppermost layer gives it. Layers do not
always name the directories on the way to what they hold, so an image depends on what is
below: :func:`directory_below` finds what those directories are there.

Source: Linux, Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories".
"""

from __future__ import annotations

import stat
from bisect import bisect_left
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from layerstore.errors import FormatError, UnsupportedError
from layerstore.formats.erofs import Inode, encode_image
from layerstore.formats.tree import (
    DIR,
    FILE,
    FILE_TYPES,
    HARDLINK,
    SYMLINK,
    Changeset,
    Entry,
    Kind,
    path_key,
)
from layerstore.image.kernel.kernel_tree import escaped_xattrs, kernel_device
from layerstore.image.trees.stack import implied_directory
from layerstore.store.objects.objects import object_id
from layerstore.store.objects.unpacking import read_objects

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from layerstore.digest import ObjectId
    from layerstore.store.store import Store

_OPAQUE = (b"trusted.overlay.opaque", b"y")


class LayerImage(NamedTuple):
    """An image of a layer, as long as it is in memory.

    Attributes:
        data: The image.
        directories: Where the inodes of directories lie in it, by path.
    """

    data: bytearray
    directories: dict[bytes, int]


def write_layer_image(
    store: Store, layer: Changeset, implied: Mapping[bytes, Entry], uuid: bytes
) -> LayerImage:
    """Return the EROFS image of a layer; its content is held in memory twice.

    Args:
        store: Has the content of files.
        layer: The layer.
        implied: Directories that it does not name, by :func:`implied_directories`.
        uuid: 16 bytes that name the image.

    Raises:
        UnsupportedError: An overlay of images cannot show such a layer.
        IntegrityError: A chunk is damaged or missing.
    """
    files = [entry for entry in layer.entries if entry.kind is FILE and entry.size]
    named = {object_id(entry.extents): entry.extents for entry in files}
    shown = _shown(layer, implied, read_objects(store, named))
    offsets: list[int] = []
    try:
        image = encode_image(shown.inodes, uuid=uuid, offsets=offsets)
    except FormatError as err:
        raise UnsupportedError(f"the kernel cannot show this layer: {err.message}") from err
    directories = {
        path: offsets[number]
        for path, number in shown.names.items()
        if stat.S_ISDIR(shown.inodes[number].mode)
    }
    return LayerImage(image, directories)


def times_apart(
    old: Changeset,
    old_implied: Mapping[bytes, Entry],
    new: Changeset,
    new_implied: Mapping[bytes, Entry],
) -> dict[bytes, int] | None:
    """Return the times of directories by which two layers' images differ, by path.

    One COPY in two stages makes two layers, for what they are copied into changed at different
    times.

    Returns:
        Those of the new one; None if they differ in more.
    """
    if len(old.entries) != len(new.entries) or old_implied.keys() != new_implied.keys():
        return None
    if (old.whiteouts, old.opaques) != (new.whiteouts, new.opaques):
        return None
    times: dict[bytes, int] = {}
    implied = ((old_implied[path], entry) for path, entry in new_implied.items())
    for one, other in chain(zip(old.entries, new.entries, strict=True), implied):
        if one == other:
            continue
        if other.kind is not Kind.DIR or replace(one, mtime_ns=other.mtime_ns) != other:
            return None
        times[other.path] = other.mtime_ns
    return times


def implied_directories(layer: Changeset, below: Sequence[Changeset]) -> dict[bytes, Entry]:
    """Return the directories that a layer changes something in without naming them, by path.

    Args:
        layer: The layer.
        below: Those that it lies over, lowest first: what the directories are there.
    """
    named = {entry.path for entry in layer.entries if entry.kind is Kind.DIR}
    implied: dict[bytes, Entry] = {}

    def imply(path: bytes, *, made: bool) -> None:
        while path not in named and path not in implied:
            hidden = bool(path) and _hides(layer, path)
            entry = None if hidden else directory_below(below, path)
            if entry is None and not made:
                return  # there is nothing to take away
            implied[path] = entry or implied_directory(path)
            path = path.rpartition(b"/")[0]

    imply(b"", made=True)
    for path in {entry.path.rpartition(b"/")[0] for entry in layer.entries if entry.path}:
        imply(path, made=True)
    for path in {path.rpartition(b"/")[0] for path in layer.whiteouts}.union(layer.opaques):
        imply(path, made=False)
    return implied


def layer_inodes(
    layer: Changeset, implied: Mapping[bytes, Entry], contents: Mapping[ObjectId, bytes]
) -> list[Inode]:
    """Return what shows a layer over others, in a form that ``write_image`` takes.

    Args:
        layer: The layer.
        implied: Directories that it does not name.
        contents: Of its files.

    Raises:
        UnsupportedError: It has a hard link to a file of another layer, hides everything at
            once, or has what overlayfs would take for something else.
    """
    return _shown(layer, implied, contents).inodes


def _shown(
    layer: Changeset, implied: Mapping[bytes, Entry], contents: Mapping[ObjectId, bytes]
) -> _Inodes:
    if b"" in layer.opaques:
        raise UnsupportedError("the layer hides everything below it")
    return _Inodes(layer, implied, contents)


class _Inodes:
    """Gathers inodes, each directory before what is in it."""

    def __init__(
        self, layer: Changeset, implied: Mapping[bytes, Entry], contents: Mapping[ObjectId, bytes]
    ) -> None:
        self._implied = implied
        self._contents = contents
        # A whiteout beside an entry of the same name hides what is below it and nothing else.
        self._opaques = {*layer.opaques, *layer.whiteouts}
        self.names: dict[bytes, int] = {}
        self.inodes: list[Inode] = []
        entries = layer.entries
        root = implied.get(b"") or entries[0]
        self._append(b"", _directory(root, 0, opaque=False))
        for entry in entries:
            if entry.path:
                self._take(entry)
        for path in layer.whiteouts:  # what is above one comes before what is below it
            if path not in self.names and self._has_directory(path.rpartition(b"/")[0]):
                self._put(path, _whiteout(self._parent(path)))
        for path in layer.opaques:
            if self._has_directory(path):
                self._directory(path)
        self._finish()

    def _has_directory(self, path: bytes) -> bool:
        number = self.names.get(path)
        if number is None:
            return path in self._implied
        return stat.S_ISDIR(self.inodes[number].mode)

    def _take(self, entry: Entry) -> None:
        path, kind = entry.path, entry.kind
        if kind is HARDLINK:
            self._link(path, entry.target)
        elif kind is DIR:
            parent = self._parent(path)
            self._put(path, _directory(entry, parent, opaque=path in self._opaques))
        else:
            self._put(path, self._leaf(entry, self._parent(path)))

    def _leaf(self, entry: Entry, parent: int) -> Inode:
        kind, device, content = entry.kind, 0, None
        if kind is not FILE:
            device = kernel_device(entry)
        elif entry.size:
            content = self._contents[object_id(entry.extents)]
        return Inode(
            FILE_TYPES[kind] | entry.mode,
            entry.uid,
            entry.gid,
            entry.mtime_ns,
            1,
            entry.size,
            device,
            entry.target if kind is SYMLINK else b"",
            escaped_xattrs(entry.xattrs) if entry.xattrs else (),
            (),
            parent,
            b"",
            content,
        )

    def _link(self, path: bytes, target: bytes) -> None:
        number = self.names.get(target)
        if number is None:
            raise UnsupportedError("the layer has a hard link to a file of another layer")
        inode = self.inodes[number]
        self.inodes[number] = inode._replace(nlink=inode.nlink + 1)
        self._name(path, number, self._parent(path))

    def _parent(self, path: bytes) -> int:
        return self._directory(path.rpartition(b"/")[0])

    def _directory(self, path: bytes) -> int:
        """Return the number of a directory, which is made as implied if it is not there."""
        number = self.names.get(path)
        if number is not None:
            return number
        parent = self._parent(path)
        opaque = path in self._opaques
        return self._put(path, _directory(self._implied[path], parent, opaque=opaque))

    def _put(self, path: bytes, inode: Inode) -> int:
        number = self._append(path, inode)
        self._name(path, number, inode.parent)
        return number

    def _append(self, path: bytes, inode: Inode) -> int:
        self.inodes.append(inode)
        self.names[path] = len(self.inodes) - 1
        return len(self.inodes) - 1

    def _name(self, path: bytes, number: int, parent: int) -> None:
        self.names[path] = number
        children = self.inodes[parent].children
        assert isinstance(children, list), "what is below a directory was refused otherwise"
        children.append((path.rpartition(b"/")[2], number))

    def _finish(self) -> None:
        for number, inode in enumerate(self.inodes):
            if isinstance(inode.children, list):
                inode.children.sort()
                subdirectories = sum(
                    stat.S_ISDIR(self.inodes[child].mode) for _, child in inode.children
                )
                self.inodes[number] = inode._replace(nlink=2 + subdirectories)


def directory_below(layers: Sequence[Changeset], path: bytes) -> Entry | None:
    """Return what a directory is in a chain of layers; None if it is not there.

    Args:
        layers: Lowest first.
        path: The directory's.
    """
    is_implied = not path
    for layer in reversed(layers):
        at = _place(layer, path_key(path))
        found = layer.entries[at] if at < len(layer.entries) else None
        if found is not None and found.path == path:
            if found.kind is Kind.DIR:
                return found
            break
        is_implied = is_implied or (found is not None and found.path.startswith(path + b"/"))
        if path and _hides(layer, path):
            break
    return implied_directory(path) if is_implied else None


def existing_below(layers: Sequence[Changeset], paths: Iterable[bytes]) -> set[bytes]:
    """Return those of the paths at which a chain of layers, lowest first, shows anything."""
    left = set(paths)
    found = left & {b""}
    for layer in reversed(layers):
        left -= found
        if not left:
            break
        named = {entry.path: entry.kind for entry in layer.entries}
        implied: set[bytes] = set()
        for path in named:
            above = path.rpartition(b"/")[0]
            while above and above not in named and above not in implied:
                implied.add(above)
                above = above.rpartition(b"/")[0]
        found |= {path for path in left if path in named or path in implied}
        whiteouts, opaques = set(layer.whiteouts), {*layer.opaques, *layer.whiteouts}
        left = {
            path
            for path in left
            if path not in whiteouts
            and not any(
                above in opaques or named.get(above, Kind.DIR) is not Kind.DIR
                for above in _above(path)
            )
        }
    return found


def _above(path: bytes) -> Iterator[bytes]:
    """Yield the directories above a path, the root last."""
    while path:
        path = path.rpartition(b"/")[0]
        yield path


def _place(layer: Changeset, key: bytes) -> int:
    return bisect_left(layer.entries, key, key=lambda entry: path_key(entry.path))


def _find(layer: Changeset, path: bytes) -> Entry | None:
    at = _place(layer, path_key(path))
    found = layer.entries[at] if at < len(layer.entries) else None
    return found if found is not None and found.path == path else None


def _hides(layer: Changeset, path: bytes) -> bool:
    """Whether nothing below a layer is seen at a path that the layer does not have."""
    if path in layer.whiteouts:
        return True
    end = path.rfind(b"/")
    while end > 0:
        above = path[:end]
        if above in layer.opaques or above in layer.whiteouts:
            return True
        entry = _find(layer, above)
        if entry is not None and entry.kind is not Kind.DIR:
            return True
        end = path.rfind(b"/", 0, end)
    return b"" in layer.opaques


def _directory(entry: Entry, parent: int, *, opaque: bool) -> Inode:
    xattrs = escaped_xattrs(entry.xattrs)
    if opaque:
        xattrs = (_OPAQUE, *xattrs)
    mode = stat.S_IFDIR | entry.mode
    return Inode(mode, entry.uid, entry.gid, entry.mtime_ns, 2, 0, 0, b"", xattrs, [], parent)


def _whiteout(parent: int) -> Inode:
    return Inode(stat.S_IFCHR, 0, 0, 0, 1, parent=parent)
