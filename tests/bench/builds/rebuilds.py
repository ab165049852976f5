"""What many rebuilds store. Builders work at the same time: bytes count here, no seconds.

Each has a copy of the project and waits for nobody, so that both processors have work to the end.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tests.bench.harness import say

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

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
    builders: Sequence[Builder], project: Project, count: int, packages: PackageCache, work: Path
) -> list[Stored]:
    """Rebuild a project with a change each time: of a source file, and of a step in turn.

    Args:
        work: A new directory for the copies of the project.
    """
    work.mkdir()

    def rebuilt(number: int) -> Stored:
        builder, own = builders[number], copied(project, work / str(number))
        builder.empty()
        builder.build(own.context, own.name, packages.url)
        first = builder.stored()
        for change in range(_FIRST, _FIRST + count):
            if change % 2:
                own.change_late_step(change)
            else:
                own.change_source(change)
            builder.build(own.context, own.name, packages.url)
        last = builder.stored()
        builder.prune()
        say(f"{builder.name}: {count} rebuilds done")
        return Stored(builder.name, count, first, last, builder.stored())

    try:
        with ThreadPoolExecutor(len(builders)) as pool:
            return list(pool.map(rebuilt, range(len(builders))))
    finally:
        shutil.rmtree(work)


def copied(project: Project, context: Path) -> Project:
    """Return a copy of a project."""
    shutil.copytree(project.context, context, symlinks=True)
    source = context / project.source.relative_to(project.context)
    return replace(project, context=context, source=source)
