"""Reads through every way to show one root file system, here and by others, interleaved.

    python -m tests.bench.paths [--work DIR] [-n ROUNDS] [--cold-rounds N] [--quick]
        [--columns NAME,...] [--contenders NAME,...] [--json FILE] [--gate]
    python -m tests.bench.paths --from FILE [--by cpu] [--against plain] [--gate]

Makes a Debian root file system with Python, node, gcc and large packages (kept in DIR, by default
.cache/bench), gives it to everybody who is installed, and does the same jobs in every place: list
all directories, stat everything, read small files, read large ones, read 4 KiB at random
places, and three programs. Warm means that the job was done there before; cold that
the kernel's caches were dropped and servers started anew just before. What no promise
hangs on has fewer rounds, and slow contenders have one. Prints speeds against
docker's overlay2 and whether the default view keeps its promises. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from layerstore.errors import LayerstoreError
from layerstore.linux import mounts, namespaces
from tests.bench.harness import CommandError, absolute, say
from tests.bench.paths import report
from tests.bench.paths.contenders import Contender, contenders, make_store, new_place
from tests.bench.paths.jobs import COLUMNS, Column, Prober
from tests.bench.paths.root import make_root
from tests.bench.result import Result, result_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.bench.paths.jobs import Cost

WARM_ROUNDS = 9
COLD_ROUNDS = 3
QUICK_ROUNDS = 3
UNPROMISED_ROUNDS = {"warm": 3, "cold": 2}
"""At most, of what no promise hangs on."""
LONG_SECONDS = 5.0
"""Who takes that long for a cold job does it once: it is far from everybody else then."""
ENOUGH_SECONDS = 0.3
"""Of warm jobs that are repeated: who takes longer repeats less."""

_FAILURES = (OSError, CommandError, LayerstoreError, subprocess.SubprocessError)
"""What a contender that cannot be used here raises; the others go on."""


class Bench:
    """The places that are open, and what was measured in them.

    Args:
        work: For whatever is made for this run.
        tree: The root file system.
        chosen: Who takes part; whoever cannot is told and left out.
    """

    def __init__(self, work: Path, tree: Path, chosen: list[Contender]) -> None:
        self.versions: dict[str, str] = {}
        self.notes: dict[str, str] = {}
        self.samples: list[report.Sample] = []
        self._prober = Prober(work, tree)
        self._tree = tree
        self._work = work
        self._prepared: list[Contender] = []
        self._roots: dict[str, str] = {}
        self._met: dict[str, tuple[str, int, int]] = {}
        self._chosen = chosen

    def prepare(self) -> None:
        """Make what everybody mounts, and mount it."""
        for contender in self._chosen:
            version = contender.version()
            if version is None:
                say(f"left out, not usable here: {contender.name}")
            else:
                self.versions[contender.name] = version
                self._prepared.append(contender)
                place = new_place(self._work, contender)
                say(f"preparing {contender.name}")
                self._or_without(contender, lambda c=contender, p=place: c.prepare(self._tree, p))
        # Not before everybody is prepared: something is mounted inside the tree then, too.
        for contender in self._prepared.copy():
            self._or_without(contender, lambda c=contender: self._open(c))
        drop_caches()  # pages that writing left are larger or smaller than those that reading makes

    def _or_without(self, contender: Contender, step: Callable[[], None]) -> None:
        """Do something that a contender needs, or leave it out and say why."""
        try:
            step()
        except _FAILURES as err:
            say(f"left out, could not be shown here: {contender.name}: {err}")
            del self.versions[contender.name]
            self._take_away(contender)

    def _open(self, contender: Contender) -> None:
        root = contender.open()
        self._roots[contender.name] = root
        self.notes[contender.name] = contender.note
        mounts.mount("proc", f"{root}/proc", "proc")
        mounts.mount("tmpfs", f"{root}/tmp", "tmpfs")
        mounts.bind("/dev", f"{root}/dev")

    def _close(self, contender: Contender) -> None:
        root = self._roots.pop(contender.name, None)
        if root is None:
            return
        for name in ("dev", "tmp", "proc"):
            with contextlib.suppress(mounts.MountCallError):  # opening may have failed halfway
                mounts.unmount(f"{root}/{name}")
        contender.close()

    def warm(self, columns: list[Column], rounds: int) -> None:
        """Do every job everywhere once, unmeasured, then in rounds."""
        for column in columns:
            say(f"warm {column.name}")
            for contender in self._prepared:
                self._run(contender, column, passes=1)
            passes = {contender.name: column.passes for contender in self._prepared}
            for number in range(rounds):
                for contender in self._turn(number):
                    if number >= rounds_of(contender.name, column, "warm", rounds):
                        continue
                    cost = self._run(contender, column, passes=passes[contender.name])
                    self._note(contender, column, "warm", number, cost)
                    passes[contender.name] = enough_passes(column, cost)

    def cold(self, columns: list[Column], rounds: int) -> None:
        """Do every job everywhere in rounds, each time with nothing cached."""
        for column in columns:
            say(f"cold {column.name}")
            slow: set[str] = set()
            for number in range(rounds):
                for contender in self._turn(number):
                    enough = number >= rounds_of(contender.name, column, "cold", rounds)
                    if enough or contender.name in slow:
                        continue
                    if contender.has_server:
                        self._close(contender)
                        self._open(contender)
                    drop_caches()
                    cost = self._run(contender, column, passes=1)
                    self._note(contender, column, "cold", number, cost)
                    if cost.wall_seconds > LONG_SECONDS:
                        slow.add(contender.name)

    def _turn(self, number: int) -> list[Contender]:
        """Return the order of a round: nobody always comes behind the same one's leavings."""
        first = number % len(self._prepared)
        return self._prepared[first:] + self._prepared[:first]

    def _run(self, contender: Contender, column: Column, *, passes: int) -> Cost:
        root, servers = self._roots[contender.name], contender.servers()
        cost = self._prober.run(column, root, passes=passes, servers=servers)
        met = (cost.things, cost.read_bytes)
        who, *known = self._met.setdefault(column.name, (contender.name, *met))
        if tuple(known) != met:
            raise CommandError(
                f"{column.name}: {contender.name} has {met[0]} things with {met[1]} bytes, "
                f"{who} has {known[0]} with {known[1]}"
            )
        return cost

    def _note(
        self, contender: Contender, column: Column, state: str, number: int, cost: Cost
    ) -> None:
        self.samples.append(
            report.Sample(
                contender.name, column.name, state, number,
                cost.wall_seconds, cost.cpu_seconds,
            )
        )  # fmt: skip

    def finish(self) -> None:
        """Unmount everything and end every process, whatever of it goes wrong."""
        for contender in reversed(self._prepared.copy()):
            self._take_away(contender)

    def _take_away(self, contender: Contender) -> None:
        self._prepared.remove(contender)
        for step in (lambda: self._close(contender), contender.finish):
            try:
                step()
            except _FAILURES as err:
                say(f"{contender.name}: {err}")

    def found(self) -> Result:
        """Return everything there is to know of this run."""
        result = report.result_of_samples(self.samples)
        result.versions = self.versions
        result.missing = [one.name for one in self._chosen if one.name not in self.versions]
        result.notes += [f"{name}: {note}." for name, note in self.notes.items() if note]
        result.notes += [
            f"{name}: {things:,} things, {size:,} bytes in every place."
            for name, (_, things, size) in self._met.items()
        ]
        return result


