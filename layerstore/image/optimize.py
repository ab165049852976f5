"""Everything the store holds, in the order in which it compresses best.

Files of one kind lie together; of the versions of one file, one stands alone and the
others follow in later generations, so that what they resemble has its place already.
The store does the rest (:mod:`layerstore.store.rewriting.optimize`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from layerstore.errors import IntegrityError, NotFoundError
from layerstore.formats.tree import Extent, Kind
from layerstore.image.layers.similar import brief_entries, path_pattern
from layerstore.store.rewriting.optimize import FileContent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from layerstore.digest import DiffId
    from layerstore.store.records import LayerRecord, Refs
    from layerstore.store.store import Store

RUN_LENGTH: Final = 5
"""Versions that hang on one that stands alone: it is the middle one, its neighbours are
differences against it, theirs against them."""

_MIDDLE: Final = RUN_LENGTH // 2
_VERSION_SUFFIX: Final = re.compile(rb"([.-]#)+$")


class _Versions(NamedTuple):
    """All contents that files of one name have, oldest layer first."""

    key: tuple[bytes, bytes]
    contents: list[tuple[Extent, ...]]


def contents_in_order(store: Store) -> Iterator[FileContent]:
    """Yield every content of every layer that can be read, each base before its differences.

    What cannot be read is left out: it stays where it is.
    """
    records = list(_layers_by_age(store))
    series = [versions.contents for versions in _files(store, records)]
    # A tree or recipe mostly repeats the one before, but for what was added to it.
    series.append([record.tree for record in records])
    series.append([record.recipe for record in records if record.recipe])
    generations: list[list[FileContent]] = [[], [], []]
    for contents in series:
        for start in range(0, len(contents), RUN_LENGTH):
            _add_run(contents[start : start + RUN_LENGTH], generations)
    for generation in generations:
        yield from generation


def _add_run(contents: Sequence[tuple[Extent, ...]], generations: list[list[FileContent]]) -> None:
    """Put up to ``RUN_LENGTH`` versions into the generations they belong to."""
    middle = min(_MIDDLE, len(contents) // 2)
    for index, content in enumerate(contents):
        distance = index - middle
        towards = index - (distance > 0) + (distance < 0)
        like = _refs(contents[towards]) if distance else ()
        is_base = not distance and len(contents) > 1
        generation = abs(distance)
        generations[generation].append(FileContent(_refs(content), like, is_base, generation))


def _refs(extents: tuple[Extent, ...]) -> Refs:
    return tuple((length, chunk) for length, chunk in extents if chunk is not None)


def _layers_by_age(store: Store) -> Iterator[LayerRecord]:
    """Yield all layers: those of old images first, those of no image last."""
    order: dict[DiffId, None] = {}
    for image in reversed(store.images()):
        order.update(dict.fromkeys(image.layers))
    order.update((diff_id, None) for diff_id, _ in store.catalog.layers())
    for diff_id in order:
        try:
            yield store.layer(diff_id)
        except (IntegrityError, NotFoundError):
            continue


def _files(store: Store, records: Sequence[LayerRecord]) -> list[_Versions]:
    """Return the files of all layers, alike ones next to each other."""
    by_pattern: dict[bytes, dict[tuple[Extent, ...], None]] = {}
    for record in records:
        try:
            entries = brief_entries(store.read_refs(record.tree))
        except (IntegrityError, NotFoundError):
            continue
        for entry in entries:
            if entry.kind == Kind.FILE and entry.extents:
                by_pattern.setdefault(path_pattern(entry.path), {})[entry.extents] = None
    found = [_Versions(_sort_key(path), list(seen)) for path, seen in by_pattern.items()]
    found.sort(key=lambda versions: versions.key)
    return found


def _sort_key(pattern: bytes) -> tuple[bytes, bytes]:
    """Return what puts files of one kind together: extension and name, then the directory."""
    directory, _, name = pattern.rpartition(b"/")
    stem = _VERSION_SUFFIX.sub(b"", name)
    extension = stem.rpartition(b".")[2] if b"." in stem[1:] else b""
    return extension, (name if extension else directory + b"/" + name)
