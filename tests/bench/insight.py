"""What it costs to look into many images: CPU and memory of diff, waste, find and suggest.

    python -m tests.bench.insight [IMAGES]

Every image has a Debian base, one of ten common layers of 500 files, and 100 files of its own.
The base is made by mmdebstrap once, or is the tar that ``LAYERSTORE_TEST_BASE`` names.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from layerstore.digest import sha256_digest
from layerstore.store.store import Store
from tests.bench.launching import run_small
from tests.support.cli import Cli
from tests.support.debian_base import debian_base_tar
from tests.support.insight import Layer, put_tree
from tests.support.measure import noise

if TYPE_CHECKING:
    from collections.abc import Callable

COMMANDS = (
    ("diff", "app:1", "app:2"),
    ("waste", "app:1"),
    ("waste", "--all"),
    ("find", "f1"),
    ("find", "f2", "--hidden"),
    ("find", "--package", "dpkg"),
    ("suggest", "--all"),
)


def fill(store: Store, count: int) -> None:
    """Publish the images."""
    base = store.resolve("base:1").layers
    with store.begin("bench insight") as session:
        common = [
            put_tree(
                session,
                Layer({b"opt/m%d/f%d" % (m, f): noise((m, f), 3000) for f in range(500)}),
            )
            for m in range(10)
        ]
        for number in range(count):
            m = number % 10
            files = {b"srv/%d/%d" % (number, f): noise((number, f), 2000) for f in range(100)}
            files[b"opt/m%d/f1" % m] = b"new"
            own = put_tree(session, Layer(files, whiteouts=(b"opt/m%d/f2" % m,)))
            layers = (*base, common[m], own)
            config = json.dumps(
                {
                    "architecture": "amd64",
                    "os": "linux",
                    "rootfs": {"type": "layers", "diff_ids": list(layers)},
                    "history": [{"created_by": "RUN make"} for _ in layers],
                }
            ).encode()
            descriptor = {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": sha256_digest(config),
                "size": len(config),
            }
            manifest = {"schemaVersion": 2, "config": descriptor, "layers": []}
            encoded = json.dumps(manifest).encode()
            session.publish_image(config, encoded, layers, names=(f"app:{number}",))


def _fill_at(path: Path, count: int) -> None:
    with Store.open(path) as store:
        fill(store, count)


def _in_a_child(work: Callable[[], None]) -> None:
    """Let another process do it: what this one grew to counts for all that it starts."""
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("the store could not be filled")


def cost(cli: Cli, command: tuple[str, ...]) -> tuple[float, int]:
    """Run a command; return its seconds of CPU and its largest resident size in bytes."""
    ended = run_small(cli.command(*command), env=cli.environment(), stdout=subprocess.DEVNULL)
    if ended.code:
        raise SystemExit(f"{' '.join(command)} ended with {ended.code}")
    return ended.cpu_seconds, ended.rss_bytes


def main() -> None:
    """Print a row for each command."""
    parser = argparse.ArgumentParser("tests.bench.insight", description=__doc__)
    parser.add_argument("images", nargs="?", type=int, default=300, help="how many (default: 300)")
    count = parser.parse_args().images
    with tempfile.TemporaryDirectory(prefix="layerstore-bench-") as folder:
        cli = Cli(Path(folder) / "store")
        cli.ok("import", debian_base_tar(), "-t", "base:1")
        _in_a_child(lambda: _fill_at(cli.store, count))
        print(f"{count} images over one Debian base")
        for command in COMMANDS:
            seconds, size = cost(cli, command)
            print(f"{' '.join(command):24} {seconds:6.2f} s CPU {size / 1e6:6.0f} MB")


if __name__ == "__main__":
    main()
