"""Children that kill themselves at the n-th system call that changes a disk."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CALLS = ("write", "fsync", "rename", "unlink", "mkdir", "close")


def dying_at(step: int, *, after: bool, calls: Sequence[str] = CALLS) -> None:
    """Make this process kill itself at its ``step``-th call that matters."""
    seen = 0

    def wrap(name: str) -> None:
        real = getattr(os, name)

        def call(*args: object, **kwargs: object) -> object:
            nonlocal seen
            seen += 1
            if seen == step and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            mine = seen
            try:
                return real(*args, **kwargs)
            finally:
                if mine == step and after:
                    os.kill(os.getpid(), signal.SIGKILL)

        setattr(os, name, call)

    for name in calls:
        wrap(name)


def killed(
    work: Callable[[], object], step: int, *, after: bool, calls: Sequence[str] = CALLS
) -> bool:
    """Run ``work`` in a child that dies at ``step``; return False when it ran to its end."""
    child = os.fork()
    if child == 0:
        code = 3
        try:
            dying_at(step, after=after, calls=calls)
            work()
            code = 0
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in {0, -signal.SIGKILL}
    return status != 0
