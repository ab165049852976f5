"""Tables and bars of the builds."""

from __future__ import annotations

import os
import statistics
from typing import TYPE_CHECKING

from tests.bench.bars import Bar
from tests.bench.builds.cases import CACHED
from tests.bench.harness import environment, grid, megabytes
from tests.bench.result import Result

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.bench.builds.cases import Measured
    from tests.bench.builds.rebuilds import Stored

OURS = "layerstore"
CACHED_FACTOR = 3.0
BYTES_SHARE = 0.1
_SHOWN_DIFFERENCES = 5


def median(each: Measured, attribute: str) -> float:
    return statistics.median(getattr(run, attribute) for run in each.runs)


def print_report(
    versions: Mapping[str, str],
    measured: Sequence[Measured],
    stored: Sequence[Stored],
    differences: Mapping[str, Sequence[str]],
) -> None:
    """Print everything that was measured, and what it means."""
    facts = environment()
    print(f"{facts['kernel']}, {facts['cpus']} CPUs, load {os.getloadavg()[0]:.1f}, {facts['at']}")
    for name, version in versions.items():
        print(f"  {name}: {version}")
    print(
        "Page cache warm; layerstore forces every finished step to the disk, BuildKit its\n"
        "records, docker's classic builder and buildah nothing. CPU includes daemons, containers\n"
        "and all their processes. Medians of the rounds; ratios are to layerstore's.\n"
    )
    rows = _rows(measured)
    print(grid(["project, case", "builder", "runs", "wall s", "ratio", "CPU s", "ratio"], rows))
    if stored:
        print()
        print(grid(_STORED_HEAD, [_stored_row(each) for each in stored]))
    print()
    for project, lines in differences.items():
        print(f"{project}: " + ("all images agree" if not lines else f"{len(lines)} differences"))
        for line in lines[:_SHOWN_DIFFERENCES]:
            print(f"  {line}")
    print()
    for bar in verdicts(measured, stored):
        print(bar)


_STORED_HEAD = ["stored, MB", "first build", "rebuilds", "after all", "pruned"]


def _stored_row(each: Stored) -> list[str]:
    sizes = [megabytes(size) for size in (each.first, each.last, each.pruned)]
    return [each.builder, sizes[0], str(each.rebuilds), *sizes[1:]]


def _rows(measured: Sequence[Measured]) -> list[list[str]]:
    rows = []
    for each in measured:
        ours = _of(measured, each.project, each.case, OURS)
        row = [f"{each.project}, {each.case}", each.builder, str(len(each.runs))]
        for attribute in ("wall_seconds", "cpu_seconds"):
            value = median(each, attribute)
            row.append(f"{value:.3f}" if value < 1 else f"{value:.2f}")
            row.append(f"{value / median(ours, attribute):.2f}" if ours else "")
        rows.append(row)
    return rows


def _of(measured: Sequence[Measured], project: str, case: str, builder: str) -> Measured | None:
    for each in measured:
        if (each.project, each.case, each.builder) == (project, case, builder):
            return each
    return None


def result_of(
    versions: Mapping[str, str],
    measured: Sequence[Measured],
    stored: Sequence[Stored],
    differences: Mapping[str, Sequence[str]],
) -> Result:
    """Return everything in the form that is kept; cases of the made project by their own names."""
    result = Result(dict(versions))
    first = measured[0].project if measured else ""
    for each in measured:
        group = each.case if each.project == first else f"{each.project}, {each.case}"
        result.add(group, each.builder, "time", "s", [run.wall_seconds for run in each.runs])
        result.add(group, each.builder, "CPU", "s", [run.cpu_seconds for run in each.runs])
    for each in stored:
        after = f"after {each.rebuilds} rebuilds"
        sizes = {"first build": each.first, after: each.last, "pruned": each.pruned}
        for group, size in sizes.items():
            result.add(group, each.builder, "disk", "B", [size])
    for project, lines in differences.items():
        said = "agree" if not lines else f"differ in {len(lines)} places"
        result.notes.append(f"{project}: the builders' images {said}.")
    for bar in verdicts(measured, stored):
        result.promise(bar.what, bar.wanted, bar.measured or "not measured", met=bar.met)
    return result


def verdicts(measured: Sequence[Measured], stored: Sequence[Stored]) -> list[Bar]:
    """Return every bar that these measurements decide."""
    bars = []
    for project, case in dict.fromkeys((each.project, each.case) for each in measured):
        ours = _of(measured, project, case, OURS)
        peers = [
            each
            for each in measured
            if (each.project, each.case) == (project, case) and each.builder != OURS
        ]
        if ours is not None and peers:
            factor = CACHED_FACTOR if case == CACHED else 1.0
            bars.append(_faster(f"{project}, {case}", ours, peers, factor))
    ours_stored = [each for each in stored if each.builder == OURS]
    docker = [each for each in stored if each.builder.startswith("docker")]
    if ours_stored and docker:
        bars.append(_smaller(ours_stored[0], docker))
    return bars


def _faster(what: str, ours: Measured, peers: Sequence[Measured], factor: float) -> Bar:
    ratio, best = min((_times_as_fast(ours, each), each.builder) for each in peers)
    wanted = f"at least {factor:g} times as fast" if factor > 1 else "faster than each"
    return Bar(what, wanted, f"{ratio:.2f} times as fast as {best}", ratio > factor)


def _times_as_fast(ours: Measured, peer: Measured) -> float:
    """Return the ratio of times, taken round by round as the page's tables have it."""
    here = [run.wall_seconds for run in ours.runs]
    there = [run.wall_seconds for run in peer.runs]
    if len(here) != len(there):
        here, there = [statistics.median(here)], [statistics.median(there)]
    return statistics.median(one / other for one, other in zip(there, here, strict=True))


def _smaller(ours: Stored, docker: Sequence[Stored]) -> Bar:
    best = min(docker, key=lambda each: each.last)
    share = ours.last / best.last
    return Bar(
        f"bytes stored after {ours.rebuilds} rebuilds",
        f"at most {BYTES_SHARE:g} of docker's",
        f"{megabytes(ours.last)} MB, {share:.3f} of {best.builder}'s {megabytes(best.last)}",
        share <= BYTES_SHARE,
    )
