"""The config.json of a container. Pure: values in, a JSON object out.

What docker gives a container by default: its capabilities, masked and read-only
paths, devices and seccomp profile; private mount, pid, ipc and uts namespaces, the
host's network unless told otherwise; no_new_privs off, or sudo would break.

Source: OCI runtime spec 1.0; docker's defaults (moby, oci/defaults.go, oci/caps).
"""

from __future__ import annotations

from layerstore.light_typing import TYPE_CHECKING, NamedTuple
from layerstore.runtime.seccomp import profile
from layerstore.runtime.settings import RunOptions

if TYPE_CHECKING:
    from layerstore.runtime.settings import Limits, Ulimit

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

_ALL = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP
LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER
SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE
SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP
MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF
CHECKPOINT_RESTORE
"""
ALL_CAPABILITIES = tuple(_ALL.split())
"""All there are, by their numbers (linux/capability.h)."""

EVERY_CAPABILITY = (1 << len(ALL_CAPABILITIES)) - 1

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


_TTY_GROUP = 5
_SHM_BYTES = 64 << 20
_CGROUPS = "/sys/fs/cgroup"
_NO_LIMIT = (1 << 64) - 1
"""RLIM_INFINITY."""


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
    """What the container shares with the host, and what it may use.

    Attributes:
        host_network: False gives it a network namespace with nothing but a loopback.
        cgroup: Path of its control group, from the root of each hierarchy; empty for none of
            its own.
        insecure: All capabilities and devices, no filter, nothing masked or read-only.
        options: What the build asks for besides.
        ids: How many ids its user namespace maps; 0 when it is the host's own.
        swap: The kernel counts swap.
        held: Capabilities that we have, as a mask; nobody can give others.
    """

    host_network: bool
    cgroup: str
    machine: str
    insecure: bool = False
    options: RunOptions = RunOptions()
    ids: int = 0
    swap: bool = False
    held: int = EVERY_CAPABILITY


def container_config(
    rootfs: str, process: ContainerProcess, mounts: tuple[ExtraMount, ...], isolation: Isolation
) -> dict[str, object]:
    """Return the config.json object of one container."""
    namespaces = ["pid", "ipc", "uts", "mount"]
    if not isolation.host_network:
        namespaces.append("network")
    capabilities = _capabilities(isolation)
    linux: dict[str, object] = {
        "namespaces": [{"type": kind} for kind in namespaces],
        "resources": {
            "devices": _device_rules(isolation),
            **resources_of(isolation.options.limits, counts_swap=isolation.swap),
        },
        "maskedPaths": _masked(isolation),
        "readonlyPaths": [] if isolation.insecure else list(_READONLY),
        "rootfsPropagation": "rprivate",
    }
    if isolation.cgroup:
        linux["cgroupsPath"] = isolation.cgroup
    if isolation.options.confined and not isolation.insecure:
        linux["seccomp"] = profile(frozenset(capabilities), isolation.machine)
    return {
        "ociVersion": "1.0.2",
        "process": _process(process, capabilities, isolation.options),
        "root": {"path": rootfs, "readonly": False},
        "hostname": HOSTNAME,
        "mounts": [*_standard_mounts(isolation), *(_mount(mount) for mount in mounts)],
        "linux": linux,
    }


def _capabilities(isolation: Isolation) -> list[str]:
    held = [f"CAP_{name}" for bit, name in enumerate(ALL_CAPABILITIES) if isolation.held >> bit & 1]
    return sorted(held if isolation.insecure else set(held) & set(DEFAULT_CAPABILITIES))


def _process(
    process: ContainerProcess, capabilities: list[str], options: RunOptions
) -> dict[str, object]:
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
        "rlimits": [_rlimit(ulimit) for ulimit in options.limits.ulimits],
        "noNewPrivileges": options.no_new_privileges,
    }


def _rlimit(ulimit: Ulimit) -> dict[str, object]:
    soft, hard = (_NO_LIMIT if value < 0 else value for value in (ulimit.soft, ulimit.hard))
    return {"type": f"RLIMIT_{ulimit.name.upper()}", "soft": soft, "hard": hard}


def resources_of(limits: Limits, *, counts_swap: bool) -> dict[str, object]:
    """Return limits as a config.json has them.

    Args:
        limits: What is not limited is left out.
        counts_swap: Whether the kernel counts swap.
    """
    memory: dict[str, int] = {}
    if limits.memory:
        memory["limit"] = limits.memory
        if counts_swap:
            # As docker: as much swap again as memory, unless it is said.
            memory["swap"] = limits.memory_swap or 2 * limits.memory
    if limits.memory_reservation:
        memory["reservation"] = limits.memory_reservation
    if limits.memory_swappiness >= 0:
        memory["swappiness"] = limits.memory_swappiness
    cpu = {
        "period": limits.cpu_period,
        "quota": limits.cpu_quota,
        "shares": limits.cpu_shares,
        "cpus": limits.cpuset_cpus,
        "mems": limits.cpuset_mems,
    }
    cpu = {name: value for name, value in cpu.items() if value}
    blocks = {"weight": limits.blkio_weight} if limits.blkio_weight else {}
    found = {"memory": memory, "cpu": cpu, "blockIO": blocks}
    return {name: value for name, value in found.items() if value}


def _masked(isolation: Isolation) -> list[str]:
    if isolation.insecure:
        return []
    # The host's /sys is bound in a user namespace, with its control groups below.
    return [*_MASKED, *((_CGROUPS,) if isolation.ids else ())]


def _mount(mount: ExtraMount) -> dict[str, object]:
    return {
        "destination": mount.destination,
        "type": mount.type,
        "source": mount.source,
        "options": list(mount.options),
    }


def _standard_mounts(isolation: Isolation) -> list[dict[str, object]]:
    pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    if not isolation.ids or isolation.ids > _TTY_GROUP:
        pts.append(f"gid={_TTY_GROUP}")
    dev = ("nosuid", "strictatime", "mode=755", "size=65536k")
    shm_size = isolation.options.limits.shm_size or _SHM_BYTES
    shm = (*_SAFE, "mode=1777", f"size={shm_size}")
    access = "rw" if isolation.insecure else "ro"
    sys = ExtraMount("/sys", "sysfs", (*_SAFE, access), "sysfs")
    if isolation.ids:
        # A sysfs shows a network namespace, and whoever mounts it must own that.
        sys = ExtraMount("/sys", "/sys", ("rbind", *_SAFE, access))
    standard = [
        ExtraMount("/proc", "proc", _SAFE, "proc"),
        ExtraMount("/dev", "tmpfs", dev, "tmpfs"),
        ExtraMount("/dev/pts", "devpts", tuple(pts), "devpts"),
        ExtraMount("/dev/shm", "shm", shm, "tmpfs"),  # noqa: S108 -- a path in the container
        ExtraMount("/dev/mqueue", "mqueue", _SAFE, "mqueue"),
        sys,
    ]
    return [_mount(mount) for mount in standard]


def _device_rules(isolation: Isolation) -> list[dict[str, object]]:
    if isolation.insecure:
        return [{"allow": True, "access": "rwm"}]
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
