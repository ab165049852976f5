"""Packs mounted in place: every byte of every image compared, and what that costs.

    python -m tests.bench.packs_in_place [--store DIR] [--optimize LEVEL] [-n ROUNDS] [--work DIR]
                                         [--json FILE]

Mounts each image of a store with ``--backend kernel-packs`` and compares every entry - kind,
mode, owner, time, links, device, target, attributes - and every byte with what the store's own
verifying reader gives. Then mounts each image anew, with nothing made before, from packs and
from unpacked files, and prints how long that takes and what it leaves on disk. Without ``--store``
the store is made of Debian root file systems: base, with python, with a compiler, with node.
``--optimize`` does all of it once more after ``layerstore optimize --level``. Ends with 1 if
anything differs. Needs root; evicts what the store has unpacked.
"""

from __future__ import annotations

import argparse
import os
import shutil
import stat
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fuse_mount import mounts
from layerstore.image.trees.stack import load_root, walk
from layerstore.linux.xattrs import read_xattrs
from layerstore.store.collect.eviction import evict
from layerstore.store.objects.objects import object_sizes
from layerstore.store.paths import StorePaths
from layerstore.store.store import Store
from layerstore.vfs.view import ImageView
from tests.bench.harness import absolute, environment, grid, say
from tests.bench.result import Result

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.image.trees.stack import Node
    from layerstore.store.catalog.rows import ImageRecord

PACKS, UNPACKED = "kernel-packs", "kernel"
ROOTS = {
    "base": (),
    "python": ("python3", "python3-numpy"),
    "gcc": ("gcc", "make", "libc6-dev"),
    "node": ("nodejs",),
}
FIELDS = ("first", "again", "further")
READ_BYTES = 1 << 20
MEGABYTE = 1_000_000


class Compared(NamedTuple):
    """One image, read through packs and through the store."""

    name: str
    entries: int
    content: int
    different: tuple[str, ...]


class Cost(NamedTuple):
    """What showing one image took: seconds, and bytes on disk beside the packs."""

    first: float
    again: float
    further: float
    disk: int


class Bench:
    """A store, and a directory to mount its images on."""

    def __init__(self, store: str, work: Path) -> None:
        self.store = store
        self.paths = StorePaths(store)
        self.target = work / "view"
        self.target.mkdir()
        self.other = work / "other"
        self.other.mkdir()

    def images(self) -> list[tuple[str, ImageRecord]]:
        with Store.open(self.store) as store:
            return [(name, store.resolve(name)) for name in sorted(store.tags())]

    def compare(self, name: str, image: ImageRecord) -> Compared:
        """Read a whole image both ways."""
        mounts.mount(self.store, image, str(self.target), backend=PACKS)
        try:
            with Store.open(self.store) as store:
                view = ImageView(store, load_root(store, image.layers))
                entries = content = 0
                different: list[str] = []
                for path, node in walk(view.root):
                    entries += 1
                    content += node.entry.size
                    place = os.path.join(os.fsencode(self.target), path)
                    if any(not same for same in differences(view, node, place)):
                        different.append(os.fsdecode(path))
                shown = sum(1 for _ in self._walk_target())
                if shown != entries:
                    different.append(f"{shown} entries instead of {entries}")
                return Compared(name, entries, content, tuple(different))
        finally:
            mounts.unmount(self.store, str(self.target))

    def _walk_target(self) -> Iterator[str]:
        yield str(self.target)
        for directory, below, files in os.walk(self.target):
            for name in (*below, *files):
                yield f"{directory}/{name}"

    def cost(self, image: ImageRecord, backend: str) -> Cost:
        """Mount with nothing made before, again after unmounting, and beside a view."""
        evict(self.paths)
        first = self._timed(image, backend, self.target)
        disk = sum(file.disk_size for file in object_sizes(self.paths).values())
        disk += sum(
            path.stat().st_blocks * 512
            for place in (self.paths.pack_images, self.paths.metadata)
            for path in Path(place).glob("*")
        )
        mounts.unmount(self.store, str(self.target))
        again = self._timed(image, backend, self.target)
        further = self._timed(image, backend, self.other)
        for target in (self.other, self.target):
            mounts.unmount(self.store, str(target))
        return Cost(first, again, further, disk)

    def _timed(self, image: ImageRecord, backend: str, target: Path) -> float:
        begun = time.perf_counter()
        mounts.mount(self.store, image, str(target), backend=backend)
        return time.perf_counter() - begun


