"""The config.json of a RUN step's container. Pure: values in, a JSON object out.

What docker gives a build step by default: its capabilities, masked and read-only
paths, devices and seccomp profile; private mount, pid, ipc and uts namespaces, the
host's network unless told otherwise; no_new_privs off, or sudo in a RUN would break.

Source: OCI runtime spec 1.0; docker's defaults (moby, oci/defaults.go, oci/caps).
"""

from __future__ import annotations

from typing import NamedTuple

from layerstore.build.run.seccomp import profile

HOSTNAME = "layerstore"
"""The same everywhere, so that no host's name ends in a result."""

DEFAULT_CAPABILITIES = (
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)

_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)

_READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_SAFE = ("nosuid", "noexec", "nodev")

STANDARD_DIRECTORIES = ("/proc", "/sys", "/dev")
"""Mount points that the mounts below need in the root file system."""

_DEVICES = ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, None))
"""null, zero, full, random, urandom, tty, console, ptmx, and all of pts."""


class ExtraMount(NamedTuple):
    """A mount beyond the standard ones.

    Attributes:
        source: A host path for a bind, ``tmpfs`` otherwise.
    """

    destination: str
    source: str
    options: tuple[str, ...]
    type: str = "bind"


class ContainerProcess(NamedTuple):
    """What runs, as whom, with what around it."""

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    uid: int
    gid: int
    groups: tuple[int, ...]


class Isolation(NamedTuple):
    """What the container shares with the host.

    Attributes:
        host_network: False gives it a network namespace with nothing but a loopback.
        cgroup: Path of its control group, from the root of each hierarchy.
    """

    host_network: bool
    cgroup: str
    machine: str


def container_config(
    rootfs: str, process: ContainerProcess, mounts: tuple[ExtraMount, ...], isolation: Isolation
) -> dict[str, object]:
    """Return the config.json object of one step."""
    namespaces = ["pid", "ipc", "uts", "mount"]
    if not isolation.host_network:
        namespaces.append("network")
    return {
        "ociVersion": "1.0.2",
        "process": _process(process),
        "root": {"path": rootfs, "readonly": False},
        "hostname": HOSTNAME,
        "mounts": [*_standard_mounts(), *(_mount(mount) for mount in mounts)],
        "linux": {
            "cgroupsPath": isolation.cgroup,
            "namespaces": [{"type": kind} for kind in namespaces],
            "resources": {"devices": _device_rules()},
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READONLY),
            "rootfsPropagation": "rprivate",
            "seccomp": profile(frozenset(DEFAULT_CAPABILITIES), isolation.machine),
        },
    }


def _process(process: ContainerProcess) -> dict[str, object]:
    capabilities = list(DEFAULT_CAPABILITIES)
    return {
        "terminal": False,
        "user": {
            "uid": process.uid,
            "gid": process.gid,
            "additionalGids": list(process.groups),
        },
        "args": list(process.args),
        "env": list(process.env),
        "cwd": process.cwd,
        "capabilities": {
            "bounding": capabilities,
            "effective": capabilities,
            "permitted": capabilities,
        },
        "noNewPrivileges": False,
    }


def _mount(mount: ExtraMount) -> dict[str, object]:
    return {
        "destination": mount.destination,
        "type": mount.type,
        "source": mount.source,
        "options": list(mount.options),
    }


def _standard_mounts() -> list[dict[str, object]]:
    pts = ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")
    dev = ("nosuid", "strictatime", "mode=755", "size=65536k")
    shm = (*_SAFE, "mode=1777", "size=65536k")
    standard = [
        ExtraMount("/proc", "proc", _SAFE, "proc"),
        ExtraMount("/dev", "tmpfs", dev, "tmpfs"),
        ExtraMount("/dev/pts", "devpts", pts, "devpts"),
        ExtraMount("/dev/shm", "shm", shm, "tmpfs"),  # noqa: S108 -- a path in the container
        ExtraMount("/dev/mqueue", "mqueue", _SAFE, "mqueue"),
        ExtraMount("/sys", "sysfs", (*_SAFE, "ro"), "sysfs"),
    ]
    return [_mount(mount) for mount in standard]


def _device_rules() -> list[dict[str, object]]:
    rules: list[dict[str, object]] = [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "access": "m"},
        {"allow": True, "type": "b", "access": "m"},
    ]
    for major, minor in _DEVICES:
        rule: dict[str, object] = {"allow": True, "type": "c", "major": major, "access": "rwm"}
        if minor is not None:
            rule["minor"] = minor
        rules.append(rule)
    return rules
