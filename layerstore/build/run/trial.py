"""Which OCI runtimes of this machine work, found out by running a container with each.

In a child process, with namespaces as a build has them; for users who are not root a user
namespace first. Nothing is left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from layerstore.build.run.sandbox import Sandbox
from layerstore.errors import LayerstoreError
from layerstore.runtime.runtimes import installed_runtimes


class Verdict(NamedTuple):
    """What came of one runtime's trial.

    Attributes:
        path: Of the program.
        problem: Why it does not work; empty when it does.
    """

    path: str
    problem: str


def try_runtimes(chosen: str = "") -> list[Verdict]:
    """Run a container with every runtime found; call it before threads start.

    Args:
        chosen: The name or path of the only one to try.

    Raises:
        UnsupportedError: None is installed.
        InputError: There is no such program.
    """
    runtimes = installed_runtimes(chosen, rootless=os.geteuid() != 0)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.close(reading)
            os.write(writing, json.dumps(_try_each(chosen)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    problems: list[str] = json.loads(said) if said else ["the trial itself failed"] * len(runtimes)
    return [
        Verdict(runtime.path, problem) for runtime, problem in zip(runtimes, problems, strict=True)
    ]


def _try_each(chosen: str) -> list[str]:
    runtimes = installed_runtimes(chosen, rootless=os.geteuid() != 0)
    try:
        if os.geteuid() != 0:
            from fuse_mount import unshare

            unshare.enter()
        with (
            tempfile.TemporaryDirectory(prefix="layerstore-trial-") as scratch,
            Sandbox(Path(scratch), "trial") as sandbox,
        ):
            return [sandbox.trial(runtime) or "" for runtime in runtimes]
    except (LayerstoreError, OSError) as err:
        return [str(err)] * len(runtimes)
