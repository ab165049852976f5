"""Run benchmarks one after the other, each in a process of its own, and keep what they measured.

What they print goes into a log each. A failing one does not stop the others. What is done is
written down after each, so that an interrupted run can go on. A program whose runner dies is
interrupted by that, and what any of them leaves is ended and removed before the next.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from layerstore.linux.processes import die_with_parent
from tests.bench.harness import clean_environment, say
from tests.bench.result import result_of
from tests.bench.suite.inputs import BASE, VERSIONS, make_inputs
from tests.bench.suite.kept import Kept, Run, keep, load
from tests.bench.suite.leftovers import Place
from tests.bench.suite.surroundings import TOP, commit, unmet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.bench.suite.kept import Kind
    from tests.bench.suite.table import Benchmark

_PATIENCE = 6.0
"""A benchmark may take so many times what the table says ..."""
_GRACE_SECONDS = 600.0
"""... and this much more: the machine may be slow, or busy."""
_END_SECONDS = 60.0
"""How long one that is told to end may take to unmount what it mounted."""
_TAIL_LINES = 15

Outcome = str
"""``measured``, ``failed`` or ``left out``."""


@dataclass
class Progress:
    """Which benchmarks of a run are done, in a file.

    Attributes:
        path: The file.
        kind: Full or quick.
        done: What became of each.
    """

    path: Path
    kind: Kind
    done: dict[str, Outcome]

    @classmethod
    def begin(cls, path: Path, kind: Kind, *, resume: bool) -> Progress:
        """Begin a run, or go on with one of the same kind where it was interrupted."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            if resume and (kept := json.loads(path.read_text()))["kind"] == kind:
                measured = {n: how for n, how in kept["done"].items() if how == "measured"}
                return cls(path, kind, measured)
        return cls(path, kind, {})

    def note(self, name: str, outcome: Outcome) -> None:
        """Write down what became of one."""
        self.done[name] = outcome
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps({"kind": self.kind, "done": self.done}))
        part.replace(self.path)

    def end(self) -> None:
        """Forget the run: all of it is over."""
        self.path.unlink(missing_ok=True)


class Runner:
    """Runs benchmarks.

    Args:
        cache: Where inputs and logs are; a path below the project's directory if it can be, for
            it stands in the commands that the page shows.
        results: Where results are kept.
        kind: Full or quick.
    """

    def __init__(self, cache: Path, results: Path, kind: Kind) -> None:
        self._cache = cache
        self._results = results
        self._kind = kind
        self._logs = TOP / cache / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._history = TOP / cache / "results"
        self.place = Place(TOP / cache)

    def run(self, benchmark: Benchmark) -> Outcome:
        """Run one benchmark and keep its result; say on standard error how it went."""
        if lacking := unmet(benchmark):
            say(f"  left out: needs {', '.join(lacking)}")
            return "left out"
        try:
            make_inputs(TOP / self._cache, benchmark.inputs_of(self._kind))
            kept = self._measure(benchmark)
        except Exception as err:  # noqa: BLE001 - the others go on, whatever it was
            say(f"  FAILED: {err or type(err).__name__}")
            return "failed"
        path = keep(self._results, kept)
        # What is measured in an hour and more must not go with a checkout of the page's directory.
        keep(self._history / f"{kept.run.at[:10]}-{kept.run.commit or 'unknown'}", kept)
        say(f"  {kept.run.seconds / 60:.1f} minutes, load {kept.run.load_after:g}: {path.name}")
        return "measured"

    def _measure(self, benchmark: Benchmark) -> Kept:
        words = self.words(benchmark)
        output = self._logs / f"{benchmark.name}.json"
        output.unlink(missing_ok=True)
        before, began, at = load(), time.monotonic(), _now()
        self._call(benchmark, [*words, "--json", str(output)])
        seconds = time.monotonic() - began
        document = json.loads(output.read_text())
        output.unlink()
        run = Run(
            benchmark.name, self._kind, shlex.join(["python", "-m", *words]), commit(), at,
            round(seconds, 1), before, load(),
        )  # fmt: skip
        return Kept(run, (benchmark.read or result_of)(document))

    def words(self, benchmark: Benchmark) -> list[str]:
        """Return the command behind ``python -m``."""
        rounds = benchmark.full if self._kind == "full" else benchmark.quick or ()
        places = {
            "cache": self._cache,
            "base": self._cache / BASE,
            "one": self._cache / VERSIONS[0],
            "two": self._cache / VERSIONS[1],
        }
        filled = [word.format(**places) for word in (*benchmark.words, *rounds)]
        return [benchmark.module, *filled]

    def _call(self, benchmark: Benchmark, words: Sequence[str]) -> None:
        """Run a program to its end; whatever ends us ends it first, and lets it clean up."""
        log = self._logs / f"{benchmark.name}.log"
        limit = benchmark.minutes[self._kind != "full"] * 60 * _PATIENCE + _GRACE_SECONDS
        before = self.place.beside_inputs()
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", *words],
                cwd=TOP,
                env={
                    **clean_environment(),
                    **self.place.environment(),
                    "LAYERSTORE_ROOT": str(TOP / self._cache / "unused"),
                },
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # Ctrl-C reaches it through us, once
                preexec_fn=_heed_interrupts,
            )
            try:
                status = process.wait(limit)
            except subprocess.TimeoutExpired as err:
                raise RuntimeError(f"not done after {limit / 60:.0f} minutes; log: {log}") from err
            finally:
                _end(process)
                for found in self.place.clear(keep=before):
                    say(f"  left by it, and gone now: {found}")
        if status != 0:
            tail = log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
            raise RuntimeError("\n    ".join([f"exit {status}; log: {log}", *tail]))


def _heed_interrupts() -> None:
    """Hear that it is to end, also from a shell's background job, and when the runner is killed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    die_with_parent(signal.SIGINT)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Have a program end: asked once as by Ctrl-C, then killed with all it started."""
    if process.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
            return
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
