"""Entries of a layer and their canonical encoding.

A layer is a changeset: entries to create or replace, whiteouts that remove one
lower name, and opaque whiteouts that hide everything lower in a directory. All
values here are immutable; paths are bytes relative to the image's root, without
leading, trailing or doubled slashes, ``b""`` for the root itself, and never hold
``.`` or ``..`` components.

Format: docs/format/tree.md.
"""

from __future__ import annotations

import enum

import msgspec

from layerstore.digest import ChunkId


class Kind(enum.IntEnum):
    """What an entry is. The values are part of the format."""

    DIR = 1
    FILE = 2
    SYMLINK = 3
    HARDLINK = 4
    CHAR = 5
    BLOCK = 6
    FIFO = 7


Extent = tuple[int, ChunkId | None]
"""Length in bytes and the chunk that holds them, or None for a hole (zeros)."""


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One name of a layer.

    Attributes:
        mode: Permission bits with setuid, setgid and sticky (at most 0o7777), no file type.
        mtime_ns: Nanoseconds since the epoch; may be negative.
        size: Logical bytes of a regular file, 0 otherwise.
        extents: A regular file's content in order; lengths sum to ``size``.
        target: A symlink's text, or the path a hard link names (relative to the root,
            in this layer or a lower one).
        xattrs: (name, value) pairs sorted by name.
    """

    path: bytes
    kind: Kind
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    extents: tuple[Extent, ...] = ()
    target: bytes = b""
    dev_major: int = 0
    dev_minor: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


class Changeset(msgspec.Struct, frozen=True):
    """A layer's content: what it adds, removes and hides.

    Attributes:
        entries: Sorted by :func:`path_key`, no path twice. A path below a directory
            that neither this nor a lower layer creates gets implied parents (0755, root).
        whiteouts: Sorted paths that vanish from lower layers.
        opaques: Sorted directories whose lower children vanish.
    """

    entries: tuple[Entry, ...] = ()
    whiteouts: tuple[bytes, ...] = ()
    opaques: tuple[bytes, ...] = ()


def path_key(path: bytes) -> bytes:
    """Return the sort key that puts parents before children and siblings in byte order."""
    return path.replace(b"/", b"\0")
