"""Walks the graph: what is in the cache is taken from there, the rest is executed.

Vertices are solved one after another, each after its inputs. A vertex needs nothing
but its inputs' results, and an :class:`Executor` carries out one operation without
knowing the others, so branches can run side by side once an executor allows it.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from layerstore.build.cache_key import layers_input, step_key
from layerstore.build.graph import (
    BaseOp,
    ContextOp,
    MergeOp,
    RemoteOp,
    topological,
)
from layerstore.build.merging import own_layers
from layerstore.build.ui import StepOutcome
from layerstore.build.vertex_keys import vertex_keys
from layerstore.store.records import CacheRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from layerstore.build.graph import Vertex
    from layerstore.build.ui import BuildUi
    from layerstore.digest import DiffId


class Result(NamedTuple):
    """What a vertex came to.

    Attributes:
        layers: The whole stack, lowest first.
        diff_id: The layer of this very vertex, None when it changed nothing.
        created: Seconds since the epoch when that layer was made.
    """

    layers: tuple[DiffId, ...]
    diff_id: DiffId | None = None
    created: float = 0.0


class Made(NamedTuple):
    """What executing an operation gave."""

    diff_id: DiffId | None
    new_bytes: int = 0
    reused_bytes: int = 0


class Source(NamedTuple):
    """What fetching a remote source gave: one layer, with when it was fetched."""

    diff_id: DiffId
    cached: bool
    created: float
    new_bytes: int = 0
    reused_bytes: int = 0


class Executor(Protocol):
    """Carries out operations and knows the content of files."""

    def fetch(self, vertex: Vertex, *, fresh: bool) -> Source:
        """Return a remote source; ``fresh`` as if nothing were known of it."""

    def content_key(self, vertex: Vertex, inputs: Sequence[Result]) -> list[str]:
        """Return how the files that a vertex takes from its inputs are named in its key."""

    def execute(self, number: int, vertex: Vertex, inputs: Sequence[Result]) -> Made:
        """Carry out an operation and publish its layer."""

    def stand_alone(
        self, shared: Sequence[DiffId], below: Sequence[DiffId], layer: DiffId
    ) -> DiffId | None:
        """Return what replaces a layer that is to lie over others; None when it may stay."""


class Cache(Protocol):
    """Remembers steps."""

    def get(self, key: str) -> CacheRecord | None:
        """Return a remembered step whose layer is there."""

    def put(self, records: Sequence[CacheRecord]) -> None:
        """Remember steps."""


class Notes(Protocol):
    """Keeps what is worth knowing of the steps later."""

    def planned(self, vertices: Mapping[int, Vertex]) -> None:
        """Hear of the steps by their numbers, before the first one."""

    def hit(self, number: int, vertex: Vertex, keys: Sequence[str], record: CacheRecord) -> None:
        """Hear of a step that is cached, and which keys it has; the last one was known."""

    def missed(
        self, number: int, vertex: Vertex, inputs: Sequence[Result], keys: Sequence[str]
    ) -> None:
        """Hear of a step that is to run."""

    def made(
        self, number: int, vertex: Vertex, keys: Sequence[str], made: Made, *,
        seconds: float, created: float,
    ) -> list[bytes]:  # fmt: skip
        """Hear of a step that was made; return what to remember with each of its keys."""


class Solver:
    """Solves one graph.

    Args:
        executor: Runs what is not cached.
        cache: Where steps are looked up; None to run everything.
        remember: Where they are remembered.
        notes: Keeps what is worth knowing later.
        ui: Hears of every step.
        epoch: SOURCE_DATE_EPOCH, None for the real time.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        cache: Cache | None,
        remember: Cache,
        notes: Notes,
        ui: BuildUi,
        epoch: int | None,
    ) -> None:
        self._executor = executor
        self._cache = cache
        self._remember = remember
        self._notes = notes
        self._ui = ui
        self._epoch = epoch
        self._results: dict[int, Result] = {}

    def solve(self, *targets: Vertex) -> Result:
        """Return the last target's result after solving everything that all of them need.

        Raises:
            BuildError: A step failed; the finished ones stay in the cache.
        """
        order = topological(*targets)
        steps = [each for each in order if not isinstance(each.op, BaseOp | ContextOp | MergeOp)]
        self._ui.planned(len(steps))
        self._notes.planned(dict(enumerate(steps, 1)))
        number = 0
        for vertex in order:
            match vertex.op:
                case ContextOp():
                    result = Result(())
                case BaseOp(layers=layers):
                    result = Result(layers)
                case MergeOp():
                    result = self._merge([self._results[id(each)] for each in vertex.inputs])
                case _:
                    number += 1
                    inputs = [self._results[id(each)] for each in vertex.inputs]
                    result = self._step(number, vertex, inputs)
            self._results[id(vertex)] = result
        return self._results[id(targets[-1])]

    def result(self, vertex: Vertex) -> Result:
        """Return the result of a vertex that was solved."""
        return self._results[id(vertex)]

    def _merge(self, inputs: list[Result]) -> Result:
        """Stack the inputs' own layers over the first input; hardly ever is a new one made."""
        layers = list(inputs[0].layers)
        for shared, own in own_layers([each.layers for each in inputs]):
            below: list[DiffId] = []
            for layer in own:
                below.append(self._stand_alone(shared, below, layer) or layer)
            layers += below
        return Result(tuple(layers), created=max(each.created for each in inputs))

    def _stand_alone(
        self, shared: Sequence[DiffId], below: Sequence[DiffId], layer: DiffId
    ) -> DiffId | None:
        key = step_key(
            MergeOp(), [layers_input(shared), layers_input((*below, layer))], self._epoch
        )
        record = self._remember.get(key)  # says nothing that --no-cache could mean
        if record is None:
            made = self._executor.stand_alone(shared, below, layer)
            record = CacheRecord(key, made, b"", time.time())
            self._remember.put([record])
        return record.diff_id

    def _step(self, number: int, vertex: Vertex, inputs: list[Result]) -> Result:
        if isinstance(vertex.op, RemoteOp):
            return self._fetch(number, vertex)
        keys: list[str] = []
        for key in self._keys(vertex, inputs):
            keys.append(key)
            record = self._cache.get(key) if self._cache is not None else None
            if record is not None:
                if len(keys) > 1:
                    self._remember.put(
                        [msgspec.structs.replace(record, key=each) for each in keys[:-1]]
                    )
                self._notes.hit(number, vertex, keys, record)
                self._ui.finished(number, vertex.label, StepOutcome(cached=True))
                return _stacked(inputs[0], record.diff_id, record.created)
        return self._execute(number, vertex, inputs, keys)

    def _fetch(self, number: int, vertex: Vertex) -> Result:
        """Return a remote source's layer; it knows itself what is still current."""
        self._ui.started(number, vertex.label)
        began = time.monotonic()
        try:
            source = self._executor.fetch(vertex, fresh=self._cache is None)
        except BaseException:
            self._ui.failed(number, vertex.label)
            raise
        outcome = StepOutcome(
            cached=source.cached,
            seconds=time.monotonic() - began,
            new_bytes=source.new_bytes,
            reused_bytes=source.reused_bytes,
        )
        self._ui.finished(number, vertex.label, outcome)
        return Result((source.diff_id,), source.diff_id, source.created)

    def _keys(self, vertex: Vertex, inputs: list[Result]) -> Iterator[str]:
        """Return the vertex's keys, the cheap one first; content is read only for the second."""
        stacks = [each.layers for each in inputs]
        read = partial(self._executor.content_key, vertex, inputs)
        return vertex_keys(vertex, stacks, read, self._epoch)

    def _execute(
        self, number: int, vertex: Vertex, inputs: list[Result], keys: list[str]
    ) -> Result:
        self._notes.missed(number, vertex, inputs, keys)
        self._ui.started(number, vertex.label)
        began = time.monotonic()
        try:
            made = self._executor.execute(number, vertex, inputs)
        except BaseException:
            self._ui.failed(number, vertex.label)
            raise
        created = time.time() if self._epoch is None else float(self._epoch)
        seconds = time.monotonic() - began
        values = self._notes.made(number, vertex, keys, made, seconds=seconds, created=created)
        self._remember.put(
            [
                CacheRecord(key, made.diff_id, value, created)
                for key, value in zip(keys, values, strict=True)
            ]
        )
        outcome = StepOutcome(
            cached=False,
            seconds=seconds,
            new_bytes=made.new_bytes,
            reused_bytes=made.reused_bytes,
        )
        self._ui.finished(number, vertex.label, outcome)
        return _stacked(inputs[0], made.diff_id, created)


def _stacked(base: Result, diff_id: DiffId | None, created: float) -> Result:
    layers = base.layers if diff_id is None else (*base.layers, diff_id)
    return Result(layers, diff_id, created)
