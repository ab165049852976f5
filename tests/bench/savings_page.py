"""The tables and pictures of docs/savings.md, made of the figures in docs/savings/.

    python -m tests.bench.savings_page

Between ``<!-- NAME -->`` and ``<!-- end -->`` the page is made; all else people wrote. A later run
of ``tests.bench.seed`` or ``tests.bench.growth`` replaces a file of figures, and this the rest.
What was not measured for so many applications is continued by what one more takes, in *italics*.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.seed.applications import MIXES
from tests.bench.seed.arithmetic import (
    COPIES,
    copy_bytes,
    copy_memory,
    disk_at,
    disk_series,
    measured_apps,
    memory_series,
    per_application,
    shared_part,
    start_rows,
)
from tests.bench.seed.report import size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tests.bench.plots import Line
    from tests.bench.seed.arithmetic import Figures

PAGE = Path("docs") / "savings.md"
FIGURES = Path("docs") / "savings"
CASE = 1000
"""Applications of the case."""
OURS, DOCKER = "layerstore", "docker"
_NAMES = {COPIES: "full copies", DOCKER: "docker", OURS: "**layerstore**"}
_BLOCK = re.compile(r"(<!-- ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def load(place: Path) -> dict[str, Figures]:
    """Return the figures by the name of their file: ``seed-MIX`` and ``growth``."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(place.glob("*.json"))}


def made(page: str, figures: dict[str, Figures]) -> str:
    """Return the page with every block made again."""

    def block(found: re.Match[str]) -> str:
        name = found[2]
        there = name not in _OF_TYPICAL or name in figures["seed-typical"]
        return f"{found[1]}{BLOCKS[name](figures) if there else _MISSING}\n{found[3]}"

    return _BLOCK.sub(block, page)


def _mixes(figures: dict[str, Figures]) -> list[tuple[str, Figures]]:
    """Return the mixes that were measured, with the copies of the one that made them.

    A copy has the distribution and 15 MB in every mix.
    """
    copies = {"copies": figures["seed-typical"]["copies"]}
    return [
        (mix, {**copies, **figures[f"seed-{mix}"]}) for mix in MIXES if f"seed-{mix}" in figures
    ]


def _disk(figures: dict[str, Figures]) -> str:
    rows = []
    for mix, one in _mixes(figures):
        measured = measured_apps(one, OURS)
        for apps in dict.fromkeys((min(measured, CASE), CASE)):
            ours, _ = disk_at(one, OURS, apps)
            cells = [_disk_cell(one, name, apps) for name in (COPIES, DOCKER, OURS)]
            times = [f"{disk_at(one, name, apps)[0] / ours:.1f}" for name in (COPIES, DOCKER)]
            rows.append((mix, f"{apps:,}", *cells, *times))
    head = ("Mix", "Applications", *_NAMES.values(), "copies / ours", "docker / ours")
    return _table(head, rows)


def _disk_cell(figures: Figures, name: str, apps: int) -> str:
    found, measured = disk_at(figures, name, apps)
    return size(found) if measured else f"*{size(found)}*"


def _each(figures: dict[str, Figures]) -> str:
    rows = []
    for mix, one in _mixes(figures):
        engines = one["disk"]["engines"]
        cpu = [
            f"{engines[name]['curve'][-1]['cpu_seconds'] / engines[name]['apps']:.2f}"
            for name in (DOCKER, OURS)
        ]
        more = [size(per_application(one, name)) for name in (COPIES, DOCKER, OURS)]
        counts = ", ".join(str(measured_apps(one, name)) for name in (COPIES, DOCKER, OURS))
        rows.append((mix, f"{shared_part(one):.0%}", *more, *cpu, counts))
    head = (
        "Mix", "in files of an earlier one", "a copy", "docker, each more", "layerstore, each more",
        "docker, CPU s a build", "layerstore, CPU s a build",
        "measured: copies, docker, layerstore",
    )  # fmt: skip
    return _table(head, rows)


