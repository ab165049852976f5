"""Control groups of builds: their names, what they can limit, and those that were left behind.

The group of a build is named after the process that made it, so whoever finds one knows
whether that still lives. The runtime makes the groups; the build's reaper removes them. Only
both killed at one moment leave some, empty ones, which the next build or gc removes.
"""

from __future__ import annotations

import contextlib
import os

from layerstore.light_typing import TYPE_CHECKING
from layerstore.linux.process_stat import start_time

if TYPE_CHECKING:
    from collections.abc import Iterator


ROOT = "/sys/fs/cgroup"
_PREFIX = "layerstore"


def group_name(lease: str) -> str:
    """Return the name of this process's control group for one build.

    Args:
        lease: Unique among the builds of this process; fit for a file name.
    """
    pid = os.getpid()
    return f"{_PREFIX}-{_pid_namespace()}-{pid}-{start_time(pid)}-{lease}"


def remove_abandoned(*, parent: str = "", everywhere: bool = False) -> None:
    """Remove groups of builds that are dead; what is busy or not ours to remove stays.

    Args:
        parent: Where to look, from the root of each hierarchy.
        everywhere: Look through whole hierarchies instead.
    """
    for hierarchy in _hierarchies():
        top = os.path.join(hierarchy, parent.strip("/"))
        found = _below(top) if everywhere else _children(top)
        for path in found:
            if _abandoned(os.path.basename(path)):
                _remove(path)


def controllers() -> frozenset[str]:
    """Return the controllers that groups of this machine may have, of version 1 and 2."""
    found: set[str] = set()
    for hierarchy in _hierarchies():
        with contextlib.suppress(OSError):
            with open(f"{hierarchy}/cgroup.controllers", encoding="ascii") as file:
                found.update(file.read().split())
            continue
        found.update(os.path.basename(hierarchy).split(","))
    return frozenset(found)


def is_unified() -> bool:
    """Whether control groups are of version 2 alone."""
    return os.path.exists(f"{ROOT}/cgroup.controllers")


def counts_swap() -> bool:
    """Whether the kernel can limit memory and swap together."""
    if is_unified():
        # Version 2 has no swap file at its root; every group below has one, if any has.
        return any(os.path.exists(f"{path}/memory.swap.max") for path in _children(ROOT))
    return os.path.exists(f"{ROOT}/memory/memory.memsw.limit_in_bytes")


_WEIGHTS = ("blkio.weight", "blkio.bfq.weight", "io.weight", "io.bfq.weight")


def weighs_blocks() -> bool:
    """Whether groups have a weight at the disks: some kernels build no scheduler that has."""
    top = ROOT if is_unified() else f"{ROOT}/blkio"
    # The root of a hierarchy may have no such file; every group below has one, if any has.
    below = _children(top)
    return not below or any(
        os.path.exists(f"{path}/{name}") for path in (top, *below) for name in _WEIGHTS
    )


def _hierarchies() -> list[str]:
    """Return the roots of all hierarchies: of version 1 each controller's, of 2 the one."""
    if is_unified():
        return [ROOT]
    # cpu and cpuacct are often one hierarchy with links from both names.
    return [path for path in _children(ROOT) if not os.path.islink(path)]


def _children(directory: str) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.path for entry in entries if entry.is_dir())
    except OSError:
        return []


def _below(directory: str) -> Iterator[str]:
    for path, _, _ in os.walk(directory):
        yield path


def _remove(path: str) -> None:
    for directory, _, _ in os.walk(path, topdown=False):
        with contextlib.suppress(OSError):  # somebody is in it, or was first
            os.rmdir(directory)


def _abandoned(name: str) -> bool:
    """Whether a group is of a build whose process is dead; of other pid namespaces unknown."""
    prefix, _, rest = name.partition("-")
    namespace, _, rest = rest.partition("-")
    pid, _, rest = rest.partition("-")
    started, _, lease = rest.partition("-")
    if prefix != _PREFIX or not lease or not pid.isdigit() or namespace != _pid_namespace():
        return False
    return started != str(start_time(int(pid)))


def _pid_namespace() -> str:
    return str(os.stat("/proc/self/ns/pid").st_ino)
