"""Bytes on the disk, and CPU seconds of building, as applications are added one by one."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import asdict
from typing import TYPE_CHECKING

from blake3 import blake3

from tests.bench import debian
from tests.bench.harness import run_costed, say
from tests.bench.seed.applications import applications, write
from tests.bench.seed.distribution import allocated
from tests.bench.seed.engines import DOCKERFILE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.bench.seed.applications import Files
    from tests.bench.seed.engines import Engine, Layerstore
    from tests.bench.seed.pool import Package

_STEPS = (1, 2, 5)


def checkpoints(apps: int) -> list[int]:
    """Return after how many applications the disk is looked at: 1, 2, 5, 10, ... and the last."""
    found, power = {apps}, 1
    while power <= apps:
        found |= {step * power for step in _STEPS if step * power <= apps}
        power *= 10
    return sorted(found)


class Shares:
    """What the applications made so far have in common, file by file."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()
        self.total = 0
        self.distinct = 0
        self.libraries = 0

    def add(self, files: Files) -> None:
        for path, content in files.items():
            digest = blake3(content).digest()
            self.total += len(content)
            self.libraries += len(content) if path.startswith("lib/") else 0
            if digest not in self._seen:
                self._seen.add(digest)
                self.distinct += len(content)

    def as_dict(self) -> dict[str, int]:
        """Return bytes: of all, of what differs from all before it, of libraries."""
        return {
            "app_bytes": self.total,
            "distinct_bytes": self.distinct,
            "library_bytes": self.libraries,
        }


def tag_of(mix: str, number: int) -> str:
    """Return the name of an application's image."""
    return f"{mix}-{number}:1"


def measure_disk(
    engines: Sequence[Engine],
    base: Path,
    mix: str,
    pool: Sequence[Package],
    apps: int,
    work: Path,
    keep: Callable[[dict[str, object]], None] = lambda _: None,
) -> dict[str, object]:
    """Build all applications with everyone, in turn; images that are there cost nothing.

    Args:
        engines: Who takes part; each has begun.
        base: Root of the distribution.
        mix: Of the applications.
        pool: What they are made of.
        apps: How many.
        work: Where the one that is being built lies.
        keep: Is given what is known after each look at the disk, so that a run that is
            interrupted was not for nothing.
    """
    looked = {0, *checkpoints(apps)}
    shares, shared = Shares(), []
    bases = {engine.name: engine.add_base(base) for engine in engines}
    curves = {engine.name: [_point(engine, 0, 0.0)] for engine in engines}
    cpu = dict.fromkeys(curves, 0.0)
    loads: list[float] = []
    context = work / "context"
    for number, files in zip(range(apps), applications(mix, pool), strict=False):
        shares.add(files)
        shutil.rmtree(context, ignore_errors=True)
        write(files, context)
        (context / "Dockerfile").write_text(DOCKERFILE)
        for engine in engines:
            cost = engine.build(context, tag_of(mix, number))
            cpu[engine.name] += cost.cpu_seconds
            loads.append(cost.load_average)
        if number + 1 in looked:
            shared.append({"apps": number + 1, **shares.as_dict()})
            for engine in engines:
                curves[engine.name].append(_point(engine, number + 1, cpu[engine.name]))
                disk = curves[engine.name][-1]["disk"]
                say(f"  {number + 1} with {engine.name}: {disk / 1e6:,.0f} MB, "
                    f"{cpu[engine.name]:.0f} s CPU")  # fmt: skip
            made = {
                name: {
                    "apps": number + 1,
                    "base_cpu_seconds": cost and cost.cpu_seconds,
                    "load": [min(loads), max(loads)],
                    "curve": curves[name],
                }
                for name, cost in bases.items()
            }
            keep({"shares": shared, "engines": made})
    shutil.rmtree(context, ignore_errors=True)
    return {"shares": shared, "engines": made}


def _point(engine: Engine, apps: int, cpu_seconds: float) -> dict[str, float]:
    return {"apps": apps, **engine.stored(), "cpu_seconds": cpu_seconds}


def measure_copies(
    base: Path, mix: str, pool: Sequence[Package], count: int, place: Path
) -> dict[str, object]:
    """Make full copies of the distribution with an application each; they stay."""
    sizes = []
    place.mkdir(parents=True, exist_ok=True)
    for number, files in zip(range(count), applications(mix, pool), strict=False):
        root = place / str(number)
        if not root.exists():
            debian.derive(base, root)
            write(files, root / "srv" / "app")
        sizes.append(allocated(root))
    return {"bytes": sizes}


def measure_commands(ours: Layerstore) -> dict[str, object]:
    """What the commands that look at all images cost in a store of so many."""
    costs = {}
    for words in (("images",), ("df",), ("savings",), ("gc", "--dry-run"), ("check",)):
        cost = run_costed([*ours.words, *words])
        costs[" ".join(words)] = asdict(cost)
    catalog = ours.place / "store" / "catalog.sqlite"
    names = ours.place / "store" / "names.log"
    sizes = {path.name: path.stat().st_size for path in (catalog, names) if path.exists()}
    return {"costs": costs, "bytes": sizes}


def optimize(ours: Layerstore) -> dict[str, object]:
    """Make the store as small as it gets."""
    cost = run_costed([*ours.words, "optimize"])
    subprocess.run([*ours.words, "gc"], check=True, capture_output=True)
    return {"cpu_seconds": cost.cpu_seconds, "stored": ours.stored()}
