"""A fleet of stores: what its hosts hold, and what one shared store would hold, by scheme.

Engines differ in where the work is done, never in the result: an :class:`Engine` summarizes
stores and merges ranges of their records (:mod:`layerstore.measure.fleet.records`). The one
here uses this process, and keeps records in temporary files, so that it holds one store and one
range at a time.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol, Self

import msgspec

from layerstore.errors import ConflictError, InputError, LayerstoreError
from layerstore.measure.apportion import share
from layerstore.measure.fleet.records import (
    RECORD_BYTES,
    Kind,
    Merged,
    Range,
    SharedThing,
    add,
    merge,
    ranges,
)
from layerstore.measure.fleet.summary import StoreSummary, named, summarize
from layerstore.measure.savings import Scheme

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence


class Place(NamedTuple):
    """Where a store is.

    Attributes:
        host: Of the worker that reads it, as the scheduler knows it; empty for anyone.
        root: Directory, as that worker sees it.
    """

    host: str
    root: str

    @property
    def label(self) -> str:
        """What people call it."""
        return f"{self.host}:{self.root}" if self.host else self.root


class Engine(Protocol):
    """Where the work is done."""

    def summaries(self, places: Sequence[Place]) -> list[StoreSummary | LayerstoreError]:
        """Read every store and keep its records; results in the order of ``places``.

        Of a store that cannot be read the result is the error, which names it.
        """

    def merged(self, parts: Sequence[Range], top: int) -> Iterator[Merged]:
        """Merge each range of the kept records of all stores that were read, in any order."""


class FleetStore(msgspec.Struct, frozen=True):
    """One store of the fleet.

    Attributes:
        exclusive_size: Stored bytes that no other store of the fleet has.
    """

    name: str
    images: int
    full_copies: int
    overhead_size: int
    exclusive_size: int


class UnreadStore(msgspec.Struct, frozen=True):
    """A store that could not be read: nothing of it is in the numbers.

    Attributes:
        error: What is wrong with it.
    """

    name: str
    error: str


class FleetScheme(msgspec.Struct, frozen=True):
    """What one scheme takes.

    Attributes:
        separate: Bytes on all hosts, each with a store of its own.
        shared: Bytes if all images were kept in one place, what is equal once.
    """

    scheme: Scheme
    separate: int
    shared: int


class SharedImage(msgspec.Struct, frozen=True):
    """An image that several stores hold.

    Attributes:
        saved: Bytes of full copies on all stores but one.
    """

    image_id: str
    names: tuple[str, ...]
    stores: int
    size: int
    saved: int


class HeldBy(msgspec.Struct, frozen=True):
    """Stored things that so many stores hold, each counted once."""

    stores: int
    items: int
    size: int


class Fleet(msgspec.Struct, frozen=True):
    """The analysis.

    Attributes:
        images: Different images of all stores.
        containers: One of each image on each store.
        content_separate: Stored bytes of images on all hosts, without overhead.
        content_shared: Each thing once, with the fewest bytes any store takes for it.
        unread: Stores that were named and are in none of the numbers.
    """

    stores: tuple[FleetStore, ...]
    schemes: tuple[FleetScheme, ...]
    images: int
    containers: int
    content_separate: int
    content_shared: int
    held_by: tuple[HeldBy, ...]
    shared_images: tuple[SharedImage, ...]
    shared_layers: tuple[SharedThing, ...]
    shared_chunks: tuple[SharedThing, ...]
    unread: tuple[UnreadStore, ...]

    def scheme(self, wanted: Scheme) -> FleetScheme:
        """Return one scheme's row."""
        return next(row for row in self.schemes if row.scheme is wanted)


class Analysis(NamedTuple):
    """What stores hold, and what was wrong with those that could not be read."""

    fleet: Fleet
    failures: tuple[LayerstoreError, ...]


def analyse(places: Sequence[Place], engine: Engine, *, top: int) -> Analysis:
    """Analyse the stores that can be read.

    Args:
        places: The stores, each once.
        engine: Where the work is done.
        top: How many shared images, layers and chunks to list.

    Raises:
        InputError: No store, or one twice.
        ConflictError: Workers have different versions of layerstore.
    """
    labels = [place.label for place in places]
    if not labels:
        raise InputError("no store is named", hint="layerstore fleet DIR DIR...")
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise InputError(f"{twice[0]} is named twice", hint="name each store once")
    answers = dict(zip(labels, engine.summaries(places), strict=True))
    failures = {name: each for name, each in answers.items() if isinstance(each, LayerstoreError)}
    read = {name: each for name, each in answers.items() if isinstance(each, StoreSummary)}
    summaries = list(read.values())
    versions = sorted({summary.version for summary in summaries})
    if len(versions) > 1:
        raise ConflictError(
            f"workers have different versions of layerstore: {', '.join(versions)}",
            hint="install the same version on every worker",
        )
    parts = ranges(sum(summary.records for summary in summaries))
    fleet = _fleet(read, add(engine.merged(parts, top), top), top)
    unread = tuple(UnreadStore(name, failure.message) for name, failure in failures.items())
    return Analysis(msgspec.structs.replace(fleet, unread=unread), tuple(failures.values()))


