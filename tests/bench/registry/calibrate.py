"""Compare the simulation with real builds that its constants were not fitted to.

    python -m tests.bench.registry calibrate CACHE

The builds of the first services (training) give the constants of what no package accounts for;
the others are held out: the simulation is run on their specs alone, and its curve is compared
with theirs, image by image. An error is ``simulated / real - 1``. Held out of the fit is not
blind: who changes the method after looking at these errors has fitted it to them.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from layerstore.measure.contents import image_sizes
from layerstore.measure.savings import take_savings
from layerstore.measure.survey import Layers
from layerstore.store.store import Store
from tests.bench.registry.builds import TRAINING, calibration_images, name_of
from tests.bench.registry.contents import SCHEMES, Part, Reader, layers_of, merge_into
from tests.bench.registry.cost import ALL_SCHEMES, BINARY, STORED, Constants, Costs, Shelf
from tests.bench.registry.sample import optimized_copy

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.bench.registry.model import Image


class Measured:
    """The real images: what each layer adds to those of the same half before it."""

    def __init__(self, cache: Path) -> None:
        self._store = Store.open(cache / "store")
        self._reader = Reader(self._store, optimized_copy(cache, "store"))
        named = {f"{name}" for names in self._reader.inventory.names.values() for name in names}
        _, images = calibration_images(cache)
        self.images = [image for image in images if name_of(image) in named]
        trained = {image.service for image in images[: 2 * TRAINING]}
        self.training = [image for image in self.images if image.service in trained]
        self.held_out = [image for image in self.images if image.service not in trained]
        self.overhead = self._overhead()

    def _overhead(self) -> int:
        savings = take_savings(self._store, [name_of(image) for image in self.images])
        return savings.overhead_size

    def layers(self, images: Sequence[Image]) -> list[list[list[float] | None]]:
        """Return for each image what each layer adds by scheme; None for one that is there."""
        reader = self._reader
        known = Part()
        chains: set[tuple[str, ...]] = set()
        found = []
        for image in images:
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

    def copies(self, images: Sequence[Image]) -> list[int]:
        """Return what a full copy of each image takes."""
        inventory = self._reader.inventory
        chains = [tuple(layers_of(inventory, name_of(image))) for image in images]
        layers = Layers(self._store, inventory)
        sizes = image_sizes(chains, layers.changeset, layers.content)
        return [sizes[chain].allocated_size for chain in chains]


def fit(costs: Costs, images: Sequence[Image], real: list[list[list[float] | None]]) -> Constants:
    """Return what layers of training builds add beside their packages.

    A layer's rest is what it really added, less what its packages add in the simulation: what
    belongs to no package, and how wrong the sample is of its packages. Of the latter single
    layers have much, so a kind's constant is the median over its layers.
    """
    costs.constants = Constants(code={"text": [0.0] * 6, "java": [0.0] * 6, "native": [0.0] * 6})
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
    constants = Constants()
    constants.base = _medians(rest.get("base", []))
    constants.library = _medians(rest.get("library", []))
    constants.apt = _medians(rest.get("apt", []))
    for language in ("text", *sorted(BINARY)):
        rows_of = rest.get(language, [])
        size = sum(weight for weight, _ in rows_of)
        sums = [sum(left[s] for _, left in rows_of) for s in range(len(SCHEMES))]
        constants.code[language] = [s / size for s in sums] if size else [1.0] * len(SCHEMES)
    return constants


def _medians(rows: list[tuple[int, list[float]]]) -> list[float]:
    return [
        statistics.median(left[s] for _, left in rows) if rows else 0.0 for s in range(len(SCHEMES))
    ]


def curve(costs: Costs, images: Sequence[Image]) -> list[list[float]]:
    """Return what the simulation says every scheme holds after each image."""
    shelf = Shelf(costs)
    found = []
    for image in images:
        shelf.add(image)
        found.append(list(shelf.totals))
    return found


def real_curve(copies: Sequence[int], real: list[list[list[float] | None]]) -> list[list[float]]:
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
        if not real[-1][place]:
            continue  # nobody made the optimized copies
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
    """Fit ``costs`` to the training builds; return the errors on both halves."""
    measured = Measured(cache)
    training = measured.layers(measured.training)
    costs.constants = fit(costs, measured.training, training)
    found: dict[str, Any] = {"overhead": measured.overhead}
    for name, images in (("training", measured.training), ("held_out", measured.held_out)):
        rows = training if name == "training" else measured.layers(images)
        simulated, real = curve(costs, images), real_curve(measured.copies(images), rows)
        found[name] = {
            "images": len(images),
            "services": len({image.service for image in images}),
            "schemes": compare(simulated, real),
            "real": real,
            "simulated": simulated,
        }
    return found
