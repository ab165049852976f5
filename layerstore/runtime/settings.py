"""What containers may use and how they run, as values; reading it costs nothing."""

from __future__ import annotations

from layerstore.light_typing import NamedTuple

ULIMITS = (
    "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc",
    "rss", "rtprio", "rttime", "sigpending", "stack",
)  # fmt: skip
"""What docker's ``--ulimit`` knows."""


class Ulimit(NamedTuple):
    """A limit of setrlimit(2); -1 is none.

    Attributes:
        name: As docker writes it: ``nofile``.
    """

    name: str
    soft: int
    hard: int


class Limits(NamedTuple):
    """What a container may use at most; 0 or empty leaves it to the host.

    Attributes:
        memory: Bytes.
        memory_swap: Bytes of memory and swap together, -1 for as much swap as there is.
        cpu_period: Microseconds.
        cpu_quota: Microseconds of processor time in each period, over all processors.
        cpu_shares: Weight beside other groups; 1024 is usual.
        cpuset_cpus: Processors it may run on, as cpuset(7) lists them.
        cpuset_mems: Memory nodes it may use.
        shm_size: Bytes of /dev/shm.
        cgroup_parent: Path below the root of each hierarchy under which the groups are made.
        memory_reservation: Bytes that the kernel leaves it when memory is short.
        memory_swappiness: How readily its memory is swapped out, 0 to 100; -1 for the host's.
        blkio_weight: Weight beside other groups at the disks, 10 to 1000.
        ulimits: For every process in it; last, where records have it.
    """

    memory: int = 0
    memory_swap: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_shares: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    shm_size: int = 0
    cgroup_parent: str = ""
    memory_reservation: int = 0
    memory_swappiness: int = -1
    blkio_weight: int = 0
    ulimits: tuple[Ulimit, ...] = ()


class RunOptions(NamedTuple):
    """How commands run, whatever their image says.

    Attributes:
        no_new_privileges: Set-user-id programs gain nothing; sudo stops working.
        confined: System calls are filtered by docker's default profile.
        runtime: Name or path of the OCI runtime; empty to choose one by trial.
    """

    limits: Limits = Limits()
    no_new_privileges: bool = False
    confined: bool = True
    runtime: str = ""


DEFAULT_OPTIONS = RunOptions()
