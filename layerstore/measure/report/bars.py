"""Bars on one scale: the waterfall of schemes, and what a transfer takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.measure.report.svg import FONT_PX, SMALL_PX, Svg, text_width
from layerstore.units import format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDE_PX = 1000
NARROW_PX = 368

_BAR_PX = 22
_ROW_PX = 46
_NARROW_ROW_PX = 52


class Step(NamedTuple):
    """One bar.

    Attributes:
        key: Its colour: the name of a scheme.
        label: What it is.
        how: The same in a few words more, below it; may be empty.
        size: Bytes.
        note: What stands behind its bytes, such as ``3.5x``.
        before: Bytes of what it is compared with, drawn faintly behind it; 0 for nothing.
        against: What that is.
    """

    key: str
    label: str
    how: str
    size: int
    note: str = ""
    before: int = 0
    against: str = ""


def bars(steps: Sequence[Step], width: int, title: str, ident: str) -> Svg:
    """Draw bars from the top down, each with its bytes, and faintly what is gone of the one before.

    Args:
        steps: From the top; none is fine.
        width: Pixels; below 600 labels stand above their bars.
        title: What the picture shows.
        ident: Unique in the page.
    """
    narrow = width < 600
    row = _NARROW_ROW_PX if narrow else _ROW_PX
    described = "; ".join(f"{step.label}: {_value(step)}" for step in steps)
    svg = Svg(width, row * len(steps) + 4, title, described or "nothing", ident)
    left = 0.0 if narrow else min(336.0, max((_label_width(s) for s in steps), default=0) + 16)
    values = max((_value_width(step) for step in steps), default=0) + 10
    room = width - left - values
    largest = max((max(step.size, step.before) for step in steps), default=0)
    svg.line(left, 0, left, row * len(steps), "axis")
    for index, step in enumerate(steps):
        top = index * row
        _draw_label(svg, step, top, left, narrow=narrow)
        _draw_bar(svg, step, (left, top + (24 if narrow else 8)), room / largest if largest else 0)
    return svg


def _label_width(step: Step) -> float:
    return max(text_width(step.label), text_width(step.how, SMALL_PX))


def _draw_label(svg: Svg, step: Step, top: float, left: float, *, narrow: bool) -> None:
    ours = "strong" if step.key in ("stored", "optimized") else "ink"
    if narrow:
        svg.label(6, top + 17, step.label, svg.width - 6, ours)
        return
    svg.label(left - 12, top + (17 if step.how else 24), step.label, left - 12, ours, anchor="end")
    svg.label(left - 12, top + 32, step.how, left - 12, "soft", anchor="end", size=SMALL_PX)


def _draw_bar(svg: Svg, step: Step, at: tuple[float, float], scale: float) -> None:
    left, y = at
    own = max(step.size * scale, 1.5 if step.size else 0)
    end = own
    if step.before > step.size:
        end = step.before * scale
        gone = f"{format_size(step.before - step.size)} less than {step.against}"
        svg.rect(left, y, end, _BAR_PX, f"f-{step.key}", title=gone, opacity=0.16)
        words = f"\N{MINUS SIGN}{format_size(step.before - step.size)}"
        if end - own > text_width(words, SMALL_PX) + 12:
            x = left + own + (end - own) / 2
            svg.text(x, y + 15, words, "soft", anchor="middle", size=SMALL_PX)
    hover = f"{step.label}: {step.size:,} bytes"
    svg.rect(left, y, own, _BAR_PX, f"f-{step.key}", title=hover)
    x = left + max(end, own) + 8
    size = format_size(step.size)
    svg.text(x, y + 16, size, "strong")
    if step.note:
        svg.text(x + text_width(size, bold=True) + 6, y + 16, step.note, "soft", size=FONT_PX)


def _value(step: Step) -> str:
    return f"{format_size(step.size)} {step.note}".strip()


def _value_width(step: Step) -> float:
    return text_width(format_size(step.size), bold=True) + 6 + text_width(step.note)
