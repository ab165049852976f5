"""Stored files that new ones may resemble: the same path in layers the store has.

An updated file mostly lies where its older version lay, or at a path that differs in
a version number only. This module answers "what did the store have at this path";
whether a difference pays is the store's business. Nothing is read before the first
question, and then the trees of the newest images, up to a bound. What cannot be
read is passed over: it only costs compression.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

import msgspec

from layerstore.errors import IntegrityError, NotFoundError
from layerstore.formats.tree import MAGIC, VERSION, Extent, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from layerstore.digest import DiffId
    from layerstore.store.records import Refs
    from layerstore.store.store import Store

ENTRIES_MAX: Final = 100_000
"""Entries of trees that are looked at: a third of a second at most."""

_DIGITS: Final = re.compile(rb"[0-9]+")


class BriefEntry(msgspec.Struct, array_like=True, gc=False):
    """The first fields of a tree's entry; MessagePack skips the others fastest."""

    path: bytes
    kind: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    extents: tuple[Extent, ...]


_DECODER = msgspec.msgpack.Decoder(tuple[tuple[BriefEntry, ...], msgspec.Raw, msgspec.Raw])


class _LayerFiles:
    """The files of one layer that have content, which never change."""

    def __init__(self, by_path: dict[bytes, tuple[Extent, ...]], entry_count: int) -> None:
        self.by_path = by_path
        self.entry_count = entry_count
        self._by_pattern: dict[bytes, tuple[Extent, ...]] | None = None

    def like(self, pattern: bytes) -> tuple[Extent, ...] | None:
        """Return the content of a file whose path has a pattern."""
        if self._by_pattern is None:
            self._by_pattern = {
                path_pattern(path): extents for path, extents in self.by_path.items()
            }
        return self._by_pattern.get(pattern)


_known: WeakKeyDictionary[Store, dict[DiffId, _LayerFiles]] = WeakKeyDictionary()
"""What was read of stores that are open: the steps of a build ask for the same layers."""


class SimilarFiles:
    """Paths of the newest images' files, with their content. For one thread."""

    def __init__(
        self, store: Store, near: Sequence[DiffId] = (), *, only_near: bool = False
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            store: Where layers are looked for.
            near: Layers to prefer, best first, such as those a new one lies on.
            only_near: Whether no others are looked at.
        """
        self._store = store
        self._near = near
        self._only_near = only_near
        self._files: list[_LayerFiles] = []
        self._further = self._load()

    def find(self, path: bytes) -> Refs:
        """Return the content of a stored file at ``path`` or one like it; nothing if there is none.

        Holes are left out.
        """
        extents = self._at(path) or self._like(path) or ()
        return tuple((length, chunk) for length, chunk in extents if chunk is not None)

    def _at(self, path: bytes) -> tuple[Extent, ...] | None:
        for files in self._read_and_further():
            extents = files.by_path.get(path)
            if extents is not None:
                return extents
        return None

    def _like(self, path: bytes) -> tuple[Extent, ...] | None:
        pattern = path_pattern(path)
        for files in self._files:  # all of them: nothing is at the path itself
            extents = files.like(pattern)
            if extents is not None:
                return extents
        return None

    def _read_and_further(self) -> Iterator[_LayerFiles]:
        """Yield what was read, then what is read only if nobody is content with that."""
        yield from self._files
        for files in self._further:
            self._files.append(files)
            yield files

    def _load(self) -> Iterator[_LayerFiles]:
        left = ENTRIES_MAX
        known = _known.setdefault(self._store, {})
        for diff_id in self._layers():
            files = known.get(diff_id)
            if files is None:
                if sum(each.entry_count for each in known.values()) > ENTRIES_MAX:
                    known.clear()
                files = self._read(diff_id, left)
                if files is None:
                    continue
                known[diff_id] = files
            if files.entry_count <= left:
                left -= files.entry_count
                yield files

    def _read(self, diff_id: DiffId, most: int) -> _LayerFiles | None:
        try:
            record = self._store.layer(diff_id)
            if record.entry_count > most:
                return None
            entries = brief_entries(self._store.read_refs(record.tree))
        except (IntegrityError, NotFoundError):
            return None
        by_path = {
            entry.path: entry.extents
            for entry in entries
            if entry.extents and entry.kind == Kind.FILE
        }
        return _LayerFiles(by_path, record.entry_count)

    def _layers(self) -> Iterator[DiffId]:
        """Yield layers, each once: the preferred ones, then upper layers of new images first."""
        seen: set[DiffId] = set()
        images = [] if self._only_near else self._store.images()
        for layers in (self._near, *(image.layers[::-1] for image in images)):
            for diff_id in layers:
                if diff_id not in seen:
                    seen.add(diff_id)
                    yield diff_id


def brief_entries(encoded: bytes) -> tuple[BriefEntry, ...]:
    """Return the entries of an encoded tree of files; none if it is not understood."""
    head = MAGIC + bytes((VERSION,))
    if not encoded.startswith(head):
        return ()
    try:
        return _DECODER.decode(memoryview(encoded)[len(head) :])[0]
    except (msgspec.MsgspecError, RecursionError):
        return ()


def path_pattern(path: bytes) -> bytes:
    """Return a path with every number replaced, so that versions look alike."""
    return _DIGITS.sub(b"#", path)
