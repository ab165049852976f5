"""A matrix of shares as a heat map: how much of one image is in another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.formats.reference import shortened_names
from layerstore.measure.report.svg import SMALL_PX, Svg, text_width

if TYPE_CHECKING:
    from collections.abc import Sequence

_VALUES_MAX = 14
"""Up to so many rows a cell has room for its number."""

_DARKEST = 0.92


def heat_map(
    names: Sequence[str], shares: Sequence[Sequence[float]], width: int, title: str, ident: str
) -> Svg:
    """Draw how much of each row (0 to 1) is in each column; the diagonal is left empty.

    Args:
        names: Of the rows, which are the columns, too; columns have their numbers. Of many names
            of an image a few are shown, and all where the pointer rests on them.
        shares: A row for each name.
        width: Pixels.
        title: What the picture shows.
        ident: Unique in the page.
    """
    count = len(names)
    labels = [shortened_names(name) for name in names]
    longest = max((text_width(label, SMALL_PX + 1) for label in labels), default=0)
    digits = text_width(str(count), SMALL_PX) + 8
    left = min(longest, width * (0.3 if width > 600 else 0.36)) + digits + 12
    # The last column's number may be wider than its cell.
    cell = min(60.0, (width - left - digits / 2) / count) if count else 0
    size = SMALL_PX + 1 if cell >= 15 else max(7, int(cell * 0.8))
    top = 24
    svg = Svg(width, top + cell * count + 52, title, _described(labels, shares), ident)
    every = max(1, -(-int(text_width(str(count), SMALL_PX) + 6) // max(int(cell), 1)))
    for index, label in enumerate(labels):
        middle = top + cell * (index + 0.5)
        if cell >= 9 or index % 2 == 0:
            svg.label(left - digits - 8, middle + size * 0.36, label, left - digits - 10,
                      anchor="end", size=size, whole=names[index])  # fmt: skip
        if index % every == 0:
            told = str(index + 1)
            svg.text(left - 8, middle + size * 0.36, told, "soft", anchor="end",
                     size=min(size, SMALL_PX))  # fmt: skip
            svg.text(left + cell * (index + 0.5), top - 8, told, "soft", anchor="middle",
                     size=SMALL_PX)  # fmt: skip
        _draw_row(svg, labels, index, shares[index], (left, top, cell))
    _draw_legend(svg, left, top + cell * count + 18)
    return svg


def _draw_row(
    svg: Svg,
    names: Sequence[str],
    row: int,
    shares: Sequence[float],
    place: tuple[float, float, float],
) -> None:
    left, top, cell = place
    gap = 1.0 if cell >= 8 else 0.4
    for column, share in enumerate(shares):
        x, y = left + cell * column, top + cell * row
        if row == column:
            svg.rect(x, y, cell - gap, cell - gap, "empty")
            continue
        told = f"{share:.0%} of {names[row]} is in {names[column]}"
        svg.rect(x, y, cell - gap, cell - gap, "f-heat", title=told, opacity=share * _DARKEST)
        if len(shares) <= _VALUES_MAX and cell >= 26:
            # White on what is dark enough, ink on the rest: 4 to 1 and more, in light and dark.
            colour = "on" if share * _DARKEST > 0.7 else "ink"
            svg.text(x + cell / 2, y + cell / 2 + 4, f"{share:.0%}", colour, anchor="middle",
                     size=SMALL_PX)  # fmt: skip


def _draw_legend(svg: Svg, left: float, y: float) -> None:
    step, parts = 18, 6
    start = min(left - 8, svg.width - step * parts - 2 * 40 - 4)
    svg.text(start + 26, y + 10, "0 %", "soft", anchor="end", size=SMALL_PX)
    for part in range(parts):
        share = part / (parts - 1)
        svg.rect(start + 32 + part * step, y, step, 12, "f-heat", opacity=share * _DARKEST)
    svg.text(start + 32 + parts * step + 6, y + 10, "100 %", "soft", size=SMALL_PX)


def _described(names: Sequence[str], shares: Sequence[Sequence[float]]) -> str:
    if len(names) < 2:
        return "fewer than two images: nothing to compare"
    most = max(
        (share, names[row], names[column])
        for row, line in enumerate(shares)
        for column, share in enumerate(line)
        if row != column
    )
    return (
        f"how much of each of {len(names)} images, by stored bytes, is in each of the others; "
        f"at most {most[0]:.0%}, of {most[1]} in {most[2]}"
    )
