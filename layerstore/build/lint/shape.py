"""Rules about how a Dockerfile is written: what its syntax tree alone tells.

Pure; linear in the file.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.syntax import Arg, Cmd, Entrypoint, Env, Healthcheck, Label
from layerstore.build.lint import rules
from layerstore.build.lint.rules import Finding
from layerstore.build.platforms import parse_platform

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.build.dockerfile.syntax import (
        Dockerfile,
        From,
        Instruction,
        SourceSpan,
        Stage,
    )
    from layerstore.build.platforms import Platform

_RESERVED_NAMES = ("context", "scratch")
_ONCE = (Cmd, Entrypoint, Healthcheck)
_TARGET_PLATFORM = ("$TARGETPLATFORM", "${TARGETPLATFORM}")
_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credentials?|key|password|psw|pword|passwd|secret|token)(?:_|$)",
    re.IGNORECASE,
)
_NO_SECRET = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)


def looks_secret(name: str) -> bool:
    """Whether a variable of that name may hold what nobody should read."""
    return bool(_SECRET.search(name)) and not _NO_SECRET.search(name)


def shape_findings(dockerfile: Dockerfile, lines: list[str], native: Platform) -> Iterator[Finding]:
    """Yield what is wrong with the way a file is written.

    Args:
        dockerfile: The file.
        lines: Its physical lines, for the comments, which no tree holds.
        native: What ``--platform=local`` means.
    """
    for notice in dockerfile.notices:
        if notice.rule:
            detail = "Empty continuation line"
            if notice.rule == rules.MAINTAINER_DEPRECATED.name:
                detail = "Maintainer instruction is deprecated in favor of using label"
            yield Finding(rules.RULES[notice.rule], detail, notice.span)
    yield from _casing(dockerfile)
    yield from _stage_names(dockerfile)
    yield from _descriptions(dockerfile, lines)
    for stage in dockerfile.stages:
        yield from _platform(stage, native)
        yield from _repeated(stage)
        for instruction in stage.instructions:
            yield from _pairs(instruction, stage.index)


def _keyword(instruction: Instruction) -> str:
    """Return the keyword as it was written."""
    return instruction.original[: len(instruction.KEYWORD)]


def _casing(dockerfile: Dockerfile) -> Iterator[Finding]:
    written: list[tuple[str, SourceSpan, int]] = [
        (_keyword(each), each.span, stage.index)
        for stage in dockerfile.stages
        for each in (stage.from_, *stage.instructions)
    ]
    lower = sum(word.islower() for word, _, _ in written)
    upper = sum(word.isupper() for word, _, _ in written)
    wanted = "lowercase" if lower > upper else "uppercase"
    for word, span, stage_index in written:
        if not (word.islower() if lower > upper else word.isupper()):
            detail = f"Command '{word}' should match the case of the command majority ({wanted})"
            yield Finding(rules.CONSISTENT_INSTRUCTION_CASING, detail, span, stage_index)


def _stage_names(dockerfile: Dockerfile) -> Iterator[Finding]:
    seen: set[str] = set()
    for stage in dockerfile.stages:
        if stage.name is None:
            continue
        span = stage.span
        *_, as_, name = stage.from_.original.split()
        if name != name.lower():
            detail = f"Stage name '{name}' should be lowercase"
            yield Finding(rules.STAGE_NAME_CASING, detail, span)
        yield from _as_casing(stage.from_, as_)
        if stage.name in _RESERVED_NAMES:
            detail = f'Stage name should not use the same name as reserved stage "{stage.name}"'
            yield Finding(rules.RESERVED_STAGE_NAME, detail, span)
        if stage.name in seen:
            detail = f'Duplicate stage name "{stage.name}", stage names should be unique'
            yield Finding(rules.DUPLICATE_STAGE_NAME, detail, span)
        seen.add(stage.name)


def _as_casing(from_: From, as_: str) -> Iterator[Finding]:
    keyword = _keyword(from_)
    # FrOm is the business of the rule about keywords.
    if (keyword.islower() and not as_.islower()) or (keyword.isupper() and not as_.isupper()):
        detail = f"'{as_}' and '{keyword}' keywords' casing do not match"
        yield Finding(rules.FROM_AS_CASING, detail, from_.span)


def _platform(stage: Stage, native: Platform) -> Iterator[Finding]:
    written = stage.platform
    if written is None:
        return
    span = stage.span
    if written in _TARGET_PLATFORM:
        detail = (
            f"Setting platform to predefined {written} in FROM is redundant as this is the "
            "default behavior"
        )
        yield Finding(rules.REDUNDANT_TARGET_PLATFORM, detail, span, stage.index)
    if "$" in written:
        return
    try:
        platform = parse_platform(written, span, native)
    except SpecError:
        return  # lowering says so
    name = stage.name or ""
    if platform.os not in name and platform.architecture not in name:
        detail = f'FROM --platform flag should not use constant value "{written}"'
        yield Finding(rules.FROM_PLATFORM_FLAG_CONST_DISALLOWED, detail, span, stage.index)


def _repeated(stage: Stage) -> Iterator[Finding]:
    last: dict[type, Instruction] = {}
    for instruction in stage.instructions:
        if not isinstance(instruction, _ONCE):
            continue
        before = last.get(type(instruction))
        if before is not None:
            detail = (
                f"Multiple {instruction.KEYWORD} instructions should not be used in the same "
                "stage because only the last one will be used"
            )
            yield Finding(rules.MULTIPLE_INSTRUCTIONS_DISALLOWED, detail, before.span, stage.index)
        last[type(instruction)] = instruction


def _pairs(instruction: Instruction, stage: int) -> Iterator[Finding]:
    word = instruction.KEYWORD
    if isinstance(instruction, Env | Label) and instruction.pairs[0].legacy:
        detail = f'"{word} key=value" should be used instead of legacy "{word} key value" format'
        yield Finding(rules.LEGACY_KEY_VALUE_FORMAT, detail, instruction.span, stage)
    names: tuple[str, ...] = ()
    if isinstance(instruction, Env):
        names = tuple(pair.key for pair in instruction.pairs)
    elif isinstance(instruction, Arg):
        names = tuple(each.name for each in instruction.args)
    for name in names:
        if looks_secret(name):
            detail = f'Do not use ARG or ENV instructions for sensitive data ({word} "{name}")'
            yield Finding(rules.SECRETS_USED_IN_ARG_OR_ENV, detail, instruction.span, stage)


def _descriptions(dockerfile: Dockerfile, lines: list[str]) -> Iterator[Finding]:
    named: list[tuple[Instruction, tuple[str, ...]]] = [
        (each, tuple(arg.name for arg in each.args)) for each in dockerfile.global_args
    ]
    for stage in dockerfile.stages:
        if stage.name is not None:
            named.append((stage.from_, (stage.name,)))
        args = (each for each in stage.instructions if isinstance(each, Arg))
        named += [(each, tuple(arg.name for arg in each.args)) for each in args]
    for instruction, names in named:
        comments = comments_above(dockerfile, lines, instruction.span.line)
        if comments and comments[0].split(" ", 1)[0] not in names:
            name = names[0] if len(names) == 1 else "<arg_key>"
            detail = (
                f"Comment for {instruction.KEYWORD} should follow the format: "
                f"`# {name} <description>`"
            )
            yield Finding(rules.INVALID_DEFINITION_DESCRIPTION, detail, instruction.span)


def comments_above(dockerfile: Dockerfile, lines: list[str], line: int) -> list[str]:
    """Return the texts of the comments right above a line (from 1), the nearest one first.

    An empty one ends them, as do parser directives.
    """
    directives = {each.span.line for each in dockerfile.directives}
    found: list[str] = []
    for number in range(line - 1, 0, -1):
        above = lines[number - 1].strip()
        text = above.lstrip("#").strip()
        if not above.startswith("#") or not text or number in directives:
            break
        found.append(text)
    return found
