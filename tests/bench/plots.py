"""Pictures for the documents, as SVG: bars that are compared, and lines that grow.

    bars = [Bar("tar", 1.0, kind="reference"), Bar("layerstore", 1.5, kind="ours")]
    draw_bars(Path("a.svg"), [Panel("first", bars)], title="CPU of tar | zstd", unit="x", origin=1)
    draw_lines(Path("b.svg"), [Line("layerstore", [(1, 2e6), (10, 3e6)], kind="ours")],
               title="On disk", x_label="images", y_label="bytes", y_unit="B", log_y=True)

One style for all of them: light ground, colours that colour-blind readers can tell apart (Okabe
and Ito), labels beside what they name instead of a legend, readable 800 pixels wide. The same
input gives the same bytes: no date, no program's name, identifiers from a fixed salt, text kept
as text and laid out with the font that comes with matplotlib.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

Kind = Literal["ours", "variant", "peer", "reference"]
"""Whose a bar or line is: layerstore's default way, another of its ways, somebody else's, or
what the others are compared with."""

Unit = Literal["", "x", "s", "B", "%"]
"""Plain numbers, multiples of a reference, seconds, bytes, hundredths."""

COLOURS: dict[Kind, str] = {
    "ours": "#0072b2",
    "variant": "#56b4e9",
    "peer": "#a6a6a6",
    "reference": "#595959",
}
_LINES = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#595959", "#8c6d1f")
"""Of peers' lines, which must be told from each other."""

_WIDTH_INCHES = 8.0
_BAR_INCHES = 0.21
_PANEL_HEAD_INCHES = 0.46
_FIGURE_HEAD_INCHES = 0.3
_LINES_HEIGHT_INCHES = 3.9
_LABEL_GAP = 0.055
"""Least distance of two labels of lines, as a part of the picture's height."""

_STYLE: dict[str, Any] = {
    "svg.hashsalt": "layerstore",
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a8a8a",
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "xtick.color": "#444444",
    "ytick.color": "#222222",
    "xtick.labelsize": 8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


class Bar(NamedTuple):
    """One bar.

    Attributes:
        label: Who it is.
        value: Its length, in the picture's unit; None keeps the place and says "not measured".
        low: Where its whisker begins, if it has one: the least or the lower quartile.
        high: Where it ends.
        kind: Whose it is.
    """

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None
    kind: Kind = "peer"


class Panel(NamedTuple):
    """Bars under one head, the first on top."""

    title: str
    bars: Sequence[Bar]


class Line(NamedTuple):
    """One growth curve.

    Attributes:
        label: Stands at its end.
        points: (x, y) in ascending order of x.
        kind: Whose it is; lines of peers get colours of their own.
        dashed: It is computed, not measured.
    """

    label: str
    points: Sequence[tuple[float, float]]
    kind: Kind = "peer"
    dashed: bool = False


def draw_bars(
    path: Path,
    panels: Sequence[Panel],
    *,
    title: str = "",
    unit: Unit = "",
    log: bool = False,
    origin: float | None = None,
    promise: float | None = None,
    columns: int = 1,
) -> None:
    """Draw panels of horizontal bars, so many side by side.

    Panels side by side should hold the same labels: only the leftmost shows them.

    Args:
        path: The file to write.
        panels: What is drawn, row by row.
        title: Above everything; say what is counted and which direction is good.
        unit: Of all values.
        log: A logarithmic scale, for values that differ by more than tenfold, and for ratios
            of which a half is as far from 1 as 2 is.
        origin: Where bars begin: 1 for ratios. By default 0, on a logarithmic scale
            the power of ten below the least.
        promise: A dotted line across every panel.
        columns: Panels side by side.

    Raises:
        ValueError: There is nothing to draw, or a value that a logarithm cannot have.
    """
    values = [bar.value for panel in panels for bar in panel.bars if bar.value is not None]
    if not values:
        raise ValueError("nothing to draw: no panel has a bar with a value")
    if log and min(values) <= 0:
        raise ValueError(f"a logarithmic scale has no place for {min(values)}")
    begin = origin if origin is not None else (_decade_below(min(values)) if log else 0.0)
    rows = [panels[at : at + columns] for at in range(0, len(panels), columns)]
    heights = [max(len(panel.bars) for panel in row) * _BAR_INCHES for row in rows]
    inches = sum(heights) + _PANEL_HEAD_INCHES * len(rows) + _FIGURE_HEAD_INCHES * bool(title)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_INCHES, inches), layout="constrained")
        grid = figure.add_gridspec(len(rows), columns, height_ratios=heights)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=9.5)
        for number, row in enumerate(rows):
            for place, panel in enumerate(row):
                axes = figure.add_subplot(grid[number, place])
                _draw_panel(axes, panel, unit, log=log, begin=begin, shows_labels=place == 0)
                ends = [*values, begin, promise or begin]
                _bar_scale(axes, ends, unit, log=log, ticks=5 if columns < 3 else 3)
                if promise is not None:
                    axes.axvline(promise, color="#d55e00", linestyle=":", linewidth=1.2)
        _save(figure, path)


