"""Pictures as SVG text: values in, markup out.

What a chart needs and no more: rectangles, lines, paths and text in pixels, with classes
that a style sheet colours (:mod:`layerstore.measure.report.style`), so that one picture is
light and dark. Every text is escaped here and nowhere else: names come out of images of
strangers. Widths of text are estimated, for nobody knows the reader's font; the estimate
is that of a wide one.

Source: SVG 1.1, and WAI-ARIA 1.2 for what a picture says to those who do not see it.
"""

from __future__ import annotations

import unicodedata
from html import escape
from typing import TYPE_CHECKING, Literal

from layerstore.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

Anchor = Literal["start", "middle", "end"]

FONT_PX = 13
SMALL_PX = 11

_BOLD = 1.13
_NARROW = frozenset("iljtfr.,:;|!'/()[] I-")
_WIDE = frozenset("mwMW@%—…")


def shown(text: str) -> str:
    """Return text as markup that shows it, whatever is in it."""
    return escape(printable(text), quote=True)


def text_width(text: str, size_px: float = FONT_PX, *, bold: bool = False) -> float:
    """Return about how many pixels wide a line of text is, rather more than less."""
    return sum(map(_em, text)) * size_px * (_BOLD if bold else 1)


def _em(char: str) -> float:
    if char in _NARROW:
        return 0.41
    if char in _WIDE:
        return 1.0
    if char.isascii():
        return 0.7 if char.isupper() else 0.64
    return 1.05 if unicodedata.east_asian_width(char) in "WF" else 0.72


def fitted(text: str, width: float, size_px: float = FONT_PX) -> str:
    """Return as much of ``text`` as fits ``width`` pixels, the middle cut out where it is longer.

    The end stays: versions stand there.
    """
    text = printable(text)
    if text_width(text, size_px) <= width:
        return text
    ends = min(len(text) // 2, 256)
    while ends > 0:
        cut = f"{text[:ends]}…{text[len(text) - ends :]}"
        if text_width(cut, size_px) <= width:
            return cut
        ends -= 1
    return "…" if text_width("…", size_px) <= width else ""


def number(value: float) -> str:
    """Return a coordinate: a tenth of a pixel is all that anybody sees."""
    return f"{value:.1f}".rstrip("0").rstrip(".") if value else "0"


class Svg:
    """One picture, drawn from the back to the front.

    Args:
        width: Pixels, at its natural size.
        height: The same.
        title: What it is, for who hears it.
        description: What is to be seen, in a sentence or two.
        ident: Its id; unique in the page.
    """

    def __init__(
        self, width: float, height: float, title: str, description: str, ident: str
    ) -> None:
        self.width = width
        self.height = height
        self._ident = ident
        self._title = title
        self._description = description
        self._parts: list[str] = []

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        css: str,
        *,
        title: str = "",
        radius: float = 0,
        opacity: float | None = None,
    ) -> None:
        """Draw a box; ``title`` is what a pointer over it tells."""
        shape = f'x="{number(x)}" y="{number(y)}" width="{number(max(width, 0))}"'
        shape += f' height="{number(max(height, 0))}"'
        if radius:
            shape += f' rx="{number(radius)}"'
        self._shape("rect", shape, css, title, opacity)

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        """Draw a straight line."""
        shape = f'x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}"'
        self._shape("line", shape, css, "", None)

    def polyline(self, points: Iterable[tuple[float, float]], css: str, *, title: str = "") -> None:
        """Draw a line through points."""
        path = " ".join(f"{number(x)},{number(y)}" for x, y in points)
        self._shape("polyline", f'points="{path}" fill="none"', css, title, None)

    def circle(self, x: float, y: float, radius: float, css: str, *, title: str = "") -> None:
        """Draw a dot."""
        shape = f'cx="{number(x)}" cy="{number(y)}" r="{number(radius)}"'
        self._shape("circle", shape, css, title, None)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        css: str = "ink",
        *,
        anchor: Anchor = "start",
        size: int = FONT_PX,
        title: str = "",
    ) -> None:
        """Write one line; ``y`` is its base line."""
        attributes = f'x="{number(x)}" y="{number(y)}" class="{css}" font-size="{size}"'
        if anchor != "start":
            attributes += f' text-anchor="{anchor}"'
        self._parts.append(f"<text {attributes}>{_title(title)}{shown(text)}</text>")

    def label(
        self, x: float, y: float, text: str, width: float, css: str = "ink", *,
        anchor: Anchor = "start", size: int = FONT_PX, whole: str = "",
    ) -> None:  # fmt: skip
        """Write as much of a line as fits; what was cut is whole in its title.

        Where the line itself is a part of something, its title tells the ``whole`` of that.
        """
        cut = fitted(text, width, size)
        if cut:
            title = whole or text
            title = "" if cut == title else title
            self.text(x, y, cut, css, anchor=anchor, size=size, title=title)

    def render(self, style: str = "") -> str:
        """Return the markup.

        Args:
            style: A style sheet to put in, for a file of its own; in a page the page has it.
        """
        ident = self._ident
        size = f"{number(self.width)} {number(self.height)}"
        alone = f' width="{number(self.width)}" height="{number(self.height)}"' if style else ""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}"{alone} role="img"'
            f' class="picture" aria-labelledby="{ident}-t {ident}-d">'
            f'<title id="{ident}-t">{shown(self._title)}</title>'
            f'<desc id="{ident}-d">{shown(self._description)}</desc>'
        )
        if style:
            head += f"<style>{style}</style>"
            head += (
                f'<rect width="{number(self.width)}" height="{number(self.height)}" class="paper"/>'
            )
        return head + "\n".join(self._parts) + "</svg>"

    def _shape(self, kind: str, shape: str, css: str, title: str, opacity: float | None) -> None:
        faint = "" if opacity is None else f' fill-opacity="{max(0.0, min(1.0, opacity)):.2f}"'
        head = f'<{kind} {shape} class="{css}"{faint}'
        self._parts.append(f"{head}>{_title(title)}</{kind}>" if title else f"{head}/>")


def _title(text: str) -> str:
    return f"<title>{shown(text)}</title>" if text else ""
