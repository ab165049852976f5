"""F4: ext4 loses power (its shutdown ioctl) under several builders and a collector."""

from __future__ import annotations

import fcntl
import os
import random
import struct
import time
from typing import TYPE_CHECKING

import pytest

from tests.crash.rig import blockdev, campaign, oracle
from tests.crash.rig.crew import crew, promised
from tests.crash.rig.oracle import BrokenPromiseError, Expectation

if TYPE_CHECKING:
    from pathlib import Path

    from tests.crash.rig.launcher import Launcher

EXT4_IOC_SHUTDOWN = 0x8004587D
"""_IOR('X', 125, __u32), fs/ext4/ext4.h."""

WITHOUT_LOG = 2
"""EXT4_GOING_FLAGS_NOLOGFLUSH: what the journal has not written is lost."""

KINDS = ["build", "build", "build", "gc"]
DISK_BYTES = 96 * 1024 * 1024


def shut_down(place: Path) -> None:
    """Take the power from a mounted ext4."""
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", WITHOUT_LOG))
    finally:
        os.close(fd)


@pytest.mark.root
def test_a_power_cut_under_builders_keeps_what_was_acknowledged(
    launcher: Launcher, trial_box: Path
) -> None:
    reason = blockdev.missing(fuse=False)
    if reason:
        pytest.skip(reason)
    source = random.Random(campaign.SEED)
    with campaign.tally("F4", "shutdown under builders") as tally:
        for number in range(campaign.amount(2, 40, 300)):
            with tally.trial(f"{number}") as wanted:
                if wanted:
                    tally.fired += one_cut(trial_box / f"{number}", launcher, source)


def one_cut(box: Path, launcher: Launcher, source: random.Random) -> bool:
    """Let a crew work, cut the power, mount again, judge; return whether work was done."""
    box.mkdir()
    image, place, trees = box / "image", box / "place", box / "trees"
    trees.mkdir()
    blockdev.make_ext4(image, size=DISK_BYTES)
    root = place / "store"
    with blockdev.mounted(image, place):
        with crew(root, trees, KINDS) as workers:
            # Power goes once there is something to lose, at a moment nobody chose.
            deadline = time.monotonic() + 120
            wanted = source.randint(2, 14)
            while sum(len(w.acknowledged) for w in workers) < wanted:
                assert time.monotonic() < deadline, [w.failures for w in workers]
                time.sleep(0.002)
            shut_down(place)
        there, gone = promised(workers)
    with blockdev.mounted(image, place):
        found = oracle.judge(root, Expectation([]))
        assert found is not None
        oracle.require_names(found, there)
        if gone & found.keys():
            raise BrokenPromiseError(f"removed and there again: {gone & found.keys()}")
        for _ in range(2):
            done = launcher.run(root, "gc")
            assert done.code == 0, done
        left = oracle.leftovers(root)
        assert not left, left
        oracle.judge(root, Expectation([found]))
    image.unlink()
    return bool(there)
