"""Named contexts in the lowering: what ``--build-context NAME=...`` puts in a name's place.

A name stands for a stage, wherever the Dockerfile means one of that name, or for an image.
What is no image begins with an empty config, as ``scratch`` does.

Source: buildx' --build-context; BuildKit, frontend/dockerui/namedcontext.go (behaviour).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from layerstore.build.contexts import (
    GitContext,
    ImageContext,
    LayoutContext,
    StageContext,
    UrlContext,
    context_key,
    git_op,
)
from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.graph import BaseOp, ContextOp, CopyOp, HttpOp, Vertex
from layerstore.build.stage import StageState
from layerstore.net.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from layerstore.build.contexts import NamedSource
    from layerstore.build.dockerfile.syntax import SourceSpan
    from layerstore.build.lower import Lowering

URL_FILE = "context"
"""What the file behind a URL is called, as under BuildKit."""


class NamedContexts:
    """The named contexts of one lowering.

    Args:
        lowering: Knows stages, images and remote sources.
        sources: By the names that they were given.
    """

    def __init__(self, lowering: Lowering, sources: Mapping[str, NamedSource]) -> None:
        self._lowering = lowering
        self._sources = {context_key(name): (name, sources[name]) for name in sources}
        self._states: dict[str, StageState] = {}
        self._vertices: dict[str, Vertex] = {}

    def has(self, name: str) -> bool:
        """Return whether something is put in a name's place."""
        return bool(self._sources) and context_key(name) in self._sources

    def vertex(self, name: str, span: SourceSpan) -> Vertex:
        """Return the root that ``--from=name`` means.

        Raises:
            SpecError: There is no such image or stage.
        """
        key = context_key(name)
        if key not in self._vertices:
            self._vertices[key] = self._vertex(key, span)
        return self._vertices[key]

    def _vertex(self, key: str, span: SourceSpan) -> Vertex:
        given, source = self._sources[key]
        match source:
            case Path():
                return Vertex(ContextOp(given), (), None)
            case GitContext(source=git, text=text):
                return self._lowering.remote(git_op(git), redacted(text), span)
            case UrlContext(url=url):
                return self._lowering.remote(HttpOp(url, URL_FILE, ""), redacted(url), span)
            case _:
                return self.state(key, span).vertex

    def state(self, name: str, span: SourceSpan) -> StageState:
        """Return what ``FROM name``, or a stage that is called so, means.

        Raises:
            SpecError: There is no such image or stage.
        """
        key = context_key(name)
        if key not in self._states:
            self._states[key] = self._state(key, span)
        return self._states[key]

    def _state(self, key: str, span: SourceSpan) -> StageState:
        given, source = self._sources[key]
        match source:
            case ImageContext(reference=reference):
                return StageState(*self._lowering.image_root(reference, span))
            case LayoutContext():
                config = self._lowering.images.layout(source)
                label = f"[context {given}] FROM {source.path}"
                return StageState(Vertex(BaseOp(config.diff_ids), (), span, label), config)
            case StageContext(stage=stage):
                return self._stage(stage, span)
            case _:
                return self._begun_with(given, self.vertex(key, span), span)

    def _stage(self, name: str, span: SourceSpan) -> StageState:
        stage = self._lowering.dockerfile.stage_named(name)
        if stage is None:
            raise SpecError(f"there is no stage {name!r} for a build context", span)
        return self._lowering.stage_state(stage)

    def _begun_with(self, given: str, source: Vertex, span: SourceSpan) -> StageState:
        """Return a stage that begins with files, and nothing else, as with ``scratch``."""
        empty = Vertex(BaseOp(()), (), span)
        op = CopyOp(
            sources=("/",), documents=(), dest="/", owner="", mode="",
            unpack=False, parents=False, link=False, exclude=(),
        )  # fmt: skip
        vertex = Vertex(op, (empty, source), span, f"[context {given}] load")
        state = StageState(vertex, self._lowering.empty_config())
        state.add_layer(vertex, f"FROM {given} # build context")
        return state
