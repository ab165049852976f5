"""What does podman's first container of an image cost: after its own pull, and through our store?

Two images, the second one layer over the first, from a registry on this host without latency. Each
round brings the first, runs a container, brings the second, runs a container:

    podman       ``podman pull``, ``podman run``
    layerstore   ``layerstore pull``, ``layerstore podman-store``, ``podman run``
    in place     ``layerstore podman-store`` alone: the images are in the store already

Bytes are allocated blocks of podman's storage and of the store, the files that it has unpacked
for the kernel told apart. CPU is that of the commands; what a container does counts for nobody.

    python -m tests.bench.podman_store [--tar FILE] [-n ROUNDS] [--json FILE]

Needs root, podman, runc, skopeo and docker-registry.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.harness import disk_bytes, run_costed, say, version_of
from tests.bench.result import Result, Unit
from tests.support.debian_base import debian_base_tar
from tests.support.podman import Podman

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.bench.harness import Cost

LAYERSTORE = [sys.executable, "-m", "layerstore"]
_START_SECONDS = 30
IMAGES = ("first:1", "second:1")


@contextlib.contextmanager
def registry(place: Path) -> Iterator[str]:
    """Run a registry without TLS and without users; give its ``host:port``."""
    place.mkdir()
    config = place / "config.json"
    config.write_text(
        json.dumps(
            {
                "version": 0.1,
                "storage": {"filesystem": {"rootdirectory": str(place / "data")}},
                "http": {"addr": "127.0.0.1:0"},
            }
        )
    )
    log = place / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(config)], stdout=out, stderr=out
        )
    try:
        until = time.monotonic() + _START_SECONDS
        while (found := re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text())) is None:
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"no registry: {log.read_text()[-1000:]}")
            time.sleep(0.05)
        yield found[1]
    finally:
        process.terminate()
        process.wait()


def make_images(work: Path, tar: Path, host: str) -> Path:
    """Make the two images in a store and push them; return the store."""
    store = work / "source"
    env = {"LAYERSTORE_ROOT": str(store)}
    view = work / "view"
    view.mkdir()
    run_costed([*LAYERSTORE, "import", str(tar), "-t", f"{host}/{IMAGES[0]}"], env=env)
    run_costed([*LAYERSTORE, "mount", "--rw", f"{host}/{IMAGES[0]}", str(view)], env=env)
    shutil.copytree(view / "usr/bin", view / "opt/copies", symlinks=True)
    (view / "etc/more").write_text("more\n")
    run_costed([*LAYERSTORE, "commit", str(view), f"{host}/{IMAGES[1]}"], env=env)
    run_costed([*LAYERSTORE, "umount", str(view)], env=env)
    run_costed([*LAYERSTORE, "gc", "--all"], env=env)  # the first round, too, unpacks
    for image in IMAGES:
        run_costed([*LAYERSTORE, "push", f"{host}/{image}"], env=env)
    return store


class Contender:
    """One way to a container, with a podman of its own; removed after its round."""

    def __init__(self, name: str, place: Path, host: str, source: Path | None) -> None:
        self.name = name
        self._place = place
        self._host = host
        place.mkdir()
        self._own = place / "store"
        self._store = source or self._own
        self._shared = place / "shared"
        self.podman = Podman(place / "podman", None if name == "podman" else self._shared)

    def bring(self, image: str) -> list[Cost]:
        """Make an image ready to run."""
        reference = f"{self._host}/{image}"
        if self.name == "podman":
            return [self._run(*self.podman.command, "pull", "--tls-verify=false", reference)]
        costs = []
        if self._store == self._own:
            costs.append(self._run(*LAYERSTORE, "pull", "--quiet", reference))
        costs.append(self._run(*LAYERSTORE, "podman-store", str(self._shared), reference))
        return costs

    def run(self, image: str) -> Cost:
        """Run one container of it to its end."""
        reference = f"{self._host}/{image}"
        return self._run(*self.podman.command, "run", "--pull=never", reference, "true")

    def kept(self) -> tuple[int, int]:
        """Return bytes on disk: of podman's storage or the store; of files unpacked for views."""
        if self.name == "podman":
            return disk_bytes(self.podman.root)[0], 0
        unpacked = disk_bytes(self._store / "objects")[0]
        # Views are mounts: looking into them counts what they show.
        parts = [path for path in self._store.iterdir() if path.name not in ("views", "objects")]
        kept = sum(
            disk_bytes(path)[0] if path.is_dir() else path.stat().st_blocks * 512 for path in parts
        )
        return kept + disk_bytes(self.podman.root)[0], unpacked

    def close(self) -> None:
        self.podman.close()
        if self.name != "podman":
            self._run(*LAYERSTORE, "podman-store", str(self._shared), "--rm")
            self._run(*LAYERSTORE, "gc", "--all")  # what the next round unpacks is cold again
        shutil.rmtree(self._place)

    def _run(self, *words: str) -> Cost:
        env = {**self.podman.environment(), "LAYERSTORE_ROOT": str(self._store)}
        return run_costed(words, env=env)


