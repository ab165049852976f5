"""Where in Dockerfiles layers come from: as builds are remembered, or as a given file explains."""

from __future__ import annotations

import os
from collections import ChainMap
from typing import TYPE_CHECKING

from layerstore.build.labels import text_of
from layerstore.build.records import BuildRecords
from layerstore.digest import DiffId, Digest
from layerstore.errors import NotFoundError
from layerstore.measure.steps import Place, instruction_of, layer_histories
from layerstore.net.redaction import redacted

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


def with_dockerfile(store: Store, places: Places, path: str) -> Places:
    """Return places that also know the steps that a Dockerfile explains, of no remembered build.

    Raises:
        NotFoundError: There is no such file.
        SpecError: It is no Dockerfile.
    """
    from layerstore.build.dockerfile.limits import MAX_FILE_BYTES
    from layerstore.build.dockerfile.parser import parse_dockerfile
    from layerstore.build.spec_lines import match_history
    from layerstore.linux.files import read_file

    try:
        text = read_file(os.path.realpath(path), max_bytes=MAX_FILE_BYTES)
    except FileNotFoundError as err:
        raise NotFoundError(f"{path} does not exist", hint="--file takes a Dockerfile") from err
    dockerfile = parse_dockerfile(text, path)

    def matched(image: ImageRecord) -> Mapping[DiffId, Place]:
        layers = layer_histories(store, image)
        lines = ["" if each is None else instruction_of(each.created_by) for _, each in layers]
        found = {
            diff_id: Place(
                " ".join(redacted(maker.original).split()), "", maker.span.file, maker.span.line
            )
            for (diff_id, _), maker in zip(layers, match_history(dockerfile, lines), strict=True)
            if maker is not None
        }
        known = places(image)
        lined = {key: place for key, place in known.items() if place.line}
        return {**known, **found, **lined}

    return matched
