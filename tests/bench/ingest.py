"""Ingest benchmark: the same trees into layerstore and into its peers, in the same run.

    python -m tests.bench.ingest [--tree DIR | --tar FILE] [--second DIR] [-n ROUNDS] [--json FILE]

Stores a Debian root file system (``first``), the same once more, unchanged (``again``), and then
a related one (``second``), all into the same repository, and prints medians of CPU seconds (user
+ system of the whole process tree), wall seconds, peak memory and bytes on disk, as absolute
figures and as multiples of ``tar -c | zstd -3``. Rounds are interleaved: each contender runs
once per round. ``bare import`` is layerstore without decode-and-compare and without the
OCI digests of layers (:mod:`tests.bench.bare_import`).
Method and limits: tests/bench/README.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.bench.contenders import CONTENDERS, REFERENCE, Contender, found
from tests.bench.harness import (
    Series,
    absolute,
    disk_bytes,
    environment,
    fresh,
    grid,
    interleave,
    megabytes,
    run_costed,
    say,
    warm,
)
from tests.bench.related import make_related
from tests.bench.result import Result
from tests.bench.trees import copy, pack, unpack_or_copy

CPU_TARGETS = {
    "layerstore import DIR": 1.6,
    "layerstore import TAR": 1.6,
    "bare import DIR": 1.2,
    "bare import TAR": 1.2,
}
AGAIN_TARGET = 0.15
"""Of the CPU of adding it first: what adding an unchanged directory again may cost."""
UNCHANGED = "layerstore import DIR"
RSS_TARGET_BYTES = 300e6


class Bench:
    """The trees, the contenders that are here, and their runs."""

    def __init__(self, work: Path, trees: dict[str, Path], contenders: list[Contender]) -> None:
        self.work = work
        self.trees = trees
        self.contenders = contenders
        self.series = {
            (contender.name, task): Series(contender.name, task)
            for task in trees
            for contender in contenders
        }

    def round_of(self, contender: Contender) -> None:
        """Fill a fresh repository with all trees, in order, and remove it."""
        repo = self.work / "repo"
        contender.start(repo)
        for task, tree in self.trees.items():
            source = tree.with_suffix(".tar") if contender.reads_tar else tree
            cost = contender.put(repo, source, task)
            series = self.series[contender.name, task]
            series.runs.append(cost)
            series.disk_allocated, series.disk_apparent = disk_bytes(repo)
            say(f"  {contender.name:24} {task:8} {cost.cpu_seconds:6.2f} s CPU")
        shutil.rmtree(repo)

    def warm_up(self) -> None:
        """Let everybody store a tiny tree once, so that no first run pays for the disk."""
        tiny = fresh(self.work / "tiny")
        (tiny / "file").write_text("tiny\n")
        pack(tiny, tiny.with_suffix(".tar"))
        for contender in self.contenders:
            contender.start(self.work / "repo")
            source = tiny.with_suffix(".tar") if contender.reads_tar else tiny
            contender.put(self.work / "repo", source, "tiny")

    def run(self, rounds: int) -> None:
        """Measure everything ``rounds`` times."""
        self.warm_up()
        tasks = [lambda one=one: self.round_of(one) for one in self.contenders]
        interleave(rounds, tasks, say=say)


def prepare_trees(work: Path, given: argparse.Namespace) -> dict[str, Path]:
    """Return the first and the second tree, each with a tar beside it, below ``work``."""
    first, second = work / "first", work / "second"
    unpack_or_copy(given, work, first)
    if given.second:
        copy(given.second, second)
    else:
        make_related(first, second)
    for tree in (first, second):
        pack(tree, tree.with_suffix(".tar"))
        say(f"{tree.name}: {megabytes(warm(tree))} MB in files, read once")
    return {"first": first, "again": first, "second": second}


def choose(only: list[str] | None) -> tuple[list[Contender], dict[str, str], list[str]]:
    """Return who takes part, their versions, and who is missing."""
    return found(
        contender
        for contender in CONTENDERS
        if not only or contender.name == REFERENCE or any(o in contender.name for o in only)
    )


def report(bench: Bench, versions: dict[str, str], missing: list[str]) -> str:
    """Return the tables for people."""
    parts = []
    for task in bench.trees:
        base = bench.series[REFERENCE, task]
        rows = [_row(bench.series[one.name, task], base) for one in bench.contenders]
        head = (task, "CPU s", "spread", "x", "wall s", "peak MB", "disk MB", "x")
        parts.append(grid(head, rows))
    floor = run_costed(["true"]).rss_bytes
    parts.append(
        "\n".join(f"{name}: {version}" for name, version in versions.items())
        + "".join(f"\n{name}: not installed, skipped" for name in missing)
    )
    where = environment()
    parts.append(
        f"disk is the repository after this tree; x is against {REFERENCE!r} in the same run; "
        f"peak memory is the largest process, at least {megabytes(floor)} MB by this method\n"
        f"{where['kernel']}, {where['cpus']} CPUs, load {where['load_average']}, {where['at']}"
    )
    return "\n\n".join(parts)


def _row(series: Series, base: Series) -> tuple[str, ...]:
    cpu, (low, high) = series.median("cpu_seconds"), series.spread("cpu_seconds")
    return (
        series.name,
        f"{cpu:.2f}",
        f"{low:.2f}-{high:.2f}",
        f"{cpu / base.median('cpu_seconds'):.2f}",
        f"{series.median('wall_seconds'):.2f}",
        megabytes(series.median("rss_bytes")),
        megabytes(series.disk_allocated),
        f"{series.disk_allocated / base.disk_allocated:.2f}",
    )


def missed_targets(bench: Bench) -> list[str]:
    """Return one sentence for each target that layerstore did not reach."""
    missed = []
    for name, target in CPU_TARGETS.items():
        series = bench.series.get((name, "first"))
        if series is None or not series.runs:
            missed.append(f"{name}: not measured")
            continue
        base = bench.series[REFERENCE, "first"].median("cpu_seconds")
        ratio = series.median("cpu_seconds") / base
        if ratio > target:
            missed.append(f"{name}: {ratio:.2f} times the CPU of {REFERENCE!r}, over {target}")
        if series.median("rss_bytes") > RSS_TARGET_BYTES:
            peak = megabytes(series.median("rss_bytes"))
            missed.append(f"{name}: {peak} MB of memory, over {megabytes(RSS_TARGET_BYTES)}")
    share = share_of_again(bench)
    if share is not None and share > AGAIN_TARGET:
        missed.append(f"{UNCHANGED}: again costs {share:.0%} of first, over {AGAIN_TARGET:.0%}")
    return missed


def result_of(bench: Bench, versions: dict[str, str], missing: list[str]) -> Result:
    """Return every run, and what became of the promises."""
    result = Result(versions, missing=missing)
    for (name, task), series in bench.series.items():
        result.add(task, name, "CPU", "s", [run.cpu_seconds for run in series.runs])
        result.add(task, name, "time", "s", [run.wall_seconds for run in series.runs])
        result.add(task, name, "memory", "B", [run.rss_bytes for run in series.runs])
        result.add(task, name, "disk", "B", [series.disk_allocated])
    base = bench.series[REFERENCE, "first"]
    for name, target in CPU_TARGETS.items():
        series = bench.series.get((name, "first"))
        if series is None or not series.runs:
            continue
        ratio = series.median("cpu_seconds") / base.median("cpu_seconds")
        wanted = f"at most {target:g} times the CPU of {REFERENCE}"
        result.promise(name, wanted, f"{ratio:.2f} times", met=ratio <= target)
        peak = series.median("rss_bytes")
        wanted = f"at most {megabytes(RSS_TARGET_BYTES)} MB of memory"
        result.promise(name, wanted, f"{megabytes(peak)} MB", met=peak <= RSS_TARGET_BYTES)
    share = share_of_again(bench)
    if share is not None:
        wanted = f"at most {AGAIN_TARGET:.0%} of the first time's CPU"
        result.promise(f"{UNCHANGED}, unchanged", wanted, f"{share:.1%}", met=share <= AGAIN_TARGET)
    floor = megabytes(run_costed(["true"]).rss_bytes)
    result.notes.append(f"Memory is that of the largest process, at least {floor} MB this way.")
    return result


def share_of_again(bench: Bench) -> float | None:
    """Return what adding the unchanged directory again costs, as a part of adding it first."""
    first, again = (bench.series.get((UNCHANGED, task)) for task in ("first", "again"))
    if not first or not again or not first.runs or not again.runs:
        return None
    return again.median("cpu_seconds") / first.median("cpu_seconds")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.bench.ingest", description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--tree", type=Path, help="root file system to ingest")
    source.add_argument("--tar", type=Path, help="the same as a tar file")
    parser.add_argument(
        "--second", type=Path, help="related tree (default: derived from the first)"
    )
    parser.add_argument("-n", "--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", help="contenders whose name holds this text")
    parser.add_argument(
        "--work", type=absolute, help="where to work (default: a temporary directory)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run there")
    parser.add_argument("--gate", action="store_true", help="exit 1 when a target is missed")
    return parser.parse_args()


def main() -> int:
    given = parse_arguments()
    contenders, versions, missing = choose(given.only)
    work = Path(tempfile.mkdtemp(prefix="layerstore-bench-", dir=given.work))
    try:
        os.environ["BORG_BASE_DIR"] = str(work / "borg-home")
        bench = Bench(work, prepare_trees(work, given), contenders)
        bench.run(given.rounds)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    missed = missed_targets(bench)
    if given.json:
        result_of(bench, versions, missing).write(given.json)
    print(report(bench, versions, missing))
    share = share_of_again(bench)
    if share is not None:
        print(f"\n{UNCHANGED}: again costs {share:.1%} of first")
    print("\n".join(f"MISSED: {sentence}" for sentence in missed) or "targets met")
    return 1 if missed and given.gate else 0


if __name__ == "__main__":
    sys.exit(main())
