"""FUSE servers side by side: our own, fusepy, mfusepy over libfuse 2 and 3, and a plain directory.

    python -m tests.bench.fuse_servers [--tree DIR | --tar FILE] [-n ROUNDS] [--mfusepy DIR]
                                       [--json FILE]

Four jobs, interleaved: walk and stat everything, open and read the small files, read the large
ones, read 4 KiB at random places; cold (caches dropped, mounted anew) and warm (the same job
once more). Prints medians of wall time, speeds relative to the plain
directory (more is faster), and the CPU seconds of the server process. ``--mfusepy`` is a
directory that ``pip install --target DIR mfusepy`` filled; without it, and without the
libraries, those servers are named and left out. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from layerstore.linux import mounts
from layerstore.linux.mounts import identify
from tests.bench.harness import absolute, environment, grid, interleave, say
from tests.bench.result import Result
from tests.bench.trees import unpack_or_copy
from tests.support.views import server_pids

PLAIN = "plain directory"
OWN = {"own server": "fuse", "fusepy, libfuse 2": "fusepy"}
MFUSEPY = {
    "mfusepy, libfuse 2": "libfuse.so.2",
    "mfusepy, libfuse 3": "libfuse3.so.3",
}
SMALL_BYTES = 64 * 1024
LARGE_BYTES = 1024 * 1024
RANDOM_READS = 2000
READ_BYTES = 4096
JOBS = ("walk+stat", "small files", "large files", "random 4K")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Sample(NamedTuple):
    """One job once: seconds that passed, and CPU seconds of the server."""

    wall: float
    server: float


class Bench:
    """The places to read from, and what it took."""

    def __init__(self, work: Path, tree: Path, mfusepy: Path | None) -> None:
        self.tree = tree
        self.store = str(work / "store")
        self.target = work / "view"
        self.target.mkdir()
        self.mfusepy = mfusepy
        self.small, self.large = listed(tree)
        self.samples: dict[tuple[str, str, str], list[Sample]] = {}
        self.layerstore("import", str(tree), "-t", "bench:1")

    def layerstore(self, *words: str) -> None:
        command = [sys.executable, "-m", "layerstore", "--store", self.store, *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def round_of(self, place: str) -> None:
        """Run every job cold and warm in one place."""
        for job in JOBS:
            root, server = self._open(place)
            try:
                drop_caches()
                for state in ("cold", "warm"):
                    begun, used = time.perf_counter(), _cpu_seconds(server)
                    self._run(job, root)
                    sample = Sample(time.perf_counter() - begun, _cpu_seconds(server) - used)
                    self.samples.setdefault((place, job, state), []).append(sample)
            finally:
                self._close(place, server)

    def _open(self, place: str) -> tuple[str, int]:
        if place == PLAIN:
            return str(self.tree), 0
        if place in OWN:
            self.layerstore("mount", "--backend", OWN[place], "bench:1", str(self.target))
            (server,) = server_pids(self.store)
            return str(self.target), server
        environment = {
            **os.environ,
            "FUSE_LIBRARY_PATH": MFUSEPY[place],
            "PYTHONPATH": os.pathsep.join([str(self.mfusepy), *filter(os.path.isabs, sys.path)]),
        }
        command = [sys.executable, "-m", "tests.bench.mfusepy_server"]
        command += [self.store, "bench:1", str(self.target)]
        process = subprocess.Popen(command, env=environment)
        deadline = time.monotonic() + 30
        while not identify(str(self.target)).is_root:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{place} did not start")
            time.sleep(0.01)
        _read_ahead(self.target)
        return str(self.target), process.pid

    def _close(self, place: str, server: int) -> None:
        if place in OWN:
            self.layerstore("umount", str(self.target))
            while server_pids(self.store):
                time.sleep(0.01)
        elif place != PLAIN:
            mounts.unmount(str(self.target))
            os.waitpid(server, 0)

    def _run(self, job: str, root: str) -> None:
        match job:
            case "walk+stat":
                walk_and_stat(root)
            case "small files":
                read_whole(root, self.small)
            case "large files":
                read_whole(root, self.large)
            case _:
                read_at_random(root, self.large)

    def result(self) -> Result:
        """Return every sample."""
        result = Result()
        for (place, job, state), found in self.samples.items():
            result.add(f"{state} {job}", place, "time", "s", [sample.wall for sample in found])
            result.add(f"{state} {job}", place, "server", "s", [sample.server for sample in found])
        return result

    def report(self, places: list[str]) -> str:
        rows = []
        for state in ("cold", "warm"):
            rows += [
                (f"{state} {place}", *(self._cell(place, job, state) for job in JOBS))
                for place in places
            ]
        return grid(("seconds (speed against plain) server CPU", *JOBS), rows)

    def _cell(self, place: str, job: str, state: str) -> str:
        plain = statistics.median(sample.wall for sample in self.samples[PLAIN, job, state])
        wall = statistics.median(sample.wall for sample in self.samples[place, job, state])
        server = statistics.median(sample.server for sample in self.samples[place, job, state])
        return f"{wall:.3f} ({plain / wall:.2f}) {server:.2f}"


def walk_and_stat(root: str) -> None:
    pending = [root]
    while pending:
        with os.scandir(pending.pop()) as names:
            for name in names:
                name.stat(follow_symlinks=False)
                if name.is_dir(follow_symlinks=False):
                    pending.append(name.path)


def read_whole(root: str, names: list[str]) -> None:
    for name in names:
        descriptor = os.open(f"{root}/{name}", os.O_RDONLY)
        while os.read(descriptor, 1 << 20):
            pass
        os.close(descriptor)


def read_at_random(root: str, names: list[str]) -> None:
    chance = random.Random(11)
    for _ in range(RANDOM_READS):
        descriptor = os.open(f"{root}/{chance.choice(names)}", os.O_RDONLY)
        size = os.fstat(descriptor).st_size
        os.pread(descriptor, READ_BYTES, chance.randrange(size))
        os.close(descriptor)


def listed(tree: Path) -> tuple[list[str], list[str]]:
    """Return names of the small and of the large regular files."""
    small, large = [], []
    for host, _, names in os.walk(tree):
        for name in names:
            path = os.path.join(host, name)
            if os.path.islink(path) or not os.path.isfile(path):
                continue
            size = os.path.getsize(path)
            if 0 < size <= SMALL_BYTES:
                small.append(os.path.relpath(path, tree))
            elif size >= LARGE_BYTES:
                large.append(os.path.relpath(path, tree))
    return sorted(small), sorted(large)


def drop_caches() -> None:
    """Write back and forget what the kernel caches of any file system."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def _cpu_seconds(pid: int) -> float:
    """Return user and system time of a process so far; 0 for none."""
    if not pid:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def _read_ahead(target: Path) -> None:
    """Give every server the read-ahead that ours gets."""
    device = identify(str(target)).device
    place = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    place.write_text("1024")


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def contenders(mfusepy: Path | None) -> list[str]:
    """Return what can be measured here; say what is left out."""
    places = [PLAIN, "own server"]
    if _loads("libfuse.so.2"):
        places.append("fusepy, libfuse 2")
    for name, library in MFUSEPY.items():
        if mfusepy is not None and _loads(library):
            places.append(name)
    left_out = {*OWN, *MFUSEPY} - set(places)
    if left_out:
        say(f"left out: {', '.join(sorted(left_out))}")
    return places


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.bench.fuse_servers", description=__doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--tree", type=Path)
    source.add_argument("--tar", type=Path)
    parser.add_argument("-n", "--rounds", type=int, default=7)
    parser.add_argument("--work", type=absolute)
    parser.add_argument("--mfusepy", type=Path)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run there")
    given = parser.parse_args()
    if os.geteuid() != 0:
        say("needs root: dropping caches takes privileges")
        return 1
    work = Path(tempfile.mkdtemp(prefix="layerstore-bench-", dir=given.work))
    try:
        tree = work / "tree"
        unpack_or_copy(given, work, tree)
        places = contenders(given.mfusepy)
        bench = Bench(work, tree, given.mfusepy)
        with contextlib.suppress(KeyboardInterrupt):  # what was measured is printed
            interleave(given.rounds, [lambda p=p: bench.round_of(p) for p in places], say=say)
        print(bench.report(places))
        if given.json:
            bench.result().write(given.json)
        print(f"{len(bench.small)} small files, {len(bench.large)} large ones; {environment()}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
