"""Where in Dockerfiles layers come from, as far as builds of them are remembered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.build.labels import text_of
from layerstore.build.records import BuildRecords
from layerstore.digest import DiffId, Digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from layerstore.store.store import Store


def step_places(store: Store) -> Mapping[DiffId, tuple[str, str]]:
    """Return place and instruction of every step that a build is remembered of."""
    places: dict[DiffId, tuple[str, str]] = {}
    for builds in BuildRecords(store.paths).all():
        for step in (step for build in builds for step in build.steps):
            if step.layer is not None:
                text = " ".join(text_of(step.label).split())
                place = step.label.partition("]")[0] + "]" if step.label.startswith("[") else ""
                places.setdefault(DiffId(Digest(step.layer)), (place, text))
    return places
