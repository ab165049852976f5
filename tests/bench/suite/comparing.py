"""Whether two machines, or two days, gave the same ratios.

What is compared are the ratios that tables show: how many times a reference's something is. They
should be the same where absolute times are not.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, NamedTuple

from tests.bench.suite.cells import digits, ratio_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.bench.result import Result
    from tests.bench.suite.kept import Kept
    from tests.bench.suite.table import Benchmark

ALIKE = 1.25
"""Ratios within this factor of each other count as the same; runs of few rounds scatter so."""

Names = tuple[str, str, str]
"""Group, who and what."""


class Difference(NamedTuple):
    """A ratio that is another here and there."""

    names: Names
    here: float
    there: float


def ratios(benchmark: Benchmark, result: Result) -> dict[Names, float]:
    """Return the ratios that a benchmark's tables show."""
    found = {}
    for table in benchmark.tables:
        if table.show == "value":
            continue
        for figure in result.figures:
            names = (figure.group, figure.who, figure.what)
            is_shown = all(getattr(figure, axis) in only for axis, only in table.only.items())
            reference = result.find(figure.group, table.against, figure.what)
            if not is_shown or reference is None or reference is figure:
                continue
            ratio = ratio_of(figure, reference, table.show)
            if ratio is not None and ratio.middle > 0:
                found[names] = ratio.middle
    return found


def differences(
    here: Mapping[Names, float], there: Mapping[Names, float]
) -> tuple[int, float, list[Difference]]:
    """Return how many ratios both have, the median of here/there, and which are not alike."""
    both = [names for names in here if names in there]
    if not both:
        return 0, 1.0, []
    quotients = {names: here[names] / there[names] for names in both}
    apart = [
        Difference(names, here[names], there[names])
        for names in both
        if not 1 / ALIKE <= quotients[names] <= ALIKE
    ]
    return len(both), statistics.median(quotients.values()), apart


def report(
    benchmarks: Sequence[Benchmark], here: Mapping[str, Kept], there: Mapping[str, Kept]
) -> str:
    """Return what is the same and what is not, for people."""
    lines = []
    for each in benchmarks:
        if each.name not in here or each.name not in there:
            continue
        count, middle, apart = differences(
            ratios(each, here[each.name].result), ratios(each, there[each.name].result)
        )
        if not count:
            continue
        alike = count - len(apart)
        lines.append(
            f"{each.name}: {alike} of {count} ratios alike, median of here/there {middle:.2f}"
        )
        lines += [
            f"    {', '.join(names)}: {digits(one)} here, {digits(other)} there"
            for names, one, other in apart
        ]
    return "\n".join(lines) or "nothing that both have"
