"""A control group of the benchmark's own: what its processes hold in memory, and took of CPUs.

A page of a file is charged to the group whose process read it first, once; so the sum over
one group that holds everything counts what is shared once, whoever else works on the machine.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from layerstore.build.run.reaper import remove_cgroups

_ROOT = Path("/sys/fs/cgroup")


class Memory(NamedTuple):
    """Bytes that a control group and all below it hold.

    Attributes:
        anonymous: Heaps, stacks and other memory of processes.
        files: Page cache, and memory file systems.
        kernel: Kernel objects: inodes, directory entries, page tables, stacks.
    """

    anonymous: int
    files: int
    kernel: int

    @property
    def total(self) -> int:
        return self.anonymous + self.files + self.kernel


class ControlGroup:
    """A group with two below it: ``attendants`` (daemons, monitors, clients) and ``containers``.

    Args:
        name: Of the group, the only one of its name on this host.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._unified = not (_ROOT / "memory").is_dir()
        self._tops = (
            {"memory": _ROOT / name, "cpu": _ROOT / name}
            if self._unified
            else {"memory": _ROOT / "memory" / name, "cpu": _ROOT / "cpuacct" / name}
        )
        for top in dict.fromkeys(self._tops.values()):
            top.mkdir()
            if self._unified:
                for place in (_ROOT, top):
                    (place / "cgroup.subtree_control").write_text("+memory +cpu")
            (top / "attendants").mkdir()
            (top / "containers").mkdir()
        self.containers = f"/{name}/containers"

    def entries(self, below: str = "attendants") -> list[str]:
        """Return the files that a process writes its id into to join."""
        tops = dict.fromkeys(self._tops.values())
        return [str(top / below / "cgroup.procs") for top in tops]

    def join(self, below: str = "attendants") -> None:
        """Move the calling process into it; for use between fork and exec."""
        for entry in self.entries(below):
            Path(entry).write_text(str(os.getpid()))

    def cpu_seconds(self) -> float:
        """Return what its processes took so far, ended ones included."""
        if self._unified:
            return int((self._tops["cpu"] / "cpu.stat").read_text().split()[1]) / 1e6
        return int((self._tops["cpu"] / "cpuacct.usage").read_text()) / 1e9

    def memory(self, below: str = "") -> Memory:
        """Return what is charged to it now, or to a group below it."""
        place = self._tops["memory"] / below
        stat = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
        if self._unified:
            return Memory(int(stat["anon"]), int(stat["file"]), int(stat["kernel"]))
        kernel = int((place / "memory.kmem.usage_in_bytes").read_text())
        return Memory(int(stat["total_rss"]), int(stat["total_cache"]), kernel)

    def processes(self, below: str = "containers") -> list[int]:
        """Return the ids of the processes in a group below it, and below that."""
        found: list[int] = []
        for host, _, names in os.walk(self._tops["memory"] / below):
            if "cgroup.procs" in names:
                found += map(int, Path(host, "cgroup.procs").read_text().split())
        return found

    def remove(self) -> None:
        """Remove it from every hierarchy; nothing runs in it any more."""
        remove_cgroups(self._name)
