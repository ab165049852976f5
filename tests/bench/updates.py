"""Pull an image and then its next version from a registry that is 20 ms away, with everybody.

    python -m tests.bench.updates CACHE [PAIR ...] [--json FILE]

The registry is Debian's docker-registry on this machine, behind a link that delays every byte by
half a round trip and counts what comes back. Each pair of versions is made of the corpora's trees
(``python -m tests.bench.corpora CACHE``), pushed once by ``layerstore push --delta``, and pulled
by everybody into something empty: version 1, then version 2. Layers are gzip for everybody.
``layerstore`` uses parcels, ``layerstore, layers`` does not. Below stands what ``save --since``
writes, at level 19.

Bytes are of the response side of the link, requests and headers included. Nobody's CPU time is
taken but that of a client that does the work itself: docker's daemon has the rest. With ``--gate``
the exit code is 1 unless the second pull takes at most a fifth of docker's bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.bench.corpora import trees_of
from tests.bench.docker_load import DockerDaemon
from tests.bench.harness import Cost, grid, megabytes, run_costed, say, version_of
from tests.bench.result import Result
from tests.support.slow_link import SlowLink, slow_link

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROUND_TRIP_S = 0.020
FRACTION_OF_DOCKER = 1 / 5
LAYERSTORE = (sys.executable, "-m", "layerstore")


class Pair(NamedTuple):
    """Two versions of an image.

    Attributes:
        corpus: Whose trees they are made of.
        base: Tree that both lie on as a layer of its own; none if a version is one layer.
        old: Tree of the first version.
        new: Tree of the second.
        part: What the upper layer takes of the trees; all of them if empty.
    """

    corpus: str
    base: str
    old: str
    new: str
    part: str = ""


PAIRS = {
    "app": Pair("related", "02-python", "03-app-1", "04-app-2", "opt/app"),
    "server": Pair("updates", "", "1-released", "2-updated"),
    "wheel": Pair("wheels-numpy", "", "09-numpy-2.3.5", "10-numpy-2.4.0"),
}


class Pulled(NamedTuple):
    """What one pull took."""

    wall_s: float
    cpu_s: float | None
    received: int
    connections: int


class Bundle(NamedTuple):
    """The second version without what is in the first, as a file."""

    size: int
    cpu_s: float


@contextlib.contextmanager
def registry(place: Path) -> Iterator[int]:
    """Give the port of a docker-registry without TLS."""
    place.mkdir()
    config = place / "config.json"
    config.write_text(json.dumps({
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(place / "data")}},
        "http": {"addr": "127.0.0.1:0"},
    }))  # fmt: skip
    log = place / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(config)], stdout=out, stderr=out
        )
    try:
        deadline = time.monotonic() + 30
        while not (found := re.search(rb"listening on 127\.0\.0\.1:(\d+)", log.read_bytes())):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(log.read_text()[-1000:])
            time.sleep(0.05)
        yield int(found.group(1))
    finally:
        process.terminate()
        process.wait()


class Sender:
    """A store with both versions, which it pushes."""

    def __init__(self, store: Path, home: Path) -> None:
        self.store = store
        self.environment = {"HOME": str(home), "LAYERSTORE_ROOT": str(store)}

    def run(self, *words: str) -> Cost:
        return run_costed([*LAYERSTORE, *words], env=self.environment)

    def make(self, pair: Pair, trees: dict[str, Path], names: Sequence[str]) -> None:
        """Make both images."""
        if not pair.base:
            for tree, name in zip((pair.old, pair.new), names, strict=True):
                self.run("import", str(trees[tree]), "-t", name)
            return
        self.run("import", str(trees[pair.base]), "-t", "base:1")
        for tree, name in zip((pair.old, pair.new), names, strict=True):
            spec = self.store.with_name(f"Dockerfile-{tree}")
            spec.write_text(f"FROM base:1\nCOPY . /{pair.part}/\n")
            context = trees[tree] / pair.part
            self.run("build", "-f", str(spec), "-t", name, str(context))


def clients(home: Path, names: Sequence[str]) -> dict[str, Callable[[Path], list[list[str]]]]:
    """Return for every client what it runs in an empty directory, a command a version."""

    def ours(*words: str) -> Callable[[Path], list[list[str]]]:
        return lambda place: [
            [*LAYERSTORE, "--store", str(place / "store"), "pull", *words, name] for name in names
        ]

    def podman(place: Path) -> list[list[str]]:
        command = [
            "podman",
            *podman_roots(place),
            "--storage-driver",
            "overlay",
            "pull",
            "--tls-verify=false",
        ]
        return [[*command, name] for name in names]

    def skopeo(place: Path) -> list[list[str]]:
        return [
            ["skopeo", "copy", "--src-tls-verify=false", f"docker://{name}", f"oci:{place}/oci:{n}"]
            for n, name in enumerate(names)
        ]

    found: dict[str, Callable[[Path], list[list[str]]]] = {
        "layerstore": ours(),
        "layerstore, layers": ours("--no-delta"),
    }
    others = {"podman": podman, "skopeo": skopeo}
    return found | {name: make for name, make in others.items() if shutil.which(name)}


def podman_roots(place: Path) -> list[str]:
    """Return where podman keeps things; a run root has at most 50 characters."""
    return ["--root", str(place / "root"), "--runroot", f"/tmp/bench-{place.name}"]


def pull_all(
    link: SlowLink, commands: Sequence[Sequence[str]], env: dict[str, str], *, own_cpu: bool = True
) -> list[Pulled]:
    """Run pulls one after the other and return what each took."""
    pulls = []
    for command in commands:
        link.take()
        cost = run_costed(command, env=env)
        received, _, connections = link.take()
        cpu = cost.cpu_seconds if own_cpu else None
        pulls.append(Pulled(cost.wall_seconds, cpu, received, connections))
        say(f"  {megabytes(received)} MB, {cost.wall_seconds:.1f} s")
    return pulls


def measure(
    pair: Pair, trees: dict[str, Path], work: Path
) -> tuple[dict[str, list[Pulled]], Bundle]:
    """Return what each client took for the two versions, and what a bundle does."""
    home = work / "home"
    (home / ".config/containers").mkdir(parents=True)
    sender = Sender(work / "sender", home)
    results: dict[str, list[Pulled]] = {}
    with registry(work / "registry") as port, slow_link(port, ROUND_TRIP_S) as link:
        config = home / ".config/layerstore"
        config.mkdir()
        host = f"127.0.0.1:{link.port}"
        (config / "registries.toml").write_text(f'[registry."{host}"]\ninsecure = true\n')
        names = [f"{host}/app:{number}" for number in (1, 2)]
        sender.make(pair, trees, names)
        pushes = [sender.run("push", "--delta", name) for name in names]
        say(
            "pushed: "
            + ", ".join(f"{p.cpu_seconds:.1f} CPU s, {p.wall_seconds:.1f} s" for p in pushes)
        )
        env = {"HOME": str(home), "XDG_RUNTIME_DIR": ""}
        for client, make in clients(home, names).items():
            say(f"pulling with {client}")
            with tempfile.TemporaryDirectory(dir=work) as place:
                results[client] = pull_all(link, make(Path(place)), env)
                if client == "podman":
                    remove = ["podman", *podman_roots(Path(place)), "rmi", "-af"]
                    subprocess.run(remove, capture_output=True, check=False)
                    shutil.rmtree(podman_roots(Path(place))[-1], ignore_errors=True)
        if shutil.which("dockerd") and os.geteuid() == 0:
            say("pulling with docker")
            daemon = DockerDaemon(work / "docker")
            try:
                commands = [[*daemon.client, "pull", name] for name in names]
                results["docker"] = pull_all(link, commands, env, own_cpu=False)
            finally:
                daemon.stop()
    return results, bundle_of(sender, names, work)


def bundle_of(sender: Sender, names: Sequence[str], work: Path) -> Bundle:
    """Return what ``save --since`` writes, and what that takes."""
    bundle = work / "bundle"
    cost = sender.run("save", names[1], "--since", names[0], "-o", str(bundle))
    return Bundle(bundle.stat().st_size, cost.cpu_seconds)


def report(results: dict[str, list[Pulled]]) -> str:
    """Return the table of one pair."""
    rows = []
    reference = results.get("docker", next(iter(results.values())))[1]
    for client, pulls in results.items():
        row = [client]
        for pull in pulls:
            cpu = "" if pull.cpu_s is None else f"{pull.cpu_s:.1f}"
            row += [megabytes(pull.received), f"{pull.wall_s:.1f}", cpu, str(pull.connections)]
        rows.append((*row, f"{pulls[1].received / reference.received:.3f}"))
    columns = ("MB", "wall s", "CPU s", "conn")
    head = ("", *(f"{c} of 1" for c in columns), *(f"{c} of 2" for c in columns), "x docker")
    return grid(head, rows)


def add_pair(result: Result, pair: str, results: dict[str, list[Pulled]], bundle: Bundle) -> None:
    """Add what everybody took for a pair, a group for each version."""
    for client, pulls in results.items():
        for number, pull in enumerate(pulls, 1):
            group = f"{pair}, version {number}"
            result.add(group, client, "fetched", "B", [pull.received])
            result.add(group, client, "time", "s", [pull.wall_s])
            if pull.cpu_s is not None:
                result.add(group, client, "CPU", "s", [pull.cpu_s])
            result.add(group, client, "connections", "", [pull.connections])
    group = f"{pair}, version 2"
    result.add(group, "save --since, as a file", "fetched", "B", [bundle.size])
    result.add(group, "save --since, as a file", "CPU", "s", [bundle.cpu_s])


def versions() -> dict[str, str]:
    """Return what is installed of everybody who takes part."""
    programs = {"docker": "dockerd", "podman": "podman", "skopeo": "skopeo"}
    found = {name: version_of((program, "--version")) for name, program in programs.items()}
    return {name: version for name, version in found.items() if version is not None}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tests.bench.updates", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("cache", type=Path, help="directory that keeps the corpora")
    parser.add_argument("pairs", nargs="*", metavar="PAIR", help=f"of {', '.join(PAIRS)}")
    parser.add_argument("--gate", action="store_true", help="exit 1 if the bar is not met")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run there")
    given = parser.parse_args()
    missed = False
    result = Result(there := versions())
    result.missing = [name for name in ("docker", "podman", "skopeo") if name not in there]
    for name in given.pairs or PAIRS:
        pair = PAIRS[name]
        trees = {tree.name: tree for tree in trees_of(given.cache.absolute(), pair.corpus)}
        if missing := {pair.base, pair.old, pair.new} - {"", *trees}:
            parser.error(f"no {', '.join(missing)}: python -m tests.bench.corpora {given.cache}")
        with tempfile.TemporaryDirectory(dir=given.cache, prefix="updates-") as work:
            results, bundle = measure(pair, trees, Path(work))
        print(f"{name}, load {os.getloadavg()[0]:.1f}\n{report(results)}")
        print(f"save --since: {megabytes(bundle.size)} MB, {bundle.cpu_s:.0f} CPU s\n", flush=True)
        add_pair(result, name, results, bundle)
        if "docker" in results:
            ours, theirs = (results[c][1].received for c in ("layerstore", "docker"))
            met = ours <= theirs * FRACTION_OF_DOCKER
            missed = missed or not met
            wanted = f"at most {FRACTION_OF_DOCKER:g} of docker's bytes"
            said = f"{ours / theirs:.3f}, {megabytes(ours)} of {megabytes(theirs)} MB"
            result.promise(f"{name}, pull of the second version", wanted, said, met=met)
    if given.json:
        result.write(given.json)
    return 1 if given.gate and missed else 0


if __name__ == "__main__":
    sys.exit(main())
