"""RUN's part of the lowering: its command line, its environment and its mounts."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.syntax import Notice
from layerstore.build.graph import MountSpec, RunOp
from layerstore.build.run.settings import HOST_NETWORK, INSECURE

if TYPE_CHECKING:
    from layerstore.build.dockerfile.syntax import Run, RunMount, SourceSpan, Stage
    from layerstore.build.graph import Vertex
    from layerstore.build.lower import Lowering
    from layerstore.build.stage import StageState

PIPES = "/dev/pipes"
"""Where a here-document that is a program appears, as under BuildKit."""

_FORBIDDEN_TARGETS = ("/", "/proc", "/sys", "/dev")
_DEFAULT_SECRET_DIRECTORY = "/run/secrets"  # noqa: S105 -- a path
_SSH_SOCKETS = "/run/buildkit/ssh_agent"
_ID_MAX_CHARACTERS = 4096
_DEVICE_HINT = "--device=VENDOR/CLASS=NAME[,required]"


def lower_run(
    lowering: Lowering, stage: Stage, state: StageState, instruction: Run
) -> tuple[RunOp, tuple[Vertex, ...]]:
    """Return the operation of a RUN and its inputs, the root first.

    Raises:
        SpecError: A flag asks for what is impossible or not supported.
    """
    _refuse(instruction)
    _require_allowed(lowering, instruction)
    _without_devices(lowering, instruction)
    mounts = _Mounts(lowering, stage, state)
    specs = [mounts.lower(mount) for mount in instruction.mounts]
    args, program = _command(state, instruction)
    if program is not None:
        specs.append(program)
    op = RunOp(
        args=args,
        env=tuple(f"{name}={value}" for name, value in state.env.items()),
        cwd=state.absolute("."),
        user=state.config.user,
        network=_network(lowering, instruction),
        mounts=tuple(specs),
        insecure=instruction.security == "insecure",
        extra_hosts=lowering.options.extra_hosts,
        one_id=lowering.options.one_id,
    )
    return op, (state.vertex, *mounts.inputs)


def _command(state: StageState, instruction: Run) -> tuple[tuple[str, ...], MountSpec | None]:
    """Return the argument list, and the program that stands in the Dockerfile if there is one."""
    script = instruction.script()
    if script is None:
        return instruction.command.argv or (), None
    if script.file_name is None:
        return state.with_shell(script.text), None
    program = MountSpec(
        type="document", target=PIPES, source=script.file_name, content=script.text, mode=0o755
    )
    return state.with_shell(f"{PIPES}/{script.file_name}"), program


def _refuse(instruction: Run) -> None:
    if instruction.command.argv == ():
        raise SpecError("RUN needs a command", instruction.span)


def _without_devices(lowering: Lowering, instruction: Run) -> None:
    """Pass over devices that a step may do without: this builder has none to give.

    Source: BuildKit, RUN --device: what is not required and not there is left out.

    Raises:
        SpecError: One is required.
    """
    span = instruction.flag_span("device") if instruction.devices else instruction.span
    for text in instruction.devices:
        name, is_required = _device(text, span)
        what = f"the device {name!r} (of the Container Device Interface)"
        if is_required:
            raise SpecError(
                f"the step requires {what}, and steps get none here", span,
                hint="let it be left out where there is none: without 'required'",
            )  # fmt: skip
        lowering.notices.append(Notice(f"{what} is left out: steps get none here", span))


def _device(text: str, span: SourceSpan) -> tuple[str, bool]:
    """Return a device's name, and whether it is required: ``name[,required]``."""
    name, is_required = "", False
    for number, part in enumerate(text.split(",")):
        key, equals, value = part.partition("=")
        key = key.strip().lower()
        if not number and (not equals or "/" in key):  # names hold '=': vendor/class=device
            name = part.strip()
        elif key == "name" and value:
            name = value
        elif key == "required" and value.lower() in ("", "true", "1", "false", "0"):
            is_required = value.lower() not in ("false", "0")
        else:
            raise SpecError(f"{part!r} is no field of a device", span, hint=_DEVICE_HINT)
    if not name:
        raise SpecError("the device has no name", span, hint=_DEVICE_HINT)
    return name, is_required


