"""What views by the kernel cost to make: the first, further ones, and a thousand at once.

    python -m tests.bench.views [--inodes N] [--views N] [--images N] [--work DIR] [--json FILE]

Makes an image of so many inodes and others that add a layer to it, then prints how fast
files are unpacked, how long the first view takes with all files unpacked (with and without
its metadata image), any further one as a library call, and so many writable views of all
images: seconds, kernel memory each, and unmounting. Needs root.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fuse_mount import mounts
from layerstore.formats.tree import Changeset, Entry, Kind
from layerstore.linux import mounts as syscalls
from layerstore.linux import namespaces
from layerstore.store.objects.objects import object_sizes
from layerstore.store.paths import StorePaths
from layerstore.store.store import Store
from tests.bench.harness import absolute, environment, say
from tests.bench.result import Result
from tests.support.views import publish_changeset, publish_image

if TYPE_CHECKING:
    from collections.abc import Callable

    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.writing.session import WriteSession

FILES_A_DIRECTORY = 20
FURTHER = 50


def base_layer(session: WriteSession, inodes: int) -> Changeset:
    """Return a layer whose files have the sizes of a root file system's: half below 4 KiB."""
    chance = random.Random(7)
    entries = []
    for number in range(inodes - inodes // FILES_A_DIRECTORY):
        if number % FILES_A_DIRECTORY == 0:
            entries.append(Entry(b"d%05d" % (number // FILES_A_DIRECTORY), Kind.DIR, 0o755))
        size = min(int(chance.lognormvariate(8.2, 1.9)) + 1, 8 << 20)
        content = chance.randbytes(size // 2 + 1) * 2
        path = b"d%05d/f%02d" % divmod(number, FILES_A_DIRECTORY)
        extents = tuple(session.put_bytes(content[:size]))
        entries.append(Entry(path, Kind.FILE, 0o644, size=size, extents=extents))
    return Changeset(tuple(entries))


def make_images(store_root: Path, inodes: int, count: int) -> list[ImageRecord]:
    """Make images of one base and a layer of their own each."""
    images = []
    with Store.open(store_root, create=True) as store, store.begin("bench") as session:
        base = publish_changeset(session, base_layer(session, inodes))
        for number in range(count):
            content = b"of image %d" % number
            own = Entry(
                b"own", Kind.FILE, 0o644, size=len(content),
                extents=tuple(session.put_bytes(content)),
            )  # fmt: skip
            layer = publish_changeset(session, Changeset((own,)))
            images.append(publish_image(session, [base, layer], f"bench-{number}:1"))
    return images


class ViewBench:
    """A store with images, and directories to mount on."""

    def __init__(self, work: Path, images: list[ImageRecord]) -> None:
        self.work = work
        self.store = str(work / "store")
        self.images = images
        self.result = Result()

    def note(self, what: str, *seconds: float) -> None:
        """Keep what one act takes."""
        self.result.add(what, "layerstore", "time", "s", seconds)

    def mount(self, number: int, *, rw: bool = False) -> str:
        target = str(self.work / f"view-{number}")
        os.makedirs(target, exist_ok=True)
        image = self.images[number % len(self.images)]
        mounts.mount(self.store, image, target, rw=rw, backend="kernel")
        return target

    def unmount(self, target: str) -> None:
        mounts.unmount(self.store, target)

    def first_views(self) -> None:
        unpacking, target = timed(lambda: self.mount(0))
        self.unmount(target)
        files = object_sizes(StorePaths(self.store))
        sizes = [file.size for file in files.values()]
        size = sum(sizes)
        again, target = timed(lambda: self.mount(0))
        self.unmount(target)
        shutil.rmtree(f"{self.store}/views/meta")
        anew, target = timed(lambda: self.mount(0))
        rate = size / 1e6 / (unpacking - anew)
        say(
            f"unpacked {len(files)} files, {size / 1e6:.0f} MB, in {unpacking - anew:.1f} s: "
            f"{rate:.0f} MB/s; {plain_rate(self.work, sizes):.0f} MB/s for plain files as many "
            "and large"
        )
        self.result.notes.append(f"{len(files):,} files, {size / 1e6:.0f} MB.")
        self.note("unpacking", unpacking - anew)
        self.note("first view, files unpacked", again)
        self.note("first view, its metadata made as well", anew)
        say(f"first view, files unpacked: {again:.3f} s; its metadata made as well: {anew:.3f} s")
        times = [timed(lambda n=n: self.mount(len(self.images) * n))[0] for n in range(1, FURTHER)]
        self.note("any further view", *times)
        say(f"any further: median {1000 * statistics.median(times):.1f} ms, "
            f"worst {1000 * max(times):.1f} ms")  # fmt: skip
        for item in mounts.mounts(self.store):
            self.unmount(item.record.target)

    def many(self, count: int) -> None:
        for number in range(len(self.images)):  # metadata of all, which is told apart above
            self.unmount(self.mount(number))
        before = kernel_memory()
        begun = time.perf_counter()
        targets = [self.mount(number, rw=True) for number in range(count)]
        taken = time.perf_counter() - begun
        memory = (kernel_memory() - before) / count
        group = f"each of {count} writable views of {len(self.images)} images"
        self.note(group, taken / count)
        self.result.add(group, "layerstore", "kernel memory", "B", [memory])
        say(f"{count} writable views of {len(self.images)} images: {taken:.1f} s, "
            f"{memory / 1024:.0f} KiB of kernel memory each")  # fmt: skip
        begun = time.perf_counter()
        for target in targets:
            self.unmount(target)
        taken = time.perf_counter() - begun
        self.note("unmounting each of them", taken / count)
        say(f"unmounted: {taken:.1f} s")


def plain_rate(work: Path, sizes: list[int]) -> float:
    """Return how many MB/s the host takes: as many files, as large, written and synced.

    Below a directory of their own, which ext4 takes a while to fill anew when files were
    removed a moment ago; a store in use has the same trouble.
    """
    block = random.Random(1).randbytes(max(sizes))
    place = work / "plain"
    place.mkdir()
    begun = time.perf_counter()
    for number, size in enumerate(sizes):
        with (place / f"{number:064}").open("wb", buffering=0) as file:
            file.write(memoryview(block)[:size])
    os.sync()
    taken = time.perf_counter() - begun
    shutil.rmtree(place)
    return sum(sizes) / 1e6 / taken


def timed(work: Callable[[], str]) -> tuple[float, str]:
    """Return the seconds that ``work`` took, and what it returned."""
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def kernel_memory() -> int:
    """Return the bytes that the kernel has for itself, after dropping what it merely keeps."""
    for _ in range(3):  # what one pass frees keeps something else no longer
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
    wanted = ("Slab:", "Percpu:", "PageTables:", "KernelStack:", "VmallocUsed:")
    lines = Path("/proc/meminfo").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(wanted))


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.bench.views", description=__doc__.splitlines()[0])
    parser.add_argument("--inodes", type=int, default=60_000)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--views", type=int, default=1000)
    parser.add_argument("--work", type=absolute)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run there")
    given = parser.parse_args()
    if os.geteuid() != 0:
        say("needs root: mounting takes privileges")
        return 1
    # Nothing stays mounted, however this ends.
    namespaces.unshare(namespaces.CLONE_NEWNS)
    syscalls.set_propagation("/", syscalls.MS_PRIVATE)
    work = Path(tempfile.mkdtemp(prefix="layerstore-bench-", dir=given.work))
    try:
        bench = ViewBench(work, make_images(work / "store", given.inodes, given.images))
        bench.first_views()
        bench.many(given.views)
        say(str(environment()))
        if given.json:
            bench.result.write(given.json)
    finally:
        for item in mounts.mounts(str(work / "store")):
            mounts.unmount(str(work / "store"), item.record.view_id, lazy=True)
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
