"""Turns: every thing once, in order, and sizes that follow how long turns take."""

from __future__ import annotations

import pytest

from layerstore.store.locks import pacing
from layerstore.store.locks.pacing import TURN_S, Pace, turns


class Clock:
    def __init__(self, seconds_a_thing: float) -> None:
        self.now = 0.0
        self.cost = seconds_a_thing

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize("cost", [0.0, TURN_S / 1000, TURN_S / 10, 10 * TURN_S])
@pytest.mark.parametrize("count", [0, 1, 255, 5000])
def test_every_thing_comes_once_and_turns_fit(monkeypatch, cost: float, count: int) -> None:
    clock = Clock(cost)
    monkeypatch.setattr(pacing, "time", clock)
    sizes: list[int] = []
    seen: list[int] = []
    for some in turns(range(count), Pace(64)):
        seen += some
        sizes.append(len(some))
        clock.now += clock.cost * len(some)
    assert seen == list(range(count))
    settled = sizes[10:-1]
    assert all(size * cost <= TURN_S or size == 1 for size in settled)
    if settled and cost:
        assert all(2 * (size + 1) * cost >= TURN_S / 2 for size in settled)
