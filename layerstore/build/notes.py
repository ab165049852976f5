"""Keeps, while a build goes on, what later questions need: of every step its facts and keys.

The solver tells of each step; what is to be remembered with a key comes back from here.
On request the watcher is told why a step must run. A step that is cached costs one small
object. Calls may come from several threads, for different steps at a time.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from layerstore.build.cache_key import key_rules
from layerstore.build.cache_value import alias_of, encode_alias
from layerstore.build.labels import text_of
from layerstore.build.records import TEXT_MAX, BuildNote, BuildRecords, StepNote
from layerstore.digest import DiffId, Digest
from layerstore.printable import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from layerstore.build.earlier import Earlier
    from layerstore.build.facts import Facts, Selection
    from layerstore.build.graph import Vertex
    from layerstore.build.solver import Made, Result
    from layerstore.build.ui import BuildUi, Reason
    from layerstore.formats.build_cache import CachedStep
    from layerstore.store.records import CacheRecord
    from layerstore.store.store import Store
    from layerstore.store.writing.session import WriteSession


class Selecting(Protocol):
    """Knows the files that steps take."""

    @property
    def session(self) -> WriteSession:
        """The build's session."""

    def selections(self, vertex: Vertex, inputs: Sequence[Result]) -> list[Selection]:
        """Return the files that a step takes from its inputs, as its content key has them."""


class NotesSettings(NamedTuple):
    """What is the same for all steps of a build.

    Attributes:
        context: Which build context it is, as the user would recognise it.
        dockerfile: Which spec.
        images: Ids of base images by reference, filled by the lowering.
        explain: Tell the watcher why steps run.
        use_cache: Whether steps may come from the cache.
    """

    context: str
    dockerfile: str
    target: str
    names: tuple[str, ...]
    images: Mapping[str, str]
    epoch: int | None
    explain: bool
    use_cache: bool


class Notes:
    """See the module.

    Args:
        store: Where earlier builds are looked up.
        executor: The build's.
        settings: Of the build.
        ui: Hears why steps run.
    """

    def __init__(
        self, store: Store, executor: Selecting, settings: NotesSettings, ui: BuildUi
    ) -> None:
        self._store = store
        self._executor = executor
        self._settings = settings
        self._ui = ui
        self._records = BuildRecords(store.paths)
        self._began = time.monotonic()
        self._vertices: dict[int, Vertex] = {}
        self._steps: dict[int, StepNote] = {}
        self._facts: dict[int, Facts] = {}
        self._earlier: Earlier | None = None

    def planned(self, vertices: Mapping[int, Vertex]) -> None:
        """Hear of the steps by their numbers, before the first one."""
        self._vertices = dict(vertices)

    def hit(self, number: int, vertex: Vertex, keys: Sequence[str], record: CacheRecord) -> None:
        """Hear of a step that is cached, and which keys it has."""
        alias = alias_of(record.value)
        known = tuple(keys) if alias is None else (*keys, alias)
        self._steps[number] = _note(vertex, known, record.diff_id, record.created, cached=True)

    def missed(
        self, number: int, vertex: Vertex, inputs: Sequence[Result], keys: Sequence[str]
    ) -> None:
        """Hear of a step that is to run; its files were read for its keys."""
        from layerstore.build.facts import facts_of  # a cached build pays for none of it

        facts = facts_of(
            vertex,
            [each.layers for each in inputs],
            self._executor.selections(vertex, inputs),
            rules=key_rules(vertex.op),
            epoch=self._settings.epoch,
            images=self._settings.images,
        )
        self._facts[number] = facts
        # Until it is made it counts as failed; whoever ends the build need not know how far it got.
        self._steps[number] = _note(vertex, (), None, 0.0, cached=False)
        if self._settings.explain:
            self._ui.explained(number, vertex.label, self._why(number, facts, keys))

    def made(
        self, number: int, vertex: Vertex, keys: Sequence[str], made: Made, *,
        seconds: float, created: float,
    ) -> list[bytes]:  # fmt: skip
        """Hear of a step that was made; return what to remember with each of its keys."""
        from layerstore.build.facts import encode_facts

        self._steps[number] = _note(vertex, tuple(keys), made.diff_id, created, cached=False)
        facts = msgspec.structs.replace(
            self._facts.pop(number),
            seconds=round(seconds, 3),
            new_bytes=made.new_bytes,
            reused_bytes=made.reused_bytes,
            ran=round(time.time(), 3),
        )
        return [*(encode_alias(keys[-1]) for _ in keys[:-1]), encode_facts(facts)]

    def finish(self, images: Sequence[str]) -> None:
        """Remember the build.

        Args:
            images: Ids of what was built; none when the build failed.
        """
        if not self._steps:
            return
        settings = self._settings
        build = BuildNote(
            images=tuple(images),
            names=settings.names,
            target=settings.target,
            context=settings.context,
            dockerfile=settings.dockerfile,
            finished=time.time(),
            seconds=round(time.monotonic() - self._began, 3),
            steps=tuple(self._steps[number] for number in sorted(self._steps)),
        )
        self._records.add(build, lambda: self._executor.session.temporary("record"))

    def numbers_of(self, identities: Collection[int]) -> set[int]:
        """Return the numbers of the steps that vertices are, given by their ``id``."""
        return {number for number, each in self._vertices.items() if id(each) in identities}

    def steps(self, numbers: Collection[int] | None = None) -> Iterator[CachedStep]:
        """Yield what the build knows of its steps that ended well, under each of their keys.

        Args:
            numbers: Of which steps; None for all.
        """
        from layerstore.formats.build_cache import CachedStep

        for number, step in sorted(self._steps.items()):
            if numbers is None or number in numbers:
                layer = None if step.layer is None else DiffId(Digest(step.layer))
                for key in step.keys:
                    yield CachedStep(key, layer, step.created)

    def _why(self, number: int, facts: Facts, keys: Sequence[str]) -> list[Reason]:
        from layerstore.build.earlier import Earlier
        from layerstore.build.explain import NO_CACHE

        if not self._settings.use_cache or self._vertices[number].no_cache:
            return [NO_CACHE]
        if self._earlier is None:
            steps = [(each.label, text_of(each.label)) for each in self._vertices.values()]
            builds = self._records.of_spec(self._settings.context, self._settings.dockerfile)
            self._earlier = Earlier(self._store, builds, steps)
        position = list(self._vertices).index(number)
        return self._earlier.why(position, facts, keys)


def _note(
    vertex: Vertex, keys: tuple[str, ...], layer: str | None, created: float, *, cached: bool
) -> StepNote:
    text = text_of(vertex.label)[:TEXT_MAX]
    span = vertex.span
    file = "" if span is None else printable(span.file)
    line = 0 if span is None else span.line
    return StepNote(vertex.label, text, keys, layer, created, cached, file, line)
