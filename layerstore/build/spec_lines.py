"""Which instructions of a Dockerfile made an image's layers, by the words of its history. Pure.

Builders write the history each in their way: variables put in, shells in front, sources by their
digests. What is left of an instruction is compared, and both are aligned in their order, so that
one line that differs costs no other. It is a guess, as good as the file is the one.

Source: histories that docker 20 and 28, buildah and BuildKit write (behaviour).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from layerstore.build.dockerfile.syntax import Add, Copy, Run, Workdir

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.build.dockerfile.syntax import Dockerfile

Maker = Run | Copy | Add | Workdir

MAKERS_MAX: Final = 500
"""Instructions at the end of a stage, and layers at the end of an image, that are compared."""

_VARIABLE = re.compile(r"\$(?:\{[^}]*\}|\w+)")
_DIGESTS = re.compile(r"(?:file|dir|multi):[0-9a-f]+ in ")
_GLUED = re.compile(rf"(--\S+?)({_DIGESTS.pattern})")
"""Docker writes ``--chown=1:1multi:0a1b in``, without a space."""


def match_history(dockerfile: Dockerfile, lines: Sequence[str]) -> list[Maker | None]:
    """Return for each layer the instruction that made it, None where none is like it.

    The stage is taken that explains most layers, of equal ones the last.

    Args:
        dockerfile: The file.
        lines: The history of each layer, lowest first, as Dockerfiles have instructions.
    """
    best: list[tuple[int, Maker]] = []
    for makers in _stages(dockerfile):
        found = _aligned(makers, lines)
        if len(found) >= len(best):
            best = found
    matched: list[Maker | None] = [None] * len(lines)
    for number, maker in best:
        matched[number] = maker
    return matched


def _stages(dockerfile: Dockerfile) -> list[list[Maker]]:
    """Return for each stage what makes layers in it and in the stages that it begins with."""
    named: dict[str, list[Maker]] = {}
    stages = []
    for stage in dockerfile.stages:
        makers = [each for each in stage.instructions if isinstance(each, Maker)]
        makers = [*named.get(stage.base.lower(), ()), *makers][-MAKERS_MAX:]
        stages.append(makers)
        if stage.name:
            named[stage.name] = makers
    return stages


def _aligned(makers: Sequence[Maker], lines: Sequence[str]) -> list[tuple[int, Maker]]:
    """Return the longest sequence of pairs in both orders, the one nearest to the ends."""
    start = max(0, len(lines) - len(makers))
    tail = lines[start:]
    like = [[_is_like(maker, line) for line in tail] for maker in makers]
    longest = [[0] * (len(tail) + 1) for _ in range(len(makers) + 1)]
    for row, found in enumerate(like):
        above, own = longest[row], longest[row + 1]
        for column, is_like in enumerate(found):
            own[column + 1] = above[column] + 1 if is_like else max(above[column + 1], own[column])
    pairs = []
    row, column = len(makers), len(tail)
    while row and column:
        if like[row - 1][column - 1]:
            row, column = row - 1, column - 1
            pairs.append((start + column, makers[row]))
        elif longest[row - 1][column] < longest[row][column - 1]:
            column -= 1
        elif any(found[column - 1] for found in like[:row]):
            row -= 1
        else:
            column -= 1  # of two equal ways: a line that nothing is like costs no instruction
    return pairs


def _is_like(maker: Maker, line: str) -> bool:
    keyword, _, rest = line.partition(" ")
    if keyword != maker.KEYWORD:
        return False
    match maker:
        case Run():
            return _is_command(maker, rest)
        case Workdir():
            return _ends_with(rest, maker.path)
        case Copy() | Add():
            return _is_copy(maker, rest)


def _is_command(run: Run, line: str) -> bool:
    """Return whether a line is a command, behind a shell and its options or flags of RUN."""
    script = run.script()
    if script is not None:
        return _ends_in_command(line, script.text)
    words = " ".join(run.command.argv or ())
    # Of a shell that stood there as words, what it was told may be all that the line has.
    _, told, rest = words.partition(" -c ")
    return _ends_in_command(line, words) or bool(told and line == " ".join(rest.split()))


def _ends_in_command(line: str, words: str) -> bool:
    command = " ".join(words.split())
    if not line.endswith(command):
        return False
    before = line.removesuffix(command)
    return not before or (before.endswith(" ") and before.split()[-1].startswith("-"))


def _is_copy(copy: Copy | Add, line: str) -> bool:
    words = _GLUED.sub(r"\1 \2", line).split()
    plain = " ".join(word for word in words if not word.startswith("--"))
    digests = _DIGESTS.match(plain)
    if digests is not None:
        return _ends_with(plain[digests.end() :], copy.dest)
    sources = [*copy.sources, *(f"<<{each.name}" for each in copy.heredocs)]
    return _has_pieces(plain, " ".join([*sources, copy.dest]))


def _ends_with(path: str, written: str) -> bool:
    """Return whether an absolute path may be one that was written, perhaps relative to another."""
    last = _VARIABLE.split(written)[-1].removeprefix("./").strip("/.")
    return path.rstrip("/").endswith(last)


def _has_pieces(line: str, written: str) -> bool:
    """Return whether a line is what was written, whatever its variables stand for."""
    first, *others = _VARIABLE.split(written)
    if not others:
        return line == written
    *between, last = others
    at = len(first)
    if not line.startswith(first) or not line.endswith(last):
        return False
    for piece in between:
        at = line.find(piece, at)
        if at < 0:
            return False
        at += len(piece)
    return at <= len(line) - len(last)
