"""What starting a container costs above the runtime itself, here, with docker and with podman.

    python -m tests.bench.start --tar rootfs.tar [-n ROUNDS] [--gate] [--many N] [--json FILE]

Everyone runs ``true`` of the same root file system with runc, on the host's network, removed at
its end, interleaved. The reference is a bare ``runc run`` of the very bundle that layerstore
makes. The bar: the time above that is at most a fifth of what docker and podman add.

``warm`` has another container of the image running, so that the image is shown already; ``cold``
has none. ``helped`` is ``warm`` with the helper of ``layerstore warm``. CPU is that of the command
and its children; a daemon's, and a helper's with who asks it, is that of its control group.
``--many`` starts so many containers at once and adds up the memory of what attends them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from layerstore.cli.settings import run_base
from tests.bench.builds.accounting import DaemonGroup
from tests.bench.harness import CommandError, clean_environment, version_of
from tests.bench.result import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

IMAGE = "bench:1"
BAR = 0.2
_START_SECONDS = 60
_HELPER_AND_FORK = 2
_CONMONS = 20
_DOCKER = "/usr/bin/docker"
_LIMITS = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096")
"""podman would raise them, which who is root of a part of a machine only may not."""


class Cost(NamedTuple):
    """Seconds of one start: by the clock, and of processors."""

    wall: float
    cpu: float


def timed(
    command: Sequence[str],
    daemon: Callable[[], float] = lambda: 0.0,
    environ: dict[str, str] | None = None,
) -> Cost:
    """Run a command that must succeed and return its cost."""
    environ = clean_environment() if environ is None else environ
    before = daemon()
    # Not a pipe: what a runtime leaves running for a moment would hold its other end.
    with tempfile.TemporaryFile() as log:
        begun = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            log.seek(0)
            said = log.read().decode("utf-8", "replace")
            raise CommandError(f"{' '.join(command)}: {said}")
    return Cost(wall, usage.ru_utime + usage.ru_stime + daemon() - before)


class Ours:
    """layerstore, its store, and the bundle that it makes."""

    def __init__(self, work: Path, tar: Path) -> None:
        program = str(Path(sys.executable).parent / "layerstore")
        self.store = work / "store"
        self.words = [program, "--store", str(self.store)]
        self.ask("import", str(tar), "--tag", IMAGE, "--quiet")
        self.ask("run", "--rm", IMAGE, "true")  # unpacks what the kernel needs

    def ask(self, *words: str) -> str:
        done = subprocess.run(
            [*self.words, *words], capture_output=True, text=True, check=False,
            env=clean_environment(),
        )  # fmt: skip
        if done.returncode != 0:
            raise CommandError(f"layerstore {' '.join(words)}: {done.stderr}")
        return done.stdout

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        name = self.ask("run", "--detach", IMAGE, "sleep", "infinity").strip()
        try:
            yield name
        finally:
            self.ask("container", "rm", "--force", name)

    def bundle(self, place: Path) -> Path:
        """Make a bundle of a container's config, over a mounted view, and return its directory."""
        bundle = place / "bundle"
        (bundle / "rootfs").mkdir(parents=True)
        base = run_base(str(self.store), os.environ, is_root=True)
        with self.running() as name:
            config = json.loads(Path(f"{base}/{name[:24]}/config.json").read_text())
            etc = f"{base}/{name[:24]}"
            for file in ("hosts", "hostname", "resolv.conf"):
                shutil.copy(f"{etc}/{file}", bundle / file)
        config["root"]["path"] = str(bundle / "rootfs")
        config["process"]["args"] = ["true"]
        config["linux"]["cgroupsPath"] = f"/bench-start-{os.getpid()}"
        for mount in config["mounts"]:
            if mount["source"].startswith(etc):
                mount["source"] = str(bundle / Path(mount["source"]).name)
        (bundle / "config.json").write_text(json.dumps(config))
        self.ask("mount", "--rw", "-o", "suid,dev", IMAGE, str(bundle / "rootfs"))
        return bundle

    def close(self) -> None:
        self.ask("umount", "--all", "--lazy")


