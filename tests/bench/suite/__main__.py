"""Run all benchmarks, keep what they measured, and make the page of it.

    python -m tests.bench.suite [--quick] [--all | --only NAME ...] [--results DIR] [--resume]
    python -m tests.bench.suite --report [--results DIR] [--against DIR]
    python -m tests.bench.suite --list

Results are kept in DIR, by default ``docs/performance``, and the page beside it (DIR.md).
``--report`` makes the page again of what is kept. One benchmark may be run again alone with
``--only`` on a quiet machine. What benchmarks print is in logs below the cache. Exits with 1 if
one failed. ``--against`` says which ratios are others than those kept in another directory, such
as ``docs/performance``, another machine's.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.harness import say
from tests.bench.suite import comparing
from tests.bench.suite.benchmarks import BENCHMARKS
from tests.bench.suite.inputs import missing_inputs
from tests.bench.suite.kept import best_of
from tests.bench.suite.page import write_page
from tests.bench.suite.running import Progress, Runner
from tests.bench.suite.surroundings import TOP, described

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.suite.kept import Kind
    from tests.bench.suite.table import Benchmark

RESULTS = Path("docs/performance")
CACHE = Path(".cache/bench")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests.bench.suite", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="some of them, few rounds")
    parser.add_argument("--all", action="store_true", help="also what only explores")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these alone; see --list")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are kept")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where inputs and logs are kept")
    parser.add_argument("--resume", action="store_true", help="go on where a run was interrupted")
    parser.add_argument("--report", action="store_true", help="make the page, run nothing")
    parser.add_argument("--against", type=Path, metavar="DIR", help="compare ratios with those")
    parser.add_argument("--list", action="store_true", help="show the table of benchmarks")
    given = parser.parse_args(arguments)
    known = [one.name for one in BENCHMARKS]
    for name in given.only or ():
        if name not in known:
            parser.error(f"no benchmark {name!r}: there are {', '.join(known)}")
    if given.quick and given.only:
        slow = [one.name for one in BENCHMARKS if one.name in given.only and one.quick is None]
        if slow:
            parser.error(f"no quick way to run {', '.join(slow)}: leave --quick out")
    return given


def chosen_of(given: argparse.Namespace) -> list[Benchmark]:
    """Return which benchmarks are meant: of a quick run those that have a quick way."""
    named = given.only or [one.name for one in BENCHMARKS if given.all or not one.explores]
    return [
        one
        for one in BENCHMARKS
        if one.name in named and (not given.quick or one.quick is not None)
    ]


def listed(benchmarks: Sequence[Benchmark]) -> str:
    """Return the table of benchmarks."""
    rows = [
        (
            one.name,
            f"{one.minutes[0]:g}",
            "-" if one.quick is None else f"{one.minutes[1]:g}",
            f"{'(with --all) ' if one.explores else ''}{one.question}",
        )
        for one in benchmarks
    ]
    width = max(len(row[0]) for row in rows)
    return "\n".join(
        f"{name:{width}} {full:>5} {quick:>5}  {question}"
        for name, full, quick, question in [("benchmark", "min", "quick", "question"), *rows]
    )


def run_all(chosen: Sequence[Benchmark], given: argparse.Namespace) -> int:
    """Run what is chosen; return how many failed."""
    kind: Kind = "quick" if given.quick else "full"
    needed = dict.fromkeys(name for one in chosen for name in one.inputs_of(kind))
    absent = missing_inputs(TOP / given.cache, list(needed))
    for line in described(chosen, TOP / given.cache, inputs_missing=bool(absent)):
        say(line)
    minutes = max(1, sum(one.minutes[given.quick] for one in chosen))
    say(f"{len(chosen)} to run, about {minutes:.0f} minutes on two idle processors")
    if absent:
        say(f"before that, inputs are made: {', '.join(absent)}")
    runner = Runner(given.cache, TOP / given.results, kind)
    with runner.place.held() as left:
        for found in left:
            say(f"left by an interrupted run, and gone now: {found}")
        progress = Progress.begin(TOP / given.cache / "progress.json", kind, resume=given.resume)
        for number, one in enumerate(chosen, 1):
            if one.name in progress.done:
                say(f"[{number}/{len(chosen)}] {one.name}: measured before")
                continue
            say(f"[{number}/{len(chosen)}] {one.name}, about {one.minutes[given.quick]:g} minutes")
            progress.note(one.name, runner.run(one))
        outcomes = [progress.done[one.name] for one in chosen]
        progress.end()
    said = {how: outcomes.count(how) for how in ("measured", "failed", "left out")}
    say(", ".join(f"{count} {how}" for how, count in said.items() if count))
    return said["failed"]


def main() -> int:
    given = parse_arguments()
    if given.list:
        print(listed(BENCHMARKS))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        failed = 0 if given.report else run_all(chosen_of(given), given)
        say(f"written: {write_page(TOP / given.results, BENCHMARKS)}")
        if given.against:
            names = [one.name for one in BENCHMARKS]
            places = (TOP / given.results, TOP / given.against)
            print(comparing.report(BENCHMARKS, *(best_of(place, names) for place in places)))
    except KeyboardInterrupt:
        say("interrupted: --resume goes on from here")
        return 130
    except ValueError as err:
        say(f"error: {err}")
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
