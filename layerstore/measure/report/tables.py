"""Tables as HTML: every cell is escaped here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.measure.report.svg import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

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
    whole: Mapping[str, str] | None = None,
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
        whole: What the pointer over a text tells that is a part of it.
    """
    whole = whole or {}
    marked = ' class="ours"'
    head = "".join(
        f'<th scope="col"{_css(index, texts)}>{shown(name)}</th>'
        for index, name in enumerate(heads)
    )
    body = "".join(
        f"<tr{marked if number in ours else ''}>"
        f"{_cells(row, texts, keys[number] if keys else '', whole)}</tr>\n"
        for number, row in enumerate(rows)
    )
    foot = f"<tfoot><tr>{_cells(total, texts, '', {})}</tr></tfoot>" if total else ""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{shown(caption)}">'
        f"<table><caption>{shown(caption)}</caption><thead><tr>{head}</tr></thead>\n"
        f"<tbody>{body}</tbody>{foot}</table></div>"
    )


def folded(summary: str, inside: str) -> str:
    """Return something behind a line that opens it."""
    return f"<details><summary>{shown(summary)}</summary>{inside}</details>"


def _cells(row: Sequence[str], texts: int, key: str, whole: Mapping[str, str]) -> str:
    mark = f'<i class="key" style="background:var(--{key})"></i>' if key else ""
    first, *rest = row
    head = f'<th scope="row" class="name"{_title(first, whole)}>{mark}{shown(first)}</th>'
    return head + "".join(
        f"<td{_css(index, texts)}{_title(cell, whole)}>{shown(cell)}</td>"
        for index, cell in enumerate(rest, start=1)
    )


def _title(cell: str, whole: Mapping[str, str]) -> str:
    told = whole.get(cell, cell)
    return "" if told == cell else f' title="{shown(told)}"'


def _css(index: int, texts: int) -> str:
    return "" if index < texts else ' class="n"'
