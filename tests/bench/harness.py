"""Run commands and say what they cost: CPU, wall time, peak memory; interleaved, with medians.

CPU is user plus system time of the whole process tree, from wait4(2): a child counts its own
children once they were waited for, so a pipeline in a shell is counted as a whole and work
handed to a daemon would not be (no contender here has one). Peak memory is the largest single
process of the tree, not the sum; :mod:`tests.bench.launching` sees to it that it is not ours.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tests.bench.launching import run_small

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


@dataclass(frozen=True)
class Cost:
    """What one run took. ``rss_bytes`` is the largest process of the tree."""

    cpu_seconds: float
    wall_seconds: float
    rss_bytes: int
    load_average: float


class CommandError(Exception):
    """A contender did not do its work; its output follows."""


def run_costed(
    command: Sequence[str],
    *,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    stdin: IO[bytes] | None = None,
) -> Cost:
    """Run one command to its end and return its cost; its output is shown only if it fails."""
    load = os.getloadavg()[0]
    with open(os.devnull) as silence, tempfile.TemporaryFile() as log:
        ended = run_small(
            command,
            env={**clean_environment(), **(env or {})},
            cwd=cwd,
            stdin=stdin or silence,
            stdout=log,
            stderr=log,
        )
        if ended.code != 0:
            log.seek(0)
            tail = log.read().decode("utf-8", "replace")[-2000:]
            raise CommandError(f"{' '.join(command)}: exit {ended.code}\n{tail}")
    return Cost(ended.cpu_seconds, ended.wall_seconds, ended.rss_bytes, load)


def clean_environment() -> dict[str, str]:
    """Return this process's environment without what makes Python slow on purpose.

    With PYTHONDONTWRITEBYTECODE every run would compile its sources again.
    """
    slow = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONDEVMODE", "LAYERSTORE_DEBUG")
    return {name: value for name, value in os.environ.items() if name not in slow}


def disk_bytes(path: Path) -> tuple[int, int]:
    """Return (bytes of allocated blocks, apparent bytes of files) below ``path``, links once."""
    allocated = apparent = 0
    seen: set[tuple[int, int]] = set()
    for host, _, names in os.walk(path):
        for name in [".", *names]:
            info = os.lstat(os.path.join(host, name))
            if (info.st_dev, info.st_ino) in seen:
                continue
            seen.add((info.st_dev, info.st_ino))
            allocated += info.st_blocks * 512
            apparent += info.st_size if name != "." else 0
    return allocated, apparent


@dataclass
class Series:
    """The runs of one contender at one task."""

    name: str
    task: str
    runs: list[Cost] = field(default_factory=list)
    disk_allocated: int = 0
    disk_apparent: int = 0

    def median(self, attribute: str) -> float:
        return statistics.median(getattr(run, attribute) for run in self.runs)

    def spread(self, attribute: str) -> tuple[float, float]:
        values = [getattr(run, attribute) for run in self.runs]
        return min(values), max(values)


def version_of(command: Sequence[str]) -> str | None:
    """Return the first line a tool says about its version, or None when it is not installed."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0 and not done.stdout:
        return None
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0].strip() if lines else "unknown version"


def interleave(
    repeats: int, tasks: Iterable[Callable[[], None]], *, say: Callable[[str], None]
) -> None:
    """Run every task once per round, so that a change of the machine's load hits all of them."""
    for number in range(repeats):
        say(f"round {number + 1} of {repeats}")
        for task in list(tasks):
            task()


def say(text: str) -> None:
    """Report progress on standard error, so that standard output is the result alone."""
    print(text, file=sys.stderr, flush=True)


def environment() -> dict[str, object]:
    """Return what a reader needs to judge absolute numbers."""
    uname = os.uname()
    return {
        "kernel": f"{uname.sysname} {uname.release} {uname.machine}",
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg(),
        "python": sys.version.split()[0],
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows of text under a head: the first column left, the others right."""
    table = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(row[index]) for row in table) for index in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )


def megabytes(size: float) -> str:
    return f"{size / 1e6:.1f}"


def absolute(text: str) -> Path:
    """Return a path of the command line in full: servers that are started know no other."""
    return Path(text).absolute()


def fresh(path: Path) -> Path:
    """Return ``path`` as a new empty directory."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True, mode=0o700)
    return path


def warm(tree: Path) -> int:
    """Read every file once, so that no contender pays for the disk; return the bytes read."""
    total = 0
    for host, _, names in os.walk(tree):
        for name in names:
            path = os.path.join(host, name)
            if not os.path.islink(path) and os.path.isfile(path):
                with open(path, "rb", buffering=0) as file:
                    while block := file.read(1 << 20):
                        total += len(block)
    return total
