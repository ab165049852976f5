"""The part of the lowering that changes nothing but the image's config."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from layerstore.build.dockerfile.syntax import (
    Cmd,
    Entrypoint,
    Expose,
    Healthcheck,
    Maintainer,
    Onbuild,
    Shell,
    StopSignal,
    User,
    Volume,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from layerstore.build.dockerfile.syntax import CommandLine, StageInstruction
    from layerstore.build.stage import StageState
    from layerstore.formats.oci_config import ContainerConfig


def apply_config(state: StageState, instruction: StageInstruction) -> None:
    """Apply an instruction that only changes the config."""
    match instruction:
        case User(user=user):
            state.set_user(user)
        case Cmd(command=command):
            state.set_cmd(_command(state, command))
        case Entrypoint(command=command):
            state.set_entrypoint(_command(state, command))
        case Shell(argv=argv):
            state.set_shell(argv)
        case StopSignal(signal=signal):
            state.set_stop_signal(signal)
        case Expose(ports=ports):
            state.expose(ports)
        case Volume(paths=paths):
            state.add_volumes(paths)
        case Healthcheck():
            state.set_healthcheck(instruction)
        case Onbuild(trigger=trigger):
            state.add_trigger(trigger)
        case Maintainer(name=name):
            state.set_maintainer(name)
        case _:
            raise AssertionError(f"{instruction.KEYWORD} is not lowered")


def _command(state: StageState, command: CommandLine) -> tuple[str, ...]:
    if command.argv is not None:
        return command.argv
    return state.with_shell(command.shell or "")


def with_labels(state: StageState, labels: Mapping[str, str]) -> ContainerConfig:
    """Return a stage's config with labels of the command line, which go first."""
    return msgspec.structs.replace(state.config, labels={**state.config.labels, **labels})


def with_triggers(state: StageState, triggers: tuple[str, ...]) -> ContainerConfig:
    """Return a stage's config with these ONBUILD triggers and no others."""
    return msgspec.structs.replace(state.config, on_build=triggers)
