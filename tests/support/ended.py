"""Builds that end before their time: stopped for sure, ended but not reaped, and their groups.

Every build of the host removes the control groups of builders that are dead. One that has
ended and was not reaped is none of those, so what it left can be looked at in peace.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path


def groups_of(lease: str) -> list[Path]:
    """Return the control groups of a build, in every hierarchy.

    Others come and go meanwhile, which ``Path.glob`` would raise for.
    """
    return [
        Path(directory, name)
        for directory, names, _ in os.walk("/sys/fs/cgroup")
        for name in names
        if name.startswith("layerstore-") and name.endswith(f"-{lease}")
    ]


def stop(process: subprocess.Popen[str]) -> None:
    """Stop a child; it has stopped, with all its threads, when this returns."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)


def await_end(process: subprocess.Popen[str], patience_s: float) -> None:
    """Wait until a child has ended, and leave it to be reaped.

    Raises:
        subprocess.TimeoutExpired: It goes on.
    """
    until = time.monotonic() + patience_s
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() > until:
            raise subprocess.TimeoutExpired(process.args, patience_s)
        time.sleep(0.01)
