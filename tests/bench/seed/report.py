"""The tables of the seed case, of what ``--json`` keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench.harness import grid
from tests.bench.seed.arithmetic import (
    COPIES,
    copy_memory,
    disk_series,
    measured_apps,
    memory_series,
    per_application,
    shared_part,
    start_rows,
)

if TYPE_CHECKING:
    from tests.bench.seed.arithmetic import Figures

OURS = "layerstore"


def report(figures: Figures) -> str:
    """Return the tables of all phases that were measured."""
    tables = {
        "disk": disk_table,
        "memory": memory_table,
        "start": start_table,
        "commands": commands_table,
    }
    made = [make(figures) for phase, make in tables.items() if phase in figures]
    return "\n\n".join(made)


def disk_table(figures: Figures) -> str:
    """Bytes on the disk after so many applications."""
    series = {name: dict(points) for name, points in disk_series(figures).items()}
    counts = [count for count in series[OURS] if count]
    rows = [
        (
            name,
            *(size(points[count]) for count in counts),
            f"{points[counts[-1]] / series[OURS][counts[-1]]:.1f}x",
            size(per_application(figures, name)),
            str(measured_apps(figures, name)),
        )
        for name, points in series.items()
    ]
    head = (f"disk, {figures['mix']}", *map(str, counts), "times ours", "each more", "measured")
    engines = figures["disk"]["engines"]
    cpu = "; ".join(
        f"{name} {measured['curve'][-1]['cpu_seconds'] / measured['apps']:.2f} "
        f"(load {measured['load'][0]:.0f} to {measured['load'][1]:.0f})"
        for name, measured in engines.items()
    )
    return (
        f"{grid(head, rows)}\n"
        f"of the applications' bytes {shared_part(figures):.1%} are in files that an earlier one "
        f"has, too\nCPU s to build one: {cpu}"
    )


def memory_table(figures: Figures) -> str:
    """Bytes in memory while so many run."""
    rows = []
    for name, measured in figures["memory"]["engines"].items():
        last = measured["curve"][-1]
        rows.append((name, *_parts(last), size(last["total"] / last["running"])))
    running = figures["memory"]["running"]
    if "copies" in figures:
        last = figures["copies"]["memory"]["curve"][-1]
        times = running / last["running"]
        scaled = {key: value * times for key, value in last.items()}
        rows.append((f"{COPIES} (model)", *_parts(scaled), size(copy_memory(figures))))
    head = (f"memory, {running} run", "all", "processes", "files", "kernel", "attendants", "each")
    return grid(head, rows)


def _parts(point: dict[str, float]) -> list[str]:
    names = ("total", "anonymous", "files", "kernel", "attendants_total")
    return [size(point[name]) for name in names]


def memory_ratio(figures: Figures, name: str) -> float:
    """Return how many times our memory somebody takes, of the most containers."""
    series = memory_series(figures)
    return series[name][-1][1] / series[OURS][-1][1]


def start_table(figures: Figures) -> str:
    """How long starts take, by the clock and of processors."""
    rows = [
        (
            f"{name} {what}",
            f"{wall.median:.0f}",
            f"{wall.low:.0f}-{wall.high:.0f}",
            f"{cpu.median:.0f}",
            f"{cpu.low:.0f}-{cpu.high:.0f}",
        )
        for name, what, wall, cpu in start_rows(figures)
    ]
    load = figures["start"]["environment"]["load_average"][0]
    head = (f"start, up to {figures['start']['running']} run", "ms", "half", "CPU ms", "half")
    return f"{grid(head, rows)}\nload at the end {load:.1f}"


def commands_table(figures: Figures) -> str:
    """What commands cost that look at every image."""
    measured = figures["commands"]
    rows = [
        (f"layerstore {name}", f"{cost['cpu_seconds']:.2f}", f"{cost['rss_bytes'] / 1e6:.0f}")
        for name, cost in measured["costs"].items()
    ]
    sizes = ", ".join(f"{name} {size(found)}" for name, found in measured["bytes"].items())
    head = (f"{measured['apps']} applications", "CPU s", "peak MB")
    return f"{grid(head, rows)}\n{sizes}"


def size(size: float) -> str:
    """Return bytes as docs have them: three digits, powers of 1000."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            value = size / unit
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {name}"
    return f"{size / 1e3:.0f} kB"
