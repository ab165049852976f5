"""How long writers wait for the catalog lock when many want it at once.

    python -m tests.bench.waiting --writers 16 --seconds 10

Every writer is a process that commits small transactions as fast as it may. Printed for
all of them: commits of the luckiest and the unluckiest writer, and how long anyone waited.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from layerstore.store.store import Store
from tests.bench.result import Result


def write(root: Path, until: float) -> list[float]:
    """Commit until the time is up; return how long the lock was waited for each time."""
    waits: list[float] = []
    with Store.open(root) as store:
        while time.monotonic() < until:
            begun = time.monotonic()
            with store.catalog.write() as connection:
                waits.append(time.monotonic() - begun)
                connection.execute(
                    "INSERT OR REPLACE INTO step_uses VALUES (?, ?)", (str(os.getpid()), begun)
                )
    return waits


def main() -> int:
    """Start the writers and print what they saw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writers", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "store"
        Store.open(root, create=True).close()
        until = time.monotonic() + options.seconds
        pipes = []
        for _ in range(options.writers):
            reading, writing = os.pipe()
            if os.fork() == 0:
                os.close(reading)
                with os.fdopen(writing, "w") as out:
                    json.dump(write(root, until), out)
                os._exit(0)
            os.close(writing)
            pipes.append(reading)
        everyone = []
        for reading in pipes:
            with os.fdopen(reading) as source:
                everyone.append(sorted(json.load(source)))
        for _ in pipes:
            os.wait()
    counts = sorted(len(waits) for waits in everyone)
    merged = sorted(wait for waits in everyone for wait in waits)
    print(f"{options.writers} writers, {len(merged)} commits in {options.seconds:.0f} s")
    print(f"commits of one writer: {counts[0]} to {counts[-1]}")
    print(
        f"waited: median {merged[len(merged) // 2] * 1000:.1f} ms, 99 % "
        f"{merged[int(len(merged) * 0.99)] * 1000:.1f} ms, longest {merged[-1] * 1000:.1f} ms"
    )
    if options.json:
        result = Result()
        group = f"{options.writers} writers"
        result.add(group, "layerstore", "wait, median", "s", [merged[len(merged) // 2]])
        result.add(group, "layerstore", "wait, 99 %", "s", [merged[int(len(merged) * 0.99)]])
        result.add(group, "layerstore", "wait, longest", "s", [merged[-1]])
        result.add(group, "layerstore", "commits of the unluckiest", "", [counts[0]])
        result.add(group, "layerstore", "commits of the luckiest", "", [counts[-1]])
        result.write(options.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
