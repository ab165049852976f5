"""Rules about what a Dockerfile means: its variables, its bases, what it inherits.

Each stage is walked once with the environment its words would see. A stage over an
image that is not in the store may see any variable, so none is called undefined there.
What cannot be expanded is left to the lowering, which refuses it.

Pure but for the configs of base images, which the caller looks up.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.expand import Expansion
from layerstore.build.dockerfile.syntax import (
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    Heredoc,
    Instruction,
    Run,
    Shell,
    Workdir,
)
from layerstore.build.dockerfile.variables import Variables, check_count
from layerstore.build.lint import rules
from layerstore.build.lint.rules import Finding
from layerstore.build.platforms import Platform, parse_platform, platform_args
from layerstore.errors import LimitExceededError
from layerstore.formats.reference import ReferenceSyntaxError, parse_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from layerstore.build.dockerfile.syntax import Dockerfile, SourceSpan, Stage
    from layerstore.build.ignore import IgnoreRules
    from layerstore.formats.oci_config import ImageConfig

_MAX_LIKENED = 10_000
"""Names that unknown ones of a file are compared with for a hint: half a second's worth."""

_REMOTE = ("http://", "https://", "git@", "git://", "ssh://")


class Surroundings(NamedTuple):
    """What a Dockerfile is checked against.

    Attributes:
        build_args: As for the build.
        native: The platform that builds run on.
        platform: The target's.
        find_image: Returns the config of a base image, None when it is not known.
        ignore: The rules of the context's .dockerignore.
    """

    build_args: Mapping[str, str]
    native: Platform
    platform: Platform
    find_image: Callable[[str], ImageConfig | None]
    ignore: IgnoreRules


class Scope(msgspec.Struct):
    """What a stage's words see so far.

    Attributes:
        env: Values of ENV, ARG and the base image.
        declared: Names of ARGs without a value.
        is_open: The base image is unknown: it may set any variable.
        has_shell: SHELL was used.
        has_workdir: WORKDIR was used.
    """

    env: Variables = msgspec.field(default_factory=Variables)
    declared: set[str] = msgspec.field(default_factory=set)
    is_open: bool = False
    has_shell: bool = False
    has_workdir: bool = False

    def child(self) -> Scope:
        """Return what a stage begins with that goes on from here."""
        return msgspec.structs.replace(self, env=Variables(self.env), declared=set(self.declared))

    def check(self, span: SourceSpan) -> None:
        """Refuse a scope that has grown absurdly large.

        Raises:
            LimitExceededError: As the lowering would find.
        """
        self.env.check(span)
        check_count(self.declared, span)


def meaning_findings(dockerfile: Dockerfile, around: Surroundings) -> Iterator[Finding]:
    """Yield what is wrong with the meaning of a file."""
    return StageWalk(dockerfile, around).run()


