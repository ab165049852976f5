"""F8: a real ext4 with 0 to 200 blocks left, and one without inodes.

A command on a full disk succeeds or says so; nothing acknowledged is harmed, gc works
there, and with room again the command succeeds. Reading needs no room.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.crash.rig import blockdev, campaign, oracle, scenes
from tests.crash.rig.oracle import BrokenPromiseError, Expectation

if TYPE_CHECKING:
    from pathlib import Path

    from tests.crash.rig.launcher import Launcher
    from tests.crash.rig.scenes import Course, Scene, Verb

DISK_BYTES = 24 * 1024 * 1024
BLOCK = 4096
BLOCKS_MAX = 200
INODES = 512

VERBS = [scenes.BY_NAME[name] for name in ("import-tar", "build", "tag", "rm", "gc", "rebuild")]


def fill_blocks(place: Path, left: int) -> None:
    """Leave ``left`` blocks free."""
    with open(place / "ballast", "wb") as file, contextlib.suppress(OSError):
        while (free := os.statvfs(place).f_bavail - left) > 0:
            file.write(bytes(min(free, 256) * BLOCK))
            file.flush()


def fill_inodes(place: Path, left: int) -> None:
    """Leave ``left`` inodes free."""
    (place / "small").mkdir()
    with contextlib.suppress(OSError):
        for number in range(os.statvfs(place).f_ffree - left):
            (place / "small" / str(number)).touch()


def make_room(place: Path) -> None:
    (place / "ballast").unlink(missing_ok=True)
    shutil.rmtree(place / "small", ignore_errors=True)


@pytest.mark.root
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_a_full_disk_is_told_and_harms_nothing(
    scene: Scene, launcher: Launcher, trial_box: Path, verb: Verb
) -> None:
    reason = blockdev.missing(fuse=False)
    if reason:
        pytest.skip(reason)
    course = scenes.course_of(scene, verb, launcher, trial_box / "course")
    image = trial_box / "image"
    blockdev.make_ext4(image, size=DISK_BYTES, inodes=INODES)
    with (
        campaign.tally("F8", verb.name) as tally,
        blockdev.mounted(image, trial_box / "place") as place,
    ):
        for left in scenes.pick(BLOCKS_MAX, campaign.amount(4, 40, 200), campaign.SEED):
            with tally.trial(f"{left - 1} blocks") as wanted:
                if wanted:
                    try_full(scene, launcher, place, verb, course, blocks=left - 1)
                tally.fired += 1
        for left in range(campaign.amount(2, 6, 12)):
            with tally.trial(f"{left} inodes") as wanted:
                if wanted:
                    try_full(scene, launcher, place, verb, course, inodes=left)
                tally.fired += 1


def try_full(
    scene: Scene,
    launcher: Launcher,
    place: Path,
    verb: Verb,
    course: Course,
    *,
    blocks: int | None = None,
    inodes: int | None = None,
) -> None:
    """Run a verb on the full disk, judge it full and with room again, then clean up."""
    root = scene.copy(place / "store")
    words = scene.words(verb, place)
    try:
        if blocks is not None:
            fill_blocks(place, blocks)
        if inodes is not None:
            fill_inodes(place, inodes)
        done = launcher.run(root, *words)
        if not done.typed:
            raise BrokenPromiseError(f"ended with {done.code}: {done.err}")
        states = [course.after] if done.code == 0 else [course.before, course.after]
        collected = launcher.run(root, "gc")
        if not collected.typed:
            raise BrokenPromiseError(f"gc ended with {collected.code}: {collected.err}")
        make_room(place)
        oracle.judge(root, Expectation(states))
        oracle.settle(root, launcher, words, course.after, fresh_bytes=None, accepted=verb.again)
    except BaseException:
        # What cannot be cleaned up, because the command still writes say, is no news beside
        # an interrupt or a broken promise, and must not be told in its place.
        with contextlib.suppress(OSError):
            clean_up(place, root)
        raise
    clean_up(place, root)


def clean_up(place: Path, root: Path) -> None:
    make_room(place)
    shutil.rmtree(root)


def test_an_interrupt_is_told_whatever_cannot_be_cleaned_up(tmp_path: Path) -> None:
    class Interrupted:
        def copy(self, target: Path) -> Path:
            return target  # which is not there to be removed

        def words(self, *_: object) -> list[str]:
            return []

        def run(self, *_: object) -> None:
            raise KeyboardInterrupt

    stand_in: Any = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        try_full(stand_in, stand_in, tmp_path, VERBS[0], stand_in)
