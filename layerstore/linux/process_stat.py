"""What /proc/PID/stat says of a process (proc(5)).

Of builtins alone: the monitors of containers import it, which have no more.
"""

from __future__ import annotations

STATE, PARENT, TERMINAL, USER_TIME, SYSTEM_TIME, START_TIME, RESIDENT = 0, 1, 4, 11, 12, 19, 21
"""Where :func:`stat_fields` has them."""


def stat_fields(pid: int) -> list[bytes]:
    """Return the fields behind the name of a process, which may hold spaces and brackets.

    Raises:
        OSError: There is none.
    """
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()


def start_time(pid: int) -> int:
    """Return when a process began, in ticks since boot: with its pid that names it. 0 for none."""
    try:
        return int(stat_fields(pid)[START_TIME])
    except OSError:
        return 0
