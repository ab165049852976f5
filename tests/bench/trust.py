"""What trusting nothing costs: checking what is reused, reading a store back, healing.

    python -m tests.bench.trust [--tree DIR | --tar FILE] [-n ROUNDS] [--chunks N] [--json FILE]

Prints, as medians: CPU of adding a tree, of adding it again, and how much of the latter
went into making sure that what is reused can be read; the rates of ``check`` and
``check --read-data``; and what healing a damaged pack by adding the tree again costs.
``--chunks`` adds the same checks of a generated store with that many small chunks. Work
runs in this process; nothing else is measured beside it.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from layerstore.formats.oci_config import ContainerConfig
from layerstore.formats.tree import Changeset, Entry, Kind
from layerstore.image.importing import ImportSpec, import_directory
from layerstore.progress import Silent
from layerstore.store.check.check import check
from layerstore.store.store import Store
from layerstore.store.writing.soundness import Soundness
from tests.bench.harness import grid, say, warm
from tests.bench.result import Result
from tests.bench.trees import unpack_or_copy
from tests.support.views import publish_changeset, publish_image

if TYPE_CHECKING:
    from collections.abc import Callable

    from layerstore.store.check.findings import CheckReport

SHARE_TARGET = 0.03
CHECK_TARGET_SECONDS = 60.0
LAYER_CHUNKS = 50_000
SPEC = ImportSpec(("bench:1",), ContainerConfig(), "", "2026-11-23T00:00:00Z")


class Clock:
    """CPU seconds of this process and wall seconds since it was made."""

    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.monotonic()

    def read(self) -> tuple[float, float]:
        return time.process_time() - self._cpu, time.monotonic() - self._wall


class Spent:
    """CPU seconds spent inside ``Soundness``."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0
        for name in ("damaged", "are_whole"):
            setattr(Soundness, name, self._timed(getattr(Soundness, name)))

    def _timed(self, real: Callable[..., object]) -> Callable[..., object]:
        def timed(*arguments: object) -> object:
            begun = time.thread_time()
            self._depth += 1
            try:
                return real(*arguments)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.thread_time() - begun

        return timed

    def take(self) -> float:
        taken, self.seconds = self.seconds, 0.0
        return taken


class Figure(NamedTuple):
    """One measured task."""

    task: str
    cpu: float
    wall: float
    share: float
    megabytes: float


def add(root: Path, tree: Path, task: str, spent: Spent, *, reread: bool = False) -> Figure:
    spent.take()
    clock = Clock()
    with Store.open(root, create=True) as store:
        stats = import_directory(store, tree, SPEC, progress=Silent(), reread=reread).stats
    return Figure(task, *clock.read(), spent.take(), stats.stored_bytes / 1e6)


def checked(root: Path, task: str, *, read_data: bool) -> Figure:
    clock = Clock()
    with Store.open(root) as store:
        report: CheckReport = check(store, read_data=read_data)
    assert report.ok, report.findings
    return Figure(task, *clock.read(), 0.0, report.bytes_read / 1e6)


def damage(root: Path) -> None:
    """Flip one bit in the middle of the largest pack."""
    path = max(root.glob("packs/*/*.pack"), key=lambda pack: pack.stat().st_size)
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def one_round(work: Path, tree: Path, spent: Spent) -> list[Figure]:
    root = work / "store"
    shutil.rmtree(root, ignore_errors=True)
    figures = [add(root, tree, "add", spent), add(root, tree, "add again, unchanged", spent)]
    figures.append(add(root, tree, "add again, read", spent, reread=True))
    figures.append(checked(root, "check", read_data=False))
    figures.append(checked(root, "check --read-data", read_data=True))
    damage(root)
    figures.append(add(root, tree, "add again, heal", spent))
    with Store.open(root) as store:
        assert check(store, read_data=True).ok
    return figures


def generate(root: Path, chunks: int) -> None:
    """Make a store of small chunks, in layers of at most ``LAYER_CHUNKS`` files."""
    with Store.open(root, create=True) as store, store.begin("generate") as session:
        for start in range(0, chunks, LAYER_CHUNKS):
            entries = []
            for number in range(start, min(start + LAYER_CHUNKS, chunks)):
                content = b"%016d" % number * 4
                extents = ((len(content), session.put_chunk(content)),)
                path = b"f/%016d" % number
                entries.append(Entry(path, Kind.FILE, 0o644, size=len(content), extents=extents))
            publish_image(
                session, [publish_changeset(session, Changeset(tuple(entries)))], f"many:{start}"
            )


def medians(rounds: list[list[Figure]]) -> list[Figure]:
    found = []
    for task in zip(*rounds, strict=True):
        numbers = [statistics.median(column) for column in zip(*(f[1:] for f in task), strict=True)]
        found.append(Figure(task[0].task, *numbers))
    return found


def result_of(rounds: list[list[Figure]], generated: list[Figure]) -> Result:
    """Return all rounds, and what became of the promises."""
    result = Result()
    for runs in [*zip(*rounds, strict=True), *((one,) for one in generated)]:
        task = runs[0].task
        result.add(task, "layerstore", "CPU", "s", [run.cpu for run in runs])
        result.add(task, "layerstore", "time", "s", [run.wall for run in runs])
        if any(run.share for run in runs):
            result.add(task, "layerstore", "CPU of making sure", "s", [run.share for run in runs])
        if any(run.megabytes for run in runs):
            sizes = [run.megabytes * 1e6 for run in runs]
            result.add(task, "layerstore", "read or stored", "B", sizes)
    found = {one.task: one for one in medians(rounds)}
    share = found["add again, read"].share / found["add"].cpu
    wanted = f"at most {SHARE_TARGET:.0%} of the CPU of adding it first"
    result.promise(
        "making sure of what is reused", wanted, f"{share:.1%}", met=share <= SHARE_TARGET
    )
    for one in generated:
        if "1000000" in one.task and "--read-data" not in one.task:
            met = one.wall <= CHECK_TARGET_SECONDS
            wanted = f"within {CHECK_TARGET_SECONDS:g} s"
            result.promise("a million chunks checked", wanted, f"{one.wall:.0f} s", met=met)
    return result


def report(figures: list[Figure]) -> str:
    head = ("", "CPU s", "wall s", "of it soundness s", "MB", "MB/s")
    rows = [
        (
            f.task,
            f"{f.cpu:.2f}",
            f"{f.wall:.2f}",
            f"{f.share:.3f}",
            f"{f.megabytes:.1f}",
            f"{f.megabytes / f.wall:.0f}",
        )
        for f in figures
    ]
    return grid(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--tree", type=Path)
    source.add_argument("--tar", type=Path)
    parser.add_argument("-n", "--rounds", type=int, default=3)
    parser.add_argument("--chunks", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run there")
    given = parser.parse_args()
    spent = Spent()
    with tempfile.TemporaryDirectory(prefix="layerstore-bench-") as scratch:
        work = Path(scratch)
        unpack_or_copy(given, work, work / "tree")
        warm(work / "tree")
        rounds = []
        for number in range(given.rounds):
            say(f"round {number + 1} of {given.rounds}")
            rounds.append(one_round(work, work / "tree", spent))
        figures = medians(rounds)
        if given.chunks:
            say(f"generating {given.chunks} chunks")
            generate(work / "many", given.chunks)
            for read_data in (False, True):
                task = f"check{' --read-data' * read_data} of {given.chunks} chunks"
                figures.append(checked(work / "many", task, read_data=read_data))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if given.json:
        result_of(rounds, figures[len(rounds[0]) :]).write(given.json)
    print(report(figures))
    print(f"peak memory of everything together: {peak / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
