"""containerd with our snapshotter beside its own overlayfs: import, start, disk.

    python -m tests.bench.containerd V1.tar V2.tar [--rounds N] [--json FILE]

takes OCI archives (``layerstore save``) of two versions of one image. Each round imports both
into a new containerd, with the one snapshotter and with the other, in turns. What an archive
holds is in containerd's content store before, so that only unpacking is measured. CPU time is
that of containerd and of the plugin. Needs root, containerd, ctr, runc.

- unpack: ``ctr images import``, of version 1 and of version 2.
- packed: until nothing is unpacked any more that will not stay so; overlayfs has nothing to do.
- first run: ``ctr run --rm IMAGE true``, right after the import.
- run: the same, the median of the following ten.
- disk: what the snapshotter's directory takes after the first version, and after the second.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.harness import version_of
from tests.bench.result import Result
from tests.support.containerd import Containerd
from tests.support.namespaces import end_mounts_below
from tests.support.snapshotter import Plugin

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

OURS, THEIRS = "layerstore", "overlayfs"
PACKS = "from packs"
"""Ours with ``--backend kernel-packs``."""

_RUNS = 10
_TICKS = os.sysconf("SC_CLK_TCK")


class Bench:
    """One containerd, one plugin, one snapshotter."""

    def __init__(self, base: Path, snapshotter: str, archives: Sequence[Path]) -> None:
        self.base = base
        self.name = THEIRS if snapshotter == THEIRS else OURS
        self.archives = archives
        self.plugin = Plugin(base / "store", base)
        self.plugin.start("--backend", "kernel-packs" if snapshotter == PACKS else "kernel")
        self.containerd = Containerd(base, self.plugin)
        self.containerd.start()
        self.found: dict[str, float] = {}

    def measure(self) -> dict[str, float]:
        """Measure everything; return it by name."""
        for archive in self.archives:
            self.containerd("images", "import", "--no-unpack", archive)
        os.sync()
        for number, archive in enumerate(self.archives, 1):
            with self._costed(f"unpack {number}"):
                self.containerd("images", "import", "--snapshotter", self.name, archive)
            if number == 1:
                with self._costed("first run"):
                    self._run(archive)
            with self._costed(f"packed {number}"):
                self._settle()
            self.found[f"disk {number}"] = self._disk()
        walls = []
        for _ in range(_RUNS):
            begun = time.perf_counter()
            self._run(self.archives[0])
            walls.append(time.perf_counter() - begun)
        self.found["run"] = statistics.median(walls)
        return self.found

    def _run(self, archive: Path) -> None:
        name = f"c{os.urandom(4).hex()}"
        options = ("--rm", "--snapshotter", self.name)
        self.containerd("run", *options, _name_in(archive), name, "true")

    def _settle(self) -> None:
        if self.name == OURS:
            self.plugin.wait_until_settled()

    def _disk(self) -> float:
        own = self.base / "root/io.containerd.snapshotter.v1.overlayfs"
        place = self.plugin.store if self.name == OURS else own
        done = subprocess.run(
            ["du", "-sxB1", str(place)], capture_output=True, text=True, check=False
        )
        return float(done.stdout.split()[0])

    @contextlib.contextmanager
    def _costed(self, what: str) -> Iterator[None]:
        cpu, begun = self._cpu(), time.perf_counter()
        yield
        self.found[what] = time.perf_counter() - begun
        self.found[f"{what} cpu"] = self._cpu() - cpu

    def _cpu(self) -> float:
        return _cpu_of(self.containerd.pid) + (_cpu_of(self.plugin.pid) if self.name == OURS else 0)

    def end(self) -> None:
        """End everything."""
        self.containerd.end_all()
        self.plugin.kill()
        end_mounts_below(self.base)


def _cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / _TICKS  # with children waited for


def _name_in(archive: Path) -> str:
    """Return what an OCI archive calls its image."""
    with tarfile.open(archive) as tar:
        index = tar.extractfile("index.json")
        assert index is not None
        annotations = json.load(index)["manifests"][0]["annotations"]
    return annotations["io.containerd.image.name"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("archives", nargs=2, type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run there")
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {THEIRS: [], OURS: [], PACKS: []}
    for number in range(options.rounds):
        order = list(found)
        for name in order[number % 3 :] + order[: number % 3]:
            with tempfile.TemporaryDirectory(prefix="bench-containerd-") as base:
                bench = Bench(Path(base), name, options.archives)
                try:
                    found[name].append(bench.measure())
                finally:
                    bench.end()
    print(f"{options.rounds} rounds, medians; load average {os.getloadavg()[0]:.1f}")
    print(f"{'':14}" + "".join(f"{name:>12}" for name in found))
    for what in found[OURS][0]:
        medians = [statistics.median(each[what] for each in found[name]) for name in found]
        scale, unit = (1e6, "MB") if what.startswith("disk") else (1, "s")
        print(f"{what:14}" + "".join(f"{median / scale:10.2f}{unit:>2}" for median in medians))
    if options.json:
        result_of(found).write(options.json)


def result_of(found: dict[str, list[dict[str, float]]]) -> Result:
    """Return every round, a group for each thing that was measured."""
    version = version_of(("containerd", "--version"))
    result = Result({"containerd": version} if version else {})
    for name, rounds in found.items():
        for what in rounds[0]:
            values = [each[what] for each in rounds]
            if what.startswith("disk"):
                result.add(what, name, "disk", "B", values)
            else:
                counted = "CPU" if what.endswith(" cpu") else "time"
                result.add(what.removesuffix(" cpu"), name, counted, "s", values)
    return result


if __name__ == "__main__":
    main()