def draw_lines(
    path: Path,
    lines: Sequence[Line],
    *,
    title: str = "",
    x_label: str,
    y_label: str,
    x_unit: Unit = "",
    y_unit: Unit = "",
    log_x: bool = False,
    log_y: bool = False,
) -> None:
    """Draw growth curves, each with its name at its end.

    Args:
        path: The file to write.
        lines: What is drawn; layerstore's lie above the others.
        title: Above everything.
        x_label: What grows.
        y_label: What is counted.
        x_unit: Of the x values.
        y_unit: Of the y values.
        log_x: A logarithmic scale of what grows.
        log_y: A logarithmic scale of what is counted; otherwise it begins at 0.

    Raises:
        ValueError: No line has a point.
    """
    drawn = [line for line in lines if line.points]
    if not drawn:
        raise ValueError("nothing to draw: no line has a point")
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_INCHES, _LINES_HEIGHT_INCHES), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title, fontsize=9.5)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(visible=True)
        _line_scales(axes, x_unit, y_unit, log_x=log_x, log_y=log_y)
        colours = _line_colours(drawn)
        for line, colour in zip(drawn, colours, strict=True):
            ours = line.kind in ("ours", "variant")
            axes.plot(
                [x for x, _ in line.points],
                [y for _, y in line.points],
                color=colour,
                linewidth=2.2 if ours else 1.5,
                linestyle="--" if line.dashed else "-",
                marker="o" if len(line.points) <= 25 else None,
                markersize=3.2,
                zorder=3 if ours else 2,
            )
        if not log_y:
            axes.set_ylim(bottom=0)
        _name_lines(axes, drawn, colours, y_unit)
        _save(figure, path)


def said(value: float, unit: Unit = "") -> str:
    """Return a value as people read it, to three digits: ``1.55``, ``12 ms``, ``388 MB``."""
    factor, name = _scale_of(value, unit)
    return f"{_digits(value / factor)} {name}".rstrip()


def _ticks(unit: Unit) -> FuncFormatter:
    def show(value: float, _: int) -> str:
        factor, name = _scale_of(value, unit)
        return f"{value / factor:,.6g} {name}".rstrip() if value else "0"

    return FuncFormatter(show)


_SCALES: dict[Unit, Sequence[tuple[float, str]]] = {
    "": ((1, ""),),
    "x": ((1, ""),),
    "%": ((1, "%"),),
    "s": ((1, "s"), (1e-3, "ms"), (1e-6, "us")),
    "B": ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")),
}


def _scale_of(value: float, unit: Unit) -> tuple[float, str]:
    """Return the largest scale that a value reaches, and its name."""
    scales = _SCALES[unit]
    if not value:
        return next(scale for scale in scales if scale[0] == 1)
    for scale in scales:
        if abs(value) >= scale[0] * 0.9995:
            return scale
    return scales[-1]


def _digits(value: float) -> str:
    size = abs(value)
    if size >= 100 or value == round(value):
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.01 else f"{value:.2g}"


