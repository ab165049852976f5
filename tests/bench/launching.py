"""Starts commands from a small process, so that their peak memory is their own.

The kernel keeps across exec how much a process had resident at most, and a child begins with what
its parent has: by wait4(2) no command that a benchmark of 128 MB forks is ever below 128 MB. So
:mod:`tests.bench.launcher` is started first, and forks the command. What it takes itself counts
nowhere, but its few megabytes are the floor of a peak.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LAUNCHER = Path(__file__).with_name("launcher.py")


class Ended(NamedTuple):
    """How a command ended, and what it took with all that it waited for.

    Attributes:
        code: Its exit code, negative for a signal, as :mod:`subprocess` has it.
        rss_bytes: What the largest process of the tree had resident at most.
    """

    code: int
    cpu_seconds: float
    wall_seconds: float
    rss_bytes: int


def run_small(
    command: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: IO[bytes] | int | None = None,
    stdout: IO[bytes] | int | None = None,
    stderr: IO[bytes] | int | None = None,
    groups: Sequence[str] = (),
) -> Ended:
    """Run a command to its end; arguments as of :class:`subprocess.Popen`.

    Args:
        command: Found on the ``PATH`` of ``env``.
        groups: Files ``cgroup.procs`` of control groups that it joins, and the launcher does not.

    Raises:
        OSError: It cannot be started.
    """
    reading, writing = os.pipe()
    with open(reading, "rb") as told:
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", _LAUNCHER, str(writing), str(len(groups)), *groups,
                 *command],
                env=env, cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=[writing],
            )  # fmt: skip
        finally:
            os.close(writing)
        process.wait()
        words = told.read().split()
    if len(words) == 1:
        raise OSError(int(words[0]), os.strerror(int(words[0])), os.fspath(command[0]))
    if len(words) != len(Ended._fields):
        raise RuntimeError(f"{command[0]}: its launcher ended with {process.returncode}")
    return Ended(int(words[0]), float(words[1]), float(words[2]), int(words[3]))
