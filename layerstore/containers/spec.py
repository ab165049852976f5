"""The config.json of a container that runs: what was asked for, in the runtime's words. Pure.

What build steps have too comes from :mod:`layerstore.runtime.oci_spec`; this adds what only
containers can be asked for.

Source: OCI runtime spec 1.0; docker's defaults (moby, oci/defaults.go, daemon/oci_linux.go).
"""

from __future__ import annotations

from layerstore.errors import InputError
from layerstore.light_typing import TYPE_CHECKING, Any, NamedTuple
from layerstore.runtime.apparmor import UNCONFINED
from layerstore.runtime.capabilities import capabilities_of
from layerstore.runtime.oci_spec import ContainerProcess, ExtraMount, Isolation, container_config
from layerstore.runtime.seccomp import profile
from layerstore.runtime.settings import RunOptions

if TYPE_CHECKING:
    from layerstore.containers.settings import Settings
    from layerstore.linux.idmaps import IdMap
    from layerstore.runtime.users import RunUser

INIT_PATH = "/dev/init"
"""Where the host's init is seen: /dev is a file system of the container's own, so that nothing
of it stays behind in what the container wrote."""

_CGROUPS = "/sys/fs/cgroup"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Prepared(NamedTuple):
    """What was found out about a container's root and its host.

    Attributes:
        root: Where its root file system is mounted.
        user: Whom its command runs as.
        cwd: Real path of the working directory.
        mounts: Beyond the standard ones, their targets resolved.
        devices: Device files it gets: major, minor and kind of each, as mknod(2) has them.
        cgroup: Path of its control group; empty for none.
        machine: As uname(2) names it.
        held: Capabilities that we have, as a mask.
        ids: As :class:`layerstore.runtime.oci_spec.Isolation` has it.
        idmap: Ids of its user namespace, empty for the host's.
        swap: The kernel counts swap.
        unified: Control groups are of version 2 alone.
        apparmor: The host's profile for containers, "" for none, None where AppArmor is off.
    """

    root: str
    user: RunUser
    cwd: str
    mounts: tuple[ExtraMount, ...]
    devices: tuple[DeviceFile, ...]
    cgroup: str
    machine: str
    held: int
    ids: int = 0
    idmap: IdMap = ()
    swap: bool = False
    unified: bool = False
    apparmor: str | None = None


class DeviceFile(NamedTuple):
    """A device as the runtime makes it.

    Attributes:
        kind: ``c`` or ``b``.
        mode: Permissions.
        access: Of the letters r, w and m.
    """

    path: str
    kind: str
    major: int
    minor: int
    mode: int
    uid: int
    gid: int
    access: str


def runtime_config(settings: Settings, prepared: Prepared) -> dict[str, Any]:
    """Return the config.json of a container.

    Raises:
        InputError: The seccomp profile that was given is none.
    """
    capabilities = capabilities_of(settings.cap_add, settings.cap_drop, prepared.held)
    options = RunOptions(settings.limits, settings.no_new_privileges, confined=False)
    isolation = Isolation(
        host_network=settings.network == "host",
        cgroup=prepared.cgroup,
        machine=prepared.machine,
        insecure=settings.privileged,
        options=options,
        ids=prepared.ids,
        swap=prepared.swap,
        held=prepared.held,
    )
    config: dict[str, Any] = container_config(
        prepared.root, _process(settings, prepared), prepared.mounts, isolation
    )
    process, linux = config["process"], config["linux"]
    process["terminal"] = settings.tty
    if not settings.privileged:
        process["capabilities"] = dict.fromkeys(
            ("bounding", "effective", "permitted"), capabilities
        )
        if prepared.user.uid:
            # As docker: who is not root has no capability at work, but may gain those there are.
            process["capabilities"] = {"bounding": capabilities}
    _confine(settings, capabilities, prepared.machine, linux)
    _label(settings, prepared.apparmor, process)
    config["root"]["readonly"] = settings.read_only
    config["hostname"] = settings.hostname
    if settings.ipc == "host":
        _share_ipc(config, owned=not (prepared.ids or prepared.idmap))
    if settings.oom_score is not None:
        process["oomScoreAdj"] = settings.oom_score
    if settings.pids:
        linux["resources"]["pids"] = {"limit": settings.pids}
    if settings.sysctls:
        linux["sysctl"] = dict(settings.sysctls)
    _add_devices(prepared.devices, linux)
    if not prepared.ids and (settings.privileged or linux["resources"].keys() - {"devices"}):
        _show_groups(settings, prepared, config)
    if prepared.idmap:
        _map_ids(prepared.idmap, linux)
    return config


def _share_ipc(config: dict[str, Any], *, owned: bool) -> None:
    """Give a container the host's shared memory and message queues, as docker does.

    Args:
        config: Of the container.
        owned: Whether it may mount what belongs to the host's namespace; else it sees no queues.
    """
    linux = config["linux"]
    linux["namespaces"] = [one for one in linux["namespaces"] if one["type"] != "ipc"]
    if not owned:
        mounts = config["mounts"]
        config["mounts"] = [one for one in mounts if one["destination"] != "/dev/mqueue"]
    for mount in config["mounts"]:
        if (mount["destination"], mount["source"]) == ("/dev/shm", "shm"):  # noqa: S108 -- its own
            options = ["rbind", "nosuid", "noexec", "nodev"]
            mount |= {"type": "bind", "source": "/dev/shm", "options": options}  # noqa: S108 -- the host's


