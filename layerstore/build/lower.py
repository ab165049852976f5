"""From the syntax tree to the build graph.

One stage after another, and only those that the target needs: a stage is lowered when
something asks for it. Every word is expanded here, so the graph holds what will happen
and nothing that depends on how it was written. Nothing runs and no file is read, but
base images are looked up, because their config decides what instructions mean.

Source: Dockerfile reference; BuildKit, frontend/dockerfile/dockerfile2llb (behaviour).
"""

from __future__ import annotations

from collections import ChainMap
from typing import TYPE_CHECKING

import msgspec

from layerstore.build.base_images import base_config
from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.expand import Expansion
from layerstore.build.dockerfile.hints import suggestion
from layerstore.build.dockerfile.lexer import check_frontend
from layerstore.build.dockerfile.parser import parse_instruction
from layerstore.build.dockerfile.syntax import (
    Add,
    Arg,
    Copy,
    Env,
    Label,
    Notice,
    Run,
    SourceSpan,
    StageInstruction,
    Workdir,
)
from layerstore.build.dockerfile.variables import Variables, check_count
from layerstore.build.go_text import is_true
from layerstore.build.graph import BaseOp, ContextOp, MkdirOp, Op, RemoteOp, Vertex
from layerstore.build.lower_config import apply_config, with_labels, with_triggers
from layerstore.build.lower_contexts import NamedContexts
from layerstore.build.lower_copy import copy_history, lower_copy
from layerstore.build.lower_options import (
    DISABLE_ONBUILD_ARG,
    MEANINGFUL_ARGS,
    PROXY_ARGS,
    SYNTAX_ARG,
    Plan,
)
from layerstore.build.lower_run import lower_run
from layerstore.build.platforms import Platform, normalized, parse_platform, platform_args
from layerstore.build.stage import StageState
from layerstore.formats.oci_config import ImageConfig
from layerstore.net.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from layerstore.build.dockerfile.syntax import Dockerfile, Stage
    from layerstore.build.lower_options import Images, LowerOptions

SCRATCH = "scratch"


def lower(dockerfile: Dockerfile, options: LowerOptions, images: Images) -> Plan:
    """Return the graph of the target stage.

    Raises:
        SpecError: The Dockerfile asks for something impossible or not supported; has the place.
    """
    frontend = options.build_args.get(SYNTAX_ARG)
    if frontend is not None:
        check_frontend(frontend, SourceSpan(f"--build-arg {SYNTAX_ARG}", 1, 1, 1, frontend))
    lowering = Lowering(dockerfile, options, images)
    state = lowering.stage_state(target_stage(dockerfile, options.target))
    if options.labels:
        state.config = with_labels(state, options.labels)
    unused, stages = lowering.unused_args(), lowering.stages_done()
    return Plan(state, unused, stages, notices=tuple(lowering.notices))


def target_stage(dockerfile: Dockerfile, name: str | None, *, without_cache: str = "") -> Stage:
    """Return the stage to build, the last one if none is named.

    Raises:
        SpecError: There is no such stage.
    """
    stages = dockerfile.stages
    if not name:
        return stages[-1]
    stage = dockerfile.stage_named(name)
    if stage is None:
        names = [each.name for each in stages if each.name]
        known = f"the Dockerfile has: {', '.join(names)}" if names else "no stage has a name"
        hint = suggestion(name, names, known)
        message = f"there is no stage {name!r} to build{without_cache}"
        raise SpecError(message, stages[0].span, hint=hint)
    return stage


_NESTED_STAGES = 50
"""Stages that may wait for each other."""


def _asked_for(stage: Stage) -> Iterator[str]:
    """Yield the names that a stage builds on and takes files from, as written."""
    if not stage.from_.base.isdigit():  # which is an image
        yield stage.from_.base
    for instruction in stage.instructions:
        if isinstance(instruction, Copy) and instruction.from_ is not None:
            yield instruction.from_
        elif isinstance(instruction, Run):
            yield from (mount.from_ for mount in instruction.mounts if mount.from_ is not None)