def _require_allowed(lowering: Lowering, instruction: Run) -> None:
    """Refuse what whoever builds has not allowed.

    The host's network is the default here, so a step that asks for it asks for something
    only where the build was told to have none.
    """
    wanted = []
    if instruction.security == "insecure":
        wanted.append(("security", INSECURE))
    if instruction.network == "host" and not lowering.options.network:
        wanted.append(("network", HOST_NETWORK))
    for flag, entitlement in wanted:
        if entitlement not in lowering.options.allow:
            raise SpecError(
                f"RUN --{flag}={getattr(instruction, flag)} is not allowed in this build",
                instruction.flag_span(flag),
                hint=f"if you trust this Dockerfile: layerstore build --allow {entitlement}",
            )


def _network(lowering: Lowering, instruction: Run) -> bool:
    if instruction.network == "default":
        return lowering.options.network
    return instruction.network == "host"


class _Mounts:
    """Lowers the mounts of one RUN and gathers their inputs."""

    def __init__(self, lowering: Lowering, stage: Stage, state: StageState) -> None:
        self._lowering = lowering
        self._stage = stage
        self._state = state
        self.inputs: list[Vertex] = []
        self._sockets = 0

    def lower(self, mount: RunMount) -> MountSpec:
        """Return what one ``--mount`` means."""
        if mount.id is not None and ("\0" in mount.id or len(mount.id) > _ID_MAX_CHARACTERS):
            raise SpecError("the mount's id is not a name", mount.span)
        if mount.type == "secret":
            return self._secret(mount)
        if mount.type == "ssh":
            return self._ssh(mount)
        target = self._target(mount)
        if mount.type == "tmpfs":
            return MountSpec(
                type="tmpfs", target=target, readonly=False, size=mount.size or 0, mode=mount.mode
            )
        if mount.type == "cache":
            return self._cache(mount, target)
        return MountSpec(
            type="bind",
            target=target,
            input=self._input(mount),
            source=mount.source or "/",
            readonly=mount.readonly,
        )

    def _target(self, mount: RunMount) -> str:
        if not mount.target:
            raise SpecError(f"the {mount.type} mount needs a target", mount.span)
        return self._place(mount.target, mount)

    def _place(self, target: str, mount: RunMount) -> str:
        clean = self._state.absolute(target).rstrip("/") or "/"
        if clean in _FORBIDDEN_TARGETS:
            raise SpecError(f"nothing can be mounted on {clean} in a RUN", mount.span)
        return clean

    def _secret(self, mount: RunMount) -> MountSpec:
        identity = mount.id or posixpath.basename(mount.target or "")
        if not identity:
            raise SpecError("the secret mount needs an id", mount.span)
        target = mount.target or ""
        if not target and not mount.env:
            target = f"{_DEFAULT_SECRET_DIRECTORY}/{posixpath.basename(identity)}"
        return MountSpec(
            type="secret",
            target=self._place(target, mount) if target else "",
            id=identity,
            required=mount.required,
            mode=0o400 if mount.mode is None else mount.mode,
            uid=mount.uid or 0,
            gid=mount.gid or 0,
            env=mount.env or "",
            absent=not mount.required and identity not in self._lowering.options.secrets,
        )

    def _ssh(self, mount: RunMount) -> MountSpec:
        identity = mount.id or "default"
        target = mount.target or f"{_SSH_SOCKETS}.{self._sockets}"
        self._sockets += 1
        return MountSpec(
            type="ssh",
            target=self._place(target, mount),
            id=identity,
            required=mount.required,
            mode=0o600 if mount.mode is None else mount.mode,
            uid=mount.uid or 0,
            gid=mount.gid or 0,
            absent=not mount.required and identity not in self._lowering.options.agents,
        )

    def _cache(self, mount: RunMount, target: str) -> MountSpec:
        source = posixpath.normpath(f"/{mount.source or ''}")
        if mount.from_ is None:
            source = source.lstrip("/")  # a directory in the cache itself, as under BuildKit
        return MountSpec(
            type="cache",
            target=target,
            input=self._input(mount) if mount.from_ is not None else None,
            source=source,
            readonly=mount.readonly,
            id=mount.id or target,
            sharing=mount.sharing or "shared",
            mode=mount.mode,
            uid=mount.uid or 0,
            gid=mount.gid or 0,
            owned=not (mount.uid is None and mount.gid is None and mount.mode is None),
        )

    def _input(self, mount: RunMount) -> int:
        if mount.from_ is None:
            vertex = self._lowering.context
        else:
            vertex = self._lowering.source_root(mount.from_, self._stage, mount.span)
        self.inputs.append(vertex)
        return len(self.inputs)
