"""F9: the k-th write or flush of a real disk fails, once or from then on.

An ext4 lies on a loop device over a FUSE file that answers EIO. What the kernel makes of it
is the kernel's: a lost page, a flush that fails once, an aborted journal. A command
succeeds only if what it was asked for is there when the mended disk is mounted again.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.crash.rig import blockdev, campaign, oracle, scenes
from tests.crash.rig.disk import FAILED, FLUSH, WRITE
from tests.crash.rig.oracle import BrokenPromiseError, Expectation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.crash.rig.launcher import Done, Launcher
    from tests.crash.rig.scenes import Course, Scene, Verb

DISK_BYTES = 32 * 1024 * 1024
KINDS = {"write": WRITE, "writes": WRITE, "flush": FLUSH, "flushes": FLUSH}
QUICK = ("import-tar", "gc")
VERBS = [scenes.BY_NAME[name] for name in (*QUICK, "build", "tag", "rm", "rebuild", "repair")]
_FSCK_MENDED = {0, 1}


class FailingDisk:
    """A verb on a disk that fails at will."""

    def __init__(
        self,
        scene: Scene,
        verb: Verb,
        launcher: Launcher,
        box: Path,
        *,
        mutant: str | None = None,
    ) -> None:
        self.scene, self.verb, self.launcher, self.mutant = scene, verb, launcher, mutant
        self.course: Course = scenes.course_of(scene, verb, launcher, box / "course")
        self.disk = blockdev.Disk(box / "disk", size=DISK_BYTES)
        self.root = self.disk.place / "store"
        self.requests: dict[str, int] = {}
        self._tree = box / "tree"
        self._tree.mkdir()
        scene.copy(self._tree / "store", verb)

    @contextlib.contextmanager
    def running(self) -> Iterator[FailingDisk]:
        """Have the disk, and count what an undisturbed run asks of it."""
        with self.disk.recording() as place:
            blockdev.unmount(place)
            self._prepare()
            with self._mounted():
                self.disk.forget()
                assert self._run().code == 0
                counts = self.disk.counts()
            self.requests = {kind: counts[number] for kind, number in KINDS.items()}
            yield self

    def fail_at(self, kind: str, number: int) -> bool:
        """Let one request of one run fail and judge; return whether it did."""
        self._prepare()
        with self._mounted():
            self.disk.forget()
            self.disk.fail(kind, number)
            try:
                done = self._run()
            finally:
                self.disk.mend()
            failed = self.disk.counts()[FAILED] > 0
        self._fsck()
        with self._mounted():
            try:
                self._judge(done)
            except BrokenPromiseError as err:
                raise BrokenPromiseError(
                    f"{kind} {number}, ended with {done.code} {done.err[-300:]}: {err}"
                ) from err
        return failed

    def _judge(self, done: Done) -> None:
        if not done.typed:
            raise BrokenPromiseError("it did not end in words")
        course, verb = self.course, self.verb
        states = [course.after] if done.code == 0 else [course.before, course.after]
        damaged = verb.damages and done.code != 0
        oracle.judge(self.root, Expectation(states, damaged=damaged))
        words = self.scene.words(verb, self.disk.place)
        oracle.settle(
            self.root, self.launcher, words, course.after, fresh_bytes=None, accepted=verb.again
        )

    def _prepare(self) -> None:
        """Make the disk anew, with the store on it.

        By mkfs, not by copying: what is in ext4's journal is then of the run alone. Where a
        write of the journal's own failed, ext4 lost parts of a copy made before the run.
        """
        blockdev.wait_unused(self.disk.device)
        blockdev.make_ext4(self.disk.device, size=DISK_BYTES, tree=self._tree)

    def _run(self) -> Done:
        words = self.scene.words(self.verb, self.disk.place)
        return self.launcher.run(self.root, *words, mutant=self.mutant)

    def _mounted(self) -> contextlib.AbstractContextManager[Path]:
        return blockdev.mounted(self.disk.device, self.disk.place)

    def _fsck(self) -> None:
        """What everybody does after a disk failed; an aborted journal asks for it."""
        blockdev.wait_unused(self.disk.device)
        done = subprocess.run(
            ["e2fsck", "-f", "-y", str(self.disk.device)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in _FSCK_MENDED, done.stdout


@pytest.mark.root
@pytest.mark.fuse
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_a_failing_disk_is_told_and_what_was_there_stays(
    scene: Scene, launcher: Launcher, trial_box: Path, verb: Verb
) -> None:
    reason = blockdev.missing(fuse=True)
    if reason:
        pytest.skip(reason)
    if campaign.TIER == "quick" and verb.name not in QUICK:
        pytest.skip("tried in the nightly tier")
    source = random.Random(f"{campaign.SEED} {verb.name}")
    each = campaign.amount(1, 15, 100)
    with (
        campaign.tally("F9", verb.name) as tally,
        FailingDisk(scene, verb, launcher, trial_box).running() as disk,
    ):
        for kind in KINDS:
            total = disk.requests[kind]
            for at in scenes.pick(total, each, source.randrange(1 << 30)):
                with tally.trial(f"{kind} {at}") as wanted:
                    if wanted:
                        # The block layer joins requests as it likes: one that did not come is
                        # looked for earlier.
                        earlier = sorted({at, at // 2 or 1, 1}, reverse=True)
                        tally.fired += any(disk.fail_at(kind, number) for number in earlier)
