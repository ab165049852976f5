"""F1: SIGKILL at every system call that changes something, for every verb that writes.

Real commands, all their threads, one counter over all such calls; ``torn`` lets the
kernel carry out half of a write first. A kill loses nothing the kernel has: this proves
atomicity, recovery and that a second run completes the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.crash.rig import campaign, scenes
from tests.crash.rig.sweeps import Sweep
from tests.crash.rig.tracer import TRANSFERS, Plan

if TYPE_CHECKING:
    from pathlib import Path

    from tests.crash.rig.launcher import Launcher
    from tests.crash.rig.scenes import Scene

REBUILD_EVERY = 4


@pytest.mark.parametrize("verb", scenes.VERBS, ids=lambda verb: verb.name)
def test_a_kill_at_any_call_leaves_a_sound_store(
    scene: Scene, launcher: Launcher, trial_box: Path, verb: scenes.Verb
) -> None:
    course = scenes.course_of(scene, verb, launcher, trial_box / "course")
    sweep = Sweep(scene, verb, course, launcher, trial_box / "trials")
    seen = sweep.seen(Plan())
    points = [("kill", at) for at in range(1, len(seen) + 1)]
    points += [("torn", at) for at, name in enumerate(seen, 1) if name in TRANSFERS]
    count = campaign.amount(10, len(points), len(points))
    with campaign.tally("F1", verb.name) as tally:
        for number in scenes.pick(len(points), count, campaign.SEED):
            action, at = points[number - 1]
            with tally.trial(f"{action} {at}") as wanted:
                if wanted:
                    # Threads take turns as they like, and may make a few calls less than at
                    # first: one that did not come is looked for earlier.
                    tries = ((action, at), ("kill", at // 2 or 1), ("kill", 1))
                    tally.fired += any(kill_at(sweep, *each) for each in tries)


def kill_at(sweep: Sweep, action: str, at: int) -> bool:
    """Kill one run at one call and judge; return whether the kill happened."""
    root, out = sweep.prepare()
    try:
        done = sweep.run(root, out, Plan(action, at))
        assert not done.fired or done.code == -9, done
        sweep.judge(root, out, rebuild=at % REBUILD_EVERY == 0)
        sweep.settle(root, out)
        return done.fired
    finally:
        sweep.clean()
