"""Lazy views of a real root: what is fetched, how long a start takes, what an event costs.

    python -m tests.bench.lazy [--remote STORE --image NAME] [--work DIR] [--rounds N]
                               [--delay-ms N] [--backends kernel,fuse] [--json FILE]

The image is Debian with Python, NumPy, gcc and perl, made by `layerstore bootstrap` unless
a store that has one is given. Each round shows it from an empty local store, with the remote
answering after so many milliseconds: starts Python (importing json, ssl and numpy), then
reads files, in random order, until 5 % of the image's bytes were read; once without
help, once with the trace of that fetched ahead. Then files that are all here are opened for
the first time and once more. Needs root.
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
from typing import TYPE_CHECKING, NamedTuple

from fuse_mount import mounts
from fuse_mount.lazy_lowers import LazySource
from layerstore.linux import mounts as syscalls
from layerstore.linux import namespaces
from layerstore.store.store import Store
from tests.bench.harness import absolute, environment, grid, say
from tests.bench.result import Result, Unit
from tests.support.lazy import LazyPlace, Wrapped, wait_until, wrap_remotes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from layerstore.digest import ChunkId

PACKAGES = "python3,python3-numpy,gcc,libc6-dev,make,perl"
START = ("usr/bin/python3", "-c", "import json, ssl, numpy; print(numpy.arange(9).sum())")
READ_PART = 0.05
OPENED = 2000


class Patches:
    """What wrap_remotes wants of pytest."""

    def setattr(self, owner: object, name: str, value: object) -> None:
        setattr(owner, name, value)


class Run(NamedTuple):
    """One round.

    Attributes:
        mount_s: Until the view was there.
        start_s: Of Python, from an empty store.
        whole_s: Mounting, the start, and the reads.
        started_bytes: Fetched when Python had started.
        read_bytes: Content of the files that were read, what Python opened not counted.
        fetched_bytes: Fetched in all.
    """

    mount_s: float
    start_s: float
    whole_s: float
    started_bytes: int
    read_bytes: int
    fetched_bytes: int


class LazyBench:
    """A remote with one image, and rounds that begin with nothing."""

    def __init__(self, work: Path, remote: Path, image: str) -> None:
        self.work = work
        self.target = work / "view"
        with Store.open(remote) as store:
            record = store.resolve(image)
        self.size = record.size
        self.source = LazySource(str(remote), record.image_id)
        self.place = LazyPlace.__new__(LazyPlace)
        self.place.base, self.place.remote = work, remote
        self.place.image_id = record.image_id
        self.place.store = work / "store"

    def fresh(self) -> None:
        shutil.rmtree(self.place.store, ignore_errors=True)
        Store.open(self.place.store, create=True).close()
        drop_caches()

    def round(self, backend: str, *, trace: str = "", ahead: str = "") -> Run:
        self.fresh()
        begun = time.perf_counter()
        self.place.mount(self.target, backend=backend, record_trace=trace, ahead=ahead)
        mounted = time.perf_counter()
        start(self.target)
        started = time.perf_counter()
        started_bytes = self.place.fetched(self.target)["size"]
        read = read_some(self.target, int(self.size * READ_PART))
        done = time.perf_counter()
        fetched = self.place.fetched(self.target)["size"]
        self.place.unmount(self.target)
        return Run(mounted - begun, started - mounted, done - begun, started_bytes, read, fetched)

    def events(self, backend: str) -> tuple[float, float]:
        """Return microseconds to open and read a file that is here: first, and once more."""
        self.fresh()
        self.place.mount(self.target, backend=backend, ahead="all")
        until = -1
        while (now := self.place.fetched(self.target)["size"]) != until:
            until = now
            time.sleep(2)
        paths = small_files(self.target)[:OPENED]
        return tuple(timed_reads(paths) for _ in range(2))  # type: ignore[return-value]

    def event(self) -> float:
        """Return the median of microseconds that the kernel waits for the server's answer."""
        lower = self.place.record(self.target).lower
        absent = [f"{lower}/lazy/make/00/00{number:062x}" for number in range(OPENED)]
        taken = []
        for path in absent:
            begun = time.perf_counter()
            os.path.lexists(path)
            taken.append(time.perf_counter() - begun)
        return 1e6 * statistics.median(taken)


def start(root: Path) -> None:
    """Run Python inside of a view."""
    command = ["chroot", str(root), f"/{START[0]}", *START[1:]]
    done = subprocess.run(
        command, capture_output=True, check=False, env={"PATH": "/usr/sbin:/usr/bin:/bin"}
    )
    if done.stdout.strip() != b"36":
        raise RuntimeError(done.stderr.decode())


