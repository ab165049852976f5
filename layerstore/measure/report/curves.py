"""Lines over a count: how each way to keep images grows as images come."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.measure.report.scales import count_ticks, spread, ticks
from layerstore.measure.report.svg import SMALL_PX, Svg, text_width
from layerstore.units import format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

_TOP_PX = 18
_BOTTOM_PX = 44
_LABEL_GAP_PX = 17
_WIDE_PX = 600
"""In narrower pictures lines have their names alone."""

_DOTS_MAX = 40
"""Beyond so many points the dots of a line run together."""


class Series(NamedTuple):
    """One line: bytes after the first, the second, ... image."""

    key: str
    label: str
    values: Sequence[int]


def curves(
    series: Sequence[Series], names: Sequence[str], size: tuple[int, int], title: str, ident: str
) -> Svg:
    """Draw lines with their names at their ends.

    Args:
        series: Each as long as ``names``.
        names: What came, in order: told where a pointer rests.
        size: Width and height in pixels.
        title: What the picture shows.
        ident: Unique in the page.
    """
    width, height = size
    said = "; ".join(f"{s.label}: {format_size(s.values[-1])}" for s in series if s.values)
    described = f"bytes on disk after each of {len(names)} images; at the end {said}"
    svg = Svg(width, height, title, described if names else "no images", ident)
    marks = ticks(max((max(s.values, default=0) for s in series), default=0))
    left = max(text_width(format_size(mark), SMALL_PX) for mark in marks) + 10
    label_room = min(width * 0.36, max((_label_px(s) for s in series), default=0) + 26)
    plot = _Plot(left, _TOP_PX, width - left - label_room, height - _TOP_PX - _BOTTOM_PX,
                 marks[-1], len(names))  # fmt: skip
    _draw_axes(svg, plot, marks)
    _draw_lines(svg, plot, series, names)
    _draw_ends(svg, plot, series, label_room)
    return svg


class _Plot(NamedTuple):
    """Where values are: pixels of the area, its largest value, its number of points."""

    left: float
    top: float
    width: float
    height: float
    largest: float
    points: int

    def x(self, index: int) -> float:
        """Return where a point is; nothing is kept before the first, so it is not at the edge."""
        return self.left + self.width * (index + 1) / max(self.points, 1)

    def y(self, value: float) -> float:
        return self.top + self.height * (1 - value / self.largest)


def _label_px(series: Series) -> float:
    return text_width(f"{series.label} {format_size(series.values[-1] if series.values else 0)}")


def _draw_axes(svg: Svg, plot: _Plot, marks: Sequence[float]) -> None:
    for mark in marks:
        y = plot.y(mark)
        svg.line(plot.left, y, plot.left + plot.width, y, "grid" if mark else "axis")
        svg.text(plot.left - 8, y + 4, format_size(mark), "soft", anchor="end", size=SMALL_PX)
    foot = plot.top + plot.height
    room = max(text_width(str(plot.points), SMALL_PX) * 1.8, 20)
    for value in count_ticks(plot.points, max(2, int(plot.width / room))):
        x = plot.x(value - 1)
        svg.line(x, foot, x, foot + 4, "axis")
        svg.text(x, foot + 17, str(value), "soft", anchor="middle", size=SMALL_PX)
    svg.text(plot.left, foot + 36, "images, in their order", "soft", size=SMALL_PX)


def _draw_lines(svg: Svg, plot: _Plot, series: Sequence[Series], names: Sequence[str]) -> None:
    for line in series:
        thick = " thick" if line.key in ("stored", "optimized") else ""
        points = [(plot.left, plot.y(0))]
        points += [(plot.x(i), plot.y(value)) for i, value in enumerate(line.values)]
        svg.polyline(points, f"l-{line.key}{thick}", title=line.label)
        if len(line.values) > _DOTS_MAX:
            continue
        for name, value, (x, y) in zip(names, line.values, points[1:], strict=True):
            told = f"{line.label} with {name}: {format_size(value)}"
            svg.circle(x, y, 3, f"f-{line.key}", title=told)


def _draw_ends(svg: Svg, plot: _Plot, series: Sequence[Series], room: float) -> None:
    shown = [line for line in series if line.values]
    wanted = [plot.y(line.values[-1]) for line in shown]
    placed = spread(wanted, _LABEL_GAP_PX, plot.top + 4, plot.top + plot.height + 8)
    end = plot.left + plot.width
    small = SMALL_PX + 1
    for line, at, y in zip(shown, wanted, placed, strict=True):
        svg.polyline([(end + 4, at), (end + 10, at), (end + 16, y)], f"l-{line.key} lead")
        size = format_size(line.values[-1])
        ours = "strong" if line.key in ("stored", "optimized") else "ink"
        x, left = end + 20, room - 20
        if svg.width >= _WIDE_PX:
            svg.text(x, y + 4, size, ours, size=small)
            own = text_width(size, small) + 8
            x, left, ours = x + own, left - own, "soft"
        svg.label(x, y + 4, line.label, left, ours, size=small)
