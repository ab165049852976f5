"""What a container is asked to be: the values behind the options of ``run``.

Reading this costs nothing; :mod:`layerstore.cli.container.options` makes the values out of words.
"""

from __future__ import annotations

from layerstore.light_typing import Any, NamedTuple
from layerstore.runtime.settings import Limits, Ulimit

RESTART_POLICIES = ("no", "on-failure", "always", "unless-stopped")
NETWORKS = ("host", "none")
DEFAULT_STOP_SIGNAL = 15
DEFAULT_STOP_TIMEOUT_S = 10


class MountRequest(NamedTuple):
    """A mount that was asked for.

    Attributes:
        kind: ``bind``, ``volume`` or ``tmpfs``.
        source: A path of the host, the name of a volume, or "" for a tmpfs.
        target: Path in the container.
        options: In the words of the OCI runtime specification, such as ``ro``.
        anonymous: A volume that goes with its container where that is asked for.
        copy: Whether a volume that is empty gets what the image has there.
    """

    kind: str
    source: str
    target: str
    options: tuple[str, ...] = ()
    anonymous: bool = False
    copy: bool = True


class Device(NamedTuple):
    """A device file of the host that a container gets.

    Attributes:
        access: Of the letters r, w and m (mknod).
    """

    source: str
    target: str
    access: str = "rwm"


class HealthCheck(NamedTuple):
    """A command that says whether a container does what it is for, as HEALTHCHECK has it.

    Attributes:
        args: What is run in it; 0 means that all is well.
        retries: Failures in a row that make it unhealthy.
        start_period_s: Seconds in which failures do not count, until the first success.
        start_interval_s: Seconds between checks in them.
    """

    args: tuple[str, ...]
    interval_s: float = 30.0
    timeout_s: float = 30.0
    retries: int = 3
    start_period_s: float = 0.0
    start_interval_s: float = 5.0


class Settings(NamedTuple):
    """What was asked for; see docker's ``run`` for what the fields of these names mean.

    Attributes:
        args: The command with its entry point, at least one word.
        env: ``NAME=VALUE``, each name once.
        user: As USER of a Dockerfile; empty for root.
        stop_signal: Its number.
        stop_timeout_s: Seconds until SIGKILL; -1 for never.
        restart: One of :data:`RESTART_POLICIES`.
        restart_max: Restarts after failures at most; 0 for no end.
        seccomp: ``default``, ``unconfined`` or the text of a profile.
        apparmor: Name of a profile, empty for the host's choice.
        selinux: Label of the process, empty for none.
        init: Path of the host's program that reaps as process 1, empty for none.
        userns: ``host``, or ``auto`` for ids of the user's own range.
        pids: Processes at most, 0 for no limit.
        log_max_bytes: Size at which the log is turned over; 0 for never, -1 for no log.
        log_files: How many there are then.
        runtime: Name or path of the OCI runtime; empty for what works.
        health: Its check, run by its monitor.
        ipc: ``private``, or ``host`` for the host's shared memory and queues.
    """

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: str
    groups: tuple[str, ...] = ()
    tty: bool = False
    interactive: bool = False
    auto_remove: bool = False
    hostname: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    limits: Limits = Limits()
    pids: int = 0
    read_only: bool = False
    mounts: tuple[MountRequest, ...] = ()
    network: str = "host"
    extra_hosts: tuple[tuple[str, str], ...] = ()
    dns: tuple[str, ...] = ()
    init: str = ""
    restart: str = "no"
    restart_max: int = 0
    stop_signal: int = DEFAULT_STOP_SIGNAL
    stop_timeout_s: int = DEFAULT_STOP_TIMEOUT_S
    userns: str = "host"
    no_new_privileges: bool = False
    seccomp: str = "default"
    apparmor: str = ""
    selinux: str = ""
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    privileged: bool = False
    devices: tuple[Device, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    oom_score: int | None = None
    log_max_bytes: int = 10 << 20
    log_files: int = 2
    runtime: str = ""
    health: HealthCheck | None = None
    ipc: str = "private"


def settings_from_json(value: object) -> Settings:
    """Return the settings in a record, whose tuples JSON made lists.

    Raises:
        ValueError: They are none.
        TypeError: They are none.
    """
    if not isinstance(value, dict):
        raise TypeError("its settings are none")
    plain: dict[str, Any] = {name: _tuples(item) for name, item in value.items()}
    *words, numbers = plain.pop("limits")
    limits = Limits(*words)._replace(ulimits=tuple(Ulimit(*one) for one in numbers))
    mounts = tuple(MountRequest(*mount) for mount in plain.pop("mounts"))
    devices = tuple(Device(*device) for device in plain.pop("devices"))
    health = plain.pop("health", None)  # that of older records there is not
    health = None if health is None else HealthCheck(*health)
    return Settings(**plain, limits=limits, mounts=mounts, devices=devices, health=health)


def _tuples(item: object) -> object:
    return tuple(map(_tuples, item)) if isinstance(item, list) else item
