"""Run the model: curves from one image to thousands for every scheme, and what moves them."""

from __future__ import annotations

import dataclasses
import resource
import time
from typing import TYPE_CHECKING, Any

from tests.bench.harness import say
from tests.bench.registry.cost import ALL_SCHEMES, Costs, Shelf
from tests.bench.registry.model import Parameters, Registry

if TYPE_CHECKING:
    from collections.abc import Callable

POINTS_A_DECADE = 12

VARIED: dict[str, tuple[float, ...]] = {
    "zipf": (0.8, 1.0, 1.5),
    "services": (100, 1000, 4000),
    "refresh": (1, 12, 52),
    "shared_runtime": (0.0, 1.0),
    "bump": (0.0, 0.15),
    "changed_code": (0.01, 0.5),
    "tail": (0, 6000),
    "seed": (2, 3),
}
"""Parameter → values beside the one of :class:`Parameters`; one is changed at a time."""


def points(images: int) -> set[int]:
    """Return numbers of images at which the curve is drawn: even on a logarithmic axis."""
    found = {images}
    step = 0
    while (at := round(10 ** (step / POINTS_A_DECADE))) < images:
        found.add(at)
        step += 1
    return found


def run(
    parameters: Parameters,
    images: int,
    costs: Costs,
    registry_of: Callable[[Parameters], Registry],
) -> dict[str, Any]:
    """Return the curve of one registry."""
    begun = time.process_time()
    shelf = Shelf(costs)
    wanted = points(images)
    curve = []
    week = services = 0
    for number, image in enumerate(registry_of(parameters).images(images), 1):
        shelf.add(image)
        week, services = image.week, max(services, image.service + 1)
        if number in wanted:
            curve.append([number, *map(round, shelf.totals)])
    return {
        "parameters": dataclasses.asdict(parameters),
        "curve": curve,
        "weeks": week + 1,
        "services": services,
        "sampled_part": shelf.sampled[0] / shelf.sampled[1],
        "cpu_s": round(time.process_time() - begun, 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000,
    }


def sensitivity(
    images: int, costs: Costs, registry_of: Callable[[Parameters], Registry]
) -> list[dict[str, Any]]:
    """Return the ends of the curves with one parameter changed at a time."""
    found = []
    for name, values in VARIED.items():
        for value in values:
            result = run(
                dataclasses.replace(Parameters(), **{name: value}), images, costs, registry_of
            )
            end = dict(zip(ALL_SCHEMES, result["curve"][-1][1:], strict=True))
            found.append({"parameter": name, "value": value, "end": end})
            say(f"{name} = {value}: {end['plain_layers'] / end['stored']:.1f} times ours")
    return found
