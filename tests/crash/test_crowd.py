"""F12 and F13: many processes in one store, some killed or stopped, some with wrong clocks.

Builders, collectors and checks run as processes of their own. Nobody ever meets "database
is locked"; what was acknowledged is there, what was removed is not.
"""

from __future__ import annotations

import contextlib
import glob
import os
import random
import signal
import time
from typing import TYPE_CHECKING

import pytest

from layerstore.store.store import Store
from tests.crash.rig import campaign, oracle
from tests.crash.rig.crew import Worker, promised
from tests.crash.rig.oracle import BrokenPromiseError, Expectation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.crash.rig.launcher import Launcher

KINDS = ("build", "build", "gc", "build", "check", "build")
CLOCKS = ("-2d", "+2d", "@1970-01-02 00:00:00", "@2099-01-01 00:00:00", "+0")
MOMENT_S = 0.05
"""Between looks at who has worked, killed and been replaced."""


def crowd(
    root: Path,
    trees: Path,
    *,
    turns: int,
    kill_every: int,
    seed: int,
    env_of: dict[int, dict[str, str]] | None = None,
    mutant: str | None = None,
) -> list[Worker]:
    """Let a crowd work until it has told ``turns`` things, killing and stopping some."""
    Store.open(root, create=True).close()
    source = random.Random(seed)
    done: list[Worker] = []
    envs = env_of or {}
    alive = [
        Worker(kind, number, root, trees, CREW_MUTANT=mutant or "", **envs.get(number, {}))
        for number, kind in enumerate(KINDS, 1)
    ]
    number = len(alive)
    next_kill = kill_every
    deadline = time.monotonic() + 120 + turns
    try:
        while (told := sum(worker.turns for worker in [*done, *alive])) < turns:
            assert time.monotonic() < deadline, f"{told} of {turns} turns"
            time.sleep(MOMENT_S)
            if kill_every and told >= next_kill:
                next_kill = told + kill_every
                place = source.randrange(len(alive))
                alive[place].stop()
                done.append(alive[place])
                number += 1
                alive[place] = Worker(alive[place].kind, number, root, trees)
            stopped = source.choice(alive).process
            stopped.send_signal(signal.SIGSTOP)
            time.sleep(MOMENT_S)
            stopped.send_signal(signal.SIGCONT)
    finally:
        for worker in alive:
            worker.stop()
    return [*done, *alive]


def judge_crowd(root: Path, workers: list[Worker], launcher: Launcher) -> None:
    failures = [failure for worker in workers for failure in worker.failures]
    locked = [f for f in failures if "database is locked" in str(f)]
    if failures:
        raise BrokenPromiseError(f"{len(locked)} times locked; failed: {failures[:3]}")
    crashed = [worker.error for worker in workers if worker.error.strip()]
    if crashed:
        raise BrokenPromiseError(f"a worker died: {crashed[0].decode()[-1500:]}")
    there, gone = promised(workers)
    found = oracle.judge(root, Expectation([]))
    assert found is not None
    oracle.require_names(found, there)
    if gone & found.keys():
        raise BrokenPromiseError(f"removed and there again: {gone & found.keys()}")
    for _ in range(2):
        done = launcher.run(root, "gc", "--all")
        assert done.code == 0, done
    oracle.judge(root, Expectation([found]))
    left = oracle.leftovers(root)
    if left:
        raise BrokenPromiseError(f"left behind: {left}")


def test_a_crowd_with_kills_loses_nothing(launcher: Launcher, trial_box: Path) -> None:
    with campaign.tally("F12", "crowd with kills") as tally:
        for number in range(campaign.amount(1, 6, 60)):
            with tally.trial(f"{number}") as wanted:
                if wanted:
                    root, trees = trial_box / f"{number}", trial_box / f"trees{number}"
                    trees.mkdir()
                    workers = crowd(
                        root,
                        trees,
                        turns=campaign.amount(60, 300, 600),
                        kill_every=15,
                        seed=campaign.SEED + number,
                    )
                    judge_crowd(root, workers, launcher)
                tally.fired += 1


@pytest.fixture
def faketime() -> Iterator[str]:
    """libfaketime; what it leaves in shared memory of those that do not exit its way goes."""
    libraries = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
    if not libraries:
        pytest.skip("libfaketime is not installed")
    yield libraries[0]
    for left in glob.glob("/dev/shm/*faketime_*"):
        # Of which process they are is in their names: others are at it, too.
        if not os.path.exists(f"/proc/{left.rpartition('_')[2]}"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(left)


def test_wrong_clocks_change_nothing(launcher: Launcher, trial_box: Path, faketime: str) -> None:
    source = random.Random(campaign.SEED)
    with campaign.tally("F13", "wrong clocks") as tally:
        for number in range(campaign.amount(1, 6, 40)):
            with tally.trial(f"{number}") as wanted:
                if wanted:
                    root, trees = trial_box / f"{number}", trial_box / f"trees{number}"
                    trees.mkdir()
                    clocks = {
                        worker: {
                            "LD_PRELOAD": faketime,
                            "FAKETIME": source.choice(CLOCKS),
                            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                        }
                        for worker in range(1, len(KINDS) + 1)
                    }
                    workers = crowd(
                        root,
                        trees,
                        turns=campaign.amount(40, 120, 300),
                        kill_every=0,
                        seed=campaign.SEED + number,
                        env_of=clocks,
                    )
                    judge_crowd(root, workers, launcher)
                tally.fired += 1


def test_clocks_can_be_faked_here(faketime: str) -> None:
    """Otherwise the rig above would prove nothing."""
    import subprocess
    import sys

    told = subprocess.run(
        [sys.executable, "-c", "import time; print(time.gmtime().tm_year)"],
        env={**os.environ, "LD_PRELOAD": faketime, "FAKETIME": "@2099-01-01 00:00:00"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == "2099"
