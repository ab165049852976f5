"""From what was measured to what is shown: full copies multiplied, ratios, medians.

Pure: figures as ``--json`` keeps them in, rows and series out.
"""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple

Figures = dict[str, Any]

COPIES = "full copies"
"""What is multiplied; everything else was measured as it stands."""


class Spread(NamedTuple):
    """Median and quartiles of some numbers."""

    median: float
    low: float
    high: float


def spread(values: list[float]) -> Spread:
    """Return median, first and third quartile; of one value, the value."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def copy_bytes(figures: Figures) -> float:
    """Return what a full copy takes on the disk: the mean of those that were made."""
    return statistics.fmean(figures["copies"]["bytes"])


def copy_memory(figures: Figures) -> float:
    """Return what a full copy in use takes in memory: the mean of those that ran."""
    last = figures["copies"]["memory"]["curve"][-1]
    return float(last["total"]) / last["running"]


def disk_series(figures: Figures) -> dict[str, list[tuple[int, float]]]:
    """Return (applications, bytes on the disk) of everybody, the distribution included.

    Who was given fewer applications than others is continued as :func:`disk_at` does.
    """
    engines = figures["disk"]["engines"]
    most = max(engines.values(), key=lambda measured: int(measured["apps"]))
    counts = [point["apps"] for point in most["curve"]]
    names = [*engines, *([COPIES] if "copies" in figures else [])]
    return {name: [(count, disk_at(figures, name, count)[0]) for count in counts] for name in names}


def disk_at(figures: Figures, name: str, apps: int) -> tuple[float, bool]:
    """Return bytes on the disk with so many applications, and whether that was measured.

    What was not is continued by :func:`per_application`: of layerstore, which has ever less to
    add, rather too much. Copies count as measured for as many as were made.
    """
    if name == COPIES:
        return copy_bytes(figures) * apps, apps <= measured_apps(figures, COPIES)
    curve = figures["disk"]["engines"][name]["curve"]
    for point in curve:
        if point["apps"] == apps:
            return float(point["disk"]), True
    return curve[-1]["disk"] + (apps - curve[-1]["apps"]) * _slope(curve), False


def measured_apps(figures: Figures, name: str) -> int:
    """Return how many applications were really given to somebody."""
    if name == COPIES:
        return len(figures["copies"]["bytes"])
    return int(figures["disk"]["engines"][name]["apps"])


def per_application(figures: Figures, name: str) -> float:
    """Return the bytes that one more application takes: the slope from none to all."""
    if name == COPIES:
        return copy_bytes(figures)
    return _slope(figures["disk"]["engines"][name]["curve"])


def shared_part(figures: Figures) -> float:
    """Return the part of the applications' bytes whose file an earlier one has, too."""
    last = figures["disk"]["shares"][-1]
    return 1 - float(last["distinct_bytes"]) / last["app_bytes"]


def _slope(curve: list[dict[str, float]]) -> float:
    return (curve[-1]["disk"] - curve[0]["disk"]) / curve[-1]["apps"]


def memory_series(figures: Figures) -> dict[str, list[tuple[int, float]]]:
    """Return (running containers, bytes in memory) of everybody."""
    series: dict[str, list[tuple[int, float]]] = {}
    for name, measured in figures["memory"]["engines"].items():
        for point in measured["curve"]:
            if point["running"]:
                if "copies" in figures:
                    copies = series.setdefault(COPIES, [])
                    if not copies or copies[-1][0] < point["running"]:
                        copies.append((point["running"], copy_memory(figures) * point["running"]))
                series.setdefault(name, []).append((point["running"], point["total"]))
    return series


def start_rows(figures: Figures) -> list[tuple[str, str, Spread, Spread]]:
    """Return (who, what, milliseconds by the clock, CPU milliseconds) of the starts."""
    rows = []
    measured = figures["start"]["engines"]
    for task in ("nth", "true"):
        for name, costs in measured[task].items():
            quarter = max(1, len(costs) // 4)
            parts = {"first quarter": costs[:quarter], "last quarter": costs[-quarter:]}
            for part, chosen in (parts if task == "nth" else {"": costs}).items():
                wall = spread([one["wall_seconds"] * 1e3 for one in chosen])
                cpu = spread([one["cpu_seconds"] * 1e3 for one in chosen])
                what = f"run --detach, {part}" if task == "nth" else "run --rm true"
                rows.append((name, what, wall, cpu))
    return rows
