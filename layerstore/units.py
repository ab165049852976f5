"""Sizes, durations and times, from and to the words people use.

Sizes print in powers of 1000 (kB, MB, GB), as docker and podman print them.
"""

from __future__ import annotations

import time

from layerstore.errors import InputError
from layerstore.light_re import Pattern

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB")
_FACTORS = {
    "": 1,
    "b": 1,
    **{unit: 1024**power for power, unit in enumerate("kmgtp", start=1)},
    **{unit + "b": 1024**power for power, unit in enumerate("kmgtp", start=1)},
    **{unit + "ib": 1024**power for power, unit in enumerate("kmgtp", start=1)},
}


_AGE_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
_AGE_TERM = Pattern(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhdwy])")


def format_size(size_bytes: float) -> str:
    """Return a size for people: three significant digits in powers of 1000, as docker prints."""
    value = float(size_bytes)
    for unit in _DECIMAL:
        if abs(value) < 999.5 or unit == _DECIMAL[-1]:
            return f"{value:.3g}{unit}" if unit != "B" else f"{value:.0f}B"
        value /= 1000
    raise AssertionError("unreachable")


def parse_size(text: str) -> int:
    """Return bytes for ``512m``, ``1.5g``, ``2GiB`` or ``4096``, binary as docker's limits are.

    Raises:
        InputError: Not a number with an optional unit.
    """
    stripped = text.strip().lower()
    digits = stripped.rstrip("bikmgtp")
    factor = _FACTORS.get(stripped[len(digits) :])
    try:
        value = float(digits)
    except ValueError:
        value = -1.0
    if factor is None or not 0 <= value < float("inf"):
        raise InputError(f"{text!r} is not a size", hint="write a number and b, k, m, g or t: 512m")
    return int(value * factor)


def format_duration(seconds: float) -> str:
    """Return a duration for people: ``0.4s``, ``12.3s``, ``2m05s``."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s"


def rfc3339(seconds: float) -> str:
    """Return a time in UTC, with microseconds where it has some.

    Rounded once, as caches that travel round it: a step's time is the same text everywhere.
    """
    whole, micro = divmod(round(seconds * 1_000_000), 1_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{text}.{micro:06d}Z" if micro else f"{text}Z"


def parse_age(text: str) -> float:
    """Return seconds for ``90m``, ``12h``, ``30d``, ``2w``, ``1y`` or several of them: ``1d12h``.

    Raises:
        InputError: Not that.
    """
    terms = _AGE_TERM.findall(text.strip().lower())
    if not terms or "".join(number + unit for number, unit in terms) != text.strip().lower():
        raise InputError(
            f"{text!r} is not an age", hint="write a number and s, m, h, d, w or y: 30d, 1d12h"
        )
    return sum(float(number) * _AGE_UNITS_S[unit] for number, unit in terms)
