"""What a container that runs takes now: its processes, processor time, memory, blocks.

The kernel counts that for control groups, of version 1 in a hierarchy for each controller, of
version 2 in one (cgroups(7)). A container of somebody who may make no groups shares that of its
user's session: then its processes are those of its pid namespace, and what they take is added up.
"""

from __future__ import annotations

import contextlib
import os

from layerstore.containers.states import is_process
from layerstore.light_typing import TYPE_CHECKING, NamedTuple
from layerstore.linux.process_stat import RESIDENT, SYSTEM_TIME, USER_TIME, stat_fields
from layerstore.runtime.cgroups import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.containers.states import State

_UNIFIED = ""
"""What /proc/PID/cgroup has for the controllers of version 2."""
TICKS = os.sysconf("SC_CLK_TCK")
"""Of the clock in /proc, a second."""
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Usage(NamedTuple):
    """What a container takes.

    Attributes:
        cpu_s: Seconds of processor time since it began.
        memory_bytes: Without the page cache that nobody has used lately, as docker counts it.
        memory_limit_bytes: What it may have; the host's memory if nothing else limits it.
        read_bytes: From block devices since it began.
        written_bytes: To block devices since it began.
        processes: How many processes and threads it has.
    """

    cpu_s: float
    memory_bytes: int
    memory_limit_bytes: int
    read_bytes: int
    written_bytes: int
    processes: int


def usage_of(container_id: str, state: State) -> Usage | None:
    """Return what a container takes; None if it runs no more."""
    groups = groups_of(container_id, state.pid)
    found = _of_groups(groups) if groups else _of_processes(state)
    if not (found.memory_bytes and found.processes):  # nobody counts them for its group
        single = _of_processes(state)
        found = found._replace(
            memory_bytes=found.memory_bytes or single.memory_bytes,
            processes=found.processes or single.processes,
        )
    if not is_process(state):
        return None
    host = _host_memory()
    return found._replace(memory_limit_bytes=min(found.memory_limit_bytes or host, host))


def processes_of(container_id: str, state: State) -> list[int]:
    """Return the pids of a container's processes, as we see them, in the order of their pids."""
    groups = groups_of(container_id, state.pid)
    if not groups:
        return sorted(_of_namespace(state.pid))
    top = groups.get(_UNIFIED) or groups.get("pids") or next(iter(groups.values()))
    pids: set[int] = set()
    for directory, _, _ in os.walk(top):
        with contextlib.suppress(OSError), open(f"{directory}/cgroup.procs", "rb") as file:
            pids.update(int(word) for word in file.read().split())
    return sorted(pid for pid in pids if pid)  # 0 is one that our pid namespace does not see


def groups_of(container_id: str, pid: int) -> dict[str, str]:
    """Return the directory of a container's group for each controller, as far as it has its own.

    That of version 2 is under "".
    """
    found: dict[str, str] = {}
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
        for line in file.read().splitlines():
            _, controllers, path = line.split(":", 2)
            mine, name, _ = path.partition(f"/layerstore-{container_id}")
            if not name:
                continue
            for controller in controllers.split(","):
                directory = _directory(controller.removeprefix("name=")) + mine + name
                if os.path.exists(f"{directory}/cgroup.procs"):
                    found[controller] = directory
    if len(found) > 1 and not os.path.exists(f"{found.get(_UNIFIED)}/cgroup.controllers"):
        found.pop(_UNIFIED, None)
    return found


def _directory(controller: str) -> str:
    if controller == _UNIFIED and os.path.exists(f"{ROOT}/cgroup.controllers"):
        return ROOT
    return f"{ROOT}/{controller or 'unified'}"


def _of_groups(groups: dict[str, str]) -> Usage:
    unified = groups.get(_UNIFIED)
    if unified is not None and len(groups) == 1:
        return _of_version_2(unified)
    memory = groups.get("memory", "")
    blocks = _words(f"{groups.get('blkio')}/blkio.throttle.io_service_bytes_recursive")
    return Usage(
        _number(f"{groups.get('cpuacct')}/cpuacct.usage") / 1e9,
        _number(f"{memory}/memory.usage_in_bytes")
        - _table(f"{memory}/memory.stat").get("total_inactive_file", 0),
        _number(f"{memory}/memory.limit_in_bytes"),
        sum(int(line[2]) for line in blocks if line[1:2] == ["Read"]),
        sum(int(line[2]) for line in blocks if line[1:2] == ["Write"]),
        _number(f"{groups.get('pids')}/pids.current"),
    )


def _of_version_2(group: str) -> Usage:
    pairs = [word.partition("=")[::2] for line in _words(f"{group}/io.stat") for word in line[1:]]
    return Usage(
        _table(f"{group}/cpu.stat").get("usage_usec", 0) / 1e6,
        _number(f"{group}/memory.current") - _table(f"{group}/memory.stat").get("inactive_file", 0),
        _number(f"{group}/memory.max"),
        sum(int(count) for name, count in pairs if name == "rbytes"),
        sum(int(count) for name, count in pairs if name == "wbytes"),
        _number(f"{group}/pids.current"),
    )


def _of_processes(state: State) -> Usage:
    """Add up what single processes take; of blocks nothing is known."""
    ticks = pages = count = 0
    for pid in _of_namespace(state.pid):
        with contextlib.suppress(OSError):
            fields = stat_fields(pid)
            ticks += int(fields[USER_TIME]) + int(fields[SYSTEM_TIME])
            pages += int(fields[RESIDENT])
            count += len(os.listdir(f"/proc/{pid}/task"))
    return Usage(ticks / TICKS, pages * _PAGE_BYTES, 0, 0, 0, count)


def _of_namespace(first: int) -> Iterator[int]:
    try:
        namespace = os.readlink(f"/proc/{first}/ns/pid")
    except OSError:
        return
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{name}/ns/pid") == namespace:
                    yield int(name)


def _number(path: str) -> int:
    """Return the number in a file of a group; 0 where there is none, or no limit."""
    text = _text(path).strip()
    return int(text) if text.isdigit() else 0


def _table(path: str) -> dict[str, int]:
    return {line[0]: int(line[1]) for line in _words(path) if len(line) == 2}


def _words(path: str) -> list[list[str]]:
    return [line.split() for line in _text(path).splitlines()]


def _text(path: str) -> str:
    """Return what a file of a group says; nothing of a controller that groups here do not have."""
    with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
        return file.read()
    return ""


def _host_memory() -> int:
    return _PAGE_BYTES * os.sysconf("SC_PHYS_PAGES")
