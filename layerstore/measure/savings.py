"""What sharing saves, each figure against a named baseline.

Ways to keep the same containers on a disk:

full copies
    Every container has a root file system of its own, as virtual machines do:
    each image's visible files, times its containers.
plain layers
    Every layer is unpacked once and mounted under the layers above it, as Docker's
    overlay2 does. Like there, a layer is identified by its chain ID: the same
    changeset above another parent is another directory.
compressed layers
    Every layer once as registries keep it and pulls transfer it. Nothing can run off them.
whole files
    Every distinct file content once, not compressed, as in OSTree or composefs.
fixed blocks
    Every distinct block of 4 KiB of files once, as disks that deduplicate keep them.
chunks
    Every distinct chunk once, not compressed.
stored
    What this store takes: the chunks compressed, with all trees, recipes,
    configs, pack framing, catalog and allocation slack.
optimized
    The same after ``optimize``, where that was done in a scratch copy.

Full copies, plain layers and whole files are computed with
:mod:`layerstore.measure.host_model`: what ``du`` would print after unpacking to ext4. Compressed
layers and blocks need all content to be read (:mod:`layerstore.measure.forms`), and
are there if somebody asked. Writable layers of containers cost the same in every
scheme; their measured size stands beside the table and in none of the rows.
"""

from __future__ import annotations

import enum
from itertools import accumulate
from typing import TYPE_CHECKING

import msgspec

from layerstore.measure import survey as counting
from layerstore.measure.survey import Survey, take_survey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.measure.forms import Forms
    from layerstore.measure.survey import Stored
    from layerstore.store.store import Store


class Scheme(enum.StrEnum):
    """A way to keep images on a disk."""

    FULL_COPIES = "full_copies"
    PLAIN_LAYERS = "plain_layers"
    COMPRESSED_LAYERS = "compressed_layers"
    WHOLE_FILES = "whole_files"
    FIXED_BLOCKS = "fixed_blocks"
    CHUNKS = "chunks"
    STORED = "stored"
    OPTIMIZED = "optimized"


SCHEME_LABELS = {
    Scheme.FULL_COPIES: "full copies (virtual machines)",
    Scheme.PLAIN_LAYERS: "plain layers (docker overlay2)",
    Scheme.COMPRESSED_LAYERS: "compressed layers (registries)",
    Scheme.WHOLE_FILES: "whole files once, plain",
    Scheme.FIXED_BLOCKS: "blocks of 4 KiB once, plain",
    Scheme.CHUNKS: "chunks once, plain",
    Scheme.STORED: "layerstore, on disk",
    Scheme.OPTIMIZED: "layerstore, optimized",
}


class SchemeSize(msgspec.Struct, frozen=True):
    """What one scheme takes for the selected images and their containers.

    Attributes:
        size: Bytes: of allocated blocks for the schemes that unpack files, of plain
            chunks for ``chunks``, of the store's disk for ``stored`` and ``optimized``.
        growth: The same after each of the images, in their order; the last is ``size``.
    """

    scheme: Scheme
    size: int
    growth: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        """What people read."""
        return SCHEME_LABELS[self.scheme]


class ImageSavings(msgspec.Struct, frozen=True):
    """One image of the selection.

    Attributes:
        copies: Containers it was counted for.
        logical_size: File bytes as one container sees them.
        copy_size: Bytes of one full copy on the host's disk.
        exclusive_size: Stored bytes that no other image of the selection has.
        shared_size: Stored bytes that others of the selection have too.
        added_size: Stored bytes that were new when the images came in this order;
            over the selection they add up to all its stored bytes.
    """

    image_id: str
    names: tuple[str, ...]
    copies: int
    logical_size: int
    copy_size: int
    exclusive_size: int
    shared_size: int
    added_size: int


