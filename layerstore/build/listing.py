"""What a step took from a tree of files, small enough to remember: a digest for each file.

A listing is made when a step ran, and compared with that of a later run to name the files
that differ. It only explains; keys decide. So digests are short, and where there are more
files than :data:`NAMES_MAX` the deepest directories are remembered as one digest each.
Pure but for the reading of files, which the key has read before.

Format: docs/format/build-cache.md, "Listings".
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from blake3 import blake3

from layerstore.formats.tree import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from layerstore.build.source import Match, Selected

NAMES_MAX = 2000
"""Names in one listing: about 30 kB, and more files than a project's own sources have."""

DIGEST_BYTES = 6
_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class Listed(msgspec.Struct, frozen=True, array_like=True):
    """One file or directory.

    Attributes:
        digest: Of the content, or of what stands for it; of a directory, of everything below.
        below: Of a directory: what it holds, or how many files it holds below it where they are
            not listed. None of everything else.
    """

    name: bytes
    kind: int
    mode: int
    uid: int
    gid: int
    digest: bytes
    below: tuple[Listed, ...] | int | None = None


class FileChange(NamedTuple):
    """How one path of two listings differs; ``text`` goes on after the path."""

    path: str
    text: str


def list_matches(matches: Iterable[tuple[str, Sequence[Match]]]) -> tuple[Listed, ...]:
    """Return the listing of what source arguments stand for, by their paths."""
    whole = [
        _listed(match.path.strip(b"/") or b".", match.selected)
        for _, found in matches
        for match in found
    ]
    return _bounded(whole)


def changes(before: Sequence[Listed], now: Sequence[Listed]) -> Iterator[FileChange]:
    """Yield how two listings differ, in the order of paths."""
    yield from _changes("", before, now)


def _listed(name: bytes, selected: Selected) -> Listed:
    node = selected.node
    entry = node.entry
    below: tuple[Listed, ...] | None = None
    if entry.kind is Kind.DIR:
        below = tuple(_listed(child, inner) for child, inner in selected.children)
        facts: object = [
            selected.included, entry.xattrs,
            [(each.name, each.kind, each.mode, each.uid, each.gid, each.digest) for each in below],
        ]  # fmt: skip
    else:
        content = node.content_digest() if entry.kind is Kind.FILE else b""
        facts = [
            content, entry.size, entry.target, entry.dev_major, entry.dev_minor, entry.xattrs
        ]  # fmt: skip
    digest = blake3(_encode(facts)).digest(DIGEST_BYTES)
    return Listed(name, int(entry.kind), entry.mode, entry.uid, entry.gid, digest, below)


def _bounded(whole: Sequence[Listed]) -> tuple[Listed, ...]:
    """Return a listing in which directories that are too much are only counted."""
    room = NAMES_MAX - len(whole)
    kept: set[int] = set()
    level = [each for each in whole if isinstance(each.below, tuple)]
    while level:
        deeper: list[Listed] = []
        for each in level:
            assert isinstance(each.below, tuple)
            if len(each.below) <= room:
                room -= len(each.below)
                kept.add(id(each))
                deeper += [inner for inner in each.below if isinstance(inner.below, tuple)]
        level = deeper
    return tuple(_cut(each, kept) for each in whole)


def _cut(listed: Listed, kept: set[int]) -> Listed:
    if not isinstance(listed.below, tuple):
        return listed
    if id(listed) not in kept:
        return msgspec.structs.replace(listed, below=_count(listed))
    return msgspec.structs.replace(listed, below=tuple(_cut(each, kept) for each in listed.below))


def _count(listed: Listed) -> int:
    """Return how many files that are no directories lie below one."""
    if isinstance(listed.below, tuple):
        return sum(_count(each) for each in listed.below)
    return 1 if listed.below is None else listed.below


def _changes(folder: str, before: Sequence[Listed], now: Sequence[Listed]) -> Iterator[FileChange]:
    old = {each.name: each for each in before}
    new = {each.name: each for each in now}
    for name in sorted(old.keys() | new.keys()):
        path = folder + os.fsdecode(name)
        if name not in old:
            yield FileChange(path, f"is new{_size(new[name])}")
        elif name not in new:
            yield FileChange(path, f"is gone{_size(old[name])}")
        else:
            yield from _change(path, old[name], new[name])


def _size(listed: Listed) -> str:
    if listed.below is None:
        return ""
    count = _count(listed)
    return f" ({count} file{'' if count == 1 else 's'})"


def _change(path: str, old: Listed, new: Listed) -> Iterator[FileChange]:
    if old.kind != new.kind:
        yield FileChange(path, f"changed: from a {_kind(old)} to a {_kind(new)}")
        return
    if old.mode != new.mode:
        yield FileChange(path, f"changed: its mode ({old.mode:o} to {new.mode:o})")
    if (old.uid, old.gid) != (new.uid, new.gid):
        owners = f"{old.uid}:{old.gid} to {new.uid}:{new.gid}"
        yield FileChange(path, f"changed: its owner ({owners})")
    if old.digest == new.digest:
        return
    if old.below is None or new.below is None:
        yield FileChange(path, "changed: its content")
    elif isinstance(old.below, tuple) and isinstance(new.below, tuple):
        prefix = "" if path == "." else f"{path}/"
        yield from _changes(prefix, old.below, new.below)
    else:
        yield FileChange(path, "changed: something below it (too many files to remember each)")


def _kind(listed: Listed) -> str:
    try:
        return Kind(listed.kind).name.lower()
    except ValueError:
        return "thing"
