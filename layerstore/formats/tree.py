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
import stat
from itertools import islice
from operator import ge
from typing import TYPE_CHECKING, Final

import msgspec

from layerstore.digest import ID_BYTES, ChunkId
from layerstore.errors import FormatError, UnsupportedVersionError
from layerstore.formats._arrays import array_elements, array_head, batches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

MAGIC = b"LSTREE\0"
VERSION = 1
PATH_MAX_BYTES = 4096
NAME_MAX_BYTES = 255
DEPTH_MAX = 1024
TARGET_MAX_BYTES = 4095
"""Linux refuses symlinks of PATH_MAX bytes or more; the NUL at the end counts."""
ID_MAX = 0xFFFF_FFFE
"""The largest uid and gid; 2**32-1 means "no change" to chown(2)."""
MODE_MAX = 0o7777
SIZE_MAX = (1 << 63) - 1
DEV_MAJOR_MAX = 0xFFF
DEV_MINOR_MAX = 0xF_FFFF
XATTR_VALUE_MAX_BYTES = 65536
WHITEOUT_PREFIX = b".wh."
"""Names beginning so mean whiteouts in a layer tar; no entry may be called so."""


class Kind(enum.IntEnum):
    """What an entry is. The values are part of the format."""

    DIR = 1
    FILE = 2
    SYMLINK = 3
    HARDLINK = 4
    CHAR = 5
    BLOCK = 6
    FIFO = 7


KIND_OF_MODE: Final = {
    stat.S_IFDIR: Kind.DIR,
    stat.S_IFREG: Kind.FILE,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHAR,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.FIFO,
}
"""By ``stat.S_IFMT`` of a mode; sockets are kept by nobody."""

DIR: Final = Kind.DIR
FILE: Final = Kind.FILE
SYMLINK: Final = Kind.SYMLINK
HARDLINK: Final = Kind.HARDLINK
"""The common kinds by name: finding one in its enum costs eight times as much, and what looks at
every entry does it several times."""

FILE_TYPES = {
    Kind.DIR: stat.S_IFDIR,
    Kind.FILE: stat.S_IFREG,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.CHAR: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
    Kind.FIFO: stat.S_IFIFO,
}
"""The file type in ``st_mode`` of every kind of inode: a hard link is none."""

Paths = tuple[int, "Iterable[bytes]"]
"""How many paths, and the paths."""

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
            in this layer or a lower one). In this layer it is an entry of another kind
            than DIR and HARDLINK that sorts before the link; the link then repeats its
            mode, uid, gid and mtime_ns, so that either name tells the truth.
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


def with_extents(entry: Entry, extents: tuple[Extent, ...]) -> Entry:
    """Return the entry of a regular file with its content."""
    # By position, since this runs once for every file: replace() costs four times as much.
    return Entry(
        entry.path,
        entry.kind,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.mtime_ns,
        entry.size,
        extents,
        entry.target,
        entry.dev_major,
        entry.dev_minor,
        entry.xattrs,
    )


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


_Wire = tuple[tuple[Entry, ...], tuple[bytes, ...], tuple[bytes, ...]]
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Wire)
_BAD_PARTS = (b"//", b"/./", b"/../", b"/" + WHITEOUT_PREFIX)
_DEVICES = (Kind.CHAR, Kind.BLOCK)


