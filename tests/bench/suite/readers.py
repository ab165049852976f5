"""Results of programs whose JSON has a form of its own, for a page of their own is made of it."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from tests.bench.registry.cost import ALL_SCHEMES
from tests.bench.result import Result

_COPIES = "full copies"


def read_growth(document: dict[str, Any]) -> Result:
    """Return the curves of :mod:`tests.bench.growth`: a group for each number of images."""
    result = Result(document["versions"], environment=document["environment"])
    count = len(document["images"])
    for form in ("trees", "builds"):
        for who, curve in document[form].items():
            # Who was measured at the end only has the last places.
            first = count - len(curve["disk"]) + 1
            for number, size in enumerate(curve["disk"], first):
                result.add(str(number), who, f"disk, {form}", "B", [size])
            total = sum(curve["cpu_seconds"])
            result.add("all", who, f"CPU, {form}", "s", [total])
    for number, size in enumerate(accumulate(document["copies"]), 1):
        for form in ("trees", "builds"):
            result.add(str(number), _COPIES, f"disk, {form}", "B", [size])
    return result


def read_seed(document: dict[str, Any]) -> Result:
    """Return the disk of :mod:`tests.bench.seed`: a group for each number of applications."""
    disk = document["disk"]
    result = Result(document["versions"], environment=disk["environment"])
    for who, measured in disk["engines"].items():
        for point in measured["curve"]:
            result.add(str(point["apps"]), who, "disk", "B", [point["disk"]])
        last = measured["curve"][-1]
        if last["apps"]:
            result.add("one more", who, "CPU", "s", [last["cpu_seconds"] / last["apps"]])
    return result


def read_registry(document: dict[str, Any]) -> Result:
    """Return the curves of :mod:`tests.bench.registry`: a group for each number of images."""
    result = Result(notes=["Simulated: computed of measured packages, not stored."])
    for number, *sizes in document["registry"]["curve"]:
        for scheme, size in zip(ALL_SCHEMES, sizes, strict=True):
            if size:
                result.add(str(number), scheme.replace("_", " "), "disk", "B", [size])
    return result
