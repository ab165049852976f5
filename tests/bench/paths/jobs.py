"""The columns: what is read from every place, and the program that reads it.

Five jobs are system calls in a loop, made by ``prober.c``: through Python a call costs as much
as what is measured. Three are programs that run with the place as their root. Every job says
how much it met, and all places must have met the same.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.bench import debian
from tests.bench.harness import CommandError
from tests.bench.paths.root import ENVIRONMENT, LOADS

SMALL_BYTES = 64 * 1024
LARGE_BYTES = 1024 * 1024
SMALL_FILES = 8000
SEQUENTIAL_BYTES = 400 * 1000 * 1000
TIMEOUT_SECONDS = 300

_NOT_THE_IMAGES = frozenset({"proc", "sys", "dev", "tmp", "run"})
"""Directories that whoever runs an image fills."""
_ADDED_TO = frozenset({"", "etc"})
"""Directories in which docker puts files of its own: their listings cannot be equal."""


class Column(NamedTuple):
    """One job.

    Attributes:
        job: What the prober calls it, ``run`` for a program.
        passes: How often a warm measurement repeats it at most: it should take a tenth of a second.
        command: The program, for ``run``.
    """

    name: str
    job: str
    passes: int
    command: tuple[str, ...] = ()

    @property
    def is_load(self) -> bool:
        return bool(self.command)


COLUMNS = (
    Column("readdir", "readdir", 5),
    Column("stat", "stat", 5),
    Column("small", "open", 3),
    Column("sequential", "sequential", 1),
    Column("random", "random", 4),
    Column("python", "run", 1, LOADS["python"]),
    Column("node", "run", 3, LOADS["node"]),
    Column("compile", "run", 1, LOADS["compile"]),
)


class Cost(NamedTuple):
    """What a job took, once (repeated ones are divided).

    Attributes:
        wall_seconds: On the clock.
        cpu_seconds: Of who reads and of the servers that answer; the kernel's own threads count
            for nobody.
        things: Names, inodes, files, reads or programs that were met.
        read_bytes: And bytes.
    """

    wall_seconds: float
    cpu_seconds: float
    things: int
    read_bytes: int


class Prober:
    """The compiled prober and its lists, below a directory of their own.

    Args:
        work: Where they are put.
        tree: The root file system; its own compiler is used, so that the host needs none.
    """

    def __init__(self, work: Path, tree: Path) -> None:
        self._work = work
        self.program = work / "prober"
        _compile(tree, self.program)
        lists = _lists(tree)
        self.listed = {name: len(paths) for name, paths in lists.items()}
        for name, paths in lists.items():
            (work / name).write_bytes(b"".join(os.fsencode(path) + b"\0" for path in paths))

    def run(self, column: Column, root: str, *, passes: int, servers: tuple[int, ...] = ()) -> Cost:
        """Do a job in one place.

        Raises:
            CommandError: It failed there.
        """
        words = [str(self.program), root, column.job, str(passes)]
        words += column.command or (str(self._work / column.name),)
        before = sum(map(_on_cpu_seconds, servers))
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            check=False,
            env=ENVIRONMENT,
            timeout=TIMEOUT_SECONDS,
        )
        if done.returncode != 0:
            raise CommandError(f"{column.name} in {root}: {done.stderr.strip()[-1000:]}")
        answered = sum(map(_on_cpu_seconds, servers)) - before
        said = json.loads(done.stdout)
        return Cost(
            said["wall_ns"] / 1e9 / passes,
            (said["cpu_ns"] / 1e9 + answered) / passes,
            said["things"] // passes,
            said["bytes"] // passes,
        )


def _compile(tree: Path, program: Path) -> None:
    source = Path(__file__).with_name("prober.c")
    inside = tree / "root" / source.name
    try:
        inside.write_bytes(source.read_bytes())
        options = ("-std=gnu99", "-O2", "-static", "-Wall", "-Werror")
        debian.run_in(tree, "gcc", *options, "-o", "/root/prober", f"/root/{source.name}")
        program.write_bytes((tree / "root" / "prober").read_bytes())
        program.chmod(0o755)
    finally:
        for left in (inside, tree / "root" / "prober"):
            left.unlink(missing_ok=True)


def _lists(tree: Path) -> dict[str, list[str]]:
    """Return what each column that is no program reads, as paths below the root, as a walk goes.

    Of large files the largest come first; of small ones it is a sample.
    """
    chance = random.Random(11)
    directories, everything, small, large = [], [], [], []
    for host, folders, names in os.walk(tree):
        below = os.path.relpath(host, tree) if host != str(tree) else ""
        if not below:
            folders[:] = [name for name in folders if name not in _NOT_THE_IMAGES]
        folders.sort()
        if below not in _ADDED_TO:
            directories.append(below)
        for name in sorted(names):
            path = f"{below}/{name}" if below else name
            everything.append(path)
            size = 0 if os.path.islink(f"{tree}/{path}") else os.path.getsize(f"{tree}/{path}")
            if 0 < size <= SMALL_BYTES:
                small.append(path)
            elif size >= LARGE_BYTES:
                large.append((size, path))
    total, sequential = 0, []
    for size, path in sorted(large, reverse=True):
        if total + size <= SEQUENTIAL_BYTES:
            sequential.append(path)
            total += size
    return {
        "readdir": directories,
        "stat": directories + everything,
        "small": sorted(chance.sample(small, min(SMALL_FILES, len(small)))),
        "sequential": sequential,
        "random": sequential,
    }


def _on_cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads of a process so far, exactly.

    Source: Linux, Documentation/scheduler/sched-stats.rst, "/proc/<pid>/schedstat".
    """
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9
