"""A registry of thousands of images, simulated: what every scheme would hold of it.

    python -m tests.bench.registry errors CACHE      # how far off it is: does, of the next five
                                                     # steps, what was not done yet
    python -m tests.bench.registry errors FILE       # the same, out of a kept result
    python -m tests.bench.registry fetch CACHE       # a sample of real packages, 0.8 GB
    python -m tests.bench.registry sample CACHE      # unpack, store, optimize, measure them
    python -m tests.bench.registry build CACHE       # the training images, as root
    python -m tests.bench.registry calibrate CACHE   # fit the model to them
    python -m tests.bench.registry test CACHE        # once, from a commit: the held-out images
    python -m tests.bench.registry simulate CACHE --images 10000 --json FILE
    python -m tests.bench.registry page FILE         # docs/simulation.md out of the result

CACHE takes about 6 GB. Method and limits: docs/simulation.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.registry import builds, calibrate, fetch, page, sample
from tests.bench.registry.calibrate import HALVES
from tests.bench.registry.cost import Constants, Costs
from tests.bench.registry.ecosystems import Needs
from tests.bench.registry.index import Resolver, read_index
from tests.bench.registry.model import Parameters, Registry
from tests.bench.registry.packages import apt_rank
from tests.bench.registry.simulate import run, sensitivity

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = ("errors", "fetch", "sample", "build", "calibrate", "test", "simulate", "page")


def main() -> int:
    """Run one step."""
    parser = argparse.ArgumentParser(prog="tests.bench.registry", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("place", type=Path, help="the cache; of errors and page a kept result")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--json", type=Path, help="where the result goes")
    given = parser.parse_args()
    place = given.place.absolute()
    if given.step == "errors":
        print(errors_of(place), end="")
    elif given.step == "fetch":
        fetch.fetch_all(place)
    elif given.step == "sample":
        sample.main(place)
    elif given.step == "build":
        builds.build_half(place, "training")
    elif given.step == "calibrate":
        print(page.errors(_calibrate(place)["schemes"]))
    elif given.step == "test":
        print(page.errors(_test(place)["schemes"]))
    elif given.step == "page":
        result = json.loads(place.read_text())
        page.draw(result, place.parent / "curves.svg")
        (place.parent.parent / "simulation.md").write_text(page.page(result))
    else:
        found = _simulate(place, given.images)
        if given.json:
            given.json.write_text(json.dumps(found, indent=1) + "\n")
        print(page.summary(found))
    return 0


def errors_of(place: Path) -> str:
    """Return the errors of each half of the real builds, counted from its two curves.

    Args:
        place: A kept result; or the cache, in which what is missing is done first.
    """
    if place.is_file():
        found = json.loads(place.read_text())["calibration"]
    else:
        _do_what_is_missing(place)
        found = _halves(place)
    return "\n".join(_errors_of_half(name, found[name]) for name in HALVES)


def _errors_of_half(name: str, half: dict[str, Any]) -> str:
    told = {"held_out": "held out", "training": "fitted to"}[name]
    errors = page.errors(calibrate.compare(half["simulated"], half["real"]))
    return f"{told}: {half['images']} images of {half['services']} services\n\n{errors}"


def _do_what_is_missing(cache: Path) -> None:
    """Take the steps, of those whose results errors are counted from, that were not taken."""
    cache.mkdir(parents=True, exist_ok=True)
    if not (cache / "samples.json").exists():
        fetch.fetch_all(cache)
        sample.main(cache)
    if not (cache / HALVES["training"]).exists():
        builds.build_half(cache, "training")
        _calibrate(cache)
    if not (cache / HALVES["held_out"]).exists():
        _test(cache)


def _halves(cache: Path) -> dict[str, Any]:
    return {name: json.loads((cache / file).read_text()) for name, file in HALVES.items()}


def _costs(cache: Path) -> tuple[Costs, Callable[[Parameters], Registry]]:
    index = read_index()
    resolver, rank, needs = Resolver(index), apt_rank(index), Needs(cache)
    costs = Costs(json.loads((cache / "samples.json").read_text()), index)
    return costs, lambda parameters: Registry(parameters, index, resolver, rank, needs)


def _calibrate(cache: Path) -> dict[str, Any]:
    costs, _ = _costs(cache)
    found = calibrate.calibrate(cache, costs)
    (cache / "constants.json").write_text(json.dumps(vars(costs.constants)) + "\n")
    (cache / HALVES["training"]).write_text(json.dumps(found) + "\n")
    return found


def _fitted(cache: Path) -> tuple[Costs, Callable[[Parameters], Registry]]:
    costs, registry_of = _costs(cache)
    costs.constants = Constants(**json.loads((cache / "constants.json").read_text()))
    return costs, registry_of


def _test(cache: Path) -> dict[str, Any]:
    costs, _ = _fitted(cache)
    found = calibrate.hold_against(cache, costs)
    (cache / HALVES["held_out"]).write_text(json.dumps(found) + "\n")
    return found


def described(costs: Costs, cache: Path) -> dict[str, Any]:
    """Return what the sample is and says, for the page."""
    samples = json.loads((cache / "samples.json").read_text())
    count: dict[str, int] = {}
    size: dict[str, int] = {}
    for row in samples["packages"]:
        count[row["ecosystem"]] = count.get(row["ecosystem"], 0) + 1
        size[row["ecosystem"]] = size.get(row["ecosystem"], 0) + row["sizes"][0]
    pairs: dict[str, int] = {}
    for pair in samples["pairs"]:
        pairs[pair["ecosystem"]] = pairs.get(pair["ecosystem"], 0) + 1
    return {
        "sample": {
            "packages": count,
            "bytes": size,
            "pairs": pairs,
            "renewed": costs.renewed,
            "shared": costs.shared,
            "recompiled": costs.recompiled,
            "constants": vars(costs.constants),
        }
    }


def _simulate(cache: Path, images: int) -> dict[str, Any]:
    costs, registry_of = _fitted(cache)
    kept: dict[str, Any] = {
        "calibration": _halves(cache),
        "extrapolation": costs.leave_one_out(),
        **described(costs, cache),
    }
    kept["registry"] = run(Parameters(), images, costs, registry_of)
    kept["sensitivity"] = sensitivity(images, costs, registry_of)
    return kept


if __name__ == "__main__":
    sys.exit(main())
