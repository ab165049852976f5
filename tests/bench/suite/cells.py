"""Figures as Markdown tables: values with their spread, and ratios taken round by round."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.bench.result import Figure, Result
    from tests.bench.suite.table import Axis, Show, Table

_AXES: tuple[Axis, Axis, Axis] = ("group", "who", "what")


class Number(NamedTuple):
    """A median, and half of the interquartile range (0 of fewer than three values)."""

    middle: float
    spread: float


def number_of(values: Sequence[float]) -> Number:
    """Return the middle of values and how much they scatter."""
    if len(values) < 3:
        return Number(statistics.median(values), 0.0)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Number(statistics.median(values), (high - low) / 2)


def ratio_of(figure: Figure, reference: Figure, show: Show) -> Number | None:
    """Return how many times the reference a figure is, round by round in those that both have.

    None where the reference is nothing.
    """
    ours, theirs = figure.values, reference.values
    if show == "speed":
        ours, theirs = theirs, ours
    if not all(theirs):
        return None
    return number_of([one / other for one, other in zip(ours, theirs, strict=False)])


def markdown(result: Result, table: Table) -> str:
    """Return a table, empty if the result has none of its figures.

    Raises:
        ValueError: More than one name is left of the third axis.
    """
    find, rows, columns = _plan(result, table)
    reference = _reference(result, table)
    lines = []
    for row in rows:
        cells = [_cell(find(row, column), reference, table.show) for column in columns]
        if any(cells):
            lines.append(f"| {escaped(row)} | " + " | ".join(cells) + " |")
    if not lines:
        return ""
    heads = [escaped(column.removeprefix(table.strip)) for column in columns]
    head = f"| {escaped(table.title)} | " + " | ".join(heads) + " |"
    return "\n".join([head, "|---|" + "--:|" * len(columns), *lines])


def _plan(
    result: Result, table: Table
) -> tuple[Callable[[str, str], Figure | None], list[str], list[str]]:
    (third,) = (axis for axis in _AXES if axis not in (table.rows, table.columns))
    fixed = result.names(third, **table.only)
    if len(fixed) > 1:
        raise ValueError(f"{table.title}: one {third} is wanted, there are {', '.join(fixed)}")
    rows = _in_order(result, table.rows, table)
    columns = _in_order(result, table.columns, table)

    def find(row: str, column: str) -> Figure | None:
        names = {table.rows: row, table.columns: column, third: fixed[0]}
        return result.find(names["group"], names["who"], names["what"])

    return find, rows, columns


def _in_order(result: Result, axis: Axis, table: Table) -> list[str]:
    """Return an axis' names: as the table gives them if it does, else as they were measured."""
    there = result.names(axis, **table.only)
    wanted = table.only.get(axis)
    return [name for name in wanted if name in there] if wanted else there


def _reference(result: Result, table: Table) -> Callable[[Figure], Figure | None]:
    return lambda figure: result.find(figure.group, table.against, figure.what)


def _cell(figure: Figure | None, reference: Callable[[Figure], Figure | None], show: Show) -> str:
    if figure is None:
        return ""
    value = spoken(number_of(figure.values), figure.unit)
    other = reference(figure) if show != "value" else None
    if other is None or other is figure:
        return value
    ratio = ratio_of(figure, other, show)
    if ratio is None:
        return value
    if show == "both":
        return f"{value} ({digits(ratio.middle)})"
    return _with_spread(ratio, 1)


def spoken(number: Number, unit: str) -> str:
    """Return a value with its spread in a scale that people read: ``7.68 ±0.12 s``, ``388 MB``."""
    scales = {
        "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")),
        "B": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
    }.get(unit, ((1.0, unit.replace("x", "")),))
    size = abs(number.middle)
    if not unit and number.middle == round(number.middle) and not number.spread:
        return f"{number.middle:,.0f}"
    factor, name = next((scale for scale in scales if size >= scale[0]), scales[-1])
    if not size:
        factor, name = next(scale for scale in scales if scale[0] == 1)
    return f"{_with_spread(number, factor)} {name}".rstrip()


def _with_spread(number: Number, factor: float) -> str:
    middle = digits(number.middle / factor)
    if not number.spread:
        return middle
    decimals = len(middle.partition(".")[2])
    spread = f"{number.spread / factor:.{decimals}f}"
    return f"{middle} ±{spread}" if float(spread) else middle


def digits(value: float) -> str:
    """Return a number to three digits."""
    size = abs(value)
    if size >= 100 or not value:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.1 else f"{value:.2g}"


def escaped(text: str) -> str:
    """Return a text as a cell of a table can hold it."""
    return text.replace("|", "\\|")
