"""``--change`` of import and commit: single Dockerfile instructions applied to a config.

The instructions go through the builder's parser, expansion and stage state, so they
mean here what they mean in a Dockerfile. Those that need a build are refused.

Source: ``docker import --change``, whose list of instructions this extends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.build.dockerfile import syntax
from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.expand import expand_instruction
from layerstore.build.dockerfile.instructions import parse_line
from layerstore.build.dockerfile.lexer import Lexer, decode
from layerstore.build.graph import BaseOp, Vertex
from layerstore.build.stage import StageState
from layerstore.formats.oci_config import ContainerConfig, ImageConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.build.dockerfile.syntax import CommandLine, Instruction

FILE_NAME = "--change"


def apply_changes(changes: Sequence[str], config: ContainerConfig | None = None) -> ContainerConfig:
    """Return what instructions make of a config, by default of an empty one.

    Raises:
        SpecError: One is not an instruction, or one that needs a build.
    """
    if config is None:
        config = ContainerConfig()
    image = ImageConfig(architecture="", config=config)
    state = StageState(Vertex(BaseOp(()), (), None), image)
    for change in changes:
        instruction = _parse(change)
        _apply(state, expand_instruction(instruction, state.env))
    return state.config


def _parse(change: str) -> Instruction:
    source = decode(change.encode("utf-8", "surrogateescape"), FILE_NAME)
    lexer = Lexer(source)
    instructions = [parse_line(lexer, line) for line in lexer]
    if len(instructions) != 1:
        raise SpecError("expected one instruction", source.span(1))
    return instructions[0]


def _apply(state: StageState, item: Instruction) -> None:
    match item:
        case syntax.Cmd():
            state.set_cmd(_arguments(state, item.command))
        case syntax.Entrypoint():
            state.set_entrypoint(_arguments(state, item.command))
        case syntax.Env():
            state.set_env([(pair.key, pair.value) for pair in item.pairs])
        case syntax.Label():
            state.set_labels([(pair.key, pair.value) for pair in item.pairs])
        case syntax.Workdir():
            state.set_workdir(state.absolute(item.path).rstrip("/") or "/")
        case _:
            _apply_rarer(state, item)


def _apply_rarer(state: StageState, item: Instruction) -> None:
    match item:
        case syntax.User():
            state.set_user(item.user)
        case syntax.Expose():
            state.expose(item.ports)
        case syntax.Volume():
            state.add_volumes(item.paths)
        case syntax.StopSignal():
            state.set_stop_signal(item.signal)
        case syntax.Healthcheck():
            state.set_healthcheck(item)
        case syntax.Shell():
            state.set_shell(item.argv)
        case syntax.Onbuild():
            state.add_trigger(item.trigger)
        case _:
            raise SpecError(
                f"{item.KEYWORD} needs a build and cannot be applied to a config alone",
                item.span,
                hint="make the image without it, then build FROM that",
            )


def _arguments(state: StageState, command: CommandLine) -> tuple[str, ...]:
    if command.argv is not None:
        return command.argv
    return state.with_shell(command.shell or "")
