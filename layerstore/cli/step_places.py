"""Where in Dockerfiles layers come from, as far as builds of them are remembered."""

from __future__ import annotations

from collections import ChainMap
from typing import TYPE_CHECKING

from layerstore.build.labels import text_of
from layerstore.build.records import BuildRecords
from layerstore.digest import DiffId, Digest
from layerstore.measure.steps import Place

if TYPE_CHECKING:
    from collections.abc import Mapping

    from layerstore.build.records import BuildNote
    from layerstore.measure.steps import Places
    from layerstore.store.catalog_rows import ImageRecord
    from layerstore.store.store import Store


def step_places(store: Store) -> Places:
    """Return what gives the places of an image's steps.

    An image's own build is asked first: other specs may have the same step at other lines.
    """
    everywhere: dict[DiffId, Place] = {}
    of_images: dict[str, dict[DiffId, Place]] = {}
    for builds in BuildRecords(store.paths).all():
        for build in builds:
            own = _places_of(build)
            for image_id in build.images:
                of_images.setdefault(image_id, own)
            for diff_id, place in own.items():
                everywhere.setdefault(diff_id, place)

    def places(image: ImageRecord) -> Mapping[DiffId, Place]:
        return ChainMap(of_images.get(image.image_id, {}), everywhere)

    return places


def _places_of(build: BuildNote) -> dict[DiffId, Place]:
    places: dict[DiffId, Place] = {}
    for step in build.steps:
        if step.layer is not None:
            text = " ".join(text_of(step.label).split())
            shown = step.label.partition("]")[0] + "]" if step.label.startswith("[") else ""
            place = Place(text, shown, step.file, step.line)
            places.setdefault(DiffId(Digest(step.layer)), place)
    return places
