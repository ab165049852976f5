"""What a stage's instructions do to the image config and its history.

A :class:`StageState` is the stage so far: the root file system as a vertex, the
environment that expansions and RUN see, and the config the image would have. It is
changed by the lowering, one instruction after the other, and copied for stages that
build on it. The history's words are BuildKit's.

Source: BuildKit, frontend/dockerfile/dockerfile2llb (behaviour); OCI image config.
"""

from __future__ import annotations

import posixpath
from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from layerstore.build.dockerfile.variables import Variables
from layerstore.build.go_text import duration, plain_list, quoted_list
from layerstore.formats.oci_config import Healthcheck, History

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from layerstore.build.dockerfile.syntax import Healthcheck as HealthcheckInstruction
    from layerstore.build.graph import Vertex
    from layerstore.formats.oci_config import ImageConfig

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHELL = ("/bin/sh", "-c")
_FEW = 100


class Step(NamedTuple):
    """One line of history to come.

    Attributes:
        vertex: What makes its layer, None when it makes none.
    """

    created_by: str
    vertex: Vertex | None


class StageState:
    """See the module.

    Attributes:
        vertex: The root file system so far.
        config: The container config so far.
        image: The base image's config: platform, and history that stays as it is.
        env: What ``$NAME`` means: ARG and ENV, the later one winning.
        build_args: Declared ARGs with their values, in order; None is unset.
        steps: History of the base stages and this one, base image excluded.
        cmd_set: This stage has a CMD of its own, which ENTRYPOINT must not clear.
    """

    def __init__(self, vertex: Vertex, image: ImageConfig) -> None:
        self.vertex = vertex
        self.image = image
        self.config = image.config
        self.author = image.author
        self.env = Variables()
        self._places: dict[str, int] = {}  # in config.env, by name
        self.build_args: dict[str, str | None] = {}
        self.steps: list[Step] = []
        self.cmd_set = False
        if not any(item.startswith("PATH=") for item in self.config.env):
            self._replace(env=(*self.config.env, f"PATH={DEFAULT_PATH}"))
        self._environment_from_config()

    def child(self) -> StageState:
        """Return the state of a stage that begins where this one ended.

        Its ONBUILD triggers are the caller's to run; they do not carry over.
        """
        child = StageState(self.vertex, self.image)
        child.config = msgspec.structs.replace(self.config, on_build=())
        child.author = self.author
        child.env = Variables(self.env)
        child.build_args = dict(self.build_args)
        child.steps = list(self.steps)
        child._environment_from_config()
        return child

    def take_triggers(self) -> tuple[str, ...]:
        """Return the inherited ONBUILD triggers and forget them."""
        triggers = self.config.on_build
        self._replace(on_build=())
        return triggers

    def add_layer(self, vertex: Vertex, created_by: str) -> None:
        """Continue on ``vertex``, whose layer gets this line of history."""
        self.vertex = vertex
        self.steps.append(Step(created_by, vertex))

    def note(self, created_by: str) -> None:
        """Add a line of history without a layer."""
        self.steps.append(Step(created_by, None))

    def set_env(self, pairs: Iterable[tuple[str, str]]) -> None:
        """ENV."""
        words = []
        for name, value in pairs:
            self.env[name] = value
            self._set_config_env(name, value)
            words.append(f"{name}={value}")
        self.note("ENV " + " ".join(words))

    def declare_args(self, args: Sequence[tuple[str, str | None]]) -> None:
        """ARG, with the values that apply."""
        for name, value in args:
            if value is not None:
                self.env[name] = value
            self.build_args[name] = value
        words = [name if value is None else f"{name}={value}" for name, value in args]
        self.note("ARG " + " ".join(words))

    def set_labels(self, pairs: Sequence[tuple[str, str]]) -> None:
        """LABEL."""
        self._replace(labels={**self.config.labels, **dict(pairs)})
        self.note("LABEL " + " ".join(f"{name}={value}" for name, value in pairs))

    def set_user(self, user: str) -> None:
        """USER."""
        self._replace(user=user)
        self.note(f"USER {user}")

    def set_workdir(self, path: str) -> None:
        """Record a WORKDIR that :meth:`absolute` has normalised."""
        self._replace(working_dir=path)

    def set_cmd(self, args: tuple[str, ...]) -> None:
        """CMD."""
        self.cmd_set = True
        self._replace(cmd=args, args_escaped=True)
        self.note(f"CMD {quoted_list(args)}")

    def set_entrypoint(self, args: tuple[str, ...]) -> None:
        """ENTRYPOINT; clears an inherited CMD, which was meant for another program."""
        self._replace(entrypoint=args, cmd=self.config.cmd if self.cmd_set else None)
        self.note(f"ENTRYPOINT {quoted_list(args)}")

    def set_shell(self, args: tuple[str, ...]) -> None:
        """SHELL."""
        self._replace(shell=args)
        self.note(f"SHELL {plain_list(args)}")

    def set_stop_signal(self, signal: str) -> None:
        """STOPSIGNAL."""
        self._replace(stop_signal=signal)
        self.note(f"STOPSIGNAL {signal}")

    def expose(self, ports: Sequence[str]) -> None:
        """EXPOSE."""
        self._replace(exposed_ports=_with(self.config.exposed_ports, ports))
        self.note(f"EXPOSE {plain_list(sorted(ports))}")

    def add_volumes(self, paths: Sequence[str]) -> None:
        """VOLUME."""
        self._replace(volumes=_with(self.config.volumes, paths))
        self.note(f"VOLUME {plain_list(paths)}")

    def add_trigger(self, trigger: str) -> None:
        """ONBUILD; leaves no history."""
        self._replace(on_build=(*self.config.on_build, trigger))

    def set_maintainer(self, name: str) -> None:
        """MAINTAINER."""
        self.author = name
        self.note(f"MAINTAINER {name}")

    def set_healthcheck(self, instruction: HealthcheckInstruction) -> None:
        """HEALTHCHECK."""
        check = Healthcheck(
            test=_health_test(instruction),
            interval_ns=instruction.interval_ns,
            timeout_ns=instruction.timeout_ns,
            start_period_ns=instruction.start_period_ns,
            start_interval_ns=instruction.start_interval_ns,
            retries=instruction.retries,
        )
        self._replace(healthcheck=check)
        self.note(f"HEALTHCHECK {_health_text(check)}")

    def with_shell(self, command: str) -> tuple[str, ...]:
        """Return the argument list of a command in shell form."""
        return (*(self.config.shell or DEFAULT_SHELL), command)

    def absolute(self, path: str) -> str:
        """Return ``path`` as WORKDIR and destinations take it: absolute and clean.

        A trailing slash stays, because it means something to COPY.
        """
        joined = posixpath.join("/", self.config.working_dir or "/", path)
        clean = "/" + posixpath.normpath(joined).lstrip("/")
        if path.endswith("/") and clean != "/":
            return clean + "/"
        return clean

    def run_history(self, args: Sequence[str]) -> str:
        """Return the history line of a RUN, with the build arguments it could see."""
        seen = {name: self.env.get(name, value or "") for name, value in self.build_args.items()}
        head = [f"|{len(seen)}", *(f"{name}={value}" for name, value in seen.items())]
        return "RUN " + " ".join([*(head if seen else ()), *args]) + " # buildkit"

    def final_config(self) -> ImageConfig:
        """Return the image config: the base's platform, this stage's everything else."""
        return msgspec.structs.replace(self.image, author=self.author, config=self.config)

    def _replace(self, **changes: object) -> None:
        self.config = msgspec.structs.replace(self.config, **changes)

    def _set_config_env(self, name: str, value: str) -> None:
        env = self.config.env
        place = self._places.setdefault(name, len(env))
        self._replace(env=(*env[:place], f"{name}={value}", *env[place + 1 :]))

    def _environment_from_config(self) -> None:
        for index, item in enumerate(self.config.env):
            name, _, value = item.partition("=")
            self.env[name] = value
            self._places.setdefault(name, index)