class StageWalk:
    """Walks the stages of a file, each with what its words see.

    Attributes:
        dockerfile: The file.
        globals: Values that FROM lines see.
        global_names: Names of the ARGs in front of the first FROM.
    """

    def __init__(self, dockerfile: Dockerfile, around: Surroundings) -> None:
        self.dockerfile = dockerfile
        self._around = around
        self._predefined = platform_args(around.native, around.platform) | {"TARGETSTAGE": ""}
        self.global_names = [each.name for arg in dockerfile.global_args for each in arg.args]
        self._expansion = Expansion(dockerfile.escape)
        self.globals = self._global_values(around.build_args)
        self._scopes: list[Scope] = []
        self._likened = 0

    def run(self) -> Iterator[Finding]:
        """Yield the findings of every stage, in order."""
        defaults = self._global_values({})
        for stage in self.dockerfile.stages:
            yield from self._from_arguments(stage, defaults)
            scope, findings = self._begin(stage)
            yield from findings
            for instruction in stage.instructions:
                for rule, detail in self._instruction(instruction, scope):
                    yield Finding(rule, detail, instruction.span, stage.index)
                scope.check(instruction.span)
                self.visit(stage, instruction, scope)
            self._scopes.append(scope)

    def visit(self, stage: Stage, instruction: Instruction, scope: Scope) -> None:
        """Hear of an instruction after it took effect; here nobody does."""

    def stage_before(self, stage: Stage) -> Stage | None:
        """Return the stage that a stage begins on, None when that is an image."""
        base = (self._expanded(stage.base, self.globals) or "").lower()
        earlier = reversed(self.dockerfile.stages[: stage.index])
        return next((each for each in earlier if each.name == base), None)

    def _global_values(self, build_args: Mapping[str, str]) -> Variables:
        values = Variables(self._predefined)
        values.update((name, build_args[name]) for name in values if name in build_args)
        for instruction in self.dockerfile.global_args:
            for each in instruction.args:
                value = build_args.get(each.name)
                if value is None and each.default is not None:
                    value = self._expanded(each.default, values)
                if value is not None:
                    values[each.name] = value
                    values.check(instruction.span)
        return values

    def _expanded(self, word: str, env: Mapping[str, str]) -> str | None:
        try:
            return self._expansion.word(word, env)
        except (SpecError, LimitExceededError):
            return None

    def _unset(self, word: str, env: Mapping[str, str]) -> list[str]:
        return self._expansion.unset(word, env)

    def _nearest(self, name: str, known: list[str]) -> str:
        """Return the known name most like one that is not, "" when none is or there are many."""
        from layerstore.build.dockerfile.hints import nearest

        self._likened += len(known)
        if self._likened > _MAX_LIKENED:
            return ""
        by_lower = {each.lower(): each for each in known}
        return by_lower.get(nearest(name, list(by_lower)) or "", "")

    # -- FROM

    def _from_arguments(self, stage: Stage, defaults: Mapping[str, str]) -> Iterator[Finding]:
        known = [*self.global_names, *self._predefined]
        for word in (stage.base, stage.platform or ""):
            for name in self._unset(word, self.globals):
                if name in known:
                    continue
                near = self._nearest(name, known)
                detail = f"FROM argument '{name}' is not declared"
                detail += f" (did you mean {near}?)" if near else ""
                yield Finding(rules.UNDEFINED_ARG_IN_FROM, detail, stage.span, stage.index)
        if "$" not in stage.base:
            return
        base = self._expanded(stage.base, defaults)
        if base is not None and not _is_reference(base):
            detail = (
                f"Default value for ARG {stage.base} results in empty or invalid base image name"
            )
            yield Finding(rules.INVALID_DEFAULT_ARG_IN_FROM, detail, stage.span, stage.index)

    def _begin(self, stage: Stage) -> tuple[Scope, list[Finding]]:
        """Return what a stage begins with, and what is wrong with its base."""
        base = self._expanded(stage.base, self.globals)
        if not base:
            return Scope(is_open=True), []
        parent = self.stage_before(stage)
        if parent is not None:
            return self._scopes[parent.index].child(), []
        if base == "scratch":
            return Scope(env=Variables({"PATH": ""})), []
        config = self._around.find_image(base) if _is_reference(base) else None
        if config is None:
            return Scope(is_open=True), []
        env = Variables({"PATH": ""})
        env.update(
            (name, value) for name, _, value in (e.partition("=") for e in config.config.env)
        )
        scope = Scope(env=env, has_shell=bool(config.config.shell))
        return scope, list(self._base_platform(stage, base, config))

    def _base_platform(self, stage: Stage, base: str, config: ImageConfig) -> Iterator[Finding]:
        wanted = self._around.platform
        if stage.platform is not None:
            written = self._expanded(stage.platform, self.globals)
            try:
                wanted = parse_platform(written or "", stage.span, self._around.native)
            except SpecError:
                return
        if (config.os, config.architecture) != (wanted.os, wanted.architecture):
            actual = Platform(config.os, config.architecture, config.variant)
            detail = (
                f'Base image {base} was pulled with platform "{actual}", '
                f'expected "{wanted}" for current build'
            )
            yield Finding(rules.INVALID_BASE_IMAGE_PLATFORM, detail, stage.span, stage.index)

    # -- instructions

    def _instruction(
        self, instruction: Instruction, scope: Scope
    ) -> Iterator[tuple[rules.Rule, str]]:
        if not isinstance(instruction, Arg):
            yield from self._undefined(_words(instruction), scope)
        match instruction:
            case Arg():
                yield from self._arg(instruction, scope)
            case Env():
                self._env(instruction, scope)
            case Shell():
                scope.has_shell = True
            case Cmd() | Entrypoint():
                if instruction.command.shell is not None and not scope.has_shell:
                    detail = (
                        f"JSON arguments recommended for {instruction.KEYWORD} to prevent "
                        "unintended behavior related to OS signals"
                    )
                    yield rules.JSON_ARGS_RECOMMENDED, detail
            case Workdir():
                yield from self._workdir(instruction, scope)
            case Expose():
                yield from self._expose(instruction, scope)
            case Copy() | Add():
                yield from self._ignored(instruction, scope)
            case _:
                pass

    def _undefined(self, words: Iterable[str], scope: Scope) -> Iterator[tuple[rules.Rule, str]]:
        if scope.is_open:
            return
        told: set[str] = set()
        for word in words:
            for name in self._unset(word, scope.env):
                if name in scope.declared or name in told:
                    continue
                told.add(name)
                near = self._nearest(name, [*scope.env, *scope.declared])
                detail = f"Usage of undefined variable '${name}'"
                yield rules.UNDEFINED_VAR, detail + (f" (did you mean ${near}?)" if near else "")

    def _arg(self, instruction: Arg, scope: Scope) -> Iterator[tuple[rules.Rule, str]]:
        for each in instruction.args:
            yield from self._undefined([each.name, each.default or ""], scope)
            value = self._around.build_args.get(each.name)
            if value is None and each.default is not None:
                value = self._expanded(each.default, scope.env)
            if value is None:
                value = self.globals.get(each.name)
            if value is None:
                scope.declared.add(each.name)
            else:
                scope.env[each.name] = value

    def _env(self, instruction: Env, scope: Scope) -> None:
        values = [
            (self._expanded(pair.key, scope.env), self._expanded(pair.value, scope.env))
            for pair in instruction.pairs
        ]
        scope.env.update((key, value or "") for key, value in values if key)

    def _workdir(self, instruction: Workdir, scope: Scope) -> Iterator[tuple[rules.Rule, str]]:
        path = self._expanded(instruction.path, scope.env)
        is_known = path is not None and not (scope.is_open and "$" in instruction.path)
        if is_known and not scope.has_workdir and not (path or "").startswith("/"):
            detail = (
                f'Relative workdir "{path}" can have unexpected results if the base image changes'
            )
            yield rules.WORKDIR_RELATIVE_PATH, detail
        scope.has_workdir = True

    def _expose(self, instruction: Expose, scope: Scope) -> Iterator[tuple[rules.Rule, str]]:
        for word in instruction.ports:
            for port in (self._expanded(word, scope.env) or "").split():
                spec, _, protocol = port.partition("/")
                if protocol != protocol.lower():
                    detail = f"Defined protocol '{port}' in EXPOSE instruction should be lowercase"
                    yield rules.EXPOSE_PROTO_CASING, detail
                if ":" in spec:
                    detail = (
                        "EXPOSE instruction should not define an IP address or host-port mapping, "
                        f"found '{port}'"
                    )
                    yield rules.EXPOSE_INVALID_FORMAT, detail

    def _ignored(self, instruction: Copy | Add, scope: Scope) -> Iterator[tuple[rules.Rule, str]]:
        ignore = self._around.ignore
        if not ignore or (isinstance(instruction, Copy) and instruction.from_ is not None):
            return
        for word in instruction.sources:
            source = self._expanded(word, scope.env) or ""
            path = posixpath.normpath(source).lstrip("/")
            if path in ("", ".") or source.startswith(_REMOTE):
                continue
            if ignore.excluded(path) and not ignore.may_contain_included(path):
                verb = instruction.KEYWORD.capitalize()
                verb = "Copy" if verb == "Copy" else "Add"
                detail = f'Attempting to {verb} file "{source}" that is excluded by .dockerignore'
                yield rules.COPY_IGNORED_FILE, detail


def _words(instruction: Instruction) -> Iterator[str]:
    """Yield every text of an instruction that variables are expanded in."""
    for name in instruction.EXPANDED_FIELDS:
        value = getattr(instruction, name)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, str):
                yield each
            elif isinstance(each, Heredoc):
                if each.expand:
                    # Quotes mean nothing in a here-document: hide them from the expansion.
                    yield each.text().replace('"', "").replace("'", "")
            elif name == "pairs":
                yield each.key
                yield each.value
    if isinstance(instruction, Run):
        yield from (mount.raw for mount in instruction.mounts if not mount.resolved)


def _is_reference(text: str) -> bool:
    try:
        parse_reference(text)
    except ReferenceSyntaxError:
        return False
    return True