class Lowering:
    """The state of one :func:`lower`."""

    def __init__(self, dockerfile: Dockerfile, options: LowerOptions, images: Images) -> None:
        self.dockerfile = dockerfile
        self.options = options
        self.expansion = Expansion(dockerfile.escape)
        self.context = Vertex(ContextOp(), (), None)
        self.images = images
        self.contexts = NamedContexts(self, options.contexts)
        self.notices: list[Notice] = []
        self._done: dict[int, StageState] = {}
        self._begun: set[int] = set()
        self._declared: set[str] = set()
        self._image_roots: dict[tuple[str, Platform | None], tuple[Vertex, ImageConfig]] = {}
        self._remotes: dict[RemoteOp, Vertex] = {}
        self._globals = self._global_args()
        self.no_cache_stages = {self._no_cache_stage(name) for name in options.no_cache_stages}

    def _no_cache_stage(self, name: str) -> int:
        if self.dockerfile.stage_named(name) is None:
            name = name.removeprefix("stage-")  # what progress calls one without a name
        return target_stage(self.dockerfile, name, without_cache=" without the cache").index

    def unused_args(self) -> tuple[str, ...]:
        """Return build arguments that no ARG took and that mean nothing by themselves."""
        known = self._declared | MEANINGFUL_ARGS
        return tuple(
            name
            for name in sorted(self.options.build_args)
            if name not in known and name.lower() not in PROXY_ARGS
        )

    def stages_done(self) -> frozenset[int]:
        """Return the numbers of the stages that something has asked for."""
        return frozenset(self._done)

    def stage_state(self, stage: Stage) -> StageState:
        """Return a stage's end, lowering it first if nobody has asked before."""
        if not self._begun:
            self._begin_far_below(stage)
        known = self._done.get(stage.index)
        if known is None:
            self._refuse_circles(stage)
            self._begun.add(stage.index)
            if stage.name and self.contexts.has(stage.name):
                known = self.contexts.state(stage.name, stage.span)
            else:
                known = _StageLowering(self, stage).run()
            self._done[stage.index] = known
        return known

    def _begin_far_below(self, target: Stage) -> None:
        """Lower what very many stages need from the first on, so that none waits for a long chain.

        One stage asks for another while it is lowered; a thousand that do would be too many calls.
        """
        needed = {target.index}
        todo = [target]
        while todo:
            stage = todo.pop()
            for name in _asked_for(stage):
                earlier = None if self.contexts.has(name) else self.dockerfile.stage_named(name)
                if earlier is not None and earlier.index >= stage.index:
                    earlier = self.stage_before(name, stage)
                if earlier is not None and earlier.index not in needed:
                    needed.add(earlier.index)
                    todo.append(earlier)
        if len(needed) > _NESTED_STAGES:
            for index in sorted(needed):
                self.stage_state(self.dockerfile.stages[index])

    def _refuse_circles(self, stage: Stage) -> None:
        """Refuse a stage that needs itself, which named contexts make possible."""
        if stage.index in self._begun:
            raise SpecError(f"the stage {stage.name!r} would be built from itself", stage.span)

    def empty_config(self) -> ImageConfig:
        """Return the config that ``FROM scratch`` begins with."""
        return scratch_config(self.options.platform)

    def stage_before(self, name: str, current: Stage) -> Stage | None:
        """Return the last stage of that name in front of ``current``, which FROM may name."""
        wanted = name.lower()
        for stage in reversed(self.dockerfile.stages[: current.index]):
            if stage.name == wanted:
                return stage
        return None

    def source_root(self, name: str, current: Stage, span: SourceSpan) -> Vertex:
        """Return the root that ``--from=name`` means: a stage, an image, or nothing.

        Raises:
            SpecError: A stage that comes later, or no such image.
        """
        if self.contexts.has(name):
            return self.contexts.vertex(name, span)
        stage = self.dockerfile.stage_named(name)
        if stage is not None:
            if stage.index >= current.index:
                raise SpecError(
                    f"cannot copy from the stage {name!r}: it must stand before this one", span
                )
            return self.stage_state(stage).vertex
        if name.isascii() and name.isdigit():
            count = len(self.dockerfile.stages)
            raise SpecError(f"there is no stage number {name}: the file has {count}", span)
        return self.image_root(name, span)[0]

    def image_root(
        self, reference: str, span: SourceSpan, platform: Platform | None = None
    ) -> tuple[Vertex, ImageConfig]:
        """Return a stored image, or the empty root for ``scratch``.

        Args:
            reference: The image.
            span: Where it is asked for.
            platform: That it must be for; None for any. ``scratch`` is for that, or for the
                result's.

        Raises:
            SpecError: No such image.
        """
        known = self._image_roots.get((reference, platform))
        if known is None:
            if reference == SCRATCH:
                config = scratch_config(platform or self.options.platform)
            else:
                config = base_config(
                    reference, self.options, self.images, span,
                    hint=self._nearest_stage(reference), platform=platform,
                )  # fmt: skip
            vertex = Vertex(BaseOp(config.diff_ids), (), span, f"FROM {reference}")
            known = self._image_roots[reference, platform] = (vertex, config)
        return known

    def _nearest_stage(self, reference: str) -> str:
        """Return the hint for what is neither a stage nor an image."""
        names = [stage.name for stage in self.dockerfile.stages if stage.name]
        known = f"get it first: layerstore import ROOTFS.tar -t {reference}"
        return suggestion(reference, names, known)

    def remote(self, op: RemoteOp, label: str, span: SourceSpan) -> Vertex:
        """Return the vertex of a remote source, which is fetched once however often it stands."""
        if op not in self._remotes:
            self._remotes[op] = Vertex(op, (), span, f"[fetch] {label}")
        return self._remotes[op]

    @property
    def ignores_triggers(self) -> bool:
        """Whether ONBUILD of bases is to be passed over."""
        return is_true(self.options.build_args.get(DISABLE_ONBUILD_ARG, ""))

    def global_env(self) -> Mapping[str, str]:
        """Return what FROM may use."""
        return self._globals

    def arg_value(self, name: str, default: str | None) -> str | None:
        """Return the value that an ARG of a stage gets; ``default`` is expanded."""
        self._declared.add(name)
        if name in self.options.build_args:
            return self.options.build_args[name]
        return self._globals.get(name) if default is None else default

    def _global_args(self) -> Variables:
        values = Variables(platform_args(self.options.native, self.options.platform))
        last = self.dockerfile.stages[-1]
        values["TARGETSTAGE"] = self.options.target or last.name or "default"
        for name in values:
            if name in self.options.build_args:
                self._declared.add(name)
                values[name] = self.options.build_args[name]
        for instruction in self.dockerfile.global_args:
            for definition in instruction.args:
                self._declared.add(definition.name)
                value = self.options.build_args.get(definition.name)
                if value is None and definition.default is not None:
                    value = self.expansion.word(definition.default, values, instruction.span)
                if value is not None:
                    values[definition.name] = value
                    values.check(instruction.span)
        return values


