"""Random layers with few names, so that they collide, and small stores for the ledger's tests."""

from __future__ import annotations

import hashlib

from hypothesis import strategies as st

from layerstore.digest import ChunkId
from layerstore.formats.tree import Changeset, Entry, Kind, path_key

_NAMES = st.sampled_from([b"a", b"b", b"c"])
PATHS = st.lists(_NAMES, min_size=1, max_size=3).map(b"/".join)
_SIZES = st.sampled_from([0, 1, 59, 4095, 4096, 4097, 300_000])


def chunk_named(text: str) -> ChunkId:
    """Return an id that stands for a chunk nobody stores."""
    return ChunkId(hashlib.sha256(text.encode()).digest())


@st.composite
def extents(draw: st.DrawFn) -> tuple[tuple[int, ChunkId | None], ...]:
    parts = draw(st.lists(st.tuples(st.integers(1, 9000), st.sampled_from("xyz-")), max_size=4))
    return tuple(
        (size, None if name == "-" else chunk_named(f"{name}{size}")) for size, name in parts
    )


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    path = draw(PATHS)
    kind = draw(st.sampled_from([Kind.DIR, Kind.FILE, Kind.FILE, Kind.SYMLINK, Kind.HARDLINK]))
    if kind == Kind.FILE:
        content = draw(extents())
        size = sum(length for length, _ in content)
        return Entry(path=path, kind=kind, mode=0o644, size=size, extents=content)
    if kind == Kind.SYMLINK:
        return Entry(path=path, kind=kind, target=b"t" * (draw(_SIZES) % 100 + 1))
    if kind == Kind.HARDLINK:
        return Entry(path=path, kind=kind, target=draw(PATHS))
    return Entry(path=path, kind=kind, mode=0o755)


@st.composite
def changesets(draw: st.DrawFn) -> Changeset:
    drawn = {entry.path: entry for entry in draw(st.lists(entries(), max_size=8))}
    leaves = {path for path, entry in drawn.items() if entry.kind != Kind.DIR}
    # No layer that a tar can give holds names below its own file or link.
    added = {path: entry for path, entry in drawn.items() if leaves.isdisjoint(_parents(path))}
    whiteouts = draw(st.lists(PATHS, max_size=2))
    opaques = draw(st.lists(PATHS, max_size=1))
    return Changeset(
        entries=tuple(sorted(added.values(), key=lambda entry: path_key(entry.path))),
        whiteouts=tuple(sorted(set(whiteouts))),
        opaques=tuple(sorted(set(opaques))),
    )


def _parents(path: bytes) -> list[bytes]:
    parts = path.split(b"/")
    return [b"/".join(parts[:count]) for count in range(1, len(parts))]