def _memory(figures: dict[str, Figures]) -> str:
    one = figures["seed-typical"]
    running = one["memory"]["running"]
    copies = one["copies"]["memory"]["curve"][-1]
    times = running / copies["running"]
    points = {COPIES: {name: value * times for name, value in copies.items()}}
    points |= {name: found["curve"][-1] for name, found in one["memory"]["engines"].items()}
    ours = points[OURS]["total"]
    rows = [
        (
            _NAMES[name] + (f" (of {copies['running']}, multiplied)" if name == COPIES else ""),
            *(size(point[part]) for part in ("total", "anonymous", "files", "kernel")),
            "-" if name == COPIES else size(point["attendants_anonymous"]),
            size(_marginal(one, name)),
            f"{point['total'] / ours:.2f}",
        )
        for name, point in points.items()
    ]
    head = (
        f"{running} containers", "all", "memory of processes", "files", "kernel",
        "processes of daemons, shims, monitors", "each more", "times ours",
    )  # fmt: skip
    stored = one["memory"]["engines"][OURS]["stored"]
    both, docker = stored["disk"] + stored["unpacked"], disk_at(one, DOCKER, running)[0]
    unpacked = (
        f"While they run, the disk holds {size(stored['disk'])} of the store and beside it "
        f"{size(stored['unpacked'])} of files unpacked for views, the distribution and these "
        f"{running} applications, each distinct file once. **Together that is {size(both)}, "
        f"{'more' if both > docker else 'less'} than docker's {size(docker)}**, which it has at "
        "all times."
    )
    picture = f"![Memory while containers run]({FIGURES.name}/seed-memory.svg)"
    return f"{picture}\n\n{_table(head, rows)}\n\n{unpacked} {_load(one['memory'])}"


def _marginal(figures: Figures, name: str) -> float:
    """Return what one more takes in memory: the slope between the first and the last."""
    if name == COPIES:
        return copy_memory(figures)
    points = memory_series(figures)[name]
    (few, first), (many, last) = points[0], points[-1]
    return (last - first) / (many - few) if many > few else last


def _start(figures: dict[str, Figures]) -> str:
    one = figures["seed-typical"]
    rows = [
        (f"{_NAMES[name]} `{what.split(',')[0]}`{''.join(what.partition(',')[1:])}",
         f"{wall.median:.0f}", f"{wall.low:.0f} to {wall.high:.0f}",
         f"{cpu.median:.0f}", f"{cpu.low:.0f} to {cpu.high:.0f}")
        for name, what, wall, cpu in start_rows(one)
    ]  # fmt: skip
    head = ("Start", "ms", "half of them", "CPU ms", "half of them")
    running = f"{one['start']['running']} of each run at the end."
    return f"{_table(head, rows)}\n\n{running} {_load(one['start'])}"


def _load(phase: Figures) -> str:
    return f"Load of the machine then: {phase['environment']['load_average'][0]:.0f}."


def _commands(figures: dict[str, Figures]) -> str:
    one = figures["seed-typical"]["commands"]
    rows = [
        (f"`layerstore {name}`", f"{cost['cpu_seconds']:.2f}", f"{cost['rss_bytes'] / 1e6:.0f}")
        for name, cost in one["costs"].items()
    ]
    sizes = ", ".join(f"`{name}` {size(found)}" for name, found in one["bytes"].items())
    head = (f"{one['apps']:,} images", "CPU s", "peak MB")
    return f"{_table(head, rows)}\n\n{sizes}."


def _growth(form: str) -> Callable[[dict[str, Figures]], str]:
    def make(figures: dict[str, Figures]) -> str:
        one = figures["growth"]
        names = [name.partition("-")[2] for name in one["images"]]
        ordered = sorted(one[form].items(), key=lambda found: found[1]["disk"][-1])
        rows = [
            (_ours_bold(who), *_cells(curve, len(names)), f"{sum(curve['cpu_seconds']):.0f}")
            for who, curve in ordered
        ]
        total, copies = 0, []
        for found in one["copies"]:
            total += found
            copies.append(f"{total / 1e6:,.0f}")
        return _table((f"MB after {form}", *names, "CPU s"), [*rows, ("full copies", *copies, "")])

    return make


def _ours_bold(who: str) -> str:
    return f"**{who}**" if who.startswith(OURS) else who


