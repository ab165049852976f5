"""F10: few descriptors, or little address space.

The limit of memory is counted from what Python and the modules take: below that nothing of
ours runs. A command succeeds or says what it lacked; the store is what it was or what it
should be, and without the limit the command succeeds.
"""

from __future__ import annotations

import random
import signal
from typing import TYPE_CHECKING

import pytest

from tests.crash.rig import campaign, oracle, scenes
from tests.crash.rig.oracle import BrokenPromiseError, Expectation
from tests.crash.test_error_injection import sweep_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.crash.rig.launcher import Launcher
    from tests.crash.rig.scenes import Scene
    from tests.crash.rig.sweeps import Sweep

FILES = (7, 64)
"""From too few for anything on; the template's packs and a catalog need about thirty."""

MEMORY = (1 << 16, 1 << 28)
QUICK = frozenset({"import-tar", "rebuild", "optimize"})


def limits_of(source: random.Random, each: int) -> Iterator[dict[str, int]]:
    """Yield limits, ``each`` of either kind, spread evenly, of memory by orders of magnitude."""
    low, high = FILES
    for part in range(each):
        yield {"files": round(low + (high - low) * (part + source.random()) / each)}
    low, high = MEMORY
    for part in range(each):
        yield {"more_memory": round(low * (high / low) ** ((part + source.random()) / each))}


def limit_at(sweep: Sweep, limits: dict[str, int]) -> None:
    """Run the verb under limits and judge."""
    root, out = sweep.prepare()
    course = sweep.course
    try:
        words = sweep.scene.words(sweep.verb, out)
        done = sweep.launcher.run(root, *words, limits=limits, mutant=sweep.mutant)
        # Packages in C die of some allocations that fail; then nothing can be told, nor harmed.
        has_died = "more_memory" in limits and done.code == -signal.SIGSEGV
        if not done.typed and not has_died:
            raise BrokenPromiseError(f"ended with {done.code}: {done.err[-1200:]}")
        states = [course.after] if done.code == 0 else [course.before, course.after]
        expected = Expectation(
            states,
            damaged=sweep.verb.damages and done.code != 0,
            may_lack_store=sweep.verb.creates and done.code != 0,
        )
        oracle.judge(root, expected)
        sweep.judge_output(out)
        sweep.settle(root, out)
    finally:
        sweep.clean()


@pytest.mark.parametrize("verb", scenes.VERBS, ids=lambda verb: verb.name)
def test_what_is_lacking_is_told_and_harms_nothing(
    scene: Scene, launcher: Launcher, trial_box: Path, verb: scenes.Verb
) -> None:
    if campaign.TIER == "quick" and verb.name not in QUICK:
        pytest.skip("tried in the nightly tier")
    sweep = sweep_of(scene, launcher, trial_box, verb)
    source = random.Random(f"{campaign.SEED} {verb.name}")
    with campaign.tally("F10", verb.name) as tally:
        for limits in limits_of(source, campaign.amount(2, 8, 20)):
            with tally.trial(f"{limits}") as wanted:
                if wanted:
                    limit_at(sweep, limits)
                tally.fired += 1
