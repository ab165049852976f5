"""What a process passes on to what it starts, and a request to a helper cannot tell.

Whoever is served by a fork of :mod:`layerstore.cli.warm.helper` is to find what a process of its
own would have had. Source: proc(5), namespaces(7), credentials(7), sched(7).
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # as in warm
import os

_STATUS = (
    b"Uid", b"Gid", b"Groups", b"CapInh", b"CapPrm", b"CapEff", b"CapBnd", b"CapAmb", b"NoNewPrivs",
    b"Seccomp", b"Seccomp_filters", b"SigBlk", b"SigIgn", b"Cpus_allowed", b"Mems_allowed",
)  # fmt: skip
_IGNORED_BY_PYTHON = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1
_NAMESPACES = (
    "cgroup",
    "ipc",
    "mnt",
    "net",
    "pid_for_children",
    "time_for_children",
    "user",
    "uts",
)
_FILES = ("cgroup", "limits", "oom_score_adj", "attr/current", "personality")


def identity_of(process: str) -> dict[str, object]:
    """Return what of a process its children inherit and a request cannot tell.

    Args:
        process: Its name below ``/proc``.

    Raises:
        OSError: It has gone, or may not be looked at.
    """
    place = f"/proc/{process}"
    found: dict[str, object] = {"root": os.readlink(f"{place}/root")}
    for name in _NAMESPACES:
        found[name] = os.readlink(f"{place}/ns/{name}")
    for name in _FILES:
        found[name] = _read(f"{place}/{name}")
    lines = (line.partition(b":") for line in _read(f"{place}/status").splitlines())
    status = {name: value.strip() for name, _, value in lines if name in _STATUS}
    found["ignored"] = int(status.pop(b"SigIgn"), 16) | _IGNORED_BY_PYTHON
    found["status"] = status
    pid = 0 if process == "self" else int(process)
    found["nice"] = os.getpriority(os.PRIO_PROCESS, pid)
    found["policy"] = os.sched_getscheduler(pid)
    return found


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 1 << 16)
    except OSError:  # of an LSM that is not on
        return b""
    finally:
        os.close(fd)
