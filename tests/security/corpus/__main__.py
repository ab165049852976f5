"""``python -m tests.security.corpus``: runs the corpus and prints what came of it.

``--long`` adds the cases at full size; ``--run CLASS`` prints results as JSON lines, which is
what the tests call; ``--only A07`` shows everything that came of one entry.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter

from tests.security.corpus.listing import ABSENT, CLASSES, ELSEWHERE, ENTRIES
from tests.security.corpus.runner import Outcome, Result, compile_ahead, run_batch


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.security.corpus", description=__doc__)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--run", metavar="CLASS", help="one class, as JSON lines")
    parser.add_argument("--needs", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--only", metavar="ENTRY", help="one entry, with everything it did")
    arguments = parser.parse_args()
    if arguments.run:
        cases = _cases(arguments.run, long=arguments.long)
        if arguments.needs is not None:
            cases = [case for case in cases if ",".join(case.needs) == arguments.needs]
        for result in run_batch(cases):
            print(json.dumps(result), flush=True)
        return 0
    compile_ahead()
    return _only(arguments.only) if arguments.only else _table(long=arguments.long)


def _cases(name: str, *, long: bool):
    from tests.security.corpus.cases import cases_of

    return [case for case in cases_of(name) if long or not case.long]


def _only(entry: str) -> int:
    failed = False
    for result in run_batch([case for case in _cases(entry[0], long=True) if case.entry == entry]):
        print(f"{result.entry} {result.name}: {result.cpu_seconds:.2f} s, "
              f"{result.peak_bytes >> 20} MiB")  # fmt: skip
        for outcome in result.outcomes:
            print(f"    {outcome.entrance}: {outcome.letter} {outcome.message}")
        for fault in result.faults:
            print(f"    FAULT {fault}")
        failed = failed or bool(result.faults)
    return 1 if failed else 0


def _table(*, long: bool) -> int:
    print(f"{'CLASS':<24}{'ENTRIES':>8}{'TESTED':>8}{'NO WAY IN':>11}{'CASES':>7}"
          f"{'R':>6}{'S':>6}{'L':>6}{'CPU':>8}{'PEAK':>9}{'FAULTS':>8}")  # fmt: skip
    faults = []
    totals: Counter[str] = Counter()
    for letter, title in CLASSES.items():
        entries = [entry for entry in ENTRIES if entry.id[0] == letter]
        results = _in_a_process(letter, long=long)
        letters = Counter(outcome.letter for result in results for outcome in result.outcomes)
        row = {
            "entries": len(entries),
            "tested": len({result.entry for result in results} - {""})
            + sum(entry.id in ELSEWHERE for entry in entries),
            "absent": sum(entry.id in ABSENT for entry in entries),
            "cases": len(results), "R": letters["R"], "S": letters["S"], "L": letters["L"],
            "faults": sum(bool(result.faults) for result in results),
        }  # fmt: skip
        cpu = sum(result.cpu_seconds for result in results)
        peak = max((result.peak_bytes for result in results), default=0)
        print(_row(f"{letter} {title}", row, f"{cpu:.1f} s", f"{peak >> 20} MiB"), flush=True)
        totals.update(row)
        faults += [result for result in results if result.faults]
    print(_row("all", totals, "", ""))
    for entry, why in ABSENT.items():
        print(f"no way in: {entry}: {why}")
    for result in faults:
        print(f"FAULT {result.entry} {result.name}: {'; '.join(result.faults)}")
    return 1 if faults else 0


def _in_a_process(letter: str, *, long: bool) -> list[Result]:
    """Run a class apart: what its cases need in memory counts for them alone."""
    command = [sys.executable, "-m", "tests.security.corpus", "--run", letter]
    done = subprocess.run(
        [*command, "--long"] if long else command, stdout=subprocess.PIPE, check=True
    )
    results = []
    for line in done.stdout.splitlines():
        entry, name, outcomes, peak, cpu, faults = json.loads(line)
        found = tuple(Outcome(*outcome) for outcome in outcomes)
        results.append(Result(entry, name, found, peak, cpu, tuple(faults)))
    return results


def _row(title: str, row: dict[str, int], cpu: str, peak: str) -> str:
    return (
        f"{title:<24}{row['entries']:>8}{row['tested']:>8}{row['absent']:>11}{row['cases']:>7}"
        f"{row['R']:>6}{row['S']:>6}{row['L']:>6}{cpu:>8}{peak:>9}{row['faults']:>8}"
    )


if __name__ == "__main__":
    sys.exit(main())
