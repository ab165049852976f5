"""Pictures as figures of a page: each is there wide and narrow, and the screen chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.measure.report.bars import NARROW_PX, WIDE_PX

if TYPE_CHECKING:
    from collections.abc import Callable

    from layerstore.measure.report.svg import Svg


def twice(draw: Callable[[int, str], Svg], ident: str) -> str:
    """Return a picture drawn for both widths, with ids that begin with ``ident``."""
    wide = figure(draw(WIDE_PX, f"{ident}-w"), "wide")
    return wide + figure(draw(NARROW_PX, f"{ident}-n"), "narrow")


def figure(svg: Svg, css: str) -> str:
    """Return a picture for screens of a class."""
    return f'<figure class="{css}">{svg.render()}</figure>\n'