def _cells(curve: dict[str, list[float]], width: int) -> list[str]:
    cells = [f"{found / 1e6:,.0f}" for found in curve["disk"]]
    return [*[""] * (width - len(cells)), *cells]


def _environment(figures: dict[str, Figures]) -> str:
    lines = []
    for name, one in figures.items():
        phases = [one] if name == "growth" else [one[p] for p in _PHASES if p in one]
        days = sorted({phase["environment"]["at"][:10] for phase in phases})
        where = phases[0]["environment"]
        versions = "; ".join(sorted(set(one["versions"].values())))
        lines.append(
            f"- `{name}.json`: {', '.join(days)}; {where['kernel']}, {where['cpus']} CPUs; "
            f"{versions}"
        )
    return "\n".join(lines)


_MISSING = "Not measured yet."
_OF_TYPICAL = ("memory", "start", "commands")
_PHASES = ("disk", "copies", "memory", "start", "commands")

BLOCKS: dict[str, Callable[[dict[str, Figures]], str]] = {
    "disk": _disk,
    "each": _each,
    "memory": _memory,
    "start": _start,
    "commands": _commands,
    "growth-trees": _growth("trees"),
    "growth-builds": _growth("builds"),
    "environment": _environment,
}


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw(place: Path, figures: dict[str, Figures]) -> None:
    """Write the pictures. Needs matplotlib, of the extra ``plots``."""
    from tests.bench.plots import Bar, Line, Panel, draw_bars, draw_lines

    mixes = _mixes(figures)
    kinds: dict[str, Any] = {COPIES: "reference", DOCKER: "peer", OURS: "ours"}
    panels = [
        Panel(
            f"{mix}: {CASE:,} applications",
            [Bar(name, disk_at(one, name, CASE)[0], kind=kinds[name]) for name in kinds],
        )
        for mix, one in mixes
    ]
    title = "Bytes on the disk, less is better (logarithmic; fewer were measured: see the table)"
    if all(disk_at(one, name, CASE)[1] for _, one in mixes for name in (DOCKER, OURS)):
        title = "Bytes on the disk, less is better (logarithmic; full copies multiplied)"
    draw_bars(place / "seed-disk.svg", panels, title=title, unit="B", log=True)
    typical = dict(mixes)["typical"]
    lines = []
    for name, points in disk_series(typical).items():
        known, count = [point for point in points if point[0]], measured_apps(typical, name)
        computed = count < known[-1][0]
        label = f"{name} (from {count} on computed)" if computed else name
        lines.append(Line(label, known, kinds[name], dashed=computed))
    draw_lines(
        place / "seed-growth.svg", lines, title="Typical applications on one distribution",
        x_label="applications", y_label="on the disk", y_unit="B", log_x=True, log_y=True,
    )  # fmt: skip
    if "memory" in figures["seed-typical"]:
        found = memory_series(figures["seed-typical"])
        draw_lines(
            place / "seed-memory.svg",
            [Line(name, points, kinds[name], name == COPIES) for name, points in found.items()],
            title="Memory while they run, daemons and monitors included",
            x_label="containers", y_label="in memory", y_unit="B",
        )  # fmt: skip
    for form in ("trees", "builds"):
        draw_lines(
            place / f"growth-{form}.svg", _growth_lines(figures["growth"], form, Line),
            title=f"Eleven related images, as {form}",
            x_label="images", y_label="on the disk", y_unit="B",
        )  # fmt: skip


def _growth_lines(figures: Figures, form: str, line: type[Line]) -> list[Line]:
    return [
        line(
            who,
            [(number, found) for number, found in enumerate(curve["disk"], 1)],
            "ours" if who.startswith(OURS) else "peer",
        )
        for who, curve in figures[form].items()
        if len(curve["disk"]) > 1
    ]


def main() -> int:
    argparse.ArgumentParser("tests.bench.savings_page", description=__doc__).parse_args()
    top = Path(__file__).resolve().parents[2]
    figures = load(top / FIGURES)
    page = top / PAGE
    page.write_text(made(page.read_text(), figures))
    draw(top / FIGURES, figures)
    copy = copy_bytes(figures["seed-typical"])
    print(f"{PAGE}: {len(figures)} files of figures, a full copy is {size(copy)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
