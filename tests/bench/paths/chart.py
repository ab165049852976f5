"""A picture of the speeds, as SVG: a panel for each column, a bar for each contender.

The scale is logarithmic, since half and twice as fast are as far from 1.
"""

from __future__ import annotations

import math
import statistics
from html import escape
from typing import TYPE_CHECKING

from tests.bench.paths.report import DEFAULT_VIEW, REFERENCE

if TYPE_CHECKING:
    from tests.bench.paths.report import Results

_PANELS_A_ROW = 4
_LABELS, _PANEL, _GAP = 120, 150, 16
_BAR, _HEAD = 16, 34
_LEAST, _MOST = 1 / 8, 4.0
_OURS, _DEFAULT, _OTHERS = "#7fb3d5", "#1f618d", "#b2babb"
_STATES = ("warm", "cold")


def chart(results: Results, measure: str) -> str:
    """Return the picture of all speeds against the reference, warm above cold."""
    names = [name for name in results.contenders if name != REFERENCE]
    rows = -(-len(results.columns) // _PANELS_A_ROW)
    height = _HEAD + len(names) * _BAR + _GAP
    states = [state for state in _STATES if results.rounds(state)]
    parts = []
    for row, state in enumerate(states):
        for number, column in enumerate(results.columns):
            line, place = divmod(number, _PANELS_A_ROW)
            at = _LABELS + place * (_PANEL + _GAP), (row * rows + line) * height
            speeds = {
                name: results.speeds(name, column, state, measure, REFERENCE) for name in names
            }
            parts += _panel(f"{state} {column}", speeds, *at)
            if not place:
                parts += _names(names, at[1])
    width = _LABELS + _PANELS_A_ROW * (_PANEL + _GAP)
    size = f'width="{width}" height="{height * rows * len(states)}"'
    font = 'font-family="sans-serif" font-size="11"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>'
    ground = '<rect width="100%" height="100%" fill="white"/>'
    return "\n".join([head, ground, *parts, "</svg>\n"])


def _panel(title: str, speeds: dict[str, list[float]], left: int, top: int) -> list[str]:
    one = left + _place(1)
    bottom = top + _HEAD + len(speeds) * _BAR
    parts = [f'<text x="{left}" y="{top + 20}" font-weight="bold">{escape(title)}</text>']
    for number, (name, values) in enumerate(speeds.items()):
        if not values:
            continue
        speed = statistics.median(values)
        end = left + _place(speed)
        y = top + _HEAD + number * _BAR
        parts.append(
            f'<rect x="{min(one, end):.1f}" y="{y + 2}" width="{abs(end - one):.1f}" '
            f'height="{_BAR - 4}" fill="{_colour(name)}"/>'
        )
        parts.append(
            f'<text x="{left + _PANEL}" y="{y + 12}" text-anchor="end" fill="#555">'
            f"{speed:.2f}</text>"
        )
    line = f'x1="{one:.1f}" x2="{one:.1f}" y1="{top + _HEAD - 4}" y2="{bottom}"'
    parts.append(f'<line {line} stroke="black"/>')
    return parts


def _names(names: list[str], top: int) -> list[str]:
    return [
        f'<text x="{_LABELS - 6}" y="{top + _HEAD + number * _BAR + 12}" text-anchor="end">'
        f"{escape(name)}</text>"
        for number, name in enumerate(names)
    ]


def _place(speed: float) -> float:
    """Return how far right of a panel's edge a speed lies; beyond the scale is at its end."""
    within = min(max(speed, _LEAST), _MOST)
    share = math.log(within / _LEAST) / math.log(_MOST / _LEAST)
    return share * (_PANEL - 30)


def _colour(name: str) -> str:
    if name == DEFAULT_VIEW:
        return _DEFAULT
    return _OURS if " view" in name else _OTHERS
