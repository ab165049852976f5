"""The comparison as tables and a chart: what people read, drawn by the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.measure.savings import Savings, Scheme
from layerstore.measure.table import Bar, BarChart, Table, columns
from layerstore.units import format_size

if TYPE_CHECKING:
    from layerstore.measure.savings import ImageSavings

_HOW = {
    Scheme.FULL_COPIES: "every container a file system of its own",
    Scheme.PLAIN_LAYERS: "every layer unpacked once",
    Scheme.WHOLE_FILES: "every distinct file once, not compressed",
    Scheme.CHUNKS: "every distinct chunk once, not compressed",
    Scheme.STORED: "chunks compressed, with all metadata and slack",
}

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
            _HOW[item.scheme],
            format_size(item.size),
            _ratio(savings, item.scheme),
            "" if item.scheme is Scheme.STORED else format_size(savings.saved(item.scheme)),
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
        Bar(item.label, item.size, f"{format_size(item.size)}  {_ratio(savings, item.scheme)}")
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


def _image_row(image: ImageSavings) -> tuple[str, ...]:
    name = ", ".join(image.names) or image.image_id.partition(":")[2][:12]
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


def _ratio(savings: Savings, scheme: Scheme) -> str:
    ratio = savings.ratio(scheme)
    return f"{ratio:.1f}x" if ratio < 99.95 else f"{ratio:,.0f}x"


def _notes(savings: Savings) -> tuple[str, ...]:
    notes = []
    if savings.writable_size:
        notes.append(
            f"writable layers hold {format_size(savings.writable_size)} more, the same in "
            "every scheme"
        )
    if savings.not_counted_size:
        notes.append(
            f"the store holds {format_size(savings.not_counted_size)} beside: other images, "
            "build cache, unreferenced bytes, files unpacked for views (see df)"
        )
    return tuple(notes)
