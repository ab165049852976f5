"""The analysis of a fleet as tables: what people read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.formats.reference import names_in_cell
from layerstore.measure.savings import SCHEME_LABELS, Scheme
from layerstore.measure.table import Table, columns
from layerstore.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.measure.fleet.analysis import Fleet
    from layerstore.measure.fleet.records import SharedThing

_ID_DIGITS = 12


def fleet_tables(fleet: Fleet) -> Iterator[Table]:
    """Yield the tables in the order they are read; those without rows are left out."""
    yield _schemes(fleet)
    yield _stores(fleet)
    if fleet.shared_images:
        yield Table(
            title="images that several stores hold",
            columns=columns(["IMAGE", "NAMES"], ["STORES", "FULL COPY", "COPIES BEYOND ONE"]),
            rows=tuple(
                (
                    image.image_id.partition(":")[2][:_ID_DIGITS],
                    names_in_cell(image.names),
                    str(image.stores),
                    format_size(image.size),
                    format_size(image.saved),
                )
                for image in fleet.shared_images
            ),
        )
    if fleet.shared_layers:
        yield _things("layers that several stores hold, unpacked", "LAYER", fleet.shared_layers)
    if fleet.shared_chunks:
        yield _things("chunks that several stores hold, plain", "CHUNK", fleet.shared_chunks)


def _schemes(fleet: Fleet) -> Table:
    stores, images = len(fleet.stores), fleet.images
    return Table(
        title=f"{stores} store{'s' * (stores != 1)} with {images} different "
        f"image{'s' * (images != 1)}, {fleet.containers} counted on the store of each",
        columns=columns(["SCHEME"], ["EACH HOST ITS OWN", "ALL TOGETHER", "WOULD SAVE"]),
        rows=tuple(
            (
                SCHEME_LABELS[row.scheme],
                format_size(row.separate),
                format_size(row.shared),
                "" if row.scheme is Scheme.FULL_COPIES else format_size(row.separate - row.shared),
            )
            for row in fleet.schemes
        ),
    )


def _stores(fleet: Fleet) -> Table:
    return Table(
        title="",
        columns=columns(["STORE"], ["IMAGES", "FULL COPIES", "OVERHEAD", "ONLY HERE"]),
        rows=tuple(
            (
                store.name,
                str(store.images),
                format_size(store.full_copies),
                format_size(store.overhead_size),
                format_size(store.exclusive_size),
            )
            for store in fleet.stores
        ),
        notes=tuple(
            f"held by {row.stores} store{'s' * (row.stores != 1)}: {row.items:,} things, "
            f"{format_size(row.size)} stored once"
            for row in fleet.held_by
        ),
    )


def _things(title: str, head: str, things: tuple[SharedThing, ...]) -> Table:
    return Table(
        title=title,
        columns=columns([head], ["STORES", "SIZE", "BEYOND ONE"]),
        rows=tuple(
            (
                thing.item_id[:_ID_DIGITS],
                str(thing.stores),
                format_size(thing.size),
                format_size(thing.saved),
            )
            for thing in things
        ),
    )
