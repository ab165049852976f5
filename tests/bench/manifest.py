"""What a tree holds, entry by entry, and how two trees differ: the judge of every restore.

A manifest has one record for each path below a root: type, mode, owner, size, content
digest, modification time in nanoseconds, link target, device number, extended attributes,
and the first path of its group of hard links. Access and change times and inode numbers
are not part of it.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from blake3 import blake3

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Record(NamedTuple):
    """One entry of a tree; fields that do not apply to its type are None."""

    type: int
    mode: int
    owner: tuple[int, int]
    size: int | None
    content: bytes | None
    target: bytes | None
    device: int | None
    xattrs: tuple[tuple[str, bytes], ...]
    links: bytes | None
    mtime: int


Manifest = dict[bytes, Record]

_BLOCK_BYTES = 1 << 20


def manifest_of(root: Path) -> Manifest:
    """Read a whole tree; its root directory is the entry ``.``."""
    place = os.fsencode(root)
    first_paths: dict[tuple[int, int], bytes] = {}
    records = {}
    for path in sorted(_paths(place)):
        host = os.path.join(place, path)
        info = os.lstat(host)
        records[path] = _record(host, info, _link_group(path, info, first_paths))
    return records


def _paths(place: bytes) -> Iterator[bytes]:
    yield b"."
    for host, folders, names in os.walk(place):
        below = host[len(place) + 1 :]
        for name in (*folders, *names):
            yield os.path.join(below, name)


def _link_group(
    path: bytes, info: os.stat_result, first_paths: dict[tuple[int, int], bytes]
) -> bytes | None:
    if stat.S_ISDIR(info.st_mode) or info.st_nlink == 1:
        return None
    return first_paths.setdefault((info.st_dev, info.st_ino), path)


def _record(host: bytes, info: os.stat_result, links: bytes | None) -> Record:
    kind = stat.S_IFMT(info.st_mode)
    regular = kind == stat.S_IFREG
    device = kind in (stat.S_IFCHR, stat.S_IFBLK)
    return Record(
        type=kind,
        mode=stat.S_IMODE(info.st_mode),
        owner=(info.st_uid, info.st_gid),
        size=info.st_size if regular else None,
        content=_digest(host, info.st_size) if regular else None,
        target=os.readlink(host) if kind == stat.S_IFLNK else None,
        device=info.st_rdev if device else None,
        xattrs=tuple(
            (name, os.getxattr(host, name, follow_symlinks=False))
            for name in sorted(os.listxattr(host, follow_symlinks=False))
        ),
        links=links,
        mtime=info.st_mtime_ns,
    )


def _digest(host: bytes, size: int) -> bytes:
    hasher = blake3()
    with open(host, "rb", buffering=0) as file:
        # A block of a mebibyte is mapped and unmapped by the kernel: most files are small.
        while block := file.read(min(size + 1, _BLOCK_BYTES)):
            hasher.update(block)
    return hasher.digest()


class Difference(NamedTuple):
    """How a restored tree differs from its source.

    Attributes:
        missing: Paths that were not restored.
        extra: Paths that the source does not have.
        changed: How many entries differ, by attribute.
        example: One path for each attribute.
    """

    missing: list[bytes]
    extra: list[bytes]
    changed: Counter[str]
    example: dict[str, bytes]

    @property
    def content_equal(self) -> bool:
        """Whether every path is there with its type, size, content and target."""
        needed = ("type", "size", "content", "target")
        return not (self.missing or self.extra or any(self.changed[one] for one in needed))

    @property
    def equal(self) -> bool:
        """Whether nothing at all differs."""
        return not (self.missing or self.extra or self.changed)

    def lost(self) -> str:
        """Return what a restore did not give back, for a table: ``-`` if nothing."""
        parts = [f"{len(self.missing)} paths"] if self.missing else []
        parts += [f"{len(self.extra)} paths too many"] if self.extra else []
        parts += [f"{name} of {count:,}" for name, count in sorted(self.changed.items())]
        return ", ".join(parts) or "-"


def compare(source: Manifest, restored: Manifest) -> Difference:
    """Compare a restored tree with what was stored."""
    changed: Counter[str] = Counter()
    example: dict[str, bytes] = {}
    for path in source.keys() & restored.keys():
        for name, one, other in zip(Record._fields, source[path], restored[path], strict=True):
            if one != other:
                changed[name] += 1
                example.setdefault(name, path)
    return Difference(
        sorted(source.keys() - restored.keys()),
        sorted(restored.keys() - source.keys()),
        changed,
        example,
    )
