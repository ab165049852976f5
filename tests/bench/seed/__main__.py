"""The seed case: 1,000 applications of 15 MB on one distribution of 800 MB.

    python -m tests.bench.seed --apps 1000 --mix typical --work DIR --json docs/savings/seed.json

Phases, all unless ``--only`` names some: ``disk`` (build all, here and with docker), ``copies``
(full copies, a few, for real), ``memory`` (many run at once), ``start`` (how long the n-th takes),
``commands`` (what looking at so many images costs), ``optimize``. With ``--work`` the stores stay
and a later phase uses them; without, they lie in a directory for temporary files and go at the
end. ``--json`` keeps everything in a file, in which a later run replaces only its own phases.
Needs root, mmdebstrap, npm, pip and dockerd; 17 GB of disk for 1,000 applications beside docker.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.harness import absolute, environment, say
from tests.bench.seed.applications import APP_BYTES, MIXES, SEED
from tests.bench.seed.disk import (
    measure_commands,
    measure_copies,
    measure_disk,
    optimize,
    tag_of,
)
from tests.bench.seed.distribution import PACKAGES, SUITE, allocated, make_distribution
from tests.bench.seed.engines import Docker, Layerstore
from tests.bench.seed.pool import make_pool
from tests.bench.seed.report import report
from tests.bench.seed.running import measure_copies_memory, measure_memory, measure_starts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.bench.seed.arithmetic import Figures

PHASES = ("disk", "copies", "memory", "start", "commands", "optimize")
_CACHE = Path(".cache") / "bench"
_LOOKED = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Case:
    """One mix in one directory."""

    def __init__(self, given: argparse.Namespace, work: Path) -> None:
        self._given, self._work = given, work
        self._base = make_distribution(given.cache / "seed-distribution")
        self._pool = make_pool(given.cache / "seed-pool")
        self._ours = Layerstore(work / given.mix / "layerstore")
        self._places = work / given.mix / "copies"
        engines = [self._ours, Docker(work / given.mix / "docker")]
        self._engines = [one for one in engines if one.name in (given.engine or (one.name,))]
        self.figures = {**_known(given.json, given.mix), **self.described()}

    def described(self) -> dict[str, object]:
        return {
            "mix": self._given.mix,
            "seed": SEED,
            "app_bytes": APP_BYTES,
            "pool_bytes": sum(package.size for package in self._pool),
            "pool_packages": len(self._pool),
            "distribution": {
                "suite": SUITE,
                "packages": list(PACKAGES),
                "disk_bytes": allocated(self._base),
            },
            "versions": {engine.name: engine.version() for engine in self._engines},
        }

    def run(self, phase: str) -> Figures:
        """Measure one phase."""
        say(f"{self._given.mix}: {phase}")
        return self.keep(phase, getattr(self, f"{phase}_phase")())

    def keep(self, phase: str, made: Figures) -> Figures:
        """Write a phase into the file of figures, and return all that is known."""
        file = self._given.json
        measured = {"apps": self._given.apps, **made, "environment": environment()}
        # Read again: another run may have measured another phase meanwhile.
        self.figures = merged({**self.figures, **_known(file, self._given.mix)}, phase, measured)
        if file:
            file.write_text(json.dumps(self.figures, indent=1) + "\n")
        return self.figures

    def disk_phase(self) -> dict[str, object]:
        return self._build(self._engines, self._given.apps, lambda made: self.keep("disk", made))

    def copies_phase(self) -> dict[str, object]:
        given = self._given
        made = measure_copies(self._base, given.mix, self._pool, given.copies, self._places)
        return {**made, "memory": measure_copies_memory(self._places, given.copies)}

    def memory_phase(self) -> dict[str, object]:
        given = self._given
        self._need(given.running)
        looked = [count for count in {*_LOOKED, given.running} if count <= given.running]
        measured = {
            engine.name: measure_memory(engine, given.mix, given.running, looked)
            for engine in self._engines
        }
        return {"running": given.running, "engines": measured}

    def start_phase(self) -> dict[str, object]:
        given = self._given
        self._need(given.running)
        rounds = min(given.rounds, given.running)
        return {
            "running": given.running,
            "engines": measure_starts(self._engines, given.mix, given.running, rounds),
        }

    def commands_phase(self) -> dict[str, object]:
        self._need(self._given.apps)
        return measure_commands(self._ours)

    def optimize_phase(self) -> dict[str, object]:
        self._need(self._given.apps)
        return optimize(self._ours)

    def _need(self, images: int) -> None:
        """Build what is missing for the phases that run containers."""
        for engine in self._engines:
            engine.begin()
            there = engine.has(tag_of(self._given.mix, images - 1))
            engine.end()
            if not there:
                self._build([engine], images)

    def _build(
        self,
        engines: Sequence[Layerstore | Docker],
        apps: int,
        keep: Callable[[dict[str, object]], None] = lambda _: None,
    ) -> dict[str, object]:
        begun: list[Layerstore | Docker] = []
        try:
            for engine in engines:
                engine.begin()
                begun.append(engine)
            mix, pool, work = self._given.mix, self._pool, self._ours.place.parent
            return measure_disk(engines, self._base, mix, pool, apps, work, keep)
        finally:
            for engine in begun:
                engine.end()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests.bench.seed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--apps", type=int, default=100, help="applications (default: 100)")
    parser.add_argument("--mix", choices=MIXES, default="typical")
    parser.add_argument("--only", action="append", choices=PHASES, help="phase; may be repeated")
    parser.add_argument("--running", type=int, help="containers at once (default: 200, or all)")
    parser.add_argument("--rounds", type=int, default=30, help="starts that end at once")
    parser.add_argument("--copies", type=int, default=5, help="full copies that are really made")
    parser.add_argument(
        "--engine", action="append", choices=("layerstore", "docker"), help="default: both"
    )
    parser.add_argument("--work", type=absolute, help="keep everything there")
    parser.add_argument("--cache", type=Path, default=_CACHE, help="distribution and libraries")
    parser.add_argument("--json", type=Path, help="keep the figures there")
    given = parser.parse_args()
    given.running = min(given.apps, given.running or 200)
    return given


def merged(figures: Figures, phase: str, measured: Figures) -> Figures:
    """Return the figures with a phase in its new state; engines that it left out stay.

    What applications share is known best by who was given most.
    """
    old = figures.get(phase, {})
    engines = {**old.get("engines", {}), **measured.get("engines", {})}
    new = {**old, **measured, **({"engines": engines} if engines else {})}
    if len(old.get("shares", ())) > len(measured.get("shares", ())):
        new["shares"] = old["shares"]
    return {**figures, phase: new}


def _known(file: Path | None, mix: str) -> Figures:
    """Return what earlier runs kept in a file."""
    if file is None or not file.exists():
        return {}
    known: Figures = json.loads(file.read_text())
    if known["mix"] != mix:
        raise SystemExit(f"{file} is of mix {known['mix']}")
    return known


def main() -> int:
    given = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stops the daemon on its way
    temporary = None if given.work else tempfile.mkdtemp(prefix="layerstore-seed-")
    work = Path(temporary or given.work).absolute()
    given.cache = given.cache.absolute()
    try:
        case = Case(given, work)
        for phase in given.only or PHASES:
            case.run(phase)
    finally:
        if temporary:
            shutil.rmtree(temporary)
    print(report(case.figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
