"""Read benchmark: a mounted view of an image against the same files in a plain directory.

    python -m tests.bench.read [--tree DIR | --tar FILE] [-n ROUNDS] [--json]

Imports the tree, mounts a read-only and a writable view through each backend, and an overlay
over the plain directory as docker's overlay2 does, and runs the same four jobs over each
and over the plain directory: walk and stat everything, open and read the small files, read the
large files from end to end, read 4 KiB at random places. Cold means that the page, dentry and
inode caches were dropped and the view was mounted anew, with files unpacked before for the
kernel; warm is the same job once more. Prints
wall times and speeds relative to the plain directory (more is faster). Needs root.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from layerstore.linux import mounts
from tests.bench.harness import environment, grid, interleave, say
from tests.bench.trees import unpack_or_copy

SMALL_BYTES = 64 * 1024
LARGE_BYTES = 1024 * 1024
RANDOM_READS = 2000
READ_BYTES = 4096
PLAIN = "plain directory"
OVERLAY = "overlay over plain"
VIEWS = {
    "kernel view": ("--backend", "kernel"),
    "writable kernel view": ("--backend", "kernel", "--rw"),
    "FUSE view": ("--backend", "fuse"),
    "writable FUSE view": ("--backend", "fuse", "--rw"),
}
JOBS = ("walk+stat", "small files", "large files", "random 4K")


def walk_and_stat(root: str) -> int:
    count = 0
    pending = [root]
    while pending:
        with os.scandir(pending.pop()) as names:
            for name in names:
                name.stat(follow_symlinks=False)
                count += 1
                if name.is_dir(follow_symlinks=False):
                    pending.append(name.path)
    return count


def read_whole(root: str, names: list[str]) -> int:
    total = 0
    for name in names:
        descriptor = os.open(f"{root}/{name}", os.O_RDONLY)
        while block := os.read(descriptor, 1 << 20):
            total += len(block)
        os.close(descriptor)
    return total


def read_at_random(root: str, names: list[str]) -> int:
    chance = random.Random(11)
    total = 0
    for _ in range(RANDOM_READS):
        descriptor = os.open(f"{root}/{chance.choice(names)}", os.O_RDONLY)
        size = os.fstat(descriptor).st_size
        total += len(os.pread(descriptor, READ_BYTES, chance.randrange(size)))
        os.close(descriptor)
    return total


def listed(tree: Path) -> tuple[list[str], list[str]]:
    """Return names of the small and of the large regular files."""
    small, large = [], []
    for host, _, names in os.walk(tree):
        for name in names:
            path = os.path.join(host, name)
            if os.path.islink(path) or not os.path.isfile(path):
                continue
            size = os.path.getsize(path)
            relative = os.path.relpath(path, tree)
            if 0 < size <= SMALL_BYTES:
                small.append(relative)
            elif size >= LARGE_BYTES:
                large.append(relative)
    return sorted(small), sorted(large)


class ReadBench:
    """The places to read from, and the times it took."""

    def __init__(self, work: Path, tree: Path) -> None:
        self.work = work
        self.tree = tree
        self.store = str(work / "store")
        self.small, self.large = listed(tree)
        self.times: dict[tuple[str, str, str], list[float]] = {}
        self._layerstore("import", str(tree), "-t", "bench:1")

    def _layerstore(self, *words: str) -> None:
        command = [sys.executable, "-m", "layerstore", "--store", self.store, *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def round_of(self, place: str) -> None:
        """Run every job cold and warm in one place."""
        for job in JOBS:
            root = self._open(place)
            try:
                drop_caches()
                for state in ("cold", "warm"):
                    begun = time.perf_counter()
                    self._run(job, root)
                    taken = time.perf_counter() - begun
                    self.times.setdefault((place, job, state), []).append(taken)
            finally:
                self._close(place, root)

    def _open(self, place: str) -> str:
        if place == PLAIN:
            return str(self.tree)
        target = self.work / "view"
        target.mkdir(exist_ok=True)
        if place == OVERLAY:
            for name in ("upper", "overlay-work"):
                (self.work / name).mkdir(exist_ok=True)
            above = (str(self.work / "upper"), str(self.work / "overlay-work"))
            mounts.mount_overlay(mounts.Overlay((str(self.tree),), *above), str(target))
        else:
            self._layerstore("mount", *VIEWS[place], "bench:1", str(target))
        return str(target)

    def _close(self, place: str, root: str) -> None:
        if place == OVERLAY:
            mounts.unmount(root)
        elif place != PLAIN:
            self._layerstore("umount", root)

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

    def report(self, places: list[str]) -> str:
        rows = []
        for state in ("cold", "warm"):
            for place in places:
                cells = [self._cell(place, job, state) for job in JOBS]
                rows.append((f"{state} {place}", *cells))
        return grid(("seconds (speed against plain)", *JOBS), rows)

    def _cell(self, place: str, job: str, state: str) -> str:
        taken = statistics.median(self.times[place, job, state])
        plain = statistics.median(self.times[PLAIN, job, state])
        return f"{taken:.3f} ({plain / taken:.2f})"


def drop_caches() -> None:
    """Write back and forget what the kernel caches of any file system."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.bench.read", description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--tree", type=Path)
    source.add_argument("--tar", type=Path)
    parser.add_argument("-n", "--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> int:
    given = parse_arguments()
    if os.geteuid() != 0:
        say("needs root: dropping caches and mounting writable views take privileges")
        return 1
    work = Path(tempfile.mkdtemp(prefix="layerstore-bench-", dir=given.work))
    places = [PLAIN, OVERLAY, *VIEWS]
    try:
        tree = work / "tree"
        unpack_or_copy(given, work, tree)
        bench = ReadBench(work, tree)
        interleave(given.rounds, [lambda p=p: bench.round_of(p) for p in places], say=say)
        if given.json:
            import json

            times = [
                {"place": p, "job": j, "state": s, "seconds": t}
                for (p, j, s), t in bench.times.items()
            ]
            print(json.dumps({"environment": environment(), "times": times}, indent=2))
        else:
            print(bench.report(places))
            print(f"{len(bench.small)} small files, {len(bench.large)} large ones; {environment()}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
