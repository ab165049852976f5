"""Start a program of an image that is 20 ms away and not here: what is fetched, how long it takes.

    python -m tests.bench.lazy_registry CACHE [TREE] [--json FILE]

The image is one of the corpora's trees (``related/03-app-1`` unless told otherwise), pushed once
with ``push --delta``. A lazy view of it is mounted from docker-registry behind the link of
:mod:`tests.bench.updates`, and programs are started in it by chroot(8), one after the other:
the first of each fetches, the second reads what is here. Beside it: the time of ``pull`` and
``mount`` until the same program has run. Needs root.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.corpora import trees_of
from tests.bench.harness import grid, megabytes
from tests.bench.result import Result
from tests.bench.updates import LAYERSTORE, ROUND_TRIP_S, Sender, registry
from tests.support.slow_link import SlowLink, slow_link

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAMS = {
    "perl -e1": ("perl", "-e1"),
    "python3 -c pass": ("python3", "-c", "pass"),
    "import numpy, pandas": ("env", "PYTHONPATH=/opt/app/lib/python3.11/site-packages", "python3",
                             "-c", "import numpy, pandas"),
}  # fmt: skip
INSIDE = ("unshare", "-m", "sh", "-c", 'mount --bind /dev "$0/dev"; exec chroot "$0" "$@"')
"""Views allow no devices, and perl opens /dev/null."""


def timed(link: SlowLink, command: Sequence[str], env: dict[str, str]) -> tuple[float, int]:
    """Return the seconds that a command takes and the bytes that come meanwhile."""
    link.take()
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, env={**os.environ, **env}, check=False)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr.decode()[-500:]}")
    return time.perf_counter() - begun, link.take()[0]


def measure(tree: Path, work: Path, result: Result) -> list[tuple[str, ...]]:
    """Return the rows of the table, and fill the result."""
    rows: list[tuple[str, ...]] = []
    home = work / "home"
    home.mkdir()
    view = work / "view"
    view.mkdir()
    sender = Sender(work / "sender", home)
    with registry(work / "registry") as port, slow_link(port, ROUND_TRIP_S) as link:
        name = f"127.0.0.1:{link.port}/app:1"
        sender.run("import", str(tree), "-t", name)
        sender.run("push", "--delta", name)
        for title, words in (
            ("lazy view", [["mount", "--from", "docker://", name, str(view)]]),
            ("pull, then mount", [["pull", name], ["mount", name, str(view)]]),
        ):
            with tempfile.TemporaryDirectory(dir=work) as place:
                env = {"HOME": str(home), "LAYERSTORE_ROOT": f"{place}/store"}
                for command in words:
                    seconds, size = timed(link, [*LAYERSTORE, *command], env)
                    rows.append((f"{title}: {command[0]}", f"{seconds:.2f}", megabytes(size), ""))
                    result.add(command[0], title, "time", "s", [seconds])
                    result.add(command[0], title, "fetched", "B", [size])
                try:
                    for program, run in PROGRAMS.items():
                        first = timed(link, [*INSIDE, str(view), *run], env)
                        again = timed(link, [*INSIDE, str(view), *run], env)
                        rows.append(
                            (
                                f"  {program}", f"{first[0]:.2f}", megabytes(first[1]),
                                f"{again[0]:.2f}",
                            )
                        )  # fmt: skip
                        result.add(program, title, "time", "s", [first[0]])
                        result.add(program, title, "fetched", "B", [first[1]])
                        result.add(f"{program}, again", title, "time", "s", [again[0]])
                finally:
                    subprocess.run(
                        [*LAYERSTORE, "umount", str(view)], env={**os.environ, **env}, check=True
                    )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tests.bench.lazy_registry", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("cache", type=Path, help="directory that keeps the corpora")
    parser.add_argument("tree", nargs="?", default="03-app-1", help="of the corpus 'related'")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run there")
    given = parser.parse_args()
    result = Result()
    trees = {tree.name: tree for tree in trees_of(given.cache.absolute(), "related")}
    with tempfile.TemporaryDirectory(dir=given.cache, prefix="lazy-") as work:
        rows = measure(trees[given.tree], Path(work), result)
    print(f"load {os.getloadavg()[0]:.1f}")
    print(grid(("", "s", "MB", "again, s"), rows))
    if given.json:
        result.write(given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
