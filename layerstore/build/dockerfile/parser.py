"""Whole Dockerfiles and ONBUILD triggers to syntax trees.

Deterministic, no I/O, linear in the text. Hostile text raises only `SpecError` and
`LimitExceededError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from layerstore.build.dockerfile import limits
from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.instructions import parse_line
from layerstore.build.dockerfile.lexer import Lexer, decode
from layerstore.build.dockerfile.syntax import (
    Arg,
    Dockerfile,
    From,
    Stage,
    StageInstruction,
)

if TYPE_CHECKING:
    from layerstore.build.dockerfile.syntax import Instruction


class _Stages:
    """Collects instructions into stages."""

    def __init__(self) -> None:
        self.global_args: list[Arg] = []
        self.done: list[Stage] = []
        self._current: From | None = None
        self._instructions: list[StageInstruction] = []

    def add(self, instruction: Instruction) -> None:
        if isinstance(instruction, From):
            self.finish()
            if len(self.done) >= limits.MAX_STAGES:
                what = "the file has too many stages"
                raise limits.limit_exceeded(instruction.span, what, limits.MAX_STAGES)
            self._current = instruction
        elif self._current is not None:
            self._instructions.append(cast("StageInstruction", instruction))
        elif isinstance(instruction, Arg):
            self.global_args.append(instruction)
        else:
            reason = f"{instruction.KEYWORD} before the first FROM"
            hint = "begin with FROM; only ARG may stand in front of it"
            raise SpecError(reason, instruction.span, hint=hint)

    def finish(self) -> None:
        """Close the current stage."""
        start = self._current
        if start is None:
            return
        self.done.append(
            Stage(
                index=len(self.done),
                name=start.name,
                base=start.base,
                platform=start.platform,
                instructions=tuple(self._instructions),
                span=start.span,
                from_=start,
            )
        )
        self._instructions = []
        self._current = None


def parse_dockerfile(text: bytes, filename: str = "Dockerfile") -> Dockerfile:
    """Return the tree of a Dockerfile.

    Args:
        text: The file's bytes.
        filename: How errors call it.

    Raises:
        SpecError: The text is not a Dockerfile; carries the place and often a hint.
        LimitExceededError: It exceeds one of `layerstore.build.dockerfile.limits`.
    """
    source = decode(text, filename)
    lexer = Lexer(source)
    stages = _Stages()
    for line in lexer:
        stages.add(parse_line(lexer, line))
    stages.finish()
    if not stages.done:
        reason = "no FROM" if stages.global_args else "no instructions"
        raise SpecError(f"the file has {reason}", source.span(1), hint="begin with FROM")
    return Dockerfile(
        escape=lexer.escape,
        directives=tuple(lexer.directives),
        global_args=tuple(stages.global_args),
        stages=tuple(stages.done),
        notices=tuple(lexer.notices),
    )


def parse_instruction(text: str, filename: str = "ONBUILD") -> StageInstruction:
    r"""Return the one instruction of an ONBUILD trigger from an image's config.

    Triggers are read with ``\`` as the escape, as docker reads them.

    Args:
        text: The trigger, heredocs behind it.
        filename: How errors call it.

    Raises:
        SpecError: Not exactly one instruction, or one that cannot be a trigger.
        LimitExceededError: As `parse_dockerfile`.
    """
    source = decode(text.encode(errors="surrogatepass"), filename)
    lexer = Lexer(source)
    instructions = [parse_line(lexer, line) for line in lexer]
    if len(instructions) != 1:
        raise SpecError("a trigger is one instruction", source.span(1))
    instruction = instructions[0]
    if instruction.KEYWORD in ("FROM", "ONBUILD", "MAINTAINER"):
        raise SpecError(f"{instruction.KEYWORD} cannot be an ONBUILD trigger", instruction.span)
    return cast("StageInstruction", instruction)