class Helped:
    """layerstore with the helper of ``layerstore warm``, both in a control group of their own."""

    def __init__(self, ours: Ours) -> None:
        self.group = DaemonGroup(f"bench-warm-{os.getpid()}")
        self._ours = ours
        self._environ = {**clean_environment(), "LAYERSTORE_WARM": str(ours.store / "../warm.sock")}
        self._do("warm", "--idle", "1h")

    def _do(self, *words: str) -> None:
        subprocess.run(
            [*self._ours.words, *words], check=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, env=self._environ, preexec_fn=self.group.join,
        )  # fmt: skip

    def run(self) -> Cost:
        """Run one; the CPU is that of the group, with what is done after the answer."""
        self._wait_until(self._listens)
        there = set(self.group.processes())
        before = self.group.cpu_seconds()
        words = ("run", "--rm", "--cgroup-parent", self.group.containers, IMAGE, "true")
        with self.group.joined():
            wall = timed([*self._ours.words, *words], environ=self._environ).wall
        self._wait_until(lambda: there - set(self.group.processes()))  # whose fork has ended
        return Cost(wall, self.group.cpu_seconds() - before)

    def _listens(self) -> bool:
        """Tell whether a fork waits where a shell looks for one, and nobody else is at work."""
        processes = self.group.processes()
        with contextlib.suppress(OSError, ValueError):
            now = int(Path(f"{self._environ['LAYERSTORE_WARM']}.d/now").read_text())
            return len(processes) == _HELPER_AND_FORK and now in processes
        return False

    @staticmethod
    def _wait_until(true: Callable[[], object]) -> None:
        until = time.monotonic() + _START_SECONDS
        while not true():
            if time.monotonic() > until:
                raise CommandError("the helper did not serve a command")
            time.sleep(0.005)

    def close(self) -> None:
        self._do("warm", "--stop")
        self._wait_until(lambda: not self.group.processes())
        self.group.remove()


class Docker:
    """A dockerd of our own, in a control group of its own."""

    name = "docker"

    def __init__(self, work: Path, tar: Path) -> None:
        self._state = Path(tempfile.mkdtemp(prefix="bench-start-"))
        self.group = DaemonGroup(self._state.name)
        host = f"unix://{self._state}/sock"
        command = [
            "dockerd", "--data-root", str(work / "docker"), "--exec-root", f"{self._state}/exec",
            "--pidfile", f"{self._state}/pid", "--host", host, "--bridge=none",
            "--iptables=false", "--ip6tables=false", "--cgroup-parent", self.group.containers,
        ]  # fmt: skip
        with (self._state / "log").open("wb") as log:
            self._daemon = subprocess.Popen(
                command, stdout=log, stderr=log, preexec_fn=self.group.join
            )
        self.words = [_DOCKER, "--host", host]
        until = time.monotonic() + _START_SECONDS
        while subprocess.run([*self.words, "version"], capture_output=True).returncode != 0:
            if self._daemon.poll() is not None or time.monotonic() > until:
                raise CommandError((self._state / "log").read_text()[-2000:])
            time.sleep(0.1)
        subprocess.run([*self.words, "import", str(tar), IMAGE], check=True, capture_output=True)

    def command(self) -> list[str]:
        return [*self.words, "run", "--rm", "--network", "host", IMAGE, "true"]

    def run(self) -> Cost:
        return timed(self.command(), self.group.cpu_seconds)

    def close(self) -> None:
        self._daemon.terminate()
        self._daemon.wait()
        # dockerd leaves the network namespace of --network host mounted.
        netns = self._state / "exec" / "netns" / "default"
        subprocess.run(["umount", str(netns)], check=False, capture_output=True)
        shutil.rmtree(self._state, ignore_errors=True)
        self.group.remove()


class Podman:
    """podman over a storage of its own."""

    name = "podman"

    def __init__(self, work: Path, tar: Path) -> None:
        place = work / "podman"
        self._place = place
        self.words = [
            "podman", "--root", f"{place}/root", "--runroot", f"{place}/run", "--runtime", "runc",
            "--cgroup-manager", "cgroupfs", "--events-backend", "none",
        ]  # fmt: skip
        subprocess.run([*self.words, "import", str(tar), IMAGE], check=True, capture_output=True)

    def run(self) -> Cost:
        return timed([*self.words, "run", "--rm", "--network", "host", *_LIMITS, IMAGE, "true"])

    def close(self) -> None:
        words = ("rm", "--all", "--force", "--time", "0")
        subprocess.run([*self.words, *words], check=False, capture_output=True)
        # The last that monitors do is to start podman, which mounts its storage over itself.
        until = time.monotonic() + _START_SECONDS
        while _processes_about(self._place) and time.monotonic() < until:
            time.sleep(0.1)
        storage = str(self._place / "root" / "overlay")
        while subprocess.run(["umount", storage], check=False, capture_output=True).returncode == 0:
            pass  # once for each command that mounted it


