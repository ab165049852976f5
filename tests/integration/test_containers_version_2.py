"""Containers where control groups are of version 2 alone, by the kernel's own.

On a host of version 1 the controllers stay where they are, so limits cannot be tried; what the
kernel has for every group of version 2 can: freezing, processor time, the list of processes.
"""

from __future__ import annotations

import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest

from layerstore.runtime.cgroups import is_unified
from tests.support.build import needs_runc

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.running import Containers

_ALONE = "mount --make-rprivate / && mount -t cgroup2 none /sys/fs/cgroup"
"""In a mount namespace of one's own; whoever looks there finds one hierarchy and no other."""


def _can_be_alone() -> bool:
    tried = ["unshare", "--mount", "sh", "-c", _ALONE]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


pytestmark = [
    *needs_runc,
    pytest.mark.skipif(is_unified(), reason="all other tests are of version 2 here"),
]


def _told(box: Containers, tmp_path: Path, *lines: tuple[str, ...] | str) -> list[str]:
    """Run commands of ours, and of a shell, one after the other there; return what each printed."""
    words = [
        f"{{ {line if isinstance(line, str) else shlex.join(box.command(*line))}; }} > {number}"
        for number, line in enumerate(lines)
    ]
    script = "set -e\n" + "\n".join([_ALONE, *words])
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        env=box.environment({"LAYERSTORE_WARM": "no"}), cwd=tmp_path, capture_output=True,
        text=True, check=False, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done
    return [(tmp_path / str(number)).read_text() for number in range(len(lines))]


def test_a_container_of_version_2_is_frozen_counted_and_gone(
    box: Containers, tmp_path: Path
) -> None:
    if not _can_be_alone():
        pytest.skip("no control groups of version 2")
    events = "cat /sys/fs/cgroup/layerstore-$(cat 0)/cgroup.events"
    # It is thawed when its processes have come by, which takes them a moment.
    thawing = f"for n in $(seq 1000); do {events} | grep -q 'frozen 0' && break; sleep 0.05; done"
    stats = ("stats", "--no-stream", "--format", "{{.CPUPerc}} {{.MemUsage}} {{.PIDs}}")
    start = ("run", "-d", "--name", "two", "--runtime", "runc", "box")
    told = _told(
        box, tmp_path,
        (*start, "sh", "-c", "while :; do :; done"), ("pause", "two"), events, stats,
        ("ps", "--format", "{{.Status}}"), ("unpause", "two"), f"{thawing}; {events}", stats,
        ("top", "two"), ("pause", "two"), ("stop", "-t", "0", "two"),
        ("inspect", "-f", "{{.State.Status}}", "two"), ("rm", "two"),
        "ls -d /sys/fs/cgroup/layerstore-$(cat 0) 2>&1 || true",
    )  # fmt: skip
    _, _, frozen, still, status, _, thawed, busy, processes, _, _, ended, _, groups = told
    assert "frozen 1" in frozen
    assert still.startswith("0.00% ")
    assert status.endswith("(Paused)\n")
    assert "frozen 0" in thawed
    share, memory, *_, count = busy.split()
    assert float(share.rstrip("%")) > 0
    assert (memory == "0B", count) == (False, "1")  # without controllers its processes tell
    assert "while :" in processes
    assert ended == "exited\n"
    assert "No such file" in groups
