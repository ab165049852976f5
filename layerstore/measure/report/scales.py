"""Axes: which values get a line, and where things go that would lie upon each other."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_STEPS = (1, 2, 2.5, 5, 10)


def ticks(largest: float, most: int = 5) -> list[float]:
    """Return round values from 0 up to the first at or above ``largest``, at most ``most`` + 1."""
    if largest <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(largest / most))
    step = next(s * power for s in _STEPS if s * power * most >= largest)
    count = math.ceil(largest / step - 1e-9)
    return [step * index for index in range(count + 1)]


def count_ticks(count: int, most: int) -> list[int]:
    """Return which of 1 to ``count`` get a number: the first, the last, round ones between."""
    if count <= most:
        return list(range(1, count + 1))
    step = next(
        step
        for power in range(12)
        for step in (10**power, 2 * 10**power, 5 * 10**power)
        if count / step <= most - 1
    )
    inner = [value for value in range(step, count, step) if count - value >= step * 0.6]
    return [*([1] if step > 1 else []), *inner, count]


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move values apart until each is ``gap`` from the next, in their order, within bounds.

    Values that do not fit at all end below ``low``; the caller gives room enough.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed = [0.0] * len(wanted)
    floor = low
    for index in order:
        placed[index] = max(wanted[index], floor)
        floor = placed[index] + gap
    ceiling = high
    for index in reversed(order):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - gap
    return placed
