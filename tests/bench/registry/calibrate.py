"""Fit the simulation to real builds, and hold it against others, once.

    python -m tests.bench.registry calibrate CACHE
    python -m tests.bench.registry test CACHE

The builds of the first services (training) give the constants of what no package accounts for.
Then the model is frozen: :func:`hold_against` builds the held-out ones only from a committed
program and only if they were never measured, runs the simulation on their specs alone, and
compares its curve with theirs, image by image. An error is ``simulated / real - 1``.
"""

from __future__ import annotations

import os
import statistics
import subprocess
from typing import TYPE_CHECKING, Any

from layerstore.measure.contents import image_sizes
from layerstore.measure.savings import take_savings
from layerstore.measure.survey import Layers as Surveyed
from layerstore.store.store import Store
from tests.bench.registry.builds import CALIBRATION, build_half, drawn_images, name_of
from tests.bench.registry.contents import SCHEMES, Part, Reader, layers_of, merge_into
from tests.bench.registry.cost import (
    ALL_SCHEMES,
    BINARY,
    IN_BLOCKS,
    STORED,
    Constants,
    Costs,
    Shelf,
)
from tests.bench.registry.sample import optimized_copy

PACKAGES = ("base", "apt", "library")
"""Kinds of layers that hold packages."""

HALVES = {"held_out": "held-out.json", "training": "training.json"}
"""Files of the cache with what is kept of each half of the real builds: two curves and errors."""

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.bench.registry.builds import Half
    from tests.bench.registry.model import Image


class Measured:
    """A half's real images: what each layer adds to those before it."""

    def __init__(self, cache: Path, half: Half) -> None:
        self._store = Store.open(cache / half)
        self._reader = Reader(self._store, optimized_copy(cache, half))
        self.images = drawn_images(cache, half)
        missing = {*map(name_of, self.images)} - {*self._store.tags()}
        if missing:
            raise SystemExit(f"not built: {', '.join(sorted(missing))}")

    def overhead(self) -> int:
        """Return what the store takes beside what is measured."""
        names = [name_of(image) for image in self.images]
        return take_savings(self._store, names).overhead_size

    def layers(self) -> Layers:
        """Return for each image what each layer adds by scheme; None for one that is there."""
        reader = self._reader
        known = Part()
        chains: set[tuple[str, ...]] = set()
        found = []
        for image in self.images:
            diff_ids = tuple(layers_of(reader.inventory, name_of(image)))
            rows: list[list[float] | None] = []
            for depth, diff_id in enumerate(diff_ids):
                if diff_ids[: depth + 1] in chains:
                    rows.append(None)
                    continue
                chains.add(diff_ids[: depth + 1])
                part = reader.parts(diff_id, lambda path: "all").get("all", Part())
                sizes = [float(size) for size in reader.sizes(part, known)]
                sizes[STORED] += reader.metadata(diff_id)
                sizes[STORED + 1] += reader.metadata(diff_id, optimized=True)
                merge_into(known, part)
                rows.append(sizes)
            if len(rows) != len(image.layers):
                raise SystemExit(f"{name_of(image)} has {len(rows)} layers, not {image.layers}")
            found.append(rows)
        return found

    def copies(self) -> list[int]:
        """Return what a full copy of each image takes."""
        inventory = self._reader.inventory
        chains = [tuple(layers_of(inventory, name_of(image))) for image in self.images]
        layers = Surveyed(self._store, inventory)
        sizes = image_sizes(chains, layers.changeset, layers.content)
        return [sizes[chain].allocated_size for chain in chains]


Layers = list[list[list[float] | None]]
"""For each image what each of its layers adds by scheme; None for one that is there."""


def fit(costs: Costs, images: Sequence[Image], real: Layers) -> Constants:
    """Return what makes training builds' layers of what their packages add in the simulation.

    What compresses by itself is off by what belongs to no package and by how wrong the sample is
    of a layer's packages. Of the latter single layers have much, so a kind's constant is the
    median over its layers. What lies in blocks is off in all layers: there the sum is made right.
    """
    nothing = {"text": [0.0] * 6, "java": [0.0] * 6, "native": [0.0] * 6}
    constants = costs.constants = Constants(code=nothing)
    once = _rests(costs, images, real)
    constants.packed = [2.0] * len(SCHEMES)
    twice = _rests(costs, images, real)
    constants.packed = [1.0] * len(SCHEMES)
    for place in IN_BLOCKS:
        missing, fewer = (
            sum(left[place] for kind in PACKAGES for _, left in rests.get(kind, ()))
            for rests in (once, twice)
        )
        constants.packed[place] += missing / (missing - fewer) if missing != fewer else 0.0
    constants.base = _medians(once.get("base", []))
    constants.library = _medians(once.get("library", []))
    constants.apt = _medians(once.get("apt", []))
    for language in ("text", *sorted(BINARY)):
        rows_of = once.get(language, [])
        size = sum(weight for weight, _ in rows_of)
        sums = [sum(left[s] for _, left in rows_of) for s in range(len(SCHEMES))]
        constants.code[language] = [s / size for s in sums] if size else [1.0] * len(SCHEMES)
    return constants