class Savings(msgspec.Struct, frozen=True):
    """The comparison for a set of images.

    Attributes:
        schemes: In the order of :class:`Scheme`; what nobody asked for is left out.
        images: In the order given, or oldest first.
        containers: Root file systems counted.
        logical_size: File bytes as all containers see them.
        unique_size: File bytes after deduplication, before compression.
        stored_content_size: Stored bytes of these images' chunks, metadata and configs.
        overhead_size: Their part of what the store needs beside: pack framing, catalog,
            locks, allocation slack; in proportion to ``stored_content_size``.
        writable_size: Bytes on disk of all writable layers of the store, in no scheme.
        not_counted_size: Bytes on disk that these images do not need: other images,
            build cache, cache mounts, unreferenced bytes, files unpacked for kernel views.
        optimize_level: Of zstd, with which ``optimized`` was made; None if that was not counted.
    """

    schemes: tuple[SchemeSize, ...]
    images: tuple[ImageSavings, ...]
    containers: int
    logical_size: int
    unique_size: int
    stored_content_size: int
    overhead_size: int
    writable_size: int
    not_counted_size: int
    optimize_level: int | None = None

    def size_of(self, scheme: Scheme) -> int:
        """Return one scheme's bytes; 0 if it was not counted."""
        return next((item.size for item in self.schemes if item.scheme is scheme), 0)

    def has(self, scheme: Scheme) -> bool:
        """Return whether a scheme was counted."""
        return any(item.scheme is scheme for item in self.schemes)

    def saved(self, baseline: Scheme) -> int:
        """Return the bytes saved here against ``baseline``; negative when it is cheaper."""
        return self.size_of(baseline) - self.size_of(Scheme.STORED)

    def ratio(self, baseline: Scheme) -> float:
        """Return how many times more ``baseline`` takes; 0 for an empty selection."""
        stored = self.size_of(Scheme.STORED)
        return self.size_of(baseline) / stored if stored else 0.0


def take_savings(
    store: Store, references: Sequence[str] = (), *, copies: int | None = 1
) -> Savings:
    """Compare the schemes for images of a store; arguments and errors as of ``take_survey``."""
    return compare(take_survey(store, references, copies=copies))


def compare(
    survey: Survey, forms: Forms | None = None, optimized: Savings | None = None
) -> Savings:
    """Compare the schemes for a selection of images.

    Args:
        survey: The selection.
        forms: What reading all content told; without it those schemes are left out.
        optimized: The same selection of an optimized copy of the store.
    """
    tally = counting.stored(survey)
    content, overhead = sum(tally.added), sum(tally.overhead)
    writable = counting.writable_size(survey.ledger)
    return Savings(
        schemes=tuple(_schemes(survey, tally, forms, optimized)),
        images=tuple(_image_row(survey, rank, tally) for rank in range(len(survey.chosen))),
        containers=sum(survey.copies.values()),
        logical_size=sum(
            survey.sizes[image.layers].logical_size * survey.copies[image.image_id]
            for image in survey.chosen
        ),
        unique_size=sum(tally.unique),
        stored_content_size=content,
        overhead_size=overhead,
        writable_size=writable,
        not_counted_size=survey.ledger.disk_size - writable - content - overhead,
        optimize_level=None if optimized is None else optimized.optimize_level,
    )


def _schemes(
    survey: Survey, tally: Stored, forms: Forms | None, optimized: Savings | None
) -> list[SchemeSize]:
    added = {
        Scheme.FULL_COPIES: counting.full_copies(survey),
        Scheme.PLAIN_LAYERS: counting.plain_layers(survey),
        Scheme.WHOLE_FILES: counting.whole_files(survey),
        Scheme.CHUNKS: tally.unique,
        Scheme.STORED: [own + part for own, part in zip(tally.added, tally.overhead, strict=True)],
    }
    if forms is not None:
        added[Scheme.COMPRESSED_LAYERS] = forms.compressed
        added[Scheme.FIXED_BLOCKS] = forms.blocks
    found = {each: tuple(accumulate(sizes)) for each, sizes in added.items()}
    if optimized is not None:
        found[Scheme.OPTIMIZED] = next(
            item.growth for item in optimized.schemes if item.scheme is Scheme.STORED
        )
    return [
        SchemeSize(scheme, found[scheme][-1] if found[scheme] else 0, found[scheme])
        for scheme in Scheme
        if scheme in found
    ]


def _image_row(survey: Survey, rank: int, tally: Stored) -> ImageSavings:
    image = survey.chosen[rank]
    size = survey.sizes[image.layers]
    return ImageSavings(
        image_id=image.image_id,
        names=survey.inventory.names.get(image.image_id, ()),
        copies=survey.copies[image.image_id],
        logical_size=size.logical_size,
        copy_size=size.allocated_size,
        exclusive_size=tally.exclusive[rank],
        shared_size=tally.shared[rank],
        added_size=tally.added[rank],
    )