def _fleet(read: Mapping[str, StoreSummary], merged: Merged, top: int) -> Fleet:
    summaries = read.values()
    content = _stored(merged.separate), _stored(merged.shared)
    overhead = sum(summary.overhead_size for summary in summaries)
    full = sum(summary.full_copies for summary in summaries)
    # What a shared store needs beside content is taken to grow as content does.
    shared_overhead = share(0, content[1], content[0], overhead)
    schemes = (
        FleetScheme(Scheme.FULL_COPIES, full, full),
        _scheme(Scheme.PLAIN_LAYERS, Kind.CHAIN, merged),
        _scheme(Scheme.WHOLE_FILES, Kind.CONTENT, merged),
        _scheme(Scheme.CHUNKS, Kind.CHUNK, merged),
        FleetScheme(Scheme.STORED, content[0] + overhead, content[1] + shared_overhead),
    )
    images = _images(summaries)
    return Fleet(
        stores=tuple(
            FleetStore(
                name=label,
                images=len(summary.images),
                full_copies=summary.full_copies,
                overhead_size=summary.overhead_size,
                exclusive_size=merged.exclusive.get(number, 0),
            )
            for number, (label, summary) in enumerate(read.items())
        ),
        schemes=schemes,
        images=len(images),
        containers=sum(image.stores for image in images),
        content_separate=content[0],
        content_shared=content[1],
        held_by=tuple(HeldBy(stores, *held) for stores, held in merged.held_by.items()),
        shared_images=tuple(image for image in images if image.stores > 1)[:top],
        shared_layers=merged.top.get(Kind.LAYER, ()),
        shared_chunks=merged.top.get(Kind.CHUNK, ()),
        unread=(),
    )


def _stored(sizes: dict[int, int]) -> int:
    return sizes.get(Kind.ITEM, 0) + sizes.get(Kind.BLOB, 0)


def _scheme(scheme: Scheme, kind: Kind, merged: Merged) -> FleetScheme:
    return FleetScheme(scheme, merged.separate.get(kind, 0), merged.shared.get(kind, 0))


def _images(summaries: Iterable[StoreSummary]) -> list[SharedImage]:
    """Return the images of all stores, those first of which copies take most."""
    names: dict[str, set[str]] = {}
    sizes: dict[str, list[int]] = {}
    for summary in summaries:
        for image in summary.images:
            names.setdefault(image.image_id, set()).update(image.names)
            sizes.setdefault(image.image_id, []).append(image.copy_size)
    images = [
        SharedImage(
            image_id,
            tuple(sorted(names[image_id])),
            len(found),
            min(found),
            sum(found) - min(found),
        )
        for image_id, found in sizes.items()
    ]
    return sorted(images, key=lambda image: (-image.saved, image.image_id))


class LocalEngine:
    """Everything in this process; use it in a ``with`` block, which keeps records on the disk."""

    def __init__(self) -> None:
        self._place = tempfile.TemporaryDirectory(prefix="layerstore-fleet-")
        self._files: list[Path] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._place.cleanup()

    def summaries(self, places: Sequence[Place]) -> list[StoreSummary | LayerstoreError]:
        """Read the stores one after another.

        Raises:
            InputError: One is to be read by a worker.
        """
        remote = next((place for place in places if place.host), None)
        if remote is not None:
            raise InputError(
                f"{remote.label}: {remote.host} is a worker of a cluster",
                hint="name its scheduler: --engine dask --scheduler tls://HOST:8786",
            )
        found: list[StoreSummary | LayerstoreError] = []
        for number, place in enumerate(places):
            try:
                summary, records = summarize(place.root)
            except LayerstoreError as err:
                found.append(named(err, place.label))
                continue
            file = Path(self._place.name, str(number))
            file.write_bytes(records)
            self._files.append(file)
            found.append(summary)
        return found

    def merged(self, parts: Sequence[Range], top: int) -> Iterator[Merged]:
        """Merge range by range; files are read in order, each range from where the last ended."""
        files = [path.open("rb") for path in self._files]
        try:
            for part in parts:
                yield merge([_read_until(file, part.stop) for file in files], top)
        finally:
            for file in files:
                file.close()


def _read_until(file: BinaryIO, stop: int) -> bytes:
    """Return the records from the position on whose ids begin below ``stop``."""
    found = []
    while record := file.read(RECORD_BYTES):
        if int.from_bytes(record[:8], "big") >= stop:
            file.seek(-len(record), 1)
            break
        found.append(record)
    return b"".join(found)