def _rests(
    costs: Costs, images: Sequence[Image], real: Layers
) -> dict[str, list[tuple[int, list[float]]]]:
    """Return by kind of layer its weight and what each layer really adds beside the simulation."""
    shelf = Shelf(costs)
    rest: dict[str, list[tuple[int, list[float]]]] = {}
    seen: set[int] = set()
    for image, rows in zip(images, real, strict=True):
        chain = 0
        for layer, row in zip(image.layers, rows, strict=True):
            chain = hash((chain, layer.key))
            if row is None or chain in seen:
                continue
            seen.add(chain)
            simulated = shelf._added(layer, image.language)
            kind, weight = layer.kind, layer.installed
            if kind == "code":
                kind = image.language if image.language in BINARY else "text"
                weight = layer.code[0]
                if image.version > 1:
                    continue  # its bytes follow from the first one's
            elif kind in ("pip", "npm"):
                kind = "library"
            left = [r - s for r, s in zip(row, simulated, strict=True)]
            rest.setdefault(kind, []).append((weight, left))
    return rest


def _medians(rows: list[tuple[int, list[float]]]) -> list[float]:
    return [
        statistics.median(left[s] for _, left in rows) if rows and s not in IN_BLOCKS else 0.0
        for s in range(len(SCHEMES))
    ]


def curve(costs: Costs, images: Sequence[Image]) -> list[list[float]]:
    """Return what the simulation says every scheme holds after each image."""
    shelf = Shelf(costs)
    found = []
    for image in images:
        shelf.add(image)
        found.append(list(shelf.totals))
    return found


def real_curve(copies: Sequence[int], real: Layers) -> list[list[float]]:
    """Return the same of real images."""
    totals = [0.0] * len(ALL_SCHEMES)
    found = []
    for copy, rows in zip(copies, real, strict=True):
        totals[0] += copy
        for row in rows:
            for place, size in enumerate(row or ()):
                totals[place + 1] += size
        found.append(list(totals))
    return found


def compare(simulated: list[list[float]], real: list[list[float]]) -> dict[str, dict[str, float]]:
    """Return the errors of each scheme over all points of the curve."""
    found = {}
    for place, scheme in enumerate(ALL_SCHEMES):
        errors = [s[place] / r[place] - 1 for s, r in zip(simulated, real, strict=True)]
        found[scheme] = {
            "real": real[-1][place],
            "simulated": simulated[-1][place],
            "error": errors[-1],
            "median": statistics.median(map(abs, errors)),
            "worst": max(map(abs, errors)),
        }
    return found


def calibrate(cache: Path, costs: Costs) -> dict[str, Any]:
    """Fit ``costs`` to the training builds; return the errors that are left on them."""
    measured = Measured(cache, "training")
    layers = measured.layers()
    costs.constants = fit(costs, measured.images, layers)
    return errors_on(measured, layers, costs)


def hold_against(cache: Path, costs: Costs) -> dict[str, Any]:
    """Build the held-out half and return the errors of a model that has not seen it.

    What is returned names git's tree of the program, which must be as it was committed.
    """
    if _said("git", "status", "--porcelain", "--", "."):
        raise SystemExit("the model is not frozen: commit tests/bench/registry first")
    if (cache / "held-out-optimized").exists():
        raise SystemExit("the held-out builds were measured already: draw others by another seed")
    build_half(cache, "held-out")
    measured = Measured(cache, "held-out")
    frozen = {"tree": _said("git", "rev-parse", "HEAD:./"), "seed": CALIBRATION.seed}
    return {**errors_on(measured, measured.layers(), costs), "frozen": frozen}


def _said(*command: str) -> str:
    here = os.path.dirname(os.path.abspath(__file__))
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=here)
    return done.stdout.strip()


def errors_on(measured: Measured, layers: Layers, costs: Costs) -> dict[str, Any]:
    """Return both curves of a half and what is between them."""
    images = measured.images
    simulated, real = curve(costs, images), real_curve(measured.copies(), layers)
    return {
        "images": len(images),
        "services": len({image.service for image in images}),
        "languages": sorted(image.language for image in images if image.version == 1),
        "schemes": compare(simulated, real),
        "overhead": measured.overhead(),
        "real": real,
        "simulated": simulated,
    }
