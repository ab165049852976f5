"""The cases that are measured: what changed since the last build, in interleaved rounds."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.bench.harness import Cost, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.builds.builders import Builder
    from tests.bench.builds.packages import PackageCache
    from tests.bench.builds.project import Project

COLD = "cold"
CACHED = "cached"
SOURCE = "one source file"
EARLY = "one early step"
CASES = (COLD, CACHED, SOURCE, EARLY)
EXAMPLE_CASES = (COLD, CACHED, SOURCE)

CACHED_BUILDS = 2
"""In each round: they are short, and others are not."""

_SETTLED_SECONDS = 2.1
"""Between a change and the builds: nobody here may profit from files that are just written."""


@dataclass
class Measured:
    """One builder's runs of one case."""

    project: str
    case: str
    builder: str
    runs: list[Cost] = field(default_factory=list)


def measure_cases(
    builders: Sequence[Builder],
    project: Project,
    cases: Sequence[str],
    rounds: int,
    packages: PackageCache,
) -> list[Measured]:
    """Measure cases of a project with every builder in turn, round by round."""
    found = {
        (case, builder.name): Measured(project.name, case, builder.name)
        for case in cases
        for builder in builders
    }
    for number in range(rounds):
        say(f"{project.name}: round {number + 1} of {rounds}")
        for case in cases:
            _prepare(case, project, number)
            for _ in range(CACHED_BUILDS if case == CACHED else 1):
                for builder in builders:
                    cost = _built(builder, project, packages, is_cold=case == COLD)
                    found[case, builder.name].runs.append(cost)
                    say(f"  {case}, {builder.name}: {cost.wall_seconds:.2f} s")
    return list(found.values())


def _prepare(case: str, project: Project, number: int) -> None:
    if case == SOURCE:
        project.change_source(number)
    elif case == EARLY:
        project.change_early_step(number)
    time.sleep(_SETTLED_SECONDS)


def _built(builder: Builder, project: Project, packages: PackageCache, *, is_cold: bool) -> Cost:
    """Build, again if packages came from the network meanwhile."""
    while True:
        if is_cold:
            builder.empty()
        fetched = packages.fetched
        cost = builder.build(project.context, project.name, packages.url)
        if packages.fetched == fetched or not is_cold:
            return cost