class _StageLowering:
    """One stage on its way into the graph."""

    def __init__(self, lowering: Lowering, stage: Stage) -> None:
        self._lowering = lowering
        self._stage = stage
        self._number = 0
        self._total = 1 + sum(isinstance(each, _WITH_LAYER) for each in stage.instructions)

    def run(self) -> StageState:
        """Lower every instruction."""
        state = self._begin()
        triggers = state.take_triggers()
        for trigger in () if self._lowering.ignores_triggers else triggers:
            inner = parse_instruction(trigger)
            self._apply(state, msgspec.structs.replace(inner, span=self._stage.span))
        for instruction in self._stage.instructions:
            self._apply(state, instruction)
        return state

    def _begin(self) -> StageState:
        stage, lowering = self._stage, self._lowering
        from_ = lowering.expansion.instruction(stage.from_, lowering.global_env())
        self._number += 1
        parent = self._parent(from_.base)
        if parent is not None:
            state = parent.child()
            state.config = with_triggers(state, parent.config.on_build)
            return state
        platform = _wanted_platform(from_.platform, stage, lowering.options)
        vertex, config = lowering.image_root(from_.base, stage.span, platform)
        if platform is not None:
            _check_platform(from_.base, platform, config, stage)
        vertex.label = vertex.label or self._label(f"FROM {from_.base}")
        return StageState(vertex, config)

    def _parent(self, base: str) -> StageState | None:
        """Return the stage or named context that the stage begins with, None for an image."""
        lowering = self._lowering
        if lowering.contexts.has(base):
            return lowering.contexts.state(base, self._stage.span)
        stage = lowering.stage_before(base, self._stage)
        return None if stage is None else lowering.stage_state(stage)

    def _apply(self, state: StageState, raw: StageInstruction) -> None:
        # ARG defaults are expanded one by one, so that a later one sees an earlier one.
        instruction = (
            raw if isinstance(raw, Arg) else self._lowering.expansion.instruction(raw, state.env)
        )
        match instruction:
            case Arg():
                self._declare(state, instruction)
            case Env():
                state.set_env([(pair.key, pair.value) for pair in instruction.pairs])
                state.env.check(instruction.span)
            case Label():
                state.set_labels([(pair.key, pair.value) for pair in instruction.pairs])
            case Run():
                self._run(state, instruction)
            case Copy() | Add():
                self._copy(state, instruction)
            case Workdir():
                self._workdir(state, instruction)
            case _:
                apply_config(state, instruction)

    def _declare(self, state: StageState, instruction: Arg) -> None:
        lowering, span = self._lowering, instruction.span
        declared: list[tuple[str, str | None]] = []
        values = Variables()
        env = ChainMap[str, str](values, state.env)
        for definition in instruction.args:
            default = definition.default
            if default is not None and definition.name not in lowering.options.build_args:
                default = lowering.expansion.word(default, env, span)
            name = lowering.expansion.word(definition.name, env, span)
            value = lowering.arg_value(name, default)
            declared.append((name, value))
            if value is not None:
                values[name] = value
                values.check(span)
        state.declare_args(declared)
        state.env.check(span)
        check_count(state.build_args, span)

    def _workdir(self, state: StageState, instruction: Workdir) -> None:
        if not instruction.path:  # which docker takes in silence
            message = f"{instruction.original} expands to nothing: the working directory stays"
            self._lowering.notices.append(Notice(message, instruction.span))
        path = state.absolute(instruction.path)
        user = state.config.user
        state.set_workdir(path)
        if path == "/":
            state.note(f"WORKDIR {path}")
            return
        vertex = self._vertex(MkdirOp(path, user), (state.vertex,), instruction)
        state.add_layer(vertex, f"WORKDIR {path}")

    def _run(self, state: StageState, instruction: Run) -> None:
        op, inputs = lower_run(self._lowering, self._stage, state, instruction)
        vertex = self._vertex(op, inputs, instruction)
        image = state.image
        vertex.platform = normalized(image.os, image.architecture, image.variant)
        history = state.run_history(op.args)
        put_in = len(history) + sum(map(len, op.env))
        self._lowering.expansion.charge(put_in, instruction.span)
        state.add_layer(vertex, history)

    def _copy(self, state: StageState, instruction: Copy | Add) -> None:
        op, inputs = lower_copy(self._lowering, self._stage, state, instruction)
        vertex = self._vertex(op, inputs, instruction)
        state.add_layer(vertex, copy_history(instruction))

    def _vertex(self, op: Op, inputs: tuple[Vertex, ...], instruction: StageInstruction) -> Vertex:
        self._number += 1
        label = self._label(redacted(instruction.original))
        vertex = Vertex(op, inputs, instruction.span, label, instruction.original)
        vertex.no_cache = self._stage.index in self._lowering.no_cache_stages
        return vertex

    def _label(self, text: str) -> str:
        name = f"{self._stage.name} " if self._stage.name else ""
        if not name and len(self._lowering.dockerfile.stages) > 1:
            name = f"stage-{self._stage.index} "
        if self._lowering.options.shown:
            name = f"{self._lowering.options.shown} {name}"
        return f"[{name}{self._number}/{max(self._total, self._number)}] {text}"


_WITH_LAYER = (Run, Copy, Add, Workdir)


def scratch_config(platform: Platform) -> ImageConfig:
    """Return the config that ``FROM scratch`` begins with, as BuildKit's does."""
    empty = ImageConfig(
        architecture=platform.architecture, os=platform.os, variant=platform.variant
    )
    return _config_with(empty, working_dir="/")


def _wanted_platform(text: str | None, stage: Stage, options: LowerOptions) -> Platform | None:
    """Return the platform that a FROM asks for; None for that of the image, whatever it is."""
    if text is not None:
        return parse_platform(text, stage.from_.flag_span("platform"), options.native)
    return options.platform if options.is_platform_given else None


def _check_platform(base: str, wanted: Platform, config: ImageConfig, stage: Stage) -> None:
    found = normalized(config.os, config.architecture, config.variant)
    if not found.serves(wanted):
        raise SpecError(
            f"{base} is an image for {found}, not for {wanted}",
            stage.from_.flag_span("platform"),
            hint=f"put an image for {wanted} into the store under another name",
        )


def _config_with(image: ImageConfig, **changes: object) -> ImageConfig:
    return msgspec.structs.replace(image, config=msgspec.structs.replace(image.config, **changes))
