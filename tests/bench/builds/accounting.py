"""CPU time of a daemon and everything it starts, by a control group.

Commands without a daemon are counted by wait4(2), as everywhere in the benchmarks. A daemon's
work is done by processes that are nobody's children (shims, containers): they are in one control
group of our own, whose clock the kernel keeps, also for those that have ended.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from layerstore.build.run.reaper import remove_cgroups

if TYPE_CHECKING:
    from collections.abc import Iterator

_V1 = Path("/sys/fs/cgroup/cpuacct")
_V2 = Path("/sys/fs/cgroup")


class DaemonGroup:
    """A control group for one daemon and its containers.

    Args:
        name: Of the group, the only one of its name on this host.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._unified = not _V1.is_dir()
        self._top = (_V2 if self._unified else _V1) / name
        self._daemon = self._top / "daemon"
        self._daemon.mkdir(parents=True)
        self.containers = f"/{name}/containers"

    def join(self) -> None:
        """Move the calling process into it; for use between fork and exec."""
        (self._daemon / "cgroup.procs").write_text(str(os.getpid()))

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Be in it for a while: what is started begins there, and takes no time to get there."""
        controller = "" if self._unified else "cpuacct"
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            if controller in names.split(","):
                before = Path(f"{_V2 if self._unified else _V1}{path}")
        self.join()
        try:
            yield
        finally:
            (before / "cgroup.procs").write_text(str(os.getpid()))

    def cpu_seconds(self) -> float:
        """Return what its processes took so far, ended ones included."""
        if self._unified:
            first = (self._top / "cpu.stat").read_text().split()
            return int(first[1]) / 1e6
        return int((self._top / "cpuacct.usage").read_text()) / 1e9

    def processes(self) -> list[int]:
        """Return who is in it, containers apart."""
        return [int(word) for word in (self._daemon / "cgroup.procs").read_text().split()]

    def remove(self) -> None:
        """Remove it from every hierarchy; nothing runs in it any more."""
        remove_cgroups(self._name)
