"""What the rounds say: speeds against a reference, and the bars.

A speed is the reference's seconds divided by the contender's, round by round; what is printed
is the median of the rounds, so that what else the machine did in a round hits both. 1 is as
fast, 2 twice as fast.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, NamedTuple

from tests.bench.harness import grid
from tests.bench.result import Result

if TYPE_CHECKING:
    from collections.abc import Sequence

REFERENCE = "overlay2"
DEFAULT_VIEW = "kernel view"
LOADS = ("python", "node", "compile")
WARM_LEAST = 0.95
WARM_LEAST_STAT = 0.8
COLD_LEAST = 1 / 1.3
"""A cold load may take 1.3 times as long."""

WALL, CPU = "wall_seconds", "cpu_seconds"


class Sample(NamedTuple):
    """One job in one place in one round.

    Attributes:
        state: ``warm`` or ``cold``.
    """

    contender: str
    column: str
    state: str
    round: int
    wall_seconds: float
    cpu_seconds: float


class Results:
    """All samples of a run, by what they are of."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._by: dict[tuple[str, str, str], dict[int, Sample]] = {}
        for sample in samples:
            key = (sample.contender, sample.column, sample.state)
            self._by.setdefault(key, {})[sample.round] = sample
        self.contenders = list(dict.fromkeys(sample.contender for sample in samples))
        self.columns = list(dict.fromkeys(sample.column for sample in samples))

    def rounds(self, state: str) -> int:
        """Return how many rounds there were."""
        numbers = {n for (_, _, s), runs in self._by.items() if s == state for n in runs}
        return len(numbers)

    def seconds(self, contender: str, column: str, state: str, measure: str) -> float | None:
        """Return the median of a contender's seconds, None where nothing was measured."""
        runs = self._by.get((contender, column, state), {})
        return statistics.median(getattr(run, measure) for run in runs.values()) if runs else None

    def values(self, contender: str, column: str, state: str, measure: str) -> list[float]:
        """Return a contender's seconds in all rounds."""
        runs = self._by.get((contender, column, state), {})
        return [getattr(runs[number], measure) for number in sorted(runs)]

    def speeds(
        self, contender: str, column: str, state: str, measure: str, reference: str
    ) -> list[float]:
        """Return a contender's speeds against the reference in every round that has both."""
        ours = self._by.get((contender, column, state), {})
        theirs = self._by.get((reference, column, state), {})
        return [
            getattr(theirs[number], measure) / getattr(ours[number], measure)
            for number in ours
            if number in theirs
        ]


_WHATS = {WALL: "time", CPU: "CPU"}


def result_of_samples(samples: Sequence[Sample]) -> Result:
    """Return samples as figures, a group for each state and column, with what became of bars."""
    result = Result()
    results = Results(samples)
    for state in ("warm", "cold"):
        for column in results.columns:
            for contender in results.contenders:
                for measure, what in _WHATS.items():
                    values = results.values(contender, column, state, measure)
                    result.add(f"{state} {column}", contender, what, "s", values)
    for view in (name for name in results.contenders if name.startswith(DEFAULT_VIEW)):
        for bar in bars_of(results, view, WALL):
            said = "not measured" if bar.speed is None else f"{bar.speed:.2f}"
            what = f"{bar.contender}, {bar.state} {bar.column}, speed against {REFERENCE}"
            met = None if bar.speed is None else bar.met
            result.promise(what, f"at least {bar.least:.2f}", said, met=met)
    return result


def samples_of(result: Result) -> list[Sample]:
    """Return the samples that a result was made of."""
    samples = []
    for figure in result.figures:
        state, _, column = figure.group.partition(" ")
        other = result.find(figure.group, figure.who, _WHATS[CPU])
        if figure.what == _WHATS[WALL] and other is not None:
            pairs = enumerate(zip(figure.values, other.values, strict=True))
            samples += [Sample(figure.who, column, state, n, *both) for n, both in pairs]
    return samples


class Bar(NamedTuple):
    """One promise and what came of it; ``speed`` is None when it was not measured."""

    contender: str
    column: str
    state: str
    least: float
    speed: float | None

    @property
    def met(self) -> bool:
        return self.speed is not None and self.speed >= self.least

    def __str__(self) -> str:
        verdict = "met" if self.met else "NOT MET"
        said = "not measured" if self.speed is None else f"{self.speed:.2f}"
        what = f"{self.contender}, {self.state} {self.column}"
        return f"{verdict:8}{what}: {said} of {REFERENCE}'s speed, wanted {self.least:.2f}"


def bars_of(results: Results, contender: str, measure: str) -> list[Bar]:
    """Return the bars for a view: warm in every column that was measured, cold in the loads."""
    found = []
    for column in results.columns:
        least = WARM_LEAST_STAT if column == "stat" else WARM_LEAST
        found.append(_bar(results, contender, column, "warm", least, measure))
    loads = [column for column in results.columns if column in LOADS]
    return found + [_bar(results, contender, one, "cold", COLD_LEAST, measure) for one in loads]


def _bar(
    results: Results, contender: str, column: str, state: str, least: float, measure: str
) -> Bar:
    speeds = results.speeds(contender, column, state, measure, REFERENCE)
    return Bar(contender, column, state, least, statistics.median(speeds) if speeds else None)


def table(results: Results, state: str, measure: str, reference: str) -> str:
    """Return speeds against the reference, half of their interquartile range behind them.

    The reference's own row holds its seconds.
    """
    rows = []
    for contender in results.contenders:
        cells = []
        for column in results.columns:
            if contender == reference:
                seconds = results.seconds(contender, column, state, measure)
                cells.append("-" if seconds is None else f"{seconds:.4f} s")
            else:
                cells.append(_cell(results.speeds(contender, column, state, measure, reference)))
        rows.append((contender, *cells))
    kind = "wall time" if measure == WALL else "CPU time"
    return grid((f"{state}, {kind}", *results.columns), rows)


def _cell(speeds: list[float]) -> str:
    if not speeds:
        return "-"
    return f"{statistics.median(speeds):.2f} ±{spread(speeds):.2f}"


def spread(values: Sequence[float]) -> float:
    """Return half of the interquartile range, 0 of fewer than two values."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2
