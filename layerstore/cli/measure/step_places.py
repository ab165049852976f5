"""Where in Dockerfiles layers come from: as builds are remembered, or as a given file explains."""

from __future__ import annotations

import os
from collections import ChainMap, Counter
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
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store


def step_places(store: Store) -> Places:
    """Return what gives the places of an image's steps.

    An image's own build is asked first: other specs may have the same step at other lines. Where
    several instructions of a build made the same layer (what a stage runs and another one copies,
    say), the history tells which kind it was, and the last of them is meant.
    """
    everywhere: dict[DiffId, list[Place]] = {}
    of_images: dict[str, dict[DiffId, list[Place]]] = {}
    for builds in BuildRecords(store.paths).all():
        for build in builds:
            own = _places_of(build)
            for image_id in build.images:
                of_images.setdefault(image_id, own)
            for diff_id, some in own.items():
                everywhere.setdefault(diff_id, some)

    def places(image: ImageRecord) -> Mapping[int, Place]:
        known = ChainMap(of_images.get(image.image_id, {}), everywhere)
        if not any(diff_id in known for diff_id in image.layers):
            return {}
        found: dict[int, Place] = {}
        left = Counter(image.layers)
        for number, (diff_id, history) in enumerate(layer_histories(store, image), start=1):
            if some := known.get(diff_id):
                word = "" if history is None else _word(instruction_of(history.created_by))
                alike = [place for place in some if _word(place.text) == word] or some
                found[number] = alike[max(0, len(alike) - left[diff_id])]
            left[diff_id] -= 1
        return found

    return places


def _word(instruction: str) -> str:
    return instruction.partition(" ")[0].upper()


def _places_of(build: BuildNote) -> dict[DiffId, list[Place]]:
    """Return the places of each layer in the order of the build: of its target's stage last."""
    places: dict[DiffId, list[Place]] = {}
    for step in build.steps:
        if step.layer is not None:
            text = " ".join(text_of(step.label).split())
            shown = step.label.partition("]")[0] + "]" if step.label.startswith("[") else ""
            place = Place(text, shown, step.file, step.line)
            places.setdefault(DiffId(Digest(step.layer)), []).append(place)
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

    def matched(image: ImageRecord) -> Mapping[int, Place]:
        layers = layer_histories(store, image)
        lines = ["" if each is None else instruction_of(each.created_by) for _, each in layers]
        found = {
            number: Place(
                " ".join(redacted(maker.original).split()), "", maker.span.file, maker.span.line
            )
            for number, maker in enumerate(match_history(dockerfile, lines), start=1)
            if maker is not None
        }
        known = places(image)
        lined = {key: place for key, place in known.items() if place.line}
        return {**known, **found, **lined}

    return matched