def _draw_panel(
    axes: Axes, panel: Panel, unit: Unit, *, log: bool, begin: float, shows_labels: bool
) -> None:
    places = range(len(panel.bars))
    for place, bar in zip(places, panel.bars, strict=True):
        if bar.value is None:
            _say(axes, begin, place, "not measured", colour="#8a8a8a")
            continue
        axes.barh(place, bar.value - begin, left=begin, height=0.72, color=COLOURS[bar.kind])
        if bar.low is not None and bar.high is not None:
            axes.hlines(place, bar.low, bar.high, color="#222222", linewidth=0.9)
        _say(axes, max(bar.value, begin, bar.high or begin), place, said(bar.value, unit))
    if begin:
        axes.axvline(begin, color="#444444", linewidth=0.9)
    axes.set_title(panel.title)
    axes.set_ylim(len(panel.bars) - 0.4, -0.6)
    axes.set_yticks(list(places), [bar.label for bar in panel.bars] if shows_labels else [])
    axes.tick_params(axis="y", length=0)
    for label, bar in zip(axes.get_yticklabels(), panel.bars, strict=False):
        label.set_fontweight("bold" if bar.kind == "ours" else "normal")
    axes.grid(visible=True, axis="x")


def _say(axes: Axes, x: float, y: float, text: str, colour: str = "#222222") -> None:
    axes.annotate(
        text, (x, y), (3, 0), textcoords="offset points", va="center_baseline", fontsize=8,
        color=colour,
    )  # fmt: skip


def _bar_scale(axes: Axes, values: Sequence[float], unit: Unit, *, log: bool, ticks: int) -> None:
    """Give the axis its scale, with room on the right for the numbers behind the bars."""
    least, most = min(values), max(values)
    if log:
        axes.set_xscale("log")
        room = (most / least) ** 0.2 if most > least else 2.0
        axes.set_xlim(least / 1.05, most * max(room, 1.15))
        subs = (1.0, 2.0, 5.0) if ticks > 3 and most / least < 50 else (1.0,)
        axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=ticks + 2))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(min(least, 0.0), most * 1.17 or 1.0)
        axes.xaxis.set_major_locator(MaxNLocator(ticks))
    axes.xaxis.set_major_formatter(_ticks(unit))


def _line_scales(axes: Axes, x_unit: Unit, y_unit: Unit, *, log_x: bool, log_y: bool) -> None:
    scales = ((axes.xaxis, axes.set_xscale, log_x), (axes.yaxis, axes.set_yscale, log_y))
    for (axis, set_scale, log), unit in zip(scales, (x_unit, y_unit), strict=True):
        if log:
            set_scale("log")
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
            axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(_ticks(unit))


def _line_colours(lines: Sequence[Line]) -> list[str]:
    others = iter(_LINES * (len(lines) // len(_LINES) + 1))
    return [
        next(others) if line.kind in ("peer", "reference") else COLOURS[line.kind] for line in lines
    ]


def _name_lines(axes: Axes, lines: Sequence[Line], colours: Sequence[str], unit: Unit) -> None:
    """Write names at the right, pushed apart where lines end close to each other."""
    axes.get_xlim(), axes.get_ylim()  # matplotlib fits them to the lines when they are asked for
    to_part = axes.transData + axes.transAxes.inverted()
    wanted = [to_part.transform(line.points[-1])[1] for line in lines]
    order = sorted(range(len(lines)), key=wanted.__getitem__)
    places: dict[int, float] = {}
    below = -1.0
    for number in order:
        below = places[number] = max(wanted[number], below + _LABEL_GAP)
    for number, line in enumerate(lines):
        axes.annotate(
            f"{line.label} {said(line.points[-1][1], unit)}",
            xy=(1.01, places[number]),
            xycoords="axes fraction",
            va="center",
            color=colours[number],
            fontweight="bold" if line.kind == "ours" else "normal",
            annotation_clip=False,
        )


def _decade_below(value: float) -> float:
    decade = 1.0
    while decade > value:
        decade /= 10
    while decade * 10 <= value:
        decade *= 10
    return decade


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasSVG(figure)
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    # Readers without that font get one of its width, and texts that lie flat need no turning.
    text = drawn.getvalue().replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(re.sub(r' transform="rotate\(-0 [\d. -]+\)"', "", text))