def one_round(work: Path, host: str, source: Path, rows: dict[tuple[str, str], list]) -> None:
    for name in ("podman", "layerstore", "in place"):
        own = source if name == "in place" else None
        contender = Contender(name, work / name.replace(" ", "-"), host, own)
        try:
            for image in IMAGES:
                brought = contender.bring(image)
                ran = contender.run(image)
                again = contender.run(image)
                kept, unpacked = contender.kept()
                rows.setdefault((image, name), []).append(
                    (
                        sum(cost.wall_seconds for cost in brought),
                        sum(cost.cpu_seconds for cost in brought),
                        ran.wall_seconds,
                        again.wall_seconds,
                        again.cpu_seconds,
                        kept / 1e6,
                        unpacked / 1e6,
                    )
                )
        finally:
            contender.close()


def show(rows: dict[tuple[str, str], list]) -> None:
    head = ["bring s", "CPU s", "first run s", "further s", "CPU s", "kept MB", "unpacked MB"]
    print(f"{'':28}" + "".join(f"{word:>13}" for word in head))
    for (image, name), runs in rows.items():
        values = [statistics.median(column) for column in zip(*runs, strict=True)]
        print(f"{image + ', ' + name:28}" + "".join(f"{value:13.2f}" for value in values))


def result_of(rows: dict[tuple[str, str], list]) -> Result:
    """Return every round, a group for each image."""
    version = version_of(["podman", "--version"])
    result = Result({"podman": version} if version else {})
    whats: list[tuple[str, Unit, float]] = [
        ("bring", "s", 1), ("bring, CPU", "s", 1), ("first run", "s", 1), ("further run", "s", 1),
        ("further run, CPU", "s", 1), ("kept", "B", 1e6), ("unpacked", "B", 1e6),
    ]  # fmt: skip
    for (image, name), runs in rows.items():
        for (what, unit, scale), values in zip(whats, zip(*runs, strict=True), strict=True):
            result.add(image, name, what, unit, [value * scale for value in values])
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tar", type=Path, help="a root file system; Debian's by default")
    parser.add_argument("-n", "--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run there")
    options = parser.parse_args(arguments)
    tar = options.tar or debian_base_tar()
    rows: dict[tuple[str, str], list] = {}
    with tempfile.TemporaryDirectory(prefix="bench-podman-", dir="/var/tmp") as base:
        work = Path(base)
        with registry(work / "registry") as host:
            source = make_images(work, tar, host)
            for number in range(options.rounds):
                say(f"round {number + 1} of {options.rounds}")
                one_round(work, host, source, rows)
    show(rows)
    if options.json:
        result_of(rows).write(options.json)
    load = os.getloadavg()[0]
    print(
        f"{version_of(['podman', '--version'])}, {tar.stat().st_size / 1e6:.0f} MB, load {load:.1f}"
    )


if __name__ == "__main__":
    main()
