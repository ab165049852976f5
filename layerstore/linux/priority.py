"""Working with what nobody else wants of processors and disks."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_AUTOGROUP = "/proc/self/autogroup"
_NICEST = b"19"


@contextlib.contextmanager
def idle() -> Iterator[None]:
    """Be idle, as sched(7) calls it; threads that begin meanwhile are, too.

    The kernel takes reads and writes of such a thread for idle as well (ioprio_set(2)). Locks that
    others wait for must not be taken: who has one may stand still for long. The caller's session
    is its own, since the kernel shares processors between sessions first, where none is below a
    control group of processors.

    Raises:
        PermissionError: There is no way back, which takes CAP_SYS_NICE.
    """
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    try:
        _share(_NICEST)
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)
        _share(b"0")


def hasten(pid: int) -> None:
    """Let a process that is idle come to its end as any other."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))


def _share(nice: bytes) -> None:
    """Set what this session gets beside others."""
    with contextlib.suppress(OSError):  # the kernel has none, or does not let us
        fd = os.open(_AUTOGROUP, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, nice)
        finally:
            os.close(fd)
