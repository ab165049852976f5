"""What starting commands costs, in multiples of starting Python itself.

Runs each command many times, interleaved with ``python -c pass``, and prints the
medians of user and system CPU time as ratios. No verdict: machines differ, ratios are
for people to watch.

    python -m tests.bench.startup [--rounds N] [--mounts] [--json FILE]

``--mounts`` also mounts and unmounts a view, which takes root and /dev/fuse; the CPU
of mount(2) itself is included, that of the FUSE server is not: it is warm.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench.result import Result


def cpu_s(command: list[str], env: dict[str, str]) -> float:
    """Return the CPU seconds that one run of a command takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=env, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def measure(
    commands: dict[str, list[list[str]]], rounds: int, env: dict[str, str]
) -> dict[str, list[float]]:
    """Return CPU seconds of all rounds; print medians and ratios to bare Python."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, sequence in commands.items():
            times[name].append(sum(cpu_s(command, env) for command in sequence) / len(sequence))
    bare = statistics.median(times["python -c pass"])
    for name, taken in times.items():
        median = statistics.median(taken)
        print(f"{name:34} {median * 1000:7.1f} ms {median / bare:6.1f}x")
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--mounts", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run there")
    options = parser.parse_args()
    result = Result()
    with tempfile.TemporaryDirectory(prefix="layerstore-startup-") as work:
        run(Path(work), options.rounds, result, mounts=options.mounts)
    if options.json:
        result.write(options.json)


def run(work: Path, rounds: int, result: Result, *, mounts: bool) -> None:
    layerstore = [str(Path(sys.executable).parent / "layerstore"), "--store", str(work / "store")]
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    (work / "rootfs" / "etc").mkdir(parents=True)
    for number in range(20):
        command = [*layerstore, "import", str(work / "rootfs"), "-t", f"image:{number}", "-q"]
        subprocess.run(command, env=env, stdout=subprocess.DEVNULL, check=True)
    subjects = {
        "python -c pass": [[sys.executable, "-c", "pass"]],
        "images": [[*layerstore, "images"]],
        "mounts": [[*layerstore, "mounts"]],
        "inspect (through typer)": [[*layerstore, "inspect", "image:1"]],
        "version (through typer)": [[*layerstore, "version"]],
    }
    if mounts:
        keeper, view = work / "keeper", work / "view"
        keeper.mkdir()
        view.mkdir()
        # Keeps the FUSE server alive, so that only the command itself is measured.
        subprocess.run([*layerstore, "mount", "image:1", str(keeper)], env=env, check=True)
        subjects["mount and umount, mean of both"] = [
            [*layerstore, "mount", "image:1", str(view)],
            [*layerstore, "umount", str(view)],
        ]
        subjects["mount --rw and umount, mean"] = [
            [*layerstore, "mount", "--rw", "image:1", str(view)],
            [*layerstore, "umount", str(view)],
        ]
    try:
        times = measure(subjects, rounds, env)
        for name, taken in times.items():
            result.add("CPU of a command", name, "CPU", "s", taken)
    finally:
        subprocess.run([*layerstore, "umount", "--all"], env=env, check=False)


if __name__ == "__main__":
    main()
