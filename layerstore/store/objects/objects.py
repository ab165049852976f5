"""The object tier: file contents unpacked as plain files, for views by the kernel.

An object is one file's whole content under a name that follows from its chunks. Every
image that holds the same content redirects to the same object, so the kernel keeps its
pages once. Objects are made from verified chunks (:mod:`layerstore.store.objects.unpacking`) and
are a cache: gc evicts those that no view needs. Making views holds ``locks/objects`` shared,
eviction holds it exclusively. What has a name is whole.

Normative: docs/format/store.md, "Objects".
"""

from __future__ import annotations

import contextlib
import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from blake3 import blake3

from layerstore.chunking.cutter import SourceEndedError, cut_stream
from layerstore.digest import ID_BYTES, ChunkId, ObjectId
from layerstore.linux.files import (
    open_private,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO

    from layerstore.chunking.cutter import CutParameters
    from layerstore.formats.tree import Extent
    from layerstore.store.paths import StorePaths

CONTEXT: Final = "layerstore object 1"
"""Keeps ids of lists of extents apart from ids of chunks. Changing it is a format break."""

_EXTENT = struct.Struct("<QB32s")
_NO_ID: Final = bytes(ID_BYTES)
Extents = tuple["Extent", ...]


def object_id(extents: Extents) -> ObjectId:
    """Return the name of a file's content.

    It is the chunk's id for content of one chunk, and else a hash of the list of extents,
    derived for that purpose alone: no content can be made whose chunk id is such a hash.
    """
    if len(extents) == 1 and extents[0][1] is not None:
        return ObjectId(extents[0][1])
    encoded = b"".join(
        _EXTENT.pack(length, chunk_id is not None, chunk_id or _NO_ID)
        for length, chunk_id in extents
    )
    return ObjectId(blake3(encoded, derive_key_context=CONTEXT).digest())


def present_objects(paths: StorePaths) -> set[ObjectId]:
    """Return the ids of all objects that are there."""
    return {found for found, _ in object_files(paths)}


def object_files(paths: StorePaths) -> Iterator[tuple[ObjectId, str]]:
    """Yield every object with its path, in no particular order; passes over what is none."""
    for prefix in _names(paths.objects):
        directory = f"{paths.objects}/{prefix}"
        if len(prefix) != 2 or os.path.islink(directory):
            continue  # a link leads to what is not ours: nothing behind it is read or evicted
        for name in _names(directory):
            found = object_of_path(f"{prefix}/{name}")
            if found is not None:
                yield found, f"{directory}/{name}"


def object_of_path(path: str) -> ObjectId | None:
    """Return the object that a path below the tier's directory is, None if it is none."""
    if len(path) != 3 + 2 * ID_BYTES or path[2] != "/" or path[:2] != path[3:5]:
        return None
    try:
        return ObjectId(bytes.fromhex(path[3:]))
    except ValueError:
        return None


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


# -- looking at what is there


class ObjectFile(NamedTuple):
    """An object on disk.

    Attributes:
        size: Bytes of its content, holes included.
        disk_size: Bytes that the file system allocated.
    """

    size: int
    disk_size: int


def object_sizes(paths: StorePaths) -> dict[ObjectId, ObjectFile]:
    """Return all objects with what they take."""
    found = {}
    for name, path in object_files(paths):
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(path)
            found[name] = ObjectFile(status.st_size, status.st_blocks * 512)
    return found


def is_sound(path: str, extents: Extents) -> bool:
    """Return whether an object's content is what a list of extents says.

    Raises:
        OSError: It cannot be read.
    """
    with open_object(path) as file:
        return holds(file.fileno(), extents)


def says_its_name(path: str, name: ObjectId, cuts: CutParameters) -> bool:
    """Return whether content leads to an object's name when it is cut as a store cuts.

    That of a sparse file does not, nor that of another store's which cuts elsewhere.

    Raises:
        OSError: It cannot be read.
    """
    with open_object(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            extents = [
                (len(chunk), ChunkId(blake3(chunk).digest()))
                for chunk in cut_stream(lambda count: file.read(count) or b"", size, cuts)
            ]
        except SourceEndedError:  # somebody cuts it short just now
            return False
    return bool(extents) and object_id(tuple(extents)) == name


def open_object(path: str) -> FileIO:
    """Open an object for reading.

    Raises:
        OSError: It cannot be opened.
    """
    return os.fdopen(open_private(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0)


def holds(fd: int, extents: Extents) -> bool:
    """Return whether an open file's content is what a list of extents says.

    Raises:
        OSError: It cannot be read.
    """
    offset = 0
    for length, chunk_id in extents:
        if chunk_id is None:
            right = _is_hole(fd, offset, length)
        else:
            right = blake3(os.pread(fd, length, offset)).digest() == chunk_id
        if not right:
            return False
        offset += length
    return os.fstat(fd).st_size == offset


_READ_BYTES: Final = 1024 * 1024


def _is_hole(fd: int, offset: int, length: int) -> bool:
    """Return whether zeros are read there; passes over what the file system knows as a hole."""
    end = offset + length
    while offset < end:
        try:
            offset = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole up to the end
            return os.fstat(fd).st_size >= end
        if offset >= end:
            return True
        data = os.pread(fd, min(_READ_BYTES, end - offset), offset)
        if not data or any(data):
            return False
        offset += len(data)
    return True
