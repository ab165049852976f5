"""Durations as Go writes them: ``1m30s``, ``1.5h``, ``300ms``.

Source: Go's time.ParseDuration.
"""

from __future__ import annotations

import re

_UNITS_NS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_TERM = re.compile(r"([0-9]*)(?:\.([0-9]*))?(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_MAX_NS = 2**63 - 1
_MAX_DIGITS = 25  # more digits than any value in range has


def parse_duration(text: str) -> int | None:
    """Return nanoseconds, or None when the text is not a duration or out of range.

    Fractions of a nanosecond are cut off.
    """
    sign = -1 if text.startswith("-") else 1
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0
    total = position = 0
    while position < len(rest):
        match = _TERM.match(rest, position)
        if match is None or not (match[1] or match[2]):
            return None
        whole, fraction = match[1].lstrip("0"), (match[2] or "")[:_MAX_DIGITS]
        if len(whole) > _MAX_DIGITS:
            return None
        unit = _UNITS_NS[match[3]]
        total += int(whole or "0") * unit
        total += int(fraction or "0") * unit // 10 ** len(fraction)
        position = match.end()
    if not rest or total > _MAX_NS:
        return None
    return sign * total