def _processes_about(place: Path) -> list[str]:
    """Return the pids of processes whose command line names a place."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.fsencode(place) in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def bare_runc(bundle: Path, place: Path) -> Cost:
    """Run the bundle with the runtime alone."""
    name = f"bench-{os.getpid()}"
    return timed(["runc", "--root", str(place / "runc"), "run", "--bundle", str(bundle), name])


def peers(work: Path, tar: Path) -> list[Docker | Podman]:
    """Return the peers that are here; says which are not."""
    found: list[Docker | Podman] = []
    for kind, program in ((Docker, "dockerd"), (Podman, "podman")):
        if shutil.which(program) is None:
            print(f"not installed: {kind.name}")
            continue
        try:
            found.append(kind(work, tar))
        except (CommandError, subprocess.CalledProcessError) as err:
            print(f"not usable here: {kind.name}: {err}")
    return found


def measure(work: Path, tar: Path, rounds: int) -> dict[str, list[Cost]]:
    """Return the costs of every contender, of so many rounds."""
    ours = Ours(work, tar)
    costs: dict[str, list[Cost]] = {}
    others = peers(work, tar)
    start = [*ours.words, "run", "--rm", IMAGE, "true"]
    helped = Helped(ours)
    try:
        bundle = ours.bundle(work)
        with ours.running():
            for _ in range(rounds):
                costs.setdefault("bare runc", []).append(bare_runc(bundle, work))
                costs.setdefault("layerstore, warm", []).append(timed(start))
                costs.setdefault("layerstore, helped", []).append(helped.run())
                for peer in others:
                    costs.setdefault(peer.name, []).append(peer.run())
        ours.close()
        for _ in range(rounds):
            costs.setdefault("layerstore, cold", []).append(timed(start))
    finally:
        for peer in others:
            peer.close()
        helped.close()
        ours.close()
    return costs


def versions() -> dict[str, str]:
    """Return what is installed of everybody who takes part."""
    programs = (("runc", "runc"), ("docker", "dockerd"), ("podman", "podman"))
    found = {name: version_of((program, "--version")) for name, program in programs}
    return {name: version for name, version in found.items() if version is not None}


def report(costs: dict[str, list[Cost]], result: Result) -> bool:
    """Print a table and fill the result; return whether the bar is kept."""
    base = costs["bare runc"]
    result.missing = [name for name in ("docker", "podman") if name not in costs]
    print(f"{'':18} {'wall ms':>9} {'least':>7} {'above':>7} {'CPU ms':>8} {'above':>7}")
    wall = {name: statistics.median(cost.wall for cost in runs) for name, runs in costs.items()}
    cpu = {name: statistics.median(cost.cpu for cost in runs) for name, runs in costs.items()}
    for name, runs in costs.items():
        result.add("one", name, "time", "s", [cost.wall for cost in runs])
        result.add("one", name, "CPU", "s", [cost.cpu for cost in runs])
        if name != "bare runc":
            pairs = list(zip(runs, base, strict=True))
            result.add("one", name, "time above runc", "s", [a.wall - b.wall for a, b in pairs])
            result.add("one", name, "CPU above runc", "s", [a.cpu - b.cpu for a, b in pairs])
        least = min(cost.wall for cost in runs)
        print(
            f"{name:18} {wall[name] * 1e3:9.0f} {least * 1e3:7.0f} "
            f"{(wall[name] - wall['bare runc']) * 1e3:7.0f} {cpu[name] * 1e3:8.0f} "
            f"{(cpu[name] - cpu['bare runc']) * 1e3:7.0f}"
        )
    kept = True
    for name in ("docker", "podman"):
        if name not in costs:
            continue
        for way in ("layerstore, warm", "layerstore, helped"):
            for what, values in (("time", wall), ("CPU", cpu)):
                ours = values[way] - values["bare runc"]
                ratio = ours / (values[name] - values["bare runc"])
                print(f"{way}: {what} above bare runc, of {name}'s: {ratio:.2f} (bar {BAR})")
                if what == "time":
                    kept &= ratio <= BAR
                    wanted = f"at most {BAR:g} of what {name} adds to bare runc"
                    title = f"time of a start ({way})"
                    result.promise(title, wanted, f"{ratio:.2f}", met=ratio <= BAR)
    print(f"{len(base)} rounds, load {os.getloadavg()[0]:.1f}")
    return kept


def many(work: Path, tar: Path, count: int, result: Result) -> None:
    """Start many containers on one image; print processes and memory beside them."""
    group = f"{count} containers"
    ours = Ours(work, tar)
    begun = time.perf_counter()
    for _ in range(count):
        ours.ask("run", "--detach", IMAGE, "sleep", "infinity")
    took = time.perf_counter() - begun
    monitors = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"layerstore.containers.monitor" in words and _has_open(pid, work):
                monitors.append(_private_and_shared(pid))
    private = sum(own for own, _ in monitors)
    proportional = sum(share for _, share in monitors)
    mounted = Path("/proc/self/mountinfo").read_text().count(str(work))
    print(
        f"{count} containers in {took:.1f} s; {len(monitors)} monitors, private "
        f"{private / count / 1024:.2f} MiB each, proportional {proportional / count / 1024:.2f} "
        f"MiB each; mounts on the host: {mounted}"
    )
    names = ours.ask("ps", "--quiet", "--no-trunc").split()
    begun = time.perf_counter()
    ours.ask("ps")
    listed = time.perf_counter() - begun
    print(f"ps of {len(names)}: {listed * 1e3:.0f} ms")
    result.add(group, "layerstore", "a start", "s", [took / count])
    result.add(group, "layerstore", "private memory of a monitor", "B", [private / count * 1024])
    result.add(
        group, "layerstore", "its share of shared memory", "B", [proportional / count * 1024]
    )
    result.add(group, "layerstore", "mounts on the host", "", [mounted])
    result.add(group, "layerstore", "ps", "s", [listed])
    ours.ask("container", "rm", "--force", *names)
    ours.close()
    if shutil.which("podman") is not None:
        _conmons(work, tar, min(count, _CONMONS), result, group)


def _conmons(work: Path, tar: Path, count: int, result: Result, group: str) -> None:
    """Measure what podman has beside a container: conmon, written in C."""
    podman = Podman(work, tar)
    try:
        for _ in range(count):
            words = ("run", "--detach", "--network", "host", *_LIMITS, IMAGE, "sleep", "infinity")
            subprocess.run([*podman.words, *words], check=True, capture_output=True)
        found = []
        for pid in _processes_about(work):
            with contextlib.suppress(OSError):
                words_of = Path(f"/proc/{pid}/cmdline").read_bytes()
                if b"conmon" in words_of.split(b"\0")[0]:
                    found.append(_private_and_shared(pid))
    finally:
        podman.close()
    private = statistics.mean(own for own, _ in found)
    share = statistics.mean(share for _, share in found)
    print(f"{len(found)} conmons, private {private / 1024:.2f} MiB each, proportional "
          f"{share / 1024:.2f} MiB each")  # fmt: skip
    result.add(group, "podman", "private memory of a monitor", "B", [private * 1024])
    result.add(group, "podman", "its share of shared memory", "B", [share * 1024])


def _has_open(pid: str, place: Path) -> bool:
    """Return whether a process has a file below a place open: others have monitors, too."""
    return any(
        os.readlink(f"/proc/{pid}/fd/{number}").startswith(f"{place}/")
        for number in os.listdir(f"/proc/{pid}/fd")
    )


def _private_and_shared(pid: str) -> tuple[int, int]:
    """Return private and proportional memory of a process, in KiB."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, size, *_ = line.split()
        fields[name] = int(size)
    return fields["Private_Clean:"] + fields["Private_Dirty:"], fields["Pss:"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tar", type=Path, required=True)
    parser.add_argument("-n", type=int, default=20, dest="rounds")
    parser.add_argument("--many", type=int, default=0)
    parser.add_argument("--gate", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run there")
    options = parser.parse_args()
    kept = True
    result = Result(versions())
    # A short name: podman takes 50 characters for its run root, within the place of the suite.
    with tempfile.TemporaryDirectory(prefix="start-") as directory:
        work = Path(directory)
        if options.many:
            many(work, options.tar.resolve(), options.many, result)
        else:
            kept = report(measure(work, options.tar.resolve(), options.rounds), result)
    if options.json:
        result.write(options.json)
    sys.exit(0 if kept or not options.gate else 1)


if __name__ == "__main__":
    main()