class TreeEncoder:
    """Encodes a changeset whose entries come in order, keeping none of them.

    The encoding is first what :meth:`finish` returns, then everything that was written, in
    order. The head comes last because it counts the entries. All rules of the format are
    checked that neighbours tell; for those that need the whole layer (what hard links,
    whiteouts and opaques name) the caller answers.

    Args:
        write: Takes the encoded entries piece by piece.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._last: Entry | None = None
        self.count = 0

    def add(self, entries: Sequence[Entry]) -> None:
        """Take the next entries; a few hundred at once cost least.

        Raises:
            FormatError: They break a rule, or do not sort after those before.
        """
        if not entries:
            return
        _check_entries(entries, self._last)
        self._last = entries[-1]
        self.count += len(entries)
        self._write(array_elements(entries))

    def finish(self, whiteouts: Paths = (0, ()), opaques: Paths = (0, ())) -> bytes:
        """Write what follows the entries and return what comes before them.

        Args:
            whiteouts: How many, and the paths, sorted.
            opaques: The same.
        """
        for count, paths in (whiteouts, opaques):
            self._write(array_head(count))
            for some in batches(paths):
                self._write(array_elements(some))
        return MAGIC + bytes((VERSION,)) + array_head(3) + array_head(self.count)


def decode_changeset(encoded: bytes) -> Changeset:
    """Return the changeset that a tree encodes.

    Only the canonical encoding passes, so that equal changesets have equal bytes
    and the other way round.

    Raises:
        FormatError: Anything else than a canonical encoding of valid entries.
        UnsupportedVersionError: A later version of the format.
    """
    wire, body = _decoded(encoded)
    if _ENCODER.encode(wire) != body:
        raise FormatError("damaged tree: its encoding is not canonical")
    changeset = Changeset(*wire)
    check_changeset(changeset)
    return changeset


def decode_content(encoded: bytes) -> dict[ChunkId, int]:
    """Return the chunks that a tree refers to, with their lengths.

    For who has to know nothing else, in a third of the time: rules about paths, owners and the
    like are not looked at.

    Raises:
        FormatError: No tree, or something that is no chunk in it.
        UnsupportedVersionError: A later version of the format.
    """
    (entries, _, _), _ = _decoded(encoded)
    chunks = {
        chunk_id: length
        for entry in entries
        for length, chunk_id in entry.extents
        if chunk_id is not None
    }
    if not {ID_BYTES}.issuperset(map(len, chunks)):
        raise FormatError("damaged tree: a chunk id of another length")
    return chunks


def _decoded(encoded: bytes) -> tuple[_Wire, memoryview]:
    """Return what a tree says, unchecked, and the bytes that say it."""
    if encoded[: len(MAGIC)] != MAGIC or len(encoded) <= len(MAGIC):
        raise FormatError("not a tree: it does not begin with LSTREE")
    if encoded[len(MAGIC)] != VERSION:
        raise UnsupportedVersionError(
            f"tree of version {encoded[len(MAGIC)]}, this layerstore reads version {VERSION}"
        )
    body = memoryview(encoded)[len(MAGIC) + 1 :]
    try:
        return _DECODER.decode(body), body
    except (msgspec.MsgspecError, RecursionError) as err:
        raise FormatError(f"damaged tree: {err}") from err


def check_changeset(changeset: Changeset) -> None:
    """Refuse a changeset that breaks a rule of the format.

    Raises:
        FormatError: Names the first offending path and the rule.
    """
    links = _check_entries(changeset.entries, None)
    _check_order(changeset.whiteouts, "whiteouts")
    check_paths(changeset.whiteouts)
    if b"" in changeset.whiteouts:
        raise FormatError("whiteout of the root")
    _check_order(changeset.opaques, "opaques")
    check_paths(changeset.opaques)
    if links or changeset.whiteouts or changeset.opaques:
        _check_named(changeset, links)


def check_references(changeset: Changeset) -> None:
    """Refuse hard links, whiteouts and opaques that name what they may not.

    This is what a :class:`TreeEncoder` cannot check.

    Raises:
        FormatError: Names the path and the rule.
    """
    links = [entry for entry in changeset.entries if entry.kind is Kind.HARDLINK]
    if links or changeset.whiteouts or changeset.opaques:
        _check_named(changeset, links)


def _check_entries(entries: Sequence[Entry], before: Entry | None) -> list[Entry]:
    """Check everything that entries and their neighbours tell; return the hard links.

    Args:
        entries: Some of a tree's entries that follow each other.
        before: The entry before them.
    """
    paths = [entry.path for entry in entries]
    _check_order(paths if before is None else [before.path, *paths], "entries")
    check_paths(paths)
    links = []
    for entry in entries:
        _check_entry(entry)
        if entry.kind is HARDLINK:
            links.append(entry)
        # Parents sort right before their children, so neighbours tell it all.
        if (
            before is not None
            and before.kind is not DIR
            and entry.path.startswith(before.path + b"/")
        ):
            raise FormatError(f"{entry.path!r} lies below {before.path!r}, not a directory")
        before = entry
    return links


def _check_order(paths: Sequence[bytes], what: str) -> None:
    keys = [path.replace(b"/", b"\0") for path in paths]
    if any(map(ge, keys, islice(keys, 1, None))):
        wrong = next(i for i in range(1, len(keys)) if keys[i - 1] >= keys[i])
        raise FormatError(f"{what} out of order or twice at {paths[wrong]!r}")


def check_paths(paths: Sequence[bytes]) -> None:
    """Refuse paths that no entry may have; the root may only come first.

    Raises:
        FormatError: Names the first bad path and what is wrong with it.
    """
    # All paths in one buffer: four scans in C instead of a loop in Python.
    joined = b"/" + b"/\0/".join(paths) + b"/"
    slashes_of_root = 1 if b"" in paths[:1] else 0
    if (
        joined.count(b"\0") != max(len(paths) - 1, 0)
        or joined.count(b"//") > slashes_of_root
        or any(part in joined for part in _BAD_PARTS[1:])
        or max(map(len, paths), default=0) > NAME_MAX_BYTES
    ):
        for path in paths:
            if why := path_fault(path):
                raise FormatError(f"path {path[:300]!r}: {why}")


def path_fault(path: bytes) -> str | None:
    """Return what is wrong with a path inside an image, or None for a good one."""
    if not path:
        return None
    slashed = b"/" + path + b"/"
    if b"\0" in path:
        return "holds a NUL"
    if any(part in slashed for part in _BAD_PARTS):
        return "has an empty, '.', '..' or '.wh.' component"
    if len(path) > PATH_MAX_BYTES:
        return f"longer than {PATH_MAX_BYTES} bytes"
    parts = path.split(b"/")
    if len(parts) > DEPTH_MAX:
        return f"deeper than {DEPTH_MAX} directories"
    if max(map(len, parts)) > NAME_MAX_BYTES:
        return f"has a component longer than {NAME_MAX_BYTES} bytes"
    return None


def _check_entry(entry: Entry) -> None:
    kind = entry.kind
    fault = None
    if (
        not 0 <= entry.mode <= MODE_MAX
        or not 0 <= entry.uid <= ID_MAX
        or not 0 <= entry.gid <= ID_MAX
        or not -SIZE_MAX <= entry.mtime_ns <= SIZE_MAX
    ):
        fault = "mode, owner or time out of range"
    elif kind is FILE:
        fault = _extents_fault(entry)
    elif entry.size or entry.extents:
        fault = "content in something that is not a regular file"
    elif not entry.path and kind is not DIR:
        fault = "the root is not a directory"
    if kind is SYMLINK or kind is HARDLINK:
        fault = fault or _target_fault(entry)
    elif entry.target:
        fault = "target in something that is not a link"
    if entry.dev_major or entry.dev_minor:
        fault = fault or _device_fault(entry)
    if entry.xattrs:
        fault = fault or _xattrs_fault(entry)
    if fault:
        raise FormatError(f"entry {entry.path[:300]!r}: {fault}")


def _extents_fault(entry: Entry) -> str | None:
    total = 0
    hole_before = False
    for length, chunk in entry.extents:
        if length <= 0:
            return "extent without length"
        if chunk is None:
            if hole_before:
                return "two holes in a row"
            hole_before = True
        else:
            if len(chunk) != ID_BYTES:
                return f"chunk id of {len(chunk)} bytes"
            hole_before = False
        total += length
    if total != entry.size or total > SIZE_MAX:
        return f"extents sum to {total}, size is {entry.size}"
    return None if entry.path else "the root is not a directory"


def _target_fault(entry: Entry) -> str | None:
    if not entry.target or b"\0" in entry.target:
        return "link target empty or with a NUL"
    if entry.kind is Kind.SYMLINK:
        too_long = len(entry.target) > TARGET_MAX_BYTES
        return f"target longer than {TARGET_MAX_BYTES} bytes" if too_long else None
    if entry.xattrs:
        return "xattrs on a hard link belong to its file"
    if entry.target == entry.path:
        return "hard link to itself"
    return path_fault(entry.target)


def _device_fault(entry: Entry) -> str | None:
    if entry.kind not in _DEVICES:
        return "device numbers on something that is not a device"
    if not (0 <= entry.dev_major <= DEV_MAJOR_MAX and 0 <= entry.dev_minor <= DEV_MINOR_MAX):
        return f"no device {entry.dev_major}:{entry.dev_minor} on Linux"
    return None


def _xattrs_fault(entry: Entry) -> str | None:
    before = b""
    for name, value in entry.xattrs:
        if name <= before:
            return f"xattr {name!r} out of order, twice or without a name"
        if b"\0" in name or len(name) > NAME_MAX_BYTES or len(value) > XATTR_VALUE_MAX_BYTES:
            return f"xattr {name[:300]!r} too long or with a NUL"
        before = name
    return None


def _check_named(changeset: Changeset, links: Sequence[Entry]) -> None:
    by_path = {entry.path: entry for entry in changeset.entries}
    kinds = {path: entry.kind for path, entry in by_path.items()}
    for link in links:
        named = by_path.get(link.target)
        if named is None:
            check_parents(link.target, kinds.get)
        elif named.kind in (Kind.DIR, Kind.HARDLINK) or path_key(named.path) > path_key(link.path):
            raise FormatError(
                f"hard link {link.path!r} to {link.target!r}: not to the group's first name"
            )
        elif _inode_fields(named) != _inode_fields(link):
            raise FormatError(f"hard link {link.path!r} differs from {link.target!r}")
    for path in changeset.whiteouts:
        check_parents(path, kinds.get)
    for path in changeset.opaques:
        if kinds.get(path, Kind.DIR) is not Kind.DIR:
            raise FormatError(f"opaque {path!r} is not a directory")
        check_parents(path, kinds.get)


def _inode_fields(entry: Entry) -> tuple[int, int, int, int]:
    return (entry.mode, entry.uid, entry.gid, entry.mtime_ns)


def check_parents(path: bytes, kind_of: Callable[[bytes], Kind | None]) -> None:
    """Refuse a path that lies below something that is not a directory.

    Args:
        path: What a hard link, whiteout or opaque names.
        kind_of: Returns the kind of the layer's own entry of a path, if it has one.

    Raises:
        FormatError: Names both.
    """
    end = path.rfind(b"/")
    while end > 0:
        if kind_of(path[:end]) not in (None, Kind.DIR):
            raise FormatError(f"{path!r} lies below {path[:end]!r}, not a directory")
        end = path.rfind(b"/", 0, end)
