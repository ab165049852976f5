"""F6 and F7: any system call on the store may fail, or transfer less than it was asked to.

A command answers with success or with an error of ours, never with a traceback, never
with success where a flush or a close of new content failed. The store is then what the
oracle wants, and the command can be run again.
"""

from __future__ import annotations

import errno
import random
from typing import TYPE_CHECKING

import pytest

from tests.crash.rig import campaign, oracle, scenes
from tests.crash.rig.oracle import BrokenPromiseError, Expectation
from tests.crash.rig.sweeps import Sweep
from tests.crash.rig.tracer import EVERYTHING, TRANSFERS, Plan

if TYPE_CHECKING:
    from pathlib import Path

    from tests.crash.rig.launcher import Done, Launcher
    from tests.crash.rig.scenes import Scene

ERRORS = (
    errno.EIO,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EINTR,
    errno.EMFILE,
    errno.ENOMEM,
    errno.EROFS,
    errno.ESTALE,
)
COUNTS = (0, 1, -1)
"""Bytes transferred instead of all; -1 is one less than all."""

_FLUSHES = frozenset({"fsync", "fdatasync"})


@pytest.mark.parametrize("verb", scenes.VERBS, ids=lambda verb: verb.name)
def test_a_failing_call_is_an_error_in_words_and_harmless(
    scene: Scene, launcher: Launcher, trial_box: Path, verb: scenes.Verb
) -> None:
    sweep = sweep_of(scene, launcher, trial_box, verb)
    total = len(sweep.seen(Plan(calls=EVERYTHING)))
    source = random.Random(f"{campaign.SEED} {verb.name}")
    with campaign.tally("F6", verb.name) as tally:
        for at in scenes.pick(total, campaign.amount(6, 100, total), campaign.SEED):
            for code in source.sample(ERRORS, campaign.amount(1, 1, len(ERRORS))):
                # Who is interrupted tries again, for as long as it takes.
                sticky = code != errno.EINTR and source.random() < 0.5
                with tally.trial(f"{errno.errorcode[code]} {at} {sticky}") as wanted:
                    if wanted:
                        plan = Plan("errno", at, EVERYTHING, value=code, sticky=sticky)
                        tally.fired += fail_or_earlier(sweep, plan)


@pytest.mark.parametrize("verb", scenes.VERBS, ids=lambda verb: verb.name)
def test_a_short_count_is_gone_on_with_or_told(
    scene: Scene, launcher: Launcher, trial_box: Path, verb: scenes.Verb
) -> None:
    sweep = sweep_of(scene, launcher, trial_box, verb)
    total = len(sweep.seen(Plan(calls=TRANSFERS)))
    source = random.Random(f"{campaign.SEED} {verb.name}")
    with campaign.tally("F7", verb.name) as tally:
        for at in scenes.pick(total, campaign.amount(3, 40, total), campaign.SEED):
            for count in source.sample(COUNTS, campaign.amount(1, 1, len(COUNTS))):
                with tally.trial(f"{count} {at}") as wanted:
                    if wanted:
                        plan = Plan("short", at, TRANSFERS, value=count)
                        tally.fired += fail_or_earlier(sweep, plan)


def sweep_of(
    scene: Scene,
    launcher: Launcher,
    box: Path,
    verb: scenes.Verb,
    *,
    mutant: str | None = None,
) -> Sweep:
    course = scenes.course_of(scene, verb, launcher, box / "course")
    return Sweep(scene, verb, course, launcher, box / "trials", mutant=mutant)


def fail_or_earlier(sweep: Sweep, plan: Plan) -> bool:
    """Do as :func:`fail_at`; a call that did not come, for threads take turns, is one before it."""
    earlier = sorted({plan.at, plan.at // 2 or 1, 1}, reverse=True)
    return any(fail_at(sweep, plan._replace(at=at)) for at in earlier)


def fail_at(sweep: Sweep, plan: Plan) -> bool:
    """Let one call of one run fail and judge; return whether the fault happened."""
    root, out = sweep.prepare()
    try:
        done = sweep.run(root, out, plan)
        if not done.typed:
            raise BrokenPromiseError(f"{done.where}: ended with {done.code}: {done.err[-1200:]}")
        if plan.action == "short" and plan.value and done.code != 0:
            raise BrokenPromiseError(f"less than asked is no error, but it ended with {done.code}")
        if done.code == 0:
            refuse_success(sweep, plan, done)
        judge(sweep, root, done)
        sweep.judge_output(out)
        sweep.settle(root, out)
        return done.fired
    except BrokenPromiseError as err:
        name = done.seen[plan.at - 1 : plan.at]
        raise BrokenPromiseError(f"{plan.action} at {name} {done.where}: {err}") from err
    finally:
        sweep.clean()


def judge(sweep: Sweep, root: Path, done: Done) -> None:
    """A command that said it succeeded has done what it was asked to."""
    course = sweep.course
    states = [course.after] if done.code == 0 else [course.before, course.after]
    expected = Expectation(
        states,
        damaged=sweep.verb.damages and done.code != 0,
        may_lack_store=sweep.verb.creates and done.code != 0,
    )
    oracle.judge(root, expected)


def refuse_success(sweep: Sweep, plan: Plan, done: Done) -> None:
    """Refuse success where the kernel said that new content may not be on disk."""
    if plan.action != "errno" or plan.value == errno.EINTR or not done.fired:
        return
    name = done.seen[plan.at - 1]
    fresh = any(part in done.where for part in ("/tmp/lease-", "/names.log"))
    names_directory = done.where.endswith("/blobs/sha256") or "/packs" in done.where
    # A removal that a power cut undoes costs space until the next gc, nothing else.
    changes = [call for call in done.seen[: plan.at - 1] if call in {"rename", "link", "unlink"}]
    removal = "gc" in sweep.verb.name or changes[-1:] == ["unlink"]
    forced = name in _FLUSHES and (fresh or (names_directory and not removal))
    # What SQLite closes of a draft is forced afterwards, through a descriptor of our own.
    draft = "/tmp/lease-rebuild.catalog" in done.where
    if forced or (name == "close" and fresh and not draft):
        raise BrokenPromiseError(f"{name} failed and the command succeeded")
