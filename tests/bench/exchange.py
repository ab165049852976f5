"""What do loading and saving a real image cost, beside docker, podman and skopeo?

A Debian root file system as an image of one layer, loaded from what ``docker save`` writes and
saved as that again, each time into an empty store. CPU seconds are those of the whole work:
docker's daemon is asked for what it used meanwhile, with all its children.

    python -m tests.bench.exchange --tar rootfs.tar -n 3
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.docker_load import DockerDaemon, docker_version, write_archive
from tests.bench.harness import clean_environment, fresh, interleave, run_costed, say, version_of
from tests.bench.result import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NAME = "bench.example/base:1"
_TICKS = os.sysconf("SC_CLK_TCK")


class Contender:
    """Loads and saves an archive; counts CPU seconds of both.

    Args:
        load: Command lines, in order, with ``{archive}`` and ``{out}``.
    """

    def __init__(
        self, name: str, base: Path, load: Sequence[str], save: Sequence[str], **env: str
    ) -> None:
        self.name = name
        self.base = base
        self._commands = {"load": load, "save": save}
        self._env = {**clean_environment(), **env}
        self.costs: dict[str, list[float]] = {"load": [], "save": []}
        self.walls: dict[str, list[float]] = {"load": [], "save": []}

    def begin(self) -> None:
        """Forget everything."""
        fresh(self.base)

    def run(self, task: str, archive: Path, out: Path) -> None:
        """Do one task."""
        words = [word.format(archive=archive, out=out) for word in self._commands[task]]
        cost = run_costed(words, env=self._env)
        self.costs[task].append(cost.cpu_seconds)
        self.walls[task].append(cost.wall_seconds)
        out.unlink(missing_ok=True)

    def end(self) -> None:
        """Stop what was begun."""


class Docker(Contender):
    """A daemon, started anew each time; its CPU time counts."""

    def __init__(self, base: Path) -> None:
        super().__init__("docker", base, (), ())
        self._daemon: DockerDaemon | None = None

    def begin(self) -> None:
        self._daemon = DockerDaemon(self.base)

    def run(self, task: str, archive: Path, out: Path) -> None:
        assert self._daemon is not None
        words = (
            ["load", "-q", "-i", str(archive)] if task == "load" else ["save", "-o", str(out), NAME]
        )
        process = self._daemon._process.pid
        before = cpu_seconds(process)
        client = run_costed([*self._daemon.client, *words])
        self.costs[task].append(client.cpu_seconds + cpu_seconds(process) - before)
        self.walls[task].append(client.wall_seconds)
        out.unlink(missing_ok=True)

    def end(self) -> None:
        assert self._daemon is not None
        self._daemon.stop()
        shutil.rmtree(self.base, ignore_errors=True)


def cpu_seconds(pid: int) -> float:
    """Return what a process, its waited-for children and its living ones have used (proc(5))."""
    total = 0.0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(entry.name) == pid or int(fields[1]) == pid:
                total += sum(map(int, fields[11:15])) / _TICKS
    return total


def contenders(top: Path) -> list[Contender]:
    """Return who is on this machine."""
    ours = top / "ours"
    python = [sys.executable, "-m", "layerstore"]
    found = [
        Contender(
            "layerstore", ours, [*python, "load", "-q", "-i", "{archive}"],
            [*python, "save", "-q", NAME, "-o", "{out}"], LAYERSTORE_ROOT=str(ours / "store"),
        )
    ]  # fmt: skip
    podman = top / "podman"
    storage = ["podman", "--root", str(podman / "root"), "--runroot", str(podman / "run")]
    if version_of(("podman", "--version")):
        found.append(
            Contender(
                "podman", podman, [*storage, "load", "-q", "-i", "{archive}"],
                [*storage, "save", "-q", "-o", "{out}", NAME],
            )
        )  # fmt: skip
    skopeo = top / "skopeo"
    if version_of(("skopeo", "--version")):
        layout = f"oci:{skopeo}/layout:1"
        found.append(
            Contender(
                "skopeo (to and from an OCI layout)", skopeo,
                ["skopeo", "copy", "-q", "docker-archive:{archive}", layout],
                ["skopeo", "copy", "-q", layout, "docker-archive:{out}:" + NAME],
            )
        )  # fmt: skip
    if docker_version():
        found.append(Docker(top / "docker"))
    return found


def result_of(taking_part: Sequence[Contender], megabytes: float) -> Result:
    """Return all costs of who took part."""
    programs = {"podman": "podman", "skopeo": "skopeo", "docker": "dockerd"}
    result = Result(notes=[f"An image of {megabytes:.0f} MB in one layer."])
    for each in taking_part:
        for task, costs in each.costs.items():
            result.add(task, each.name, "CPU", "s", costs)
            result.add(task, each.name, "time", "s", each.walls[task])
        name = each.name.partition(" ")[0]
        version = version_of((programs[name], "--version")) if name in programs else None
        if version:
            result.versions[name] = version
    there = {each.name.partition(" ")[0] for each in taking_part}
    result.missing = [name for name in programs if name not in there]
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tar", type=Path, required=True, help="a root file system")
    parser.add_argument("-n", "--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run there")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-exchange-", dir="/var/tmp") as scratch:
        top = Path(scratch)
        tree = top / "tree"
        tree.mkdir()
        run_costed(["tar", "-C", str(tree), "--numeric-owner", "-xpf", str(options.tar)])
        archive = top / "image.tar"
        write_archive(archive, tree, NAME)
        taking_part = contenders(top)

        def task_of(each: Contender) -> Callable[[], None]:
            def run() -> None:
                each.begin()
                try:
                    each.run("load", archive, top / "out.tar")
                    each.run("save", archive, top / "out.tar")
                finally:
                    each.end()

            return run

        interleave(options.rounds, [task_of(each) for each in taking_part], say=say)
        size = archive.stat().st_size / 1e6
    if options.json:
        result_of(taking_part, size).write(options.json)
    best = {task: statistics.median(taking_part[0].costs[task]) for task in ("load", "save")}
    print(f"{size:.0f} MB, {options.rounds} rounds, load average {os.getloadavg()[0]:.1f}")
    print(f"{'CPU seconds (times ours)':36} {'load':>16} {'save':>16}")
    for each in taking_part:
        medians = {task: statistics.median(costs) for task, costs in each.costs.items()}
        cells = (f"{cost:8.2f} ({cost / best[task]:3.1f})" for task, cost in medians.items())
        print(f"{each.name:36} {' '.join(f'{cell:>16}' for cell in cells)}")


if __name__ == "__main__":
    main()
