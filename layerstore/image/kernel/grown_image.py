"""Metadata images of applications, made of those of what they stand on.

An image of a large base takes a third of a second to write and copying it a millisecond. Most
layers of applications only add files: then the image of the chain is a copy of the base's and
behind it what was added (:func:`layerstore.formats.erofs.append_inodes`). Layers that take away
or replace anything are left to :mod:`layerstore.image.kernel.kernel_tree`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.formats.erofs import Changed, Inode, Known, append_inodes
from layerstore.formats.erofs_reading import DIRECTORY, names_of, read_inode, root_of
from layerstore.formats.tree import FILE, FILE_TYPES, Entry, Kind
from layerstore.image.kernel.kernel_tree import inode_of
from layerstore.image.trees.stack import Node, implied_directory
from layerstore.store.objects.objects import object_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import TypeAlias, TypeGuard

    from layerstore.digest import ObjectId
    from layerstore.formats.erofs_reading import ReadInode
    from layerstore.formats.tree import Changeset
    from layerstore.store.objects.objects import Extents

    _Child: TypeAlias = "_Directory | Entry | Known"


class NoAdditionError(Exception):
    """Layers do more than to add."""


def only_adds(changeset: Changeset) -> bool:
    """Whether a layer can be one that only adds: known without the image that it lies on."""
    if changeset.whiteouts or changeset.opaques:
        return False
    return all(entry.kind is not Kind.HARDLINK for entry in changeset.entries)


def objects_of(changesets: Iterable[Changeset]) -> dict[ObjectId, Extents]:
    """Return the content of what layers add that only add."""
    return {
        object_id(entry.extents): entry.extents
        for changeset in changesets
        for entry in changeset.entries
        if entry.kind is FILE and entry.size
    }


class _Directory:
    """A directory that layers were looked up in.

    Attributes:
        names: What it has, with what the layers gave it.
        parent: What it lies in; the root lies in itself.
        known: Of one that the image has.
        entry: What a layer says of it.
        is_changed: Whether it is otherwise than the image has it.
    """

    __slots__ = ("entry", "is_changed", "known", "names", "nid", "parent")

    def __init__(self, parent: _Directory | None, entry: Entry | None) -> None:
        self.names: dict[bytes, _Child] = {}
        self.parent = parent or self
        self.entry = entry
        self.nid = 0
        self.known: ReadInode | None = None
        self.is_changed = False


def grow(
    image: bytearray, changesets: Sequence[Changeset], *, uuid: bytes
) -> dict[ObjectId, Extents]:
    """Make the image of a chain that of a longer one; return the objects that it leads to beside.

    Args:
        image: Verified; not to be used any more if this fails.
        changesets: What the further layers hold, lowest first.
        uuid: 16 bytes that name the new image.

    Raises:
        NoAdditionError: The layers take away or replace something.
        UnsupportedError: No overlay over EROFS can show it.
        FormatError: EROFS has no place for an attribute.
    """
    growth = _Growth(image)
    for changeset in changesets:
        growth.add(changeset)
    return growth.write(uuid)


class _Growth:
    """Layers laid over an image, of which only the directories are read that they name."""

    def __init__(self, image: bytearray) -> None:
        self._image = image
        self._root = self._read(root_of(image), None)
        self._found = {b"": self._root}

    def _read(self, nid: int, parent: _Directory | None) -> _Directory:
        directory = _Directory(parent, None)
        directory.nid = nid
        directory.known = read_inode(self._image, nid)
        directory.names.update(names_of(self._image, directory.known))
        return directory

    def add(self, changeset: Changeset) -> None:
        """Lay a layer over what is there."""
        if not only_adds(changeset):
            raise NoAdditionError
        for entry in changeset.entries:
            if entry.kind is Kind.DIR:
                directory = self._directory(entry.path)
                directory.entry = entry
                directory.is_changed = True
                continue
            head, _, name = entry.path.rpartition(b"/")
            above = self._directory(head)
            if not name or name in above.names:
                raise NoAdditionError
            above.names[name] = entry
            above.is_changed = True

    def _directory(self, path: bytes) -> _Directory:
        """Return a directory, made if nothing has the name."""
        found = self._found.get(path)
        if found is not None:
            return found
        head, _, name = path.rpartition(b"/")
        above = self._directory(head)
        child = above.names.get(name)
        if child is None:
            found = _Directory(above, implied_directory(path))
            above.is_changed = True
        elif isinstance(child, Known) and child.type == DIRECTORY:
            found = self._read(child.nid, above)
        else:
            raise NoAdditionError
        above.names[name] = self._found[path] = found
        return found

    def write(self, uuid: bytes) -> dict[ObjectId, Extents]:
        """Append everything to the image."""
        new = list(self._new())
        changed = [one for one in self._found.values() if one.known and one.is_changed]
        indexes = _Indexes([*new, *changed])
        objects: dict[ObjectId, Extents] = {}
        inodes = [_inode(child, indexes, objects) for child in new]
        again = [
            Changed(_changed_inode(one, one.known, indexes), one.nid, one.known.ino)
            for one in changed
            if one.known
        ]
        append_inodes(self._image, inodes, again, indexes.known, uuid=uuid)
        return objects

    def _new(self) -> Iterator[_Directory | Entry]:
        """Yield what the image has not, what lies in one directory together."""
        for directory in self._found.values():
            for _, child in sorted(directory.names.items()):
                if _is_new(child):
                    yield child


def _is_new(child: _Child) -> TypeGuard[_Directory | Entry]:
    if isinstance(child, _Directory):
        return child.known is None
    return not isinstance(child, Known)


class _Indexes:
    """Numbers inodes as :func:`append_inodes` wants them: new, changed, known.

    Attributes:
        known: Those that were asked for, in their order.
    """

    def __init__(self, own: Sequence[_Directory | Entry]) -> None:
        self.known: list[Known] = []
        self._numbers = {id(one): number for number, one in enumerate(own)}

    def of(self, child: _Child) -> int:
        """Return the number of what a directory has, or of a directory."""
        number = self._numbers.get(id(child))
        if number is None:
            number = self._numbers[id(child)] = len(self._numbers)
            assert not isinstance(child, Entry)  # which is new, and has its number
            if isinstance(child, _Directory):
                child = Known(child.nid, DIRECTORY)
            self.known.append(child)
        return number

    def names(self, directory: _Directory) -> list[tuple[bytes, int]]:
        """Return what a directory has, in order."""
        return [(name, self.of(child)) for name, child in sorted(directory.names.items())]


def _inode(child: _Directory | Entry, indexes: _Indexes, objects: dict[ObjectId, Extents]) -> Inode:
    if not isinstance(child, _Directory):
        node = Node(child)
        node.nlink = 1
        return inode_of(node, [], 0, objects)
    assert child.entry is not None
    node = Node(child.entry, {})
    node.nlink = 2 + _new_directories(child)
    return inode_of(node, indexes.names(child), indexes.of(child.parent), objects)


def _changed_inode(directory: _Directory, known: ReadInode, indexes: _Indexes) -> Inode:
    """Return what a directory of the image is now."""
    entry = directory.entry
    if known.xattrs or (entry is not None and entry.xattrs):
        raise NoAdditionError  # they may take another room than there is
    mode, uid, gid, mtime_ns = known.mode, known.uid, known.gid, known.mtime_ns
    if entry is not None:
        mode, uid, gid = FILE_TYPES[entry.kind] | entry.mode, entry.uid, entry.gid
        mtime_ns = entry.mtime_ns
    return Inode(
        mode,
        uid,
        gid,
        mtime_ns,
        known.nlink + _new_directories(directory),
        children=indexes.names(directory),
        parent=indexes.of(directory.parent),
    )


def _new_directories(directory: _Directory) -> int:
    return sum(
        isinstance(child, _Directory) and child.known is None for child in directory.names.values()
    )