def rounds_of(contender: str, column: Column, state: str, rounds: int) -> int:
    """Return how many of the rounds a contender takes part in: all where a promise hangs on it."""
    judged = contender == report.REFERENCE or contender.startswith(report.DEFAULT_VIEW)
    if judged and (state == "warm" or column.is_load):
        return rounds
    return min(rounds, UNPROMISED_ROUNDS[state])


def enough_passes(column: Column, cost: Cost) -> int:
    """Return how often a warm job need be repeated by who took that long for it once."""
    return max(1, min(column.passes, math.ceil(ENOUGH_SECONDS / cost.wall_seconds)))


def drop_caches() -> None:
    """Write back and forget what the kernel caches of any file system."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def measure(given: argparse.Namespace) -> Result:
    """Make the root file system and measure; return what is known of the run."""
    columns = [column for column in COLUMNS if column.name in given.columns]
    given.work.mkdir(parents=True, exist_ok=True)
    tree = make_root(given.work)
    work = Path(tempfile.mkdtemp(prefix="run-", dir=given.work))
    try:
        say("importing the root file system")
        everybody = contenders(make_store(work, tree))
        chosen = [one for one in everybody if _is_chosen(one, given.contenders)]
        bench = Bench(work, tree, chosen)
        try:
            bench.prepare()
            bench.warm(columns, given.rounds)
            bench.cold(columns, given.cold_rounds)
        finally:
            bench.finish()
        return bench.found()
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _is_chosen(contender: Contender, names: list[str] | None) -> bool:
    return names is None or contender.name in {report.REFERENCE, *names}


def show(found: Result, given: argparse.Namespace) -> int:
    """Print tables and bars; return how many bars are not met."""
    results = report.Results(report.samples_of(found))
    by = report.CPU if given.by == "cpu" else report.WALL
    for measure in (report.WALL, report.CPU):
        for state in filter(results.rounds, ("warm", "cold")):
            print(report.table(results, state, measure, given.against))
            print(f"medians of up to {results.rounds(state)} rounds\n")
    views = [name for name in results.contenders if name.startswith(report.DEFAULT_VIEW)]
    bars = [bar for view in views for bar in report.bars_of(results, view, by)]
    print(f"by {given.by} time", *bars, sep="\n")
    print(found.environment)
    for name, version in found.versions.items():
        print(f"{name}: {version}")
    print(*found.notes, sep="\n")
    return sum(not bar.met for bar in bars)


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"no {name!r}: there are {', '.join(known)}")
        return names

    return parse


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.bench.paths", description=__doc__.splitlines()[0])
    columns = [column.name for column in COLUMNS]
    everybody = [one.name for one in contenders(Path())]
    parser.add_argument("--work", type=absolute, default=Path(".cache/bench"))
    parser.add_argument("-n", "--rounds", type=int, default=WARM_ROUNDS)
    parser.add_argument("--cold-rounds", type=int, default=COLD_ROUNDS)
    parser.add_argument("--quick", action="store_true", help="few rounds, for a first look")
    parser.add_argument("--columns", type=_names(columns), default=columns)
    parser.add_argument("--contenders", type=_names(everybody), help="and overlay2, the reference")
    parser.add_argument("--json", type=Path, help="keep what every round took there")
    parser.add_argument("--from", dest="source", type=Path, help="report on such a file again")
    parser.add_argument("--by", choices=("wall", "cpu"), default="wall", help="judge by")
    parser.add_argument("--against", choices=everybody, default=report.REFERENCE)
    parser.add_argument("--gate", action="store_true", help="exit 1 when a bar is not met")
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.cold_rounds = QUICK_ROUNDS, 1
    given.work = given.work.absolute()
    return given


def main() -> int:
    given = parse_arguments()
    if given.source:
        found = result_of(json.loads(given.source.read_text()))
    elif os.geteuid() != 0:
        say("needs root: mounting and dropping caches take privileges")
        return 1
    else:
        # Nothing stays mounted, however this ends, and no server of anybody's runs on.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        namespaces.unshare(namespaces.CLONE_NEWNS)
        mounts.set_propagation("/", mounts.MS_PRIVATE)
        found = measure(given)
        if given.json:
            found.write(given.json)
    missed = show(found, given)
    return 1 if missed and given.gate else 0


if __name__ == "__main__":
    sys.exit(main())
