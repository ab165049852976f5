"""What FUSE_PASSTHROUGH would gain and cost: our server with it and without.

    python -m tests.bench.passthrough [--tree DIR | --tar FILE] [-n ROUNDS] [--json FILE]

With it the kernel reads a file's content from another file (here the tree itself, in views it
would be the object tier) and the server answers nothing but opens: those it must answer then,
for all files of the mount. Jobs and columns are those of :mod:`tests.bench.fuse_servers`. Needs
root and Linux 6.9.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import statistics
import struct
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from fuse_mount import protocol, starting
from fuse_mount.device import Session, Slot
from fuse_mount.nodes import SingleNodes
from layerstore.image.trees.stack import load_root, walk
from layerstore.linux import mounts
from layerstore.store.store import Store
from layerstore.vfs.view import ImageView
from tests.bench.fuse_servers import (
    Sample,
    _cpu_seconds,
    _read_ahead,
    drop_caches,
    listed,
    read_at_random,
    read_whole,
    walk_and_stat,
)
from tests.bench.harness import absolute, environment, grid, interleave, say
from tests.bench.result import Result
from tests.bench.trees import unpack_or_copy
from tests.support.views import changeset_of, publish_changeset

if TYPE_CHECKING:
    from layerstore.digest import DiffId
    from layerstore.image.trees.stack import Node

# linux/fuse.h, protocol 7.40: FUSE_DEV_IOC_BACKING_OPEN of struct fuse_backing_map.
BACKING_OPEN = 0x4010_E501
OPEN, RELEASE = 14, 18
FOPEN_PASSTHROUGH = 1 << 7
PASSTHROUGH = 1 << 37

PLACES = ("plain directory", "own server", "with passthrough")
JOBS = ("small files", "large files", "random 4K")


class PassingSession(Session):
    """Our server, which hands every file that is opened to the kernel."""

    def __init__(self, device: int, view: ImageView, root: Node, tree: Path) -> None:
        super().__init__(device, SingleNodes(view), Slot())
        self._paths = {node.ino: os.path.join(os.fsencode(tree), path) for path, node in walk(root)}
        self._backing: dict[int, int] = {}
        self._handlers[OPEN] = self._open
        self._handlers[RELEASE] = lambda _node, _length: b""
        self._handlers[protocol.Opcode.INIT] = self._init_passing

    def _init_passing(self, _node: int, length: int) -> bytes:
        offered = protocol.parse_init(self._buffer, length)
        if not offered.flags & PASSTHROUGH:
            raise SystemExit("this kernel has no FUSE_PASSTHROUGH")
        flags = int(offered.flags) & (int(protocol.WANTED) | PASSTHROUGH)
        flags &= ~int(protocol.Flag.NO_OPEN_SUPPORT)
        # As protocol.init_answer, with max_stack_depth 1 behind the upper flags.
        return struct.pack(
            "=IIIIHHIIHHII24x", 7, 40, offered.max_readahead, flags & 0xFFFF_FFFF,
            0, 0, 4096, 1, protocol.READ_MAX_PAGES, 0, flags >> 32, 1,
        )  # fmt: skip

    def _open(self, number: int, _length: int) -> bytes:
        backing = self._backing.get(number)
        if backing is None:
            fd = os.open(self._paths[number], os.O_RDONLY)
            backing = fcntl.ioctl(
                self._device, BACKING_OPEN, bytearray(struct.pack("=iIQ", fd, 0, 0)), True
            )
            os.close(fd)
            self._backing[number] = backing
        return struct.pack("=QIi", number, FOPEN_PASSTHROUGH, backing)


class Bench:
    """The tree, its store, and what the jobs took."""

    def __init__(self, work: Path, tree: Path) -> None:
        self.tree = tree
        self.target = work / "view"
        self.target.mkdir()
        self.store = work / "store"
        with Store.open(self.store, create=True) as store, store.begin("bench") as session:
            self.layer: DiffId = publish_changeset(session, changeset_of(session, tree))
        self.small, self.large = listed(tree)
        self.samples: dict[tuple[str, str, str], list[Sample]] = {}

    def round_of(self, place: str) -> None:
        for job in JOBS:
            root, server = (str(self.tree), 0) if place == PLACES[0] else self._serve(place)
            try:
                walk_and_stat(root)
                drop_caches()
                for state in ("cold", "warm"):
                    begun, used = time.perf_counter(), _cpu_seconds(server)
                    self._run(job, root)
                    sample = Sample(time.perf_counter() - begun, _cpu_seconds(server) - used)
                    self.samples.setdefault((place, job, state), []).append(sample)
            finally:
                if server:
                    mounts.unmount(str(self.target), lazy=True)
                    os.waitpid(server, 0)

    def _serve(self, place: str) -> tuple[str, int]:
        device = starting._mount(str(self.target), 2)
        server = os.fork()
        if server == 0:
            try:
                with Store.open(self.store) as store:
                    root = load_root(store, [self.layer])
                    view = ImageView(store, root)
                    if place == PLACES[2]:
                        PassingSession(device, view, root, self.tree).run()
                    else:
                        Session(device, SingleNodes(view), Slot()).run()
            except BaseException:  # noqa: BLE001 -- the child's last frame
                traceback.print_exc()
            finally:
                os._exit(0)
        os.close(device)
        os.stat(self.target)
        _read_ahead(self.target)
        return str(self.target), server

    def _run(self, job: str, root: str) -> None:
        if job == "random 4K":
            read_at_random(root, self.large)
        else:
            read_whole(root, self.small if job == "small files" else self.large)

    def result(self) -> Result:
        """Return every sample."""
        result = Result()
        for (place, job, state), found in self.samples.items():
            result.add(f"{state} {job}", place, "time", "s", [sample.wall for sample in found])
            result.add(f"{state} {job}", place, "server", "s", [sample.server for sample in found])
        return result

    def report(self) -> str:
        rows = [
            (f"{state} {place}", *(self._cell(place, job, state) for job in JOBS))
            for state in ("cold", "warm")
            for place in PLACES
        ]
        return grid(("seconds, server's CPU seconds", *JOBS), rows)

    def _cell(self, place: str, job: str, state: str) -> str:
        found = self.samples[place, job, state]
        wall = statistics.median(sample.wall for sample in found)
        return f"{wall:.3f} {statistics.median(sample.server for sample in found):.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.bench.passthrough")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--tree", type=Path)
    source.add_argument("--tar", type=Path)
    parser.add_argument("-n", "--rounds", type=int, default=7)
    parser.add_argument("--work", type=absolute)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run there")
    given = parser.parse_args()
    if os.geteuid() != 0:
        say("needs root: mounting and backing files take privileges")
        return 1
    work = Path(tempfile.mkdtemp(prefix="layerstore-bench-", dir=given.work))
    try:
        tree = work / "tree"
        unpack_or_copy(given, work, tree)
        bench = Bench(work, tree)
        interleave(given.rounds, [lambda p=p: bench.round_of(p) for p in PLACES], say=say)
        print(bench.report())
        if given.json:
            bench.result().write(given.json)
        print(environment())
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
