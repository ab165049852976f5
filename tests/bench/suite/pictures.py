"""Pictures of a benchmark, by :mod:`tests.bench.plots`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench import plots
from tests.bench.suite.cells import Number, number_of, ratio_of
from tests.bench.suite.table import Bars, Curves

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.result import Figure, Result, Unit
    from tests.bench.suite.table import Benchmark


def draw(benchmark: Benchmark, result: Result, place: Path) -> list[tuple[str, str]]:
    """Draw what the result has figures for; return (name of the file, title) of each."""
    drawn = []
    for picture in benchmark.pictures:
        name = f"{benchmark.name}-{picture.name}.svg"
        try:
            if isinstance(picture, Bars):
                _draw_bars(benchmark, result, picture, place / name)
            else:
                _draw_curves(benchmark, result, picture, place / name)
        except NothingToDrawError:
            continue
        drawn.append((name, picture.title))
    return drawn


class NothingToDrawError(Exception):
    """A picture would be empty."""


def _draw_bars(benchmark: Benchmark, result: Result, picture: Bars, path: Path) -> None:
    other = "what" if picture.panels == "group" else "group"
    fixed = result.names(other, **picture.only)
    if not fixed:
        raise NothingToDrawError
    panels = []
    wanted = picture.only.get(picture.panels) or result.names(picture.panels, **picture.only)
    everybody = result.names("who", **picture.only)
    shown = [who for who in everybody if picture.show == "value" or who != picture.against]
    units = set()
    for panel in wanted:
        bars = []
        for who in shown:
            names = {picture.panels: panel, other: fixed[0]}
            figure = result.find(names["group"], who, names["what"])
            if figure is not None:
                units.add(figure.unit)
            bars.append(_bar(benchmark, result, picture, who, figure))
        if any(bar.value is not None for bar in bars):
            panels.append(plots.Panel(panel, bars))
    if not panels:
        raise NothingToDrawError
    is_ratio = picture.show != "value"
    unit: Unit = "x" if is_ratio else next(iter(units))
    plots.draw_bars(
        path,
        panels,
        title=picture.title,
        unit=unit,
        log=picture.log,
        origin=1 if is_ratio and picture.log else None,
        promise=picture.promise,
        columns=picture.columns,
    )


def _bar(
    benchmark: Benchmark, result: Result, picture: Bars, who: str, figure: Figure | None
) -> plots.Bar:
    number = None
    if figure is not None and picture.show == "value":
        number = number_of(figure.values)
    elif figure is not None:
        reference = result.find(figure.group, picture.against, figure.what)
        number = ratio_of(figure, reference, picture.show) if reference else None
    if number is None:
        return plots.Bar(who, None)
    low, high = _whisker(number)
    return plots.Bar(who, number.middle, low, high, kind_of(benchmark, picture.against, who))


def _whisker(number: Number) -> tuple[float | None, float | None]:
    if not number.spread:
        return None, None
    return number.middle - number.spread, number.middle + number.spread


def _draw_curves(benchmark: Benchmark, result: Result, picture: Curves, path: Path) -> None:
    lines = []
    unit: Unit = ""
    for who in result.names("who", what=[picture.what], **picture.only):
        figures = [
            figure
            for figure in result.figures
            if (figure.who, figure.what) == (who, picture.what) and _is_number(figure.group)
        ]
        points = sorted((float(figure.group), figure.median) for figure in figures)
        if points:
            unit = figures[0].unit
            lines.append(plots.Line(who, points, kind_of(benchmark, "", who)))
    if not lines:
        raise NothingToDrawError
    plots.draw_lines(
        path,
        lines,
        title=picture.title,
        x_label=picture.x_label,
        y_label=picture.what,
        y_unit=unit,
        log_x=picture.log_x,
        log_y=picture.log_y,
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def kind_of(benchmark: Benchmark, reference: str, who: str) -> plots.Kind:
    """Return whose a bar is."""
    if who == benchmark.ours:
        return "ours"
    if who.startswith(tuple(benchmark.variants)):
        return "variant"
    return "reference" if who == reference else "peer"
