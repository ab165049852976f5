"""One RUN: from an operation and the layers below it to the items of a new layer.

The root is prepared inside the sandbox, the container runs over it, and the upper
directory that is left is scanned once nothing is mounted any more.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from layerstore.build.run.caches import take_caches
from layerstore.build.run.key_agents import Agents
from layerstore.build.run.mounts import MountSet, MountSources
from layerstore.errors import BuildError
from layerstore.formats.tree import Kind
from layerstore.image.layers.scan import UpperScan, scan_upper
from layerstore.runtime.oci_spec import (
    HOSTNAME,
    STANDARD_DIRECTORIES,
    ContainerProcess,
    ExtraMount,
    container_config,
)
from layerstore.runtime.stubs import (
    make_stubs,
    real_targets,
    remove_stubs,
    require_directories,
)
from layerstore.runtime.users import RunUser, resolve_run_user, users_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from layerstore.build.graph import RunOp
    from layerstore.build.run.caches import Wake
    from layerstore.build.run.sandbox import Sandbox
    from layerstore.build.run.settings import RunSettings
    from layerstore.build.run.ssh import AgentSocket, Connect
    from layerstore.build.waiting import Patience
    from layerstore.digest import DiffId
    from layerstore.image.layers.layer_item import LayerItem
    from layerstore.snapshot.base import Snapshot, Snapshotter

_RESOLV_CONF = "/etc/resolv.conf"
_HOSTS = "/etc/hosts"
_LOCALHOST = b"127.0.0.1 localhost\n::1 localhost ip6-localhost\n"
_FILE_MAX_BYTES = 1 << 20
_BIND_READONLY = ("bind", "ro", "nosuid", "nodev", "noexec")


class RunOutcome(NamedTuple):
    """What a container left.

    Attributes:
        items: Entries of the new layer, None when the command failed.
        skipped: What no layer can carry.
        upper: A directory that shows the new layer just as it will be; None if there is none.
    """

    status: int
    items: list[LayerItem]
    whiteouts: list[bytes]
    opaques: list[bytes]
    skipped: list[tuple[bytes, str]]
    upper: Path | None = None


class _Prepared(NamedTuple):
    """A root that is ready to run on, inside the sandbox.

    Attributes:
        restored: Once the root is left: directories that look untouched again, as they were.
    """

    snapshot: Snapshot
    user: RunUser
    mounts: tuple[ExtraMount, ...]
    env: dict[str, str]
    agent: str
    sockets: list[AgentSocket]
    root_before: os.stat_result
    restored: dict[bytes, os.stat_result]


class RunStep:
    """Runs steps of one build in its sandbox.

    Args:
        sandbox: Where mounts and containers live.
        snapshotter: Prepares roots.
        settings: Shared by all steps.
        patience: Waits for caches.
        wake: Brings back caches that were put to rest.
        read_small: Files up to so many bytes are read as soon as a command has ended.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        snapshotter: Snapshotter,
        settings: RunSettings,
        patience: Patience,
        wake: Wake,
        *,
        read_small: int = 0,
    ) -> None:
        self._sandbox = sandbox
        self._snapshotter = snapshotter
        self._settings = settings
        self._agents = Agents(sandbox, settings.ssh)
        self._patience = patience
        self._wake = wake
        self._read_small = read_small
        self._hostname = settings.hostname or HOSTNAME
        self._network_files: dict[tuple[tuple[str, str], ...], tuple[ExtraMount, ...]] = {}

    def close(self) -> None:
        """Let go of what steps shared; call it before the sandbox is closed."""
        self._agents.close()

    def run(
        self,
        op: RunOp,
        name: str,
        layers: Sequence[DiffId],
        sources: MountSources,
        on_output: Callable[[bytes], None],
        started: Callable[[], None] = lambda: None,
    ) -> RunOutcome:
        """Run a command over the layers.

        Args:
            op: What to run.
            name: Unique in the build, fit for a file name.
            layers: Lowest first.
            sources: What bind mounts show.
            on_output: Gets the command's output.
            started: Called when the command has begun.

        Raises:
            BuildError: The user is unknown, a secret is missing, the runtime is gone.
            MountError: The root could not be mounted.
        """
        for spec in op.mounts:
            self._require_mapped(spec.uid, spec.gid, f"the {spec.type} mount's owner")
        scratch = self._sandbox.scratch / f"step-{name}"
        # Closed in the sandbox's thread, where everything in it was mounted.
        stack = contextlib.ExitStack()
        with contextlib.ExitStack() as held:
            root = self._settings.cache_root
            caches = take_caches(op.mounts, root, held, self._patience, self._wake)
            try:
                agents = self._agents_of(op)
                prepared = self._sandbox.call(
                    self._prepare, op, layers, scratch, sources, caches, agents, stack
                )
                for agent in prepared.sockets:
                    agent.serve()
                config = self._config(op, name, prepared)
                status = self._sandbox.run(config, name, on_output, started)
            finally:
                self._sandbox.call(stack.close)
        if status != 0:
            return RunOutcome(status, [], [], [], [])
        scan = scan_upper(
            prepared.snapshot.upper,
            xattr_prefix=prepared.snapshot.xattr_prefix,
            read_small=self._read_small,
        )
        before = prepared.root_before
        items = _without_traces(scan, prepared.restored, before)
        upper = None if scan.skipped else prepared.snapshot.upper
        if upper is not None and not any(not item.entry.path for item in items[:1]):
            os.utime(upper, ns=(before.st_atime_ns, before.st_mtime_ns))
        return RunOutcome(0, items, scan.whiteouts, scan.opaques, scan.skipped, upper)

    def _prepare(
        self,
        op: RunOp,
        layers: Sequence[DiffId],
        scratch: Path,
        sources: MountSources,
        caches: Mapping[str, Path],
        agents: Mapping[str, Connect],
        stack: contextlib.ExitStack,
    ) -> _Prepared:
        """Mount everything; runs in the sandbox's thread. Closing ``stack`` undoes it."""
        snapshot = stack.enter_context(self._snapshotter.prepare(layers, scratch))
        root = str(snapshot.root)
        root_before = os.stat(root)
        user = self._mapped(resolve_run_user(users_of(root), op.user), op.user)
        mounts = MountSet(scratch / "mounts", caches, agents, stack)
        for spec in op.mounts:
            mounts.add(spec, self._settings.secrets, sources)
        require_directories(root, STANDARD_DIRECTORIES)
        extra = [*((mount, False) for mount in self._etc_files(op.extra_hosts)), *mounts.mounts]
        places = real_targets(root, [mount.destination for mount, _ in extra])
        _require_own_places(places, extra)
        targets = [(path, True) for path in STANDARD_DIRECTORIES]
        targets += [
            (place, is_directory) for place, (_, is_directory) in zip(places, extra, strict=True)
        ]
        pairs = zip(places, extra, strict=True)
        in_memory = {place for place, (mount, _) in pairs if mount.type == "tmpfs"}
        stubs = make_stubs(root, targets, for_all=in_memory)
        restored: dict[bytes, os.stat_result] = {}
        stack.callback(lambda: restored.update(remove_stubs(root, stubs)))
        placed = tuple(
            mount._replace(destination=place)
            for place, (mount, _) in zip(places, extra, strict=True)
        )
        return _Prepared(
            snapshot, user, placed, mounts.env, mounts.agent, mounts.sockets, root_before, restored
        )

    def _agents_of(self, op: RunOp) -> dict[str, Connect]:
        """Return what connects to the ssh agents that a step mounts, as far as they were given."""
        found = {
            spec.id: self._agents.connect_to(spec.id) for spec in op.mounts if spec.type == "ssh"
        }
        return {identity: connect for identity, connect in found.items() if connect is not None}

    def _config(self, op: RunOp, name: str, prepared: _Prepared) -> dict[str, object]:
        user = prepared.user
        env = {item.partition("=")[0]: item.partition("=")[2] for item in op.env}
        env.setdefault("HOME", user.home)
        for variable, value in self._settings.proxies.items():
            env.setdefault(variable, value)
        if prepared.agent:
            env.setdefault("SSH_AUTH_SOCK", prepared.agent)
        env.update(prepared.env)
        process = ContainerProcess(
            args=op.args,
            env=tuple(f"{variable}={value}" for variable, value in env.items()),
            cwd=op.cwd,
            uid=user.uid,
            gid=user.gid,
            groups=user.groups,
        )
        isolation = self._sandbox.isolation(name, network=op.network, insecure=op.insecure)
        root = str(prepared.snapshot.root)
        config = container_config(root, process, prepared.mounts, isolation)
        config["hostname"] = self._hostname
        return config

    def _mapped(self, user: RunUser, text: str) -> RunUser:
        """Return the user as this build's user namespace can have it.

        Raises:
            BuildError: The ids mean nothing there.
        """
        self._require_mapped(user.uid, user.gid, f"USER {text}")
        ids = self._sandbox.ids
        if not ids:
            return user
        # With one id alone nobody may set groups; further ones would be of others anyway.
        return user._replace(groups=tuple(group for group in user.groups if group < ids > 1))

    def _require_mapped(self, uid: int, gid: int, what: str) -> None:
        """Refuse ids that this build's user namespace does not have.

        Raises:
            BuildError: Names them.
        """
        ids = self._sandbox.ids
        if ids and max(uid, gid) >= ids:
            there = f"those below {ids}" if ids > 1 else "0 alone"
            raise BuildError(
                f"{what} is {uid}:{gid}, and of ids this build's user namespace has {there}",
                hint="have more subordinate ids: usermod --add-subuids 100000-165535 "
                "--add-subgids 100000-165535 NAME (package uidmap)",
            )

    def _etc_files(self, extra_hosts: tuple[tuple[str, str], ...]) -> tuple[ExtraMount, ...]:
        """Return the mounts of copies of the host's resolver configuration.

        Copies, so that no step can reach a file of the host through them.
        """
        if extra_hosts not in self._network_files:
            directory = self._sandbox.scratch / f"etc-{len(self._network_files)}"
            directory.mkdir(mode=0o755, exist_ok=True)
            lines = [
                ("127.0.0.1", self._hostname),
                *((address, name) for name, address in extra_hosts),
            ]
            hosts = "".join(f"\n{address} {name}" for address, name in lines) + "\n"
            self._network_files[extra_hosts] = (
                _copied(directory, _RESOLV_CONF, b"", b""),
                _copied(directory, _HOSTS, _LOCALHOST, hosts.encode()),
            )
        return self._network_files[extra_hosts]


