"""From the records of a spec to the build graph.

A stage is made in one order, whatever the order of its keys: base, apt, pip and npm side by
side, users, working directory, npm's project, files by destination, commands, further steps.
What many images share comes first, and packages see nothing of a stage but its base, so equal
sets over equal bases are equal layers. Stages are lowered when something asks for them. Nothing
runs here; configs of base images and files that name packages are read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from layerstore.build.base_images import base_config
from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.hints import nearest
from layerstore.build.graph import (
    BaseOp,
    ContextOp,
    Op,
    Vertex,
)
from layerstore.build.lower import SCRATCH, scratch_config
from layerstore.build.native.container import apply_config
from layerstore.build.native.limits import MAX_STAGES, limit_exceeded
from layerstore.build.native.stages import FINAL, SHOWN_FINAL, Made, StageLowering
from layerstore.build.platforms import normalized

if TYPE_CHECKING:
    from layerstore.build.dockerfile.syntax import Notice, SourceSpan
    from layerstore.build.lower_options import Images, LowerOptions
    from layerstore.build.native.bases import Sources
    from layerstore.build.native.lockfile import Locks
    from layerstore.build.native.reader import Node
    from layerstore.build.native.spec import Spec
    from layerstore.build.stage import StageState
    from layerstore.formats.oci_config import ImageConfig


class Graph:
    """Makes vertices, equal ones only once, so that variants have their common steps in common."""

    def __init__(self) -> None:
        self._known: dict[tuple[Op, tuple[int, ...]], Vertex] = {}
        self.context = self.vertex(ContextOp(), ())

    def vertex(
        self,
        op: Op,
        inputs: tuple[Vertex, ...],
        span: SourceSpan | None = None,
        label: str = "",
        original: str = "",
    ) -> Vertex:
        """Return the vertex of an operation over its inputs; the first one's label stays."""
        key = (op, tuple(map(id, inputs)))
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = Vertex(op, inputs, span, label, original)
        return known


class Lowered(NamedTuple):
    """A lowered spec.

    Attributes:
        state: The target stage at its end.
        notices: What is worth a word.
    """

    state: StageState
    notices: tuple[Notice, ...]


class Lowering:
    """Lowers one variant of a spec.

    Args:
        spec: The records.
        node: The values they were decoded from, for places.
        options: What the command line says.
        epoch: SOURCE_DATE_EPOCH.
        images: Finds base images.
        sources: Knows what is in them and in the build context.
        locks: Knows what package sets were resolved to.
        graph: Makes vertices.
    """

    def __init__(
        self,
        spec: Spec,
        node: Node,
        options: LowerOptions,
        epoch: int | None,
        images: Images,
        sources: Sources,
        locks: Locks,
        graph: Graph,
    ) -> None:
        self.spec = spec
        self.node = node
        self.options = options
        self.epoch = epoch
        self.images = images
        self.sources = sources
        self.locks = locks
        self.graph = graph
        self.notices: list[Notice] = []
        self._made: dict[str, Made] = {}
        self._open: list[str] = []
        if len(spec.stages) > MAX_STAGES:
            raise limit_exceeded(node.span_of("stages"), "too many stages", MAX_STAGES)

    def run(self) -> Lowered:
        """Return the target stage.

        Raises:
            SpecError: The spec asks for something impossible; has the place.
        """
        for name in self.options.no_cache_stages:
            if name != SHOWN_FINAL:
                self._require_stage(name, self.node.span_of("stages"))
        target = self.options.target or FINAL
        made = self.stage(target, self.node.span_of("stages"))
        state = made.state
        if self.options.labels:
            labels = {**state.config.labels, **self.options.labels}
            state.config = msgspec.structs.replace(state.config, labels=labels)
        return Lowered(state, tuple(self.notices))

    @property
    def needed(self) -> set[str]:
        """The stages that were lowered."""
        return set(self._made)

    def stage(self, name: str, span: SourceSpan) -> Made:
        """Return a stage's end, lowering it when somebody asks for the first time."""
        known = self._made.get(name)
        if known is not None:
            return known
        self._require_stage(name, span)
        if name in self._open:
            cycle = " needs ".join([*self._open[self._open.index(name) :], name])
            raise SpecError(f"stages need each other: {cycle}", span)
        self._open.append(name)
        node = self.node if name == FINAL else self.node.at("stages", name)
        assert node is not None
        record = self.spec if name == FINAL else self.spec.stages[name]
        made = StageLowering(self, name, record, node).run()
        if name == FINAL:
            apply_config(made.state, self.spec, self.node)
        self._open.pop()
        self._made[name] = made
        return made

    def _require_stage(self, name: str, span: SourceSpan) -> None:
        if name == FINAL or name in self.spec.stages:
            return
        near = nearest(name, list(self.spec.stages))
        hint = f"did you mean {near}?" if near else None
        if hint is None and self.spec.stages:
            hint = "the stages are " + ", ".join(self.spec.stages)
        raise SpecError(f"there is no stage {name!r}", span, hint=hint)

    def image(self, name: str, span: SourceSpan) -> tuple[Vertex, ImageConfig]:
        """Return an image of the store, or the empty root for ``scratch``."""
        config = self.image_config(name, span)
        layers = config.diff_ids
        return self.graph.vertex(BaseOp(layers), (), span, f"FROM {name}"), config

    def image_config(self, name: str, span: SourceSpan) -> ImageConfig:
        """Return the config of an image of the store."""
        if name == SCRATCH:
            return scratch_config(self.options.platform)
        wanted = self.options.platform if self.options.is_platform_given else None
        config = base_config(name, self.options, self.images, span, platform=wanted)
        found = normalized(config.os, config.architecture, config.variant)
        if self.options.is_platform_given and not found.serves(self.options.platform):
            raise SpecError(
                f"{name} is an image for {found}, not for {self.options.platform}", span
            )
        return config

    def source(self, stage: str, image: str, span: SourceSpan) -> Vertex:
        """Return what ``stage`` or ``image`` names, the build context if neither does."""
        if stage and image:
            raise SpecError("copy from a stage or from an image, not from both", span)
        if stage:
            return self.stage(stage, span).state.vertex
        return self.image(image, span)[0] if image else self.graph.context
