"""Tables and bar charts as values: what to show, without how.

Measuring returns typed records; a record can describe itself as a
:class:`Table` or a :class:`BarChart`, and the command line draws them, as text
or with colours. Nothing here prints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from layerstore.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_EIGHTHS = " ▏▎▍▌▋▊▉"
_HEIGHTS = "▁▂▃▄▅▆▇█"


class Column(msgspec.Struct, frozen=True):
    """Heading of one column; numbers are right-aligned."""

    title: str
    align: Literal["left", "right"] = "right"


class Table(msgspec.Struct, frozen=True):
    """Rows of text under columns, an optional last row of totals, and notes below."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    total: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


class Bar(msgspec.Struct, frozen=True):
    """One bar of a chart: its label, its length, and the text behind it."""

    label: str
    value: int
    text: str


class BarChart(msgspec.Struct, frozen=True):
    """Bars on one scale that begins at zero."""

    title: str
    bars: tuple[Bar, ...]


def columns(left: Sequence[str], right: Sequence[str]) -> tuple[Column, ...]:
    """Return columns of text (``left``) followed by columns of numbers (``right``)."""
    return tuple(
        [Column(title, "left") for title in left] + [Column(title, "right") for title in right]
    )


def block_bar(value: int, largest: int, width: int) -> str:
    """Return a bar of Unicode blocks, an eighth of a cell exact, ``width`` cells at ``largest``.

    Anything above zero shows at least an eighth, so that a small value is not
    mistaken for none.
    """
    if largest <= 0 or value <= 0:
        return ""
    eighths = max(1, round(value * width * 8 / largest))
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")


def table_lines(table: Table) -> list[str]:
    """Lay a table out as plain lines, columns padded to their widest cell."""
    head = tuple(column.title for column in table.columns)
    rows = [tuple(map(printable, row)) for row in table.rows]  # before widths are taken
    body = [head, *rows, *([table.total] if table.total else [])]
    widths = [max(len(row[index]) for row in body) for index in range(len(head))]
    lines = [table.title] if table.title else []
    lines += [_row_line(row, table.columns, widths) for row in (head, *rows)]
    if table.total:
        lines.append("─" * (sum(widths) + 3 * (len(widths) - 1)))
        lines.append(_row_line(table.total, table.columns, widths))
    return lines + list(table.notes)


def _row_line(row: tuple[str, ...], heads: tuple[Column, ...], widths: list[int]) -> str:
    cells = [
        cell.ljust(width) if column.align == "left" else cell.rjust(width)
        for cell, column, width in zip(row, heads, widths, strict=True)
    ]
    return "   ".join(cells).rstrip()


def csv_lines(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Yield lines of CSV (RFC 4180) without their ends; a cell of None is empty."""
    for row in (heads, *rows):
        yield ",".join("" if cell is None else _csv_cell(str(cell)) for cell in row)


def _csv_cell(text: str) -> str:
    if not any(char in text for char in ',"\r\n'):
        return text
    doubled = text.replace('"', '""')
    return f'"{doubled}"'


def chart_lines(chart: BarChart, width: int = 48) -> list[str]:
    """Lay a chart out as plain lines; ``width`` is that of the longest bar in cells."""
    largest = max((bar.value for bar in chart.bars), default=0)
    label = max((len(bar.label) for bar in chart.bars), default=0)
    return [chart.title] * bool(chart.title) + [
        f"{bar.label.rjust(label)} │{block_bar(bar.value, largest, width)} {bar.text}"
        for bar in chart.bars
    ]


def sparkline(values: Sequence[int], largest: int, width: int) -> str:
    """Return values as blocks of growing height, at most ``width`` of them, full at ``largest``.

    Of more values than cells every so-manieth is shown, always the last one.
    """
    if largest <= 0 or not values:
        return ""
    count = min(len(values), width)
    shown = [values[(cell + 1) * len(values) // count - 1] for cell in range(count)]
    return "".join(_HEIGHTS[min(7, value * 8 // largest)] if value > 0 else " " for value in shown)
