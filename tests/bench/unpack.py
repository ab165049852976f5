"""How fast files are unpacked for views by the kernel, against plain files on the same disk.

    python -m tests.bench.unpack [--inodes N] [--rounds N] [--writers N] [--work DIR]
                                 [--json FILE]

Makes an image of so many inodes. A round makes an ext4 file system of its own in a file, copies
the store there, and unpacks everything; then another one, and writes as many plain files, as
large, from so many threads, and syncs. A fresh file system each time: ext4 does not use inodes
again that were freed a moment ago, and looks for others at length. Prints both rates and
their ratio for every round, and the medians. Needs root, mkfs.ext4 and loop devices.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from layerstore.image.kernel.kernel_tree import kernel_tree
from layerstore.image.trees.stack import load_root
from layerstore.linux import mounts as syscalls
from layerstore.linux import namespaces
from layerstore.linux.files import sync_file_system
from layerstore.progress import Silent
from layerstore.store.objects.tier import kept_objects
from layerstore.store.objects.unpacking import unpack
from layerstore.store.store import Store
from tests.bench.harness import absolute, environment, say
from tests.bench.result import Result
from tests.bench.views import make_images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

TARGET_MEGABYTES = 300
"""A second, where plain files reach it."""

ROOM = 3
"""The file system is so many times as large as the content of all files."""


class Rate(NamedTuple):
    """What one run took."""

    wall_seconds: float
    cpu_seconds: float


@contextlib.contextmanager
def fresh_ext4(work: Path, size: int) -> Iterator[Path]:
    """Mount a new, empty ext4 for as long as the context lasts."""
    image, place = work / "ext4.img", work / "ext4"
    with image.open("wb") as file:
        file.truncate(size)
    options = "lazy_itable_init=0,lazy_journal_init=0"  # else the kernel does that meanwhile
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E", options, str(image)], check=True)
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)
        image.unlink()


def timed(work: Callable[[], object]) -> Rate:
    """Return what ``work`` takes, in an environment that has nothing left to write."""
    os.sync()
    begun, cpu = time.perf_counter(), time.process_time()
    work()
    return Rate(time.perf_counter() - begun, time.process_time() - cpu)


def unpacking(store_root: Path) -> Rate:
    """Unpack all files of a store's only image."""
    with Store.open(store_root) as store, kept_objects(store.paths):
        (image,) = store.images()
        wanted = kernel_tree(load_root(store, image.layers)).objects
        return timed(lambda: unpack(store, wanted, Silent()))


def plain_files(place: Path, sizes: Sequence[int], writers: int) -> Rate:
    """Write plain files, as fast as so many threads can, and bring them to disk."""
    block = memoryview(random.Random(1).randbytes(max(sizes)))

    def write(first: int) -> None:
        for number in range(first, len(sizes), writers):
            fd = os.open(f"{place}/{number:x}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(fd, block[: sizes[number]])
            os.close(fd)

    def write_all() -> None:
        with ThreadPoolExecutor(writers) as pool:
            list(pool.map(write, range(writers)))
        sync_file_system(str(place))

    return timed(write_all)


def file_sizes(store_root: Path) -> list[int]:
    """Return the sizes of the distinct files of a store's only image."""
    with Store.open(store_root) as store:
        (image,) = store.images()
        wanted = kernel_tree(load_root(store, image.layers)).objects
        return [sum(length for length, _ in extents) for extents in wanted.values()]


def result_of(
    sizes: Sequence[int], rounds: list[tuple[float, float]], cpu: list[tuple[float, float]]
) -> Result:
    """Return rates (megabytes a second), times and CPU seconds of all rounds."""
    size = sum(sizes)
    result = Result(notes=[f"{len(sizes):,} files, {size / 1e6:.0f} MB."])
    for who, rates, taken in zip(
        ("layerstore", "plain files"), zip(*rounds, strict=True), zip(*cpu, strict=True),
        strict=True,
    ):  # fmt: skip
        result.add("unpack", who, "MB a second", "", rates)
        result.add("unpack", who, "time", "s", [size / 1e6 / rate for rate in rates])
        result.add("unpack", who, "CPU", "s", taken)
    ours, plain = (statistics.median(rates) for rates in zip(*rounds, strict=True))
    met = None if plain < TARGET_MEGABYTES else ours >= TARGET_MEGABYTES
    said = f"{ours:.0f} MB/s, plain files {plain:.0f}"
    wanted = f"at least {TARGET_MEGABYTES} MB/s where the disk allows it"
    result.promise("unpacking for views", wanted, said, met=met)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.bench.unpack", description=__doc__.splitlines()[0])
    parser.add_argument("--inodes", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--writers", type=int, default=2)
    parser.add_argument("--work", type=absolute)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run there")
    given = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        say("needs root and mkfs.ext4: every round has a file system of its own")
        return 1
    # Nothing stays mounted, however this ends.
    namespaces.unshare(namespaces.CLONE_NEWNS)
    syscalls.set_propagation("/", syscalls.MS_PRIVATE)
    work = Path(tempfile.mkdtemp(prefix="layerstore-bench-", dir=given.work))
    try:
        make_images(work / "store", given.inodes, 1)
        sizes = file_sizes(work / "store")
        size = sum(sizes)
        say(f"{len(sizes)} files, {size / 1e6:.0f} MB")
        rounds: list[tuple[float, float]] = []
        cpu: list[tuple[float, float]] = []
        for _ in range(given.rounds):
            with fresh_ext4(work, ROOM * size) as place:
                shutil.copytree(work / "store", place / "store")
                ours = unpacking(place / "store")
            with fresh_ext4(work, ROOM * size) as place:
                plain = plain_files(place, sizes, given.writers)
            rounds.append((size / 1e6 / ours.wall_seconds, size / 1e6 / plain.wall_seconds))
            cpu.append((ours.cpu_seconds, plain.cpu_seconds))
            say(
                f"unpacked {rounds[-1][0]:.0f} MB/s ({ours.cpu_seconds:.1f} s of CPU), "
                f"plain {rounds[-1][1]:.0f} MB/s ({plain.cpu_seconds:.1f} s), "
                f"ratio {plain.wall_seconds / ours.wall_seconds:.2f}, load {os.getloadavg()[0]:.1f}"
            )
        middle = [statistics.median(rates) for rates in zip(*rounds, strict=True)]
        ratio = statistics.median(ours / plain for ours, plain in rounds)
        say(f"median: {middle[0]:.0f} MB/s, plain {middle[1]:.0f} MB/s, ratio {ratio:.2f}")
        say(str(environment()))
        if given.json:
            result_of(sizes, rounds, cpu).write(given.json)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
