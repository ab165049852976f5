"""What many rebuilds store. Builders work at the same time: bytes count here, no seconds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.bench.harness import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.builds.builders import Builder
    from tests.bench.builds.packages import PackageCache
    from tests.bench.builds.project import Project

_FIRST = 1000
"""So that no change is one that was measured before."""


@dataclass(frozen=True)
class Stored:
    """Bytes on the disk of one builder's store, base included.

    Attributes:
        first: After the first build.
        last: After all rebuilds.
        pruned: After its own way of removing what no named image needs.
    """

    builder: str
    rebuilds: int
    first: int
    last: int
    pruned: int


def measure_rebuilds(
    builders: Sequence[Builder], project: Project, count: int, packages: PackageCache
) -> list[Stored]:
    """Rebuild a project with a change each time: of a source file, and of a step in turn."""

    def everywhere() -> None:
        with ThreadPoolExecutor(len(builders)) as pool:
            for done in [
                pool.submit(builder.build, project.context, project.name, packages.url)
                for builder in builders
            ]:
                done.result()

    for builder in builders:
        builder.empty()
    everywhere()
    first = {builder.name: builder.stored() for builder in builders}
    for number in range(_FIRST, _FIRST + count):
        if number % 2:
            project.change_late_step(number)
        else:
            project.change_source(number)
        say(f"rebuild {number - _FIRST + 1} of {count}")
        everywhere()
    last = {builder.name: builder.stored() for builder in builders}
    for builder in builders:
        builder.prune()
    return [
        Stored(each.name, count, first[each.name], last[each.name], each.stored())
        for each in builders
    ]
