"""How fast an import makes bytes durable, beside ``dd conv=fsync`` on the same disk.

    python -m tests.bench.durable [--bytes N] [-n ROUNDS] [--work DIR] [--gate] [--json FILE]

The input is a directory of files of 16 KiB to 16 MiB, a third of their bytes random and the rest
words, read once before the clock starts. An import counts from its start to its end, when
every byte is on stable storage; dd writes as many bytes to one file. Wall time: the machine
should have nothing else to do. ``--gate`` holds only where dd itself reaches the target.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from tests.bench.harness import (
    absolute,
    environment,
    grid,
    interleave,
    megabytes,
    run_costed,
    say,
    warm,
)
from tests.bench.result import Result

TARGET_BYTES_S = 200e6
_SIZES = (16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20)
_RANDOM_PART = 1 / 3


def make_input(tree: Path, size: int) -> int:
    """Fill a directory with about ``size`` bytes and return how many they are."""
    source = random.Random(1)
    words = [source.randbytes(source.randint(2, 5)).hex().encode() for _ in range(4096)]
    total = 0
    while total < size:
        length = source.choice(_SIZES)
        if source.random() < _RANDOM_PART:
            data = source.randbytes(length)
        else:
            data = b" ".join(source.choices(words, k=length // 8))[:length]
        folder = tree / f"{total >> 26:03}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{total:012}").write_bytes(data)
        total += len(data)
    return total


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests.bench.durable", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--bytes", type=int, default=2_000_000_000)
    parser.add_argument("-n", "--rounds", type=int, default=3)
    parser.add_argument(
        "--work", type=absolute, help="where to work (default: a temporary directory)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run there")
    parser.add_argument("--gate", action="store_true", help="exit 1 when the target is missed")
    return parser.parse_args()


def main() -> int:
    given = parse_arguments()
    work = Path(tempfile.mkdtemp(prefix="layerstore-durable-", dir=given.work))
    rates: dict[str, list[float]] = {"layerstore import DIR": [], "dd conv=fsync": []}
    try:
        tree, store, copy = work / "tree", work / "store", work / "copy"
        size = make_input(tree, given.bytes)
        say(f"{megabytes(warm(tree))} MB made")
        stored = 0

        def one_import() -> None:
            nonlocal stored
            shutil.rmtree(store, ignore_errors=True)
            words = ["--store", str(store), "import", str(tree), "-q"]
            cost = run_costed([sys.executable, "-m", "layerstore", *words])
            rates["layerstore import DIR"].append(size / cost.wall_seconds)
            stored = sum(path.stat().st_size for path in (store / "packs").rglob("*.pack"))

        def one_dd() -> None:
            copy.unlink(missing_ok=True)
            words = ["if=/dev/zero", f"of={copy}", "bs=1M", f"count={size >> 20}", "conv=fsync"]
            rates["dd conv=fsync"].append(size / run_costed(["dd", *words]).wall_seconds)

        interleave(given.rounds, [one_import, one_dd], say=say)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    rows = [
        (
            name,
            megabytes(statistics.median(found)),
            f"{megabytes(min(found))}-{megabytes(max(found))}",
        )
        for name, found in rates.items()
    ]
    print(grid(("", "MB/s", "spread"), rows))
    where = environment()
    print(
        f"\n{megabytes(size)} MB of files, {megabytes(stored)} MB in packs; {where['kernel']}, "
        f"{where['cpus']} CPUs, load {where['load_average']}"
    )
    ours, disk = (statistics.median(found) for found in rates.values())
    missed = ours < TARGET_BYTES_S <= disk
    if given.json:
        result = Result(notes=[f"{megabytes(size)} MB of files, {megabytes(stored)} MB in packs."])
        for name, found in rates.items():
            result.add("durable", name, "MB a second", "", [rate / 1e6 for rate in found])
        wanted = f"at least {megabytes(TARGET_BYTES_S)} MB/s where the disk allows it"
        said = f"{megabytes(ours)} MB/s, dd {megabytes(disk)}"
        met = None if disk < TARGET_BYTES_S else not missed
        result.promise("durable import", wanted, said, met=met)
        result.write(given.json)
    print(f"MISSED: under {megabytes(TARGET_BYTES_S)} MB/s" if missed else "target met")
    return 1 if missed and given.gate else 0


if __name__ == "__main__":
    sys.exit(main())
