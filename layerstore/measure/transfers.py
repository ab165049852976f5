"""What pulls carry when hosts take images: whole, by compressed layers, by parcels.

Parcels are made as ``push --delta`` makes them, of what a host lacks that has pulled the images
before, as differences against the last few of those, and measured by being made: nothing is
estimated. What they need waits in the store's ``tmp/`` and is gone afterwards.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from layerstore.errors import FormatError, LimitExceededError, NotFoundError
from layerstore.image.transfer.having import Having, chunks_of
from layerstore.image.transfer.publishing import EARLIER_MAX, PUSH_LEVEL
from layerstore.image.transfer.saving import SavedImage, save_bundle

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import BinaryIO

    from layerstore.digest import ChunkId, DiffId, ImageId
    from layerstore.measure.survey import Survey
    from layerstore.progress import Progress
    from layerstore.store.store import Store

MAX_HOSTS = 100_000
_MAX_LINE_CHARS = 1 << 20
_MAX_DISTINCT_PULLS = 20_000
"""Each is a parcel to be made."""


class Hosts(NamedTuple):
    """Hosts that pull the same images in the same order.

    Attributes:
        pulls: Numbers of the survey's images.
        number: How many such hosts there are.
    """

    pulls: tuple[int, ...]
    number: int


class Transfers(msgspec.Struct, frozen=True):
    """Bytes on the network for a set of hosts that were empty before.

    Attributes:
        hosts: How many.
        pulls: Images pulled, over all hosts.
        full_size: Every file of every image, as images of disks carry them.
        layers_size: Compressed layers, each once a host.
        parcels_size: What a host lacked, as compressed differences, with all that describes it.
    """

    hosts: int
    pulls: int
    full_size: int
    layers_size: int
    parcels_size: int


def same_hosts(survey: Survey, count: int) -> list[Hosts]:
    """Return hosts that each pull all images of a selection in order."""
    return [Hosts(tuple(range(len(survey.chosen))), count)]


def read_hosts(store: Store, survey: Survey, lines: Iterable[str], where: str) -> list[Hosts]:
    """Return the hosts of a file: a line names a host, and the images it pulls, in order.

    A host may have several lines. What stands behind ``#`` counts for nothing.

    Raises:
        FormatError: A line without images.
        NotFoundError: An image that the selection has not.
        LimitExceededError: More hosts than anybody has.
    """
    numbers = {image.image_id: rank for rank, image in enumerate(survey.chosen)}
    pulled: dict[str, list[int]] = {}
    known: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if len(line) > _MAX_LINE_CHARS:
            raise LimitExceededError(f"{where}, line {number}, is longer than 1 MiB")
        words = line.partition("#")[0].split()
        if not words:
            continue
        host, *images = words
        if not images:
            raise FormatError(
                f"{where}, line {number}: {host} has no images",
                hint="a line is a host and its images: web-1 debian:bookworm web:3",
            )
        own = pulled.setdefault(host, [])
        if len(pulled) > MAX_HOSTS:
            raise LimitExceededError(f"{where} has more than {MAX_HOSTS} hosts")
        for name in images:
            if name not in known:
                known[name] = _number_of(store, numbers, name, f"{where}, line {number}")
            if known[name] not in own:
                own.append(known[name])
    counted = Counter(map(tuple, pulled.values()))
    return [Hosts(pulls, count) for pulls, count in counted.items()]


def _number_of(store: Store, numbers: Mapping[ImageId, int], name: str, where: str) -> int:
    try:
        return numbers[store.resolve(name).image_id]
    except NotFoundError as err:
        raise NotFoundError(f"{where}: {err.message}", hint=err.hint) from err
    except KeyError:
        raise NotFoundError(
            f"{where}: {name} is not among the images that are compared",
            hint="name it on the command line, or name none to compare all",
        ) from None


def take_transfers(
    store: Store,
    survey: Survey,
    layer_sizes: Mapping[DiffId, int],
    hosts: Sequence[Hosts],
    progress: Progress,
) -> Transfers:
    """Count what a set of hosts pulls.

    Args:
        store: Of the survey; written to for what waits.
        survey: The selection.
        layer_sizes: Bytes of each compressed layer.
        hosts: Who pulls what.
        progress: Told plain bytes that parcels are made of.

    Raises:
        IntegrityError: Content is damaged or missing.
        StorageError: No room for the next parcel.
        LimitExceededError: More distinct pulls than can be measured.
    """
    parcels = _Parcels(store, survey, progress)
    full = layers = parcel_bytes = 0
    for each in hosts:
        images = [survey.chosen[rank] for rank in each.pulls]
        full += each.number * sum(survey.sizes[image.layers].logical_size for image in images)
        distinct = {diff_id for image in images for diff_id in image.layers}
        layers += each.number * sum(layer_sizes[diff_id] for diff_id in distinct)
        parcel_bytes += each.number * sum(parcels.sizes(each.pulls))
    return Transfers(
        sum(each.number for each in hosts),
        sum(each.number * len(each.pulls) for each in hosts),
        full,
        layers,
        parcel_bytes,
    )


class _Parcels:
    """Makes parcels and forgets all but their sizes."""

    def __init__(self, store: Store, survey: Survey, progress: Progress) -> None:
        self._store = store
        self._chosen = survey.chosen
        self._progress = progress
        self._sizes: dict[tuple[int, frozenset[int]], int] = {}

    def sizes(self, pulls: Sequence[int]) -> Iterator[int]:
        """Yield the bytes of each pull of an empty host, one after the other."""
        chunks: set[ChunkId] = set()
        layers: set[DiffId] = set()
        for at, rank in enumerate(pulls):
            key = (rank, frozenset(pulls[:at]))
            if key not in self._sizes:
                if len(self._sizes) >= _MAX_DISTINCT_PULLS:
                    raise LimitExceededError(
                        f"the hosts make more than {_MAX_DISTINCT_PULLS} different pulls",
                        hint="name fewer hosts, or a sample of them",
                    )
                # What the pulls before brought; those of another host may have been known.
                for before in pulls[:at]:
                    new = [d for d in self._chosen[before].layers if d not in layers]
                    layers.update(new)
                    chunks.update(chunks_of(self._store, new))
                self._sizes[key] = self._made(rank, chunks, pulls[max(0, at - EARLIER_MAX) : at])
            yield self._sizes[key]

    def _made(self, rank: int, chunks: set[ChunkId], near: Sequence[int]) -> int:
        images = [self._chosen[index] for index in reversed(near)]
        layers = tuple(dict.fromkeys(d for image in images for d in reversed(image.layers)))
        report = save_bundle(
            self._store,
            [SavedImage(self._chosen[rank], ())],
            _nowhere,
            having=Having(chunks, layers),
            level=PUSH_LEVEL,
            progress=self._progress,
        )
        return report.size


@contextlib.contextmanager
def _nowhere() -> Iterator[BinaryIO]:
    with open(os.devnull, "wb") as out:
        yield out