def differences(view: ImageView, node: Node, place: bytes) -> Iterator[bool]:
    """Yield for each thing about an entry whether a mounted one has it, too."""
    expected, status = view.attributes(node), os.lstat(place)
    for field in ("mode", "uid", "gid", "mtime_ns"):
        yield getattr(expected, field) == getattr(status, f"st_{field}")
    if not stat.S_ISDIR(expected.mode):
        yield expected.nlink == status.st_nlink
    yield {name: view.xattr(node, os.fsencode(name)) for name in view.xattr_names(node)} == dict(
        read_xattrs(place)
    )
    if stat.S_ISLNK(expected.mode):
        yield view.link_target(node) == os.readlink(place)
    elif stat.S_ISBLK(expected.mode) or stat.S_ISCHR(expected.mode):
        yield expected.rdev == status.st_rdev
    elif stat.S_ISREG(expected.mode):
        yield expected.size == status.st_size
        with open(place, "rb", buffering=0) as file:
            for at in range(0, expected.size, READ_BYTES):
                yield view.read(node, at, READ_BYTES) == os.pread(file.fileno(), READ_BYTES, at)


def run(bench: Bench, rounds: int, what: str, result: Result) -> bool:
    """Compare and time every image, into the result; return whether nothing differs."""
    images = bench.images()
    rows, right = [], True
    for name, image in images:
        compared = bench.compare(name, image)
        right = right and not compared.different
        costs: dict[str, list[Cost]] = {PACKS: [], UNPACKED: []}
        for _ in range(rounds):
            for backend, taken in costs.items():
                taken.append(bench.cost(image, backend))
        for backend, taken in costs.items():
            for field in FIELDS:
                times = [getattr(cost, field) for cost in taken]
                result.add(f"{name}, {what}", backend, f"{field} mount", "s", times)
            disk = [cost.disk for cost in taken]
            result.add(f"{name}, {what}", backend, "disk beside the store", "B", disk)
        met = not compared.different
        said = f"{compared.entries:,} entries, {len(compared.different)} differ"
        result.promise(f"{name}, {what}: read out of packs", "no difference", said, met=met)
        for path in compared.different[:10]:
            say(f"{name}: {path} differs")
        counts = (compared.entries, compared.content // MEGABYTE, len(compared.different))
        times = [
            f"{statistics.median(getattr(cost, field) for cost in costs[backend]):.4f}"
            for backend in (PACKS, UNPACKED)
            for field in FIELDS
        ]
        disk = [f"{costs[backend][-1].disk / MEGABYTE:.0f}" for backend in (PACKS, UNPACKED)]
        rows.append((name, *map(str, counts), *times, *disk))
    heads = [f"{words} {field}" for words in ("packs", "unpacked") for field in FIELDS]
    print(what)
    print(grid(("image", "entries", "MB", "differ", *heads, "packs MB", "unpacked MB"), rows))
    return right


def layerstore(store: str, *words: str) -> None:
    command = [sys.executable, "-m", "layerstore", "--store", store, *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests.bench.packs_in_place", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--store")
    parser.add_argument("--optimize", metavar="LEVEL")
    parser.add_argument("-n", "--rounds", type=int, default=3)
    parser.add_argument("--work", type=absolute)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run there")
    return parser.parse_args()


def main() -> int:
    given = parse_arguments()
    if os.geteuid() != 0:
        say("needs root: the kernel mounts for root alone")
        return 1
    work = Path(tempfile.mkdtemp(prefix="layerstore-bench-", dir=given.work))
    try:
        store = given.store or str(work / "store")
        if not given.store:
            for name, packages in ROOTS.items():
                say(f"making {name}")
                include = ("--include", ",".join(packages)) if packages else ()
                layerstore(store, "bootstrap", "debian:bookworm", "-t", f"{name}:1", *include)
        bench = Bench(store, work)
        result = Result()
        right = run(bench, given.rounds, "as ingested", result)
        if given.optimize:
            say("optimizing")
            layerstore(store, "optimize", "--level", given.optimize)
            what = f"optimized at level {given.optimize}"
            right = run(bench, given.rounds, what, result) and right
        print(environment())
        if given.json:
            result.write(given.json)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
