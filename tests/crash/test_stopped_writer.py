"""F16: a writer frozen at any call while the collector takes whatever it may.

The collector runs three times, the build cache given up, with the image that the writer
shares content with removed. Points where the writer holds the catalog lock are left out:
there the collector waits, which is what the lock is for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.crash.rig import campaign, oracle, scenes
from tests.crash.rig.oracle import BrokenPromiseError, Expectation
from tests.crash.rig.sweeps import Sweep
from tests.crash.rig.tracer import EVERYTHING, Plan

if TYPE_CHECKING:
    from pathlib import Path

    from tests.crash.rig.launcher import Launcher
    from tests.crash.rig.scenes import Scene

VICTIM = "twin:1"
HELD = (("rm", VICTIM), ("gc", "--all"), ("gc", "--all"), ("gc",))
WRITERS = (
    scenes.Verb("import-known", ("import", "{box}/twin1", "-t", "new:1")),
    scenes.Verb("import-partly", ("import", "{box}/partly", "-t", "new:1")),
    scenes.Verb("import-tar", ("import", "{box}/new.tar", "-t", "new:1")),
    scenes.Verb("build", ("build", "{box}/context", "-t", "built:2", "--progress", "plain")),
)
"""The first puts nothing but what the store has already, in a pack that dies meanwhile, the
second one such file and one of its own."""


@pytest.mark.parametrize("verb", WRITERS, ids=lambda verb: verb.name)
def test_a_stopped_writer_finds_everything_it_counted_on(
    scene: Scene, launcher: Launcher, trial_box: Path, verb: scenes.Verb
) -> None:
    sweep = stopped_sweep(scene, launcher, trial_box, verb)
    points = free_points(sweep)
    chosen = scenes.pick(len(points), campaign.amount(6, 1_000, 1_000), campaign.SEED)
    with campaign.tally("F16", verb.name) as tally:
        for number in chosen:
            with tally.trial(f"{points[number - 1]}") as wanted:
                if wanted:
                    tally.fired += stop_at(sweep, points[number - 1])


def stopped_sweep(
    scene: Scene, launcher: Launcher, box: Path, verb: scenes.Verb, *, mutant: str | None = None
) -> Sweep:
    course = scenes.course_of(scene, verb, launcher, box / "course")
    for names in (course.before, course.after):
        names.pop(VICTIM)
    return Sweep(scene, verb, course, launcher, box / "trials", mutant=mutant)


def free_points(sweep: Sweep) -> list[int]:
    """Return the calls of an undisturbed run at which no lock is held."""
    root, out = sweep.prepare()
    done = sweep.run(root, out, Plan("probe", calls=EVERYTHING))
    assert done.code == 0, done
    sweep.clean()
    points = [number for number, name in enumerate(done.seen, 1) if name.endswith("*")]
    # The last points have no free one after them if the threads go another way this time.
    return points[: max(1, len(points) - 3)]


def stop_at(sweep: Sweep, at: int) -> bool:
    """Freeze one run at one call, collect, let it go on, and judge."""
    root, out = sweep.prepare()
    try:
        done = sweep.run(root, out, Plan("hold", at, EVERYTHING), held=HELD)
        for held in done.held:
            if held["code"] != 0:
                raise BrokenPromiseError(f"{held['argv']} ended with {held['code']}: {held['err']}")
        if done.code != 0:
            raise BrokenPromiseError(f"{done.where}: the writer ended with {done.code}: {done.err}")
        oracle.judge(root, Expectation([sweep.course.after]))
        for _ in range(2):
            sweep.launcher.run(root, "gc", "--all")
        oracle.judge(root, Expectation([sweep.course.after]))
        left = oracle.leftovers(root)
        if left:
            raise BrokenPromiseError(f"left behind: {left}")
        return done.fired
    finally:
        sweep.clean()