def regular_files(root: Path) -> Iterator[os.DirEntry[str]]:
    pending = [str(root)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    yield entry


def read_some(root: Path, wanted: int) -> int:
    """Read whole files in a random order until so many bytes were read; return how many."""
    paths = sorted(entry.path for entry in regular_files(root))
    random.Random(7).shuffle(paths)
    done = 0
    for path in paths:
        if done >= wanted:
            break
        with open(path, "rb", buffering=0) as file:
            while part := file.read(1 << 20):
                done += len(part)
    return done


def small_files(root: Path) -> list[str]:
    paths = [entry.path for entry in regular_files(root) if 0 < entry.stat().st_size <= 65536]
    random.Random(3).shuffle(paths)
    return paths


def timed_reads(paths: Sequence[str]) -> float:
    """Return the median of microseconds that opening and reading a file takes."""
    taken = []
    for path in paths:
        begun = time.perf_counter()
        fd = os.open(path, os.O_RDONLY)
        os.read(fd, 65536)
        os.close(fd)
        taken.append(time.perf_counter() - begun)
    return 1e6 * statistics.median(taken)


def drop_caches() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def delayed(seconds: float) -> type[Wrapped]:
    class Delayed(Wrapped):
        """Answers each question so much later, as one far away does."""

        def chunks(self, chunk_ids: Sequence[ChunkId]) -> Iterator[tuple[ChunkId, bytes]]:
            time.sleep(seconds)
            yield from super().chunks(chunk_ids)

    return Delayed


def make_remote(work: Path) -> Path:
    """Make a store with the image ``deb:1``."""
    remote = work / "remote"
    command = [sys.executable, "-m", "layerstore", "--store", str(remote), "bootstrap"]
    command += ["debian:bookworm", "-t", "deb:1", "--include", PACKAGES]
    subprocess.run(command, check=True)
    return remote


SAID = {
    "mount_s": "mount",
    "start_s": "start of Python",
    "whole_s": "with the reads",
    "started_bytes": "fetched at the start",
}


def report(bench: LazyBench, backend: str, rounds: int, result: Result) -> None:
    trace = bench.work / "trace"
    plain, helped = [], []
    for number in range(rounds):
        trace.unlink(missing_ok=True)
        plain.append(bench.round(backend, trace=str(trace)))
        helped.append(bench.round(backend, ahead=str(trace)))
        say(f"{backend}, round {number + 1}: {plain[-1].whole_s:.2f} s, "
            f"{helped[-1].whole_s:.2f} s with the trace")  # fmt: skip
    rows = []
    for name, runs in (("", plain), (", trace fetched ahead", helped)):
        for field, what in SAID.items():
            values = [getattr(run, field) for run in runs]
            unit: Unit = "s" if field.endswith("_s") else "B"
            result.add("a start, then 5 %", f"{backend}{name}", what, unit, values)
        fetched = [(run.fetched_bytes - run.started_bytes) / bench.size * 100 for run in runs]
        result.add("a start, then 5 %", f"{backend}{name}", "fetched for the 5 %", "%", fetched)
        middle = Run(*(statistics.median(values) for values in zip(*runs, strict=True)))
        rows.append([
            f"{backend}{name}", f"{middle.mount_s:.2f}", f"{middle.start_s:.2f}",
            f"{middle.whole_s:.2f}", f"{middle.started_bytes / 1e6:.1f}",
            f"{100 * middle.read_bytes / bench.size:.1f} %",
            f"{100 * (middle.fetched_bytes - middle.started_bytes) / bench.size:.1f} %",
        ])  # fmt: skip
    head = ["", "mount s", "Python s", "all s", "MB at start", "then read", "fetched for it"]
    say(grid(head, rows))


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.bench.lazy", description=__doc__.splitlines()[0])
    parser.add_argument("--remote", type=Path)
    parser.add_argument("--image", default="deb:1")
    parser.add_argument("--work", type=absolute)
    parser.add_argument("--rounds", type=int, default=3, help="0: only what an event costs")
    parser.add_argument("--delay-ms", type=float, default=5)
    parser.add_argument("--backends", default="kernel,fuse")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run there")
    given = parser.parse_args()
    if os.geteuid() != 0:
        say("needs root: mounting takes privileges")
        return 1
    namespaces.unshare(namespaces.CLONE_NEWNS)
    syscalls.set_propagation("/", syscalls.MS_PRIVATE)
    work = Path(tempfile.mkdtemp(prefix="layerstore-bench-", dir=given.work))
    bench = None
    result = Result()
    try:
        bench = LazyBench(work, given.remote or make_remote(work), given.image)
        say(f"the image: {bench.size / 1e6:.0f} MB of files; "
            f"the remote answers after {given.delay_ms:g} ms")  # fmt: skip
        wrap_remotes(Patches(), delayed(given.delay_ms / 1000))
        for backend in given.backends.split(",") if given.rounds else ():
            report(bench, backend, given.rounds, result)
        for backend in given.backends.split(","):
            first, again = bench.events(backend)
            result.add("a small file that is here", backend, "first", "s", [first / 1e6])
            result.add("a small file that is here", backend, "again", "s", [again / 1e6])
            say(f"{backend}: opening and reading a small file that is here: {first:.0f} us first, "
                f"{again:.0f} us again")  # fmt: skip
            if backend == "kernel":
                say(f"an event, looking for an object through the data layer: "
                    f"{bench.event():.0f} us")  # fmt: skip
            bench.place.unmount(bench.target)
        say(str(environment()))
        if given.json:
            part = max(
                (one.median for one in result.figures if one.what == "fetched for the 5 %"),
                default=None,
            )
            said = "not measured" if part is None else f"{part:.1f} %"
            met = None if part is None else part < 10
            result.promise("reading 5 % of an image", "fetches under 10 %", said, met=met)
            result.notes.append(
                f"{bench.size / 1e6:.0f} MB of files; the remote answers after "
                f"{given.delay_ms:g} ms."
            )
            result.write(given.json)
    finally:
        if bench is not None and bench.place.store.exists():
            for item in mounts.mounts(str(bench.place.store)):
                mounts.unmount(str(bench.place.store), item.record.view_id, lazy=True)
            wait_until(lambda: not list(bench.place.store.glob("views/lowers/*/*/alive")))
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