def _show_groups(settings: Settings, prepared: Prepared, config: dict[str, Any]) -> None:
    """Let a container's programs read their limits, by which JVMs and others size themselves.

    Others need not pay for it: nine mounts where control groups are of version 1.
    """
    access = "rw" if settings.privileged else "ro"
    shown = {
        "destination": _CGROUPS,
        "type": "cgroup",
        "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "relatime", access],
    }
    at = [mount["destination"] for mount in config["mounts"]].index("/sys") + 1
    config["mounts"].insert(at, shown)  # what the user mounts there lies over it
    if prepared.unified:  # of version 1 the runtime shows a container its own groups alone
        config["linux"]["namespaces"].append({"type": "cgroup"})


def environment(settings: Settings, home: str) -> tuple[str, ...]:
    """Return the variables of a container's processes."""
    names = {item.partition("=")[0] for item in settings.env}
    added = [] if "PATH" in names else [_PATH]
    if "HOSTNAME" not in names:
        added.append(f"HOSTNAME={settings.hostname}")
    if settings.tty and "TERM" not in names:
        added.append("TERM=xterm")
    if "HOME" not in names:
        added.append(f"HOME={home}")
    return (*added, *settings.env)


def _user(user: RunUser) -> dict[str, Any]:
    return {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)}


def _process(settings: Settings, prepared: Prepared) -> ContainerProcess:
    user = prepared.user
    args = (INIT_PATH, "--", *settings.args) if settings.init else settings.args
    env = environment(settings, user.home)
    return ContainerProcess(args, env, prepared.cwd, user.uid, user.gid, user.groups)


def _confine(
    settings: Settings,
    capabilities: list[str],
    machine: str,
    linux: dict[str, Any],
) -> None:
    """Add the filter of system calls."""
    if settings.seccomp == "default" and not settings.privileged:
        linux["seccomp"] = profile(frozenset(capabilities), machine)
    elif settings.seccomp not in ("default", "unconfined"):
        linux["seccomp"] = custom_seccomp(settings.seccomp, frozenset(capabilities), machine)


def _label(settings: Settings, host_profile: str | None, process: dict[str, Any]) -> None:
    """Add the labels of security modules: as docker, the host's profile but for the privileged."""
    profile_name = settings.apparmor or ("" if settings.privileged else host_profile)
    if profile_name == UNCONFINED and host_profile is None:
        profile_name = ""  # as everything is there; runtimes refuse the word
    if profile_name:
        process["apparmorProfile"] = profile_name
    if settings.selinux:
        process["selinuxLabel"] = settings.selinux


def custom_seccomp(text: str, capabilities: frozenset[str], machine: str) -> dict[str, Any]:
    """Return a profile of the user's for the runtime, from docker's form or the runtime's own.

    Docker's form has ``archMap``, and rules that count for some capabilities or machines only.

    Raises:
        InputError: It is none.
    """
    from layerstore import light_json as json

    try:
        given = json.loads(text)
        made = {"defaultAction": given["defaultAction"]}
        for name in ("defaultErrnoRet", "flags", "listenerPath", "listenerMetadata"):
            if name in given:
                made[name] = given[name]
        made["architectures"] = given.get("architectures") or _architectures(given)
        made["syscalls"] = [
            {
                name: rule[name]
                for name in ("names", "action", "errnoRet", "args")
                if rule.get(name) is not None
            }
            for rule in given.get("syscalls") or ()
            if _counts(rule, capabilities, machine)
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise InputError(
            f"the seccomp profile is none: {type(err).__name__} {err}",
            hint="it is a JSON object as docker has it: defaultAction, architectures, syscalls",
        ) from err
    if not made["architectures"]:
        del made["architectures"]
    return made


_GOARCH = {"x86_64": "amd64", "aarch64": "arm64", "riscv64": "riscv64", "s390x": "s390x"}


def _architectures(given: dict[str, Any]) -> list[str]:
    found = []
    for entry in given.get("archMap") or ():
        found += [entry["architecture"], *(entry.get("subArchitectures") or ())]
    return found


def _counts(rule: dict[str, Any], capabilities: frozenset[str], machine: str) -> bool:
    """Whether a rule of docker's form counts here."""
    arch = _GOARCH.get(machine, machine)
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if includes.get("arches") and arch not in includes["arches"]:
        return False
    if arch in (excludes.get("arches") or ()):
        return False
    if capabilities.intersection(excludes.get("caps") or ()):
        return False
    return capabilities.issuperset(includes.get("caps") or ())


def _add_devices(devices: tuple[DeviceFile, ...], linux: dict[str, Any]) -> None:
    if not devices:
        return
    linux["devices"] = [
        {
            "path": device.path, "type": device.kind, "major": device.major,
            "minor": device.minor, "fileMode": device.mode, "uid": device.uid, "gid": device.gid,
        }
        for device in devices
    ]  # fmt: skip
    linux["resources"]["devices"] += [
        {
            "allow": True, "type": device.kind, "major": device.major, "minor": device.minor,
            "access": device.access,
        }
        for device in devices
    ]  # fmt: skip


def _map_ids(idmap: IdMap, linux: dict[str, Any]) -> None:
    linux["namespaces"].append({"type": "user"})
    for key, kinds in (("uidMappings", "ub"), ("gidMappings", "gb")):
        linux[key] = [
            {"containerID": one.container, "hostID": one.host, "size": one.size}
            for one in idmap
            if one.kind in kinds
        ]