def _with(names: tuple[str, ...], new: Sequence[str]) -> tuple[str, ...]:
    """Return sorted names with others among them, each once."""
    if len(new) > _FEW:
        return tuple(sorted({*names, *new}))
    found = list(names)  # to sort all of them for each instruction takes a minute for 20,000
    for name in new:
        place = bisect_left(found, name)
        if found[place : place + 1] != [name]:
            found.insert(place, name)
    return tuple(found)


def finished_history(
    base: Sequence[History], steps: Sequence[tuple[str, str | None]], comment: str
) -> list[History]:
    """Return an image's whole history with every time filled in.

    A step without a layer takes the time of the layer before it, or of the first new
    one; so metadata alone never makes two builds of one spec differ.

    Args:
        base: The base image's history.
        steps: (created_by, RFC 3339 time) of the new steps; None for no layer.
        comment: For every new step.
    """
    history = list(base)
    first_new = next((time for _, time in steps if time), None)
    current = first_new or next((step.created for step in reversed(base) if step.created), "")
    for created_by, time in steps:
        current = time or current
        history.append(
            History(
                created=current, created_by=created_by, comment=comment, empty_layer=time is None
            )
        )
    return history


def _health_test(instruction: HealthcheckInstruction) -> tuple[str, ...]:
    command = instruction.command
    if command is None:
        return ("NONE",)
    if command.argv is not None:
        return ("CMD", *command.argv)
    return ("CMD-SHELL", command.shell or "")


def _health_text(check: Healthcheck) -> str:
    return (
        f"{{Test:{plain_list(check.test)} Interval:{duration(check.interval_ns)} "
        f"Timeout:{duration(check.timeout_ns)} StartPeriod:{duration(check.start_period_ns)} "
        f"StartInterval:{duration(check.start_interval_ns)} Retries:{check.retries}}}"
    )
