"""Memory while many containers run, and the time to start one more."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.harness import CommandError, say
from tests.bench.seed.applications import READY
from tests.bench.seed.disk import tag_of
from tests.bench.seed.groups import ControlGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.bench.seed.engines import Engine

_READY_SECONDS = 300
_INSIDE = 'mount -t proc proc "$0/proc" && exec chroot "$0" python3 /srv/app/own/main.py'


def measure_memory(
    engine: Engine, mix: str, running: int, looked: Sequence[int]
) -> dict[str, object]:
    """Start so many containers, each of another application, with cold caches.

    Everybody shows each image once before, so that what is unpacked for the first time is not
    in the figures. The caches of the whole machine are dropped then.
    """
    engine.begin()
    try:
        for number in range(running):
            engine.once(tag_of(mix, number), "true")
    finally:
        engine.end()
    drop_caches()
    engine.begin()
    curve, costs = [], []
    try:
        curve.append(_memory(0, engine.group))
        for number in range(running):
            costs.append(asdict(engine.start(tag_of(mix, number))))
            if number + 1 in looked:
                _wait(engine.group, number + 1)
                curve.append(_memory(number + 1, engine.group))
                say(f"  {engine.name}, {number + 1} run: {curve[-1]['total'] / 1e6:,.0f} MB")
        stored = engine.stored()
    finally:
        engine.end()
    return {"curve": curve, "starts": costs, "stored": stored}


def measure_copies_memory(copies: Path, count: int) -> dict[str, object]:
    """Run the program in full copies, which share no file: a model of virtual machines.

    Neither a guest's kernel nor what else runs in it is counted.
    """
    drop_caches()
    group = ControlGroup(f"seed-copies-{os.getpid()}")
    curve, processes = [_memory(0, group)], []
    try:
        for number in range(count):
            command = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", _INSIDE]
            processes.append(
                subprocess.Popen(
                    [*command, str(copies / str(number))],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    preexec_fn=lambda: group.join("containers"),
                )
            )
            _wait(group, number + 1)
            curve.append(_memory(number + 1, group))
    finally:
        for pid in group.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in processes:
            process.wait()
        while group.processes():
            time.sleep(0.05)
        group.remove()
    return {"curve": curve}


def measure_starts(
    engines: Sequence[Engine], mix: str, running: int, rounds: int
) -> dict[str, object]:
    """Start containers of everybody in turn: the n-th while n-1 run, then some that end at once."""
    growing: dict[str, list[dict[str, float]]] = {engine.name: [] for engine in engines}
    ending: dict[str, list[dict[str, float]]] = {engine.name: [] for engine in engines}
    begun: list[Engine] = []
    try:
        for engine in engines:
            engine.begin()
            begun.append(engine)
            engine.once(tag_of(mix, 0), "true")
        for number in range(running):
            for engine in _turned(engines, number):
                growing[engine.name].append(asdict(engine.start(tag_of(mix, number))))
        for engine in engines:
            _wait(engine.group, running)
        for number in range(rounds):
            for engine in _turned(engines, number):
                ending[engine.name].append(asdict(engine.once(tag_of(mix, number), "true")))
    finally:
        for engine in begun:
            engine.end()
    return {"nth": growing, "true": ending}


def _turned(engines: Sequence[Engine], number: int) -> Sequence[Engine]:
    """Return everybody, another one first each time."""
    first = number % len(engines)
    return [*engines[first:], *engines[:first]]


def drop_caches() -> None:
    """Write out what is dirty and empty the machine's page, inode and entry caches."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def _memory(count: int, group: ControlGroup) -> dict[str, int]:
    whole = group.memory()
    attendants = group.memory("attendants")
    return {
        "running": count,
        **whole._asdict(),
        "total": whole.total,
        "attendants_anonymous": attendants.anonymous,
        "attendants_total": attendants.total,
    }


def _wait(group: ControlGroup, count: int, now: Callable[[], float] = time.monotonic) -> None:
    """Wait until so many programs have said that they read everything."""
    until = now() + _READY_SECONDS
    while (ready := _ready(group)) < count:
        if now() > until:
            raise CommandError(f"{ready} of {count} programs are ready after {_READY_SECONDS} s")
        time.sleep(0.2)


def _ready(group: ControlGroup) -> int:
    found = 0
    for pid in group.processes():
        with contextlib.suppress(OSError):
            found += Path(f"/proc/{pid}/comm").read_text().strip() == READY
    return found
