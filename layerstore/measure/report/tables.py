"""Tables as HTML: every cell is escaped here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.measure.report.svg import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

OPEN_ROWS_MAX = 60
"""A longer table is folded away until somebody wants it."""


def table(
    caption: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    texts: int = 1,
    total: Sequence[str] | None = None,
    keys: Sequence[str] = (),
    ours: Collection[int] = (),
) -> str:
    """Return a table that scrolls by itself where it is too wide.

    Args:
        caption: What it is, in a line.
        heads: Of the columns.
        rows: A cell for each head.
        texts: How many columns from the left are text; the rest are numbers.
        total: A last row.
        keys: For each row the colour that marks it.
        ours: Rows to stand out.
    """
    marked = ' class="ours"'
    head = "".join(
        f'<th scope="col"{_css(index, texts)}>{shown(name)}</th>'
        for index, name in enumerate(heads)
    )
    body = "".join(
        f"<tr{marked if number in ours else ''}>"
        f"{_cells(row, texts, keys[number] if keys else '')}</tr>\n"
        for number, row in enumerate(rows)
    )
    foot = f"<tfoot><tr>{_cells(total, texts, '')}</tr></tfoot>" if total else ""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{shown(caption)}">'
        f"<table><caption>{shown(caption)}</caption><thead><tr>{head}</tr></thead>\n"
        f"<tbody>{body}</tbody>{foot}</table></div>"
    )


def folded(summary: str, inside: str) -> str:
    """Return something behind a line that opens it."""
    return f"<details><summary>{shown(summary)}</summary>{inside}</details>"


def _cells(row: Sequence[str], texts: int, key: str) -> str:
    mark = f'<i class="key" style="background:var(--{key})"></i>' if key else ""
    first, *rest = row
    return f'<th scope="row" class="name">{mark}{shown(first)}</th>' + "".join(
        f"<td{_css(index, texts)}>{shown(cell)}</td>" for index, cell in enumerate(rest, start=1)
    )


def _css(index: int, texts: int) -> str:
    return "" if index < texts else ' class="n"'
