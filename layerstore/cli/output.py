"""What commands print: tables, JSON, times for people; everything made safe for terminals.

Names, labels and commands come from images of strangers; a control character in
one of them could redraw the terminal or forge a line of output, so text leaves
this program only through :func:`printable` or as ASCII JSON. On the fast path:
nothing heavy is imported.
"""

from __future__ import annotations

import sys

from layerstore.light_typing import TYPE_CHECKING
from layerstore.printable import printable as printable  # whoever writes knows it from here

if TYPE_CHECKING:
    from collections.abc import Sequence

SHORT_ID_DIGITS = 12
HELP_WIDTH = 80

_DAY_S = 86400
# (below this many seconds, count in units of so many, unit): where docker changes its unit.
_UNITS = (
    (60, 1, "second"),
    (3600, 60, "minute"),
    (2 * _DAY_S, 3600, "hour"),
    (14 * _DAY_S, _DAY_S, "day"),
    (60 * _DAY_S, 7 * _DAY_S, "week"),
    (730 * _DAY_S, 30 * _DAY_S, "month"),
    (float("inf"), 365 * _DAY_S, "year"),
)


def write_line(text: str = "") -> None:
    """Print one line of output."""
    sys.stdout.write(printable(text) + "\n")


def write_note(text: str) -> None:
    """Tell the person something on stderr that programs need not read."""
    sys.stdout.flush()
    sys.stderr.write(printable(text) + "\n")


def write_json(value: object) -> None:
    """Print a value for machines: indented ASCII JSON."""
    import json  # lazily: compiles patterns

    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=True) + "\n")


def write_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns as docker does: left aligned, three spaces between them.

    Without headers there are the rows alone.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    if headers:
        cells.insert(0, list(headers))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        line = "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")


def short_id(digest: str) -> str:
    """Return the twelve digits that people tell images apart by."""
    return digest.partition(":")[2][:SHORT_ID_DIGITS]


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number with what is counted: ``1 pack``, ``2 packs``, ``2 copies``."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def shorten(text: str, width: int) -> str:
    """Return at most ``width`` characters of ``text``, the last one an ellipsis when cut."""
    return text if len(text) <= width else text[: width - 1] + "…"


def age(created: str, now_s: float) -> str:
    """Return how long ago an RFC 3339 time was, as docker says it; ``N/A`` when unknown.

    Args:
        created: The time; years that no calendar has count as unknown.
        now_s: Seconds since the epoch.
    """
    from datetime import datetime

    try:
        seconds = now_s - datetime.fromisoformat(created).timestamp()
    except (ValueError, OverflowError, OSError):
        return "N/A"
    if created.startswith("0001-01-01"):
        return "N/A"  # Go's zero time: the config does not say
    if seconds < 1:
        return "Less than a second ago" if seconds > -60 else "in the future"
    size_s, unit = next((size_s, unit) for below, size_s, unit in _UNITS if seconds < below)
    count = int(seconds / size_s)
    if count == 1:
        return {"minute": "About a minute", "hour": "About an hour"}.get(unit, f"1 {unit}") + " ago"
    return f"{count} {unit}s ago"