def _require_own_places(places: list[str], extra: list[tuple[ExtraMount, bool]]) -> None:
    """Refuse mounts that links of the image lead onto the root or a directory of the sandbox.

    The Dockerfile's own words were checked when it was read; the runtime would then set up
    its devices inside of what is mounted.

    Raises:
        BuildError: Names the mount.
    """
    for place, (mount, _) in zip(places, extra, strict=True):
        if place in {"/", *STANDARD_DIRECTORIES}:
            raise BuildError(
                f"the mount's target {mount.destination} leads to {place} in this image, and "
                "nothing can be mounted there"
            )


def _copied(directory: Path, path: str, default: bytes, extra: bytes) -> ExtraMount:
    """Return the mount of a copy of a host's file, with a line of ours behind it."""
    try:
        with open(path, "rb") as file:
            content = file.read(_FILE_MAX_BYTES)
    except OSError:
        content = default
    copy = directory / os.path.basename(path)
    copy.write_bytes(content + extra)
    copy.chmod(0o644)
    return ExtraMount(path, str(copy), _BIND_READONLY)


def _without_traces(
    scan: UpperScan, restored: dict[bytes, os.stat_result], root_before: os.stat_result
) -> list[LayerItem]:
    """Return the scan's items without directories that only the stubs brought into it."""
    busy = {item.entry.path.rpartition(b"/")[0] for item in scan.items if item.entry.path}
    busy |= {path.rpartition(b"/")[0] for path in scan.whiteouts}
    busy |= set(scan.opaques)
    kept = []
    for item in scan.items:
        entry = item.entry
        before = root_before if not entry.path else restored.get(entry.path)
        if before is not None and entry.kind is Kind.DIR:
            same = (entry.mode, entry.uid, entry.gid) == (
                stat.S_IMODE(before.st_mode), before.st_uid, before.st_gid,
            )  # fmt: skip
            # docker's layers say nothing of the root but what a step changed on purpose.
            quiet = not entry.path or (
                entry.path not in busy and entry.mtime_ns == before.st_mtime_ns
            )
            if same and quiet:
                continue
        kept.append(item)
    return kept
