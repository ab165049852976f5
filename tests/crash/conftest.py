"""Fixtures of the fault campaign: one warm helper and one scene for each worker."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.crash.rig import scenes, tracer
from tests.crash.rig.launcher import Launcher

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def campaign_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory in memory where that can be had: most rigs need no flush to reach a disk."""
    box = tmp_path_factory.mktemp("campaign")
    command = ["mount", "-t", "tmpfs", "-o", "size=3g,mode=700", "tmpfs", str(box)]
    in_memory = os.geteuid() == 0 and subprocess.run(command, check=False).returncode == 0
    if in_memory:  # a build beside us has copies of disks mounted in it, which end with them
        subprocess.run(["mount", "--make-shared", str(box)], check=True)
    try:
        yield box
    finally:
        shutil.rmtree(box, ignore_errors=True)
        if in_memory:
            subprocess.run(["umount", "--lazy", str(box)], check=False)


@pytest.fixture
def trial_box(campaign_box: Path) -> Iterator[Path]:
    """A directory for one test's trials, gone afterwards."""
    box = Path(tempfile.mkdtemp(prefix="trial-", dir=campaign_box))
    yield box
    shutil.rmtree(box, ignore_errors=True)


@pytest.fixture(scope="session")
def launcher(campaign_box: Path) -> Iterator[Launcher]:
    reason = tracer.unsupported()
    if reason:
        pytest.skip(reason)
    with Launcher(campaign_box / "launcher") as found:
        yield found


@pytest.fixture(scope="session")
def scene(campaign_box: Path, launcher: Launcher) -> scenes.Scene:
    return scenes.make_scene(campaign_box / "box", launcher)
