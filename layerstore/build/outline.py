"""What can be built from a Dockerfile, and what that takes: arguments, secrets, agents, caches.

Descriptions are the comments right above: ``# NAME what it is for``. Nothing is built; base
images are looked up only for the variables that they set.

Source: buildx, ``--call=targets`` and ``--call=outline`` (behaviour).
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, NamedTuple

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.expand import expand_instruction, unset_names
from layerstore.build.dockerfile.syntax import Arg, Copy, Run
from layerstore.build.lint.meaning import StageWalk
from layerstore.build.lint.shape import comments_above
from layerstore.errors import LimitExceededError

if TYPE_CHECKING:
    from layerstore.build.dockerfile.syntax import Dockerfile, Instruction, SourceSpan, Stage
    from layerstore.build.lint.meaning import Scope, Surroundings

_DEFAULT_AGENT = "default"


class Target(NamedTuple):
    """A stage that can be built.

    Attributes:
        name: Empty when it has none; its number names it then.
        is_default: It is the one that is built when none is named.
    """

    name: str
    description: str
    is_default: bool
    stage: Stage


class Argument(NamedTuple):
    """A build argument that a target takes; ``value`` is what it would have, None if unset."""

    name: str
    value: str | None
    description: str
    span: SourceSpan


class Need(NamedTuple):
    """A secret, an SSH agent or a cache that a RUN of a target mounts."""

    kind: str
    name: str
    is_required: bool
    span: SourceSpan


class Outline(NamedTuple):
    """What a target takes, in the order of the file."""

    target: Target
    arguments: list[Argument]
    needs: list[Need]


def targets(dockerfile: Dockerfile, lines: list[str]) -> list[Target]:
    """Return every stage.

    Args:
        dockerfile: The file.
        lines: Its physical lines.
    """
    last = dockerfile.stages[-1]
    return [
        Target(
            stage.name or "",
            _description(dockerfile, lines, stage.span.line, stage.name or ""),
            stage is last,
            stage,
        )
        for stage in dockerfile.stages
    ]


def outline(
    dockerfile: Dockerfile, lines: list[str], around: Surroundings, stage: Stage
) -> Outline:
    """Return what a stage and those it needs take.

    Args:
        dockerfile: The file.
        lines: Its physical lines.
        around: Build arguments, and base images for the variables that they set.
        stage: The target.
    """
    walk = _Gathering(dockerfile, lines, around)
    for _ in walk.run():
        pass  # findings: not what is asked for here
    needed = walk.needed(stage.index)
    arguments = walk.global_arguments(needed)
    needs: list[Need] = []
    for index in sorted(needed):
        arguments += [each for each in walk.arguments[index] if each.name not in walk.global_names]
        needs += [each for each in walk.needs[index] if each not in needs]
    return Outline(targets(dockerfile, lines)[stage.index], arguments, needs)


def _description(dockerfile: Dockerfile, lines: list[str], line: int, name: str) -> str:
    for comment in comments_above(dockerfile, lines, line):
        first, _, rest = comment.partition(" ")
        if name and first == name:
            return rest.strip()
    return ""


class _Gathering(StageWalk):
    """Walks the stages and notes what each one takes and which others it needs."""

    def __init__(self, dockerfile: Dockerfile, lines: list[str], around: Surroundings) -> None:
        super().__init__(dockerfile, around)
        self._lines = lines
        count = len(dockerfile.stages)
        self.arguments: list[list[Argument]] = [[] for _ in range(count)]
        self.needs: list[list[Need]] = [[] for _ in range(count)]
        self._inputs: list[set[int]] = [set() for _ in range(count)]
        self._redeclared: list[set[str]] = [set() for _ in range(count)]

    def needed(self, target: int) -> set[int]:
        """Return the numbers of the stages that a target needs, itself included."""
        found: set[int] = set()
        todo = [target]
        while todo:
            index = todo.pop()
            if index not in found:
                found.add(index)
                stage = self.dockerfile.stages[index]
                base = self.stage_before(stage)
                todo += self._inputs[index] | ({base.index} if base else set())
        return found

    def global_arguments(self, needed: set[int]) -> list[Argument]:
        """Return the arguments in front of the first FROM that the stages use, however deep."""
        used: set[str] = set()
        for index in needed:
            stage = self.dockerfile.stages[index]
            for word in (stage.base, stage.platform or ""):
                used.update(unset_names(word, {}, self.dockerfile.escape))
            used |= self._redeclared[index]
        found: list[Argument] = []
        for instruction in reversed(self.dockerfile.global_args):
            for each in reversed(instruction.args):
                if each.name in used:
                    found.append(
                        self._argument(instruction, each.name, self.globals.get(each.name))
                    )
                    used.update(unset_names(each.default or "", {}, self.dockerfile.escape))
        return found[::-1]

    def visit(self, stage: Stage, instruction: Instruction, scope: Scope) -> None:
        """Note what an instruction takes."""
        match instruction:
            case Arg():
                for each in instruction.args:
                    if each.name in self.global_names:
                        self._redeclared[stage.index].add(each.name)
                    argument = self._argument(instruction, each.name, scope.env.get(each.name))
                    self.arguments[stage.index].append(argument)
            case Copy(from_=str(name)):
                self._input(stage, name)
            case Run():
                self._run(stage, instruction, scope)
            case _:
                pass

    def _argument(self, instruction: Arg, name: str, value: str | None) -> Argument:
        line = instruction.span.line
        text = _description(self.dockerfile, self._lines, line, name)
        return Argument(name, value, text, instruction.span)

    def _input(self, stage: Stage, name: str) -> None:
        found = self.dockerfile.stage_named(name)
        if found is not None and found.index < stage.index:
            self._inputs[stage.index].add(found.index)

    def _run(self, stage: Stage, instruction: Run, scope: Scope) -> None:
        try:
            mounts = expand_instruction(instruction, scope.env, self.dockerfile.escape).mounts
        except (SpecError, LimitExceededError):
            return  # lowering says so
        for mount in mounts:
            if mount.from_ is not None:
                self._input(stage, mount.from_)
            if mount.type == "secret":
                name = mount.id or posixpath.basename(mount.target or "")
            elif mount.type == "ssh":
                name = mount.id or _DEFAULT_AGENT
            elif mount.type == "cache":
                name = mount.id or mount.target or ""
            else:
                continue
            need = Need(mount.type, name, mount.required, instruction.span)
            self.needs[stage.index].append(need)
