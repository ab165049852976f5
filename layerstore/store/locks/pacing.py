"""Long work in short turns: how much one turn under the catalog lock may take on.

Other writers of every process wait while a turn lasts. The clock decides how much is
done at a time, never what is done.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TURN_S = 0.15
"""Seconds that a turn aims at: a sixth of the second that writers wait at most."""

_FIRST = 256
_MAX = 20_000

T = TypeVar("T")


class Pace:
    """Doubles or halves the size of turns until they take about ``TURN_S``."""

    def __init__(self, first: int = _FIRST) -> None:
        self.size = first
        self._begun = 0.0

    def begin(self) -> None:
        """Note that a turn begins."""
        self._begun = time.monotonic()

    def end(self) -> None:
        """Note that a turn of ``size`` things ended."""
        took = time.monotonic() - self._begun
        if took > TURN_S:
            self.size = max(1, self.size // 2)
        elif took < TURN_S / 2:
            self.size = min(_MAX, self.size * 2)


def turns(things: Sequence[T], pace: Pace) -> Iterator[Sequence[T]]:
    """Yield slices of ``things``; each is one turn, which ends when the next is asked for."""
    start = 0
    while start < len(things):
        part = things[start : start + pace.size]
        pace.begin()
        yield part
        pace.end()
        start += len(part)
