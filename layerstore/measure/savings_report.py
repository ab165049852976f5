"""The comparison as tables and a chart: what people read, drawn by the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.formats.reference import BETWEEN_NAMES, names_in_cell, told_names
from layerstore.measure.savings import Savings, Scheme
from layerstore.measure.table import Bar, BarChart, Table, columns, csv_lines, sparkline
from layerstore.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.measure.savings import ImageSavings
    from layerstore.measure.transfers import Transfers

HOW = {
    Scheme.FULL_COPIES: "every container a file system of its own",
    Scheme.PLAIN_LAYERS: "every layer unpacked once",
    Scheme.COMPRESSED_LAYERS: "every layer once, as pulls transfer it",
    Scheme.WHOLE_FILES: "every distinct file once, not compressed",
    Scheme.FIXED_BLOCKS: "every distinct block once, not compressed",
    Scheme.CHUNKS: "every distinct chunk once, not compressed",
    Scheme.STORED: "chunks compressed, with all metadata and slack",
    Scheme.OPTIMIZED: "the same after optimize, in a scratch copy",
}
"""What each scheme keeps, in a few words."""

OURS = (Scheme.STORED, Scheme.OPTIMIZED)
"""What is compared with the others."""

_IMAGES_NOTES = (
    "logical and full copy count one container, in the last row all of them;",
    "exclusive, shared and added are compressed bytes in this store,",
    "added: what was new when the images came in this order",
)


def schemes_table(savings: Savings) -> Table:
    """Return the schemes with their bytes, and what each costs against this store."""
    rows = tuple(
        (
            item.label,
            HOW[item.scheme],
            format_size(item.size),
            ratio_text(savings, item.scheme),
            "" if item.scheme in OURS else format_size(savings.saved(item.scheme)),
        )
        for item in savings.schemes
    )
    return Table(
        title=_title(savings),
        columns=columns(["SCHEME", "WHAT IS KEPT"], ["DISK", "TIMES OURS", "SAVED HERE"]),
        rows=rows,
        notes=_notes(savings),
    )


def schemes_chart(savings: Savings) -> BarChart:
    """Return the waterfall: the same containers, scheme by scheme, on one scale."""
    bars = tuple(
        Bar(item.label, item.size, f"{format_size(item.size)}  {ratio_text(savings, item.scheme)}")
        for item in savings.schemes
    )
    return BarChart("", bars)


def images_table(savings: Savings) -> Table:
    """Return what each image adds and shares, in order."""
    return Table(
        title="",
        columns=columns(
            ["IMAGE"], ["COPIES", "LOGICAL", "FULL COPY", "EXCLUSIVE", "SHARED", "ADDED"]
        ),
        rows=tuple(_image_row(image) for image in savings.images),
        total=(
            "all",
            str(savings.containers),
            format_size(savings.logical_size),
            format_size(savings.size_of(Scheme.FULL_COPIES)),
            "",
            "",
            format_size(savings.stored_content_size),
        ),
        notes=_IMAGES_NOTES,
    )


def image_name(image: ImageSavings) -> str:
    """Return what people call an image: its tags, else its names by digest, or part of its id."""
    return BETWEEN_NAMES.join(told_names(image.names)) or image.image_id.partition(":")[2][:12]


def image_label(image: ImageSavings) -> str:
    """Return the same where there is little room: of many names a few."""
    return names_in_cell(image.names) or image_name(image)


def _image_row(image: ImageSavings) -> tuple[str, ...]:
    name = image_label(image)
    sizes = (
        image.logical_size,
        image.copy_size,
        image.exclusive_size,
        image.shared_size,
        image.added_size,
    )
    return (name, str(image.copies), *map(format_size, sizes))


def _title(savings: Savings) -> str:
    images = len(savings.images)
    return (
        f"{images} image{'s' * (images != 1)} as "
        f"{savings.containers} container{'s' * (savings.containers != 1)}, "
        f"{format_size(savings.logical_size)} of files as the containers see them"
    )


def ratio_text(savings: Savings, scheme: Scheme) -> str:
    """Return how many times what the store has a scheme takes: ``3.5x``."""
    ratio = savings.ratio(scheme)
    return f"{ratio:.1f}x" if ratio < 99.95 else f"{ratio:,.0f}x"


def _notes(savings: Savings) -> tuple[str, ...]:
    notes = []
    if told := optimize_note(savings):
        notes.append(told)
    if savings.writable_size:
        notes.append(
            f"writable layers hold {format_size(savings.writable_size)} more, the same in "
            "every scheme"
        )
    if savings.not_counted_size:
        notes.append(
            f"the store holds {format_size(savings.not_counted_size)} beside: other images, "
            "compressed originals, build cache, unreferenced bytes, files unpacked for views "
            "(see df)"
        )
    return tuple(notes)


def optimize_note(savings: Savings) -> str:
    """Return how the optimized copy was made, where not as ``optimize`` does it by itself."""
    level = savings.optimize_level
    if level is None:
        return ""
    from layerstore.store.rewriting.optimize import OPTIMIZE_LEVEL  # lazily: few ask for it

    if level == OPTIMIZE_LEVEL:
        return ""
    return f"optimized by 'optimize --level {level}'; without an option it takes {OPTIMIZE_LEVEL}"


def growth_lines(savings: Savings, width: int = 60) -> list[str]:
    """Return how each scheme grows, a line of blocks each, on the scale of all but full copies.

    Nothing for fewer than three images: two points are no curve.
    """
    if len(savings.images) < 3:
        return []
    chosen = [item for item in savings.schemes if item.scheme is not Scheme.FULL_COPIES]
    largest = max((item.size for item in chosen), default=0)
    label = max(len(item.label) for item in chosen)
    lines = ["growth as the images came in this order, without full copies:"]
    return lines + [
        f"{item.label.rjust(label)} │{sparkline(item.growth, largest, width)} "
        f"{format_size(item.size)}"
        for item in chosen
    ]


def transfers_table(taken: Transfers) -> Table:
    """Return what pulls carry."""
    ours = taken.parcels_size
    rows = tuple(
        (label, how, format_size(size), f"{size / ours:.1f}x" if ours else "")
        for label, how, size in (
            ("full copies", "every file of every image", taken.full_size),
            ("compressed layers (docker pull)", "each layer once a host", taken.layers_size),
            ("layerstore, by parcels", "what a host lacks, as differences", ours),
        )
    )
    title = (
        f"{taken.pulls} pull{'s' * (taken.pulls != 1)} by {taken.hosts} "
        f"host{'s' * (taken.hosts != 1)} that had nothing"
    )
    return Table(title, columns(["SCHEME", "WHAT TRAVELS"], ["NETWORK", "TIMES OURS"]), rows)


def csv_rows(savings: Savings) -> Iterator[str]:
    """Yield lines of CSV (RFC 4180), a number each: of which kind, of what, in bytes."""
    rows: list[tuple[str, str, str, int]] = []
    rows += [("scheme", "", item.scheme.value, item.size) for item in savings.schemes]
    for rank, image in enumerate(savings.images):
        name = image_name(image)
        rows += [
            ("image", name, field, getattr(image, f"{field}_size"))
            for field in ("logical", "copy", "exclusive", "shared", "added")
        ]
        rows += [("growth", name, item.scheme.value, item.growth[rank]) for item in savings.schemes]
    yield from csv_lines(("kind", "image", "measure", "bytes"), rows)
