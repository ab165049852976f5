"""Whether the limits that are asked for can be enforced here: those that cannot are refused.

A limit that is passed over in silence is worse than none: whoever asked for it relies on it.
"""

from __future__ import annotations

import resource

from layerstore.errors import InputError, UnsupportedError
from layerstore.light_typing import TYPE_CHECKING
from layerstore.runtime.cgroups import (
    ROOT,
    controllers,
    counts_swap,
    is_unified,
    weighs_blocks,
)

if TYPE_CHECKING:
    from layerstore.runtime.settings import Limits, Ulimit

_NUMBERS = {"locks": 10, "nice": 13, "rtprio": 14, "rttime": 15, "sigpending": 11, "msgqueue": 12}
"""Of getrlimit(2), for those that some Pythons have no name for (asm-generic/resource.h)."""


def require_enforceable(limits: Limits, *, rootless: bool, pids: int = 0) -> None:
    """Refuse limits that nothing here would enforce.

    Args:
        limits: What is asked for.
        rootless: This is not the host's root.
        pids: Processes at most; 0 for no limit.

    Raises:
        UnsupportedError: Names what is missing.
        InputError: A limit is above what this user may set.
    """
    if rootless:
        for ulimit in limits.ulimits:
            _require_below_own(ulimit)
    needed = _needed(limits, pids)
    if not needed:
        return
    if rootless:
        raise UnsupportedError(
            f"{needed[0][0]} needs control groups, which nobody but root can make here",
            hint="limit the whole command: systemd-run --user --scope -p MemoryMax=1G "
            "layerstore ...; or run it as root",
        )
    there = controllers()
    for option, controller in needed:
        if controller not in there:
            raise UnsupportedError(
                f"{option} cannot be enforced here: {ROOT} has no {controller} controller",
                hint="boot with it enabled, or leave the option out",
            )
    if limits.memory_swappiness >= 0 and is_unified():
        raise UnsupportedError(
            "--memory-swappiness cannot be enforced here: control groups of version 2 have none",
            hint="leave the option out; --memory-swap limits how much is swapped",
        )
    if limits.blkio_weight and not weighs_blocks():
        raise UnsupportedError(
            "--blkio-weight cannot be enforced here: no scheduler of the kernel weighs groups",
            hint="have the disks scheduled by bfq: /sys/block/*/queue/scheduler; or leave it out",
        )
    if limits.memory_swap and not counts_swap():
        raise UnsupportedError(
            "--memory-swap cannot be enforced here: the kernel does not count swap",
            hint="boot with swapaccount=1, or leave the option out",
        )


def _needed(limits: Limits, pids: int) -> list[tuple[str, str]]:
    blocks = "io" if is_unified() else "blkio"
    wanted = (
        ("--memory", limits.memory, "memory"),
        ("--memory-swap", limits.memory_swap, "memory"),
        ("--cpu-quota", limits.cpu_quota, "cpu"),
        ("--cpu-period", limits.cpu_period, "cpu"),
        ("--cpu-shares", limits.cpu_shares, "cpu"),
        ("--cpuset-cpus", limits.cpuset_cpus, "cpuset"),
        ("--cpuset-mems", limits.cpuset_mems, "cpuset"),
        ("--pids-limit", pids, "pids"),
        ("--memory-reservation", limits.memory_reservation, "memory"),
        ("--memory-swappiness", limits.memory_swappiness >= 0, "memory"),
        ("--blkio-weight", limits.blkio_weight, blocks),
    )
    return [(option, controller) for option, value, controller in wanted if value]


def _require_below_own(ulimit: Ulimit) -> None:
    """Refuse to raise a hard limit, for which the host's root is needed.

    Raises:
        InputError: It is above this process's own.
    """
    number = _NUMBERS.get(ulimit.name)
    if number is None:
        number = getattr(resource, f"RLIMIT_{ulimit.name.upper()}")
    _, hard = resource.getrlimit(number)
    if hard != resource.RLIM_INFINITY and not 0 <= ulimit.hard <= hard:
        raise InputError(
            f"--ulimit {ulimit.name}: without root it cannot go above {hard}",
            hint=f"--ulimit {ulimit.name}={hard}",
        )
