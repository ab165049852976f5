"""What a build would do, without doing it: the graph, and which of its steps are cached.

A step is *cached* when its result is remembered, *runs* when it is not, and *unknown* when that
depends on what a step before it makes: a step whose inputs come out as they were is cached
after all. Nothing is run, fetched or written. Files are read where a build that found as much
in the cache would read them for a key, and nowhere else; servers are not asked.
"""

from __future__ import annotations

from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from layerstore.build.cache_key import layers_input, step_key
from layerstore.build.graph import BaseOp, ContextOp, CopyOp, GitOp, HttpOp, MergeOp, topological
from layerstore.build.merging import own_layers
from layerstore.build.schedule import step_numbers
from layerstore.build.solver import Result
from layerstore.build.vertex_keys import vertex_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from layerstore.build.graph import Vertex
    from layerstore.digest import DiffId
    from layerstore.store.records import CacheRecord


class State(Enum):
    """What is known of a step before the build."""

    CACHED = "cached"
    RUNS = "runs"
    UNKNOWN = "unknown"
    FETCHES = "fetches"
    INPUT = "input"


class PlannedVertex(NamedTuple):
    """One vertex of a graph.

    Attributes:
        position: Its place in the plan, which others' ``inputs`` mean.
        number: Of a step, as the progress will count it; 0 of what is no step.
        kind: ``base``, ``context``, ``merge``, ``http``, ``git``, ``mkdir``, ``copy``, ``run``.
        inputs: What lies below first, then what files come from.
    """

    position: int
    number: int
    vertex: Vertex
    kind: str
    state: State
    inputs: tuple[int, ...]


class Keys(Protocol):
    """Knows how the files that steps take are named in keys."""

    def content_key(self, vertex: Vertex, inputs: Sequence[Result]) -> list[str]:
        """Return that."""


def planned(
    targets: Sequence[Vertex],
    executor: Keys,
    lookup: Callable[[str], CacheRecord | None],
    epoch: int | None,
) -> list[PlannedVertex]:
    """Return everything that targets need, themselves included, each after its inputs.

    Args:
        targets: What is to be built.
        executor: Reads files for keys.
        lookup: Returns remembered steps.
        epoch: SOURCE_DATE_EPOCH.

    Raises:
        BuildStepError: A file that is asked for does not exist or cannot be read.
    """
    planning = _Planning(executor, lookup, epoch)
    found: list[PlannedVertex] = []
    indexes: dict[int, int] = {}
    numbers = step_numbers(topological(*targets))
    for index, vertex in enumerate(topological(*targets)):
        state = planning.solve(vertex)
        indexes[id(vertex)] = index
        found.append(
            PlannedVertex(
                index,
                numbers.get(id(vertex), 0),
                vertex,
                str(type(vertex.op).__struct_config__.tag),
                state,
                tuple(indexes[id(each)] for each in vertex.inputs),
            )
        )
    return found


class _Planning:
    """Knows the layers of every vertex as far as they are known without running anything."""

    def __init__(
        self, executor: Keys, lookup: Callable[[str], CacheRecord | None], epoch: int | None
    ) -> None:
        self._executor = executor
        self._lookup = lookup
        self._epoch = epoch
        self._stacks: dict[int, tuple[DiffId, ...] | None] = {}

    def solve(self, vertex: Vertex) -> State:
        """Find out what a vertex's state is; its inputs were solved before."""
        inputs = [self._stacks[id(each)] for each in vertex.inputs]
        layers: tuple[DiffId, ...] | None = None
        state = State.INPUT
        match vertex.op:
            case ContextOp():
                layers = ()
            case BaseOp(layers=known):
                layers = known
            case MergeOp():
                layers = self._merged(inputs)
            case HttpOp() | GitOp():
                state = State.FETCHES
            case _:
                state, layers = self._step(vertex, inputs)
        self._stacks[id(vertex)] = layers
        return state

    def _step(
        self, vertex: Vertex, inputs: Sequence[tuple[DiffId, ...] | None]
    ) -> tuple[State, tuple[DiffId, ...] | None]:
        needed = inputs[1:] if isinstance(vertex.op, CopyOp) and vertex.op.link else inputs
        if any(layers is None for layers in needed):
            return State.UNKNOWN, None
        stacks = [layers or () for layers in inputs]
        read = partial(self._executor.content_key, vertex, [Result(each) for each in stacks])
        if vertex.no_cache:
            return State.RUNS, None
        for key in vertex_keys(vertex, stacks, read, self._epoch):
            record = self._lookup(key)
            if record is not None:
                below = inputs[0]
                own = () if record.diff_id is None else (record.diff_id,)
                return State.CACHED, None if below is None else (*below, *own)
        return State.RUNS, None

    def _merged(self, inputs: Sequence[tuple[DiffId, ...] | None]) -> tuple[DiffId, ...] | None:
        """Return the layers of a merge; which must be written anew is remembered like a step."""
        stacks = [layers for layers in inputs if layers is not None]
        if len(stacks) < len(inputs):
            return None
        merged = list(stacks[0])
        for shared, own in own_layers(stacks):
            below: list[DiffId] = []
            for layer in own:
                names = [layers_input(shared), layers_input((*below, layer))]
                record = self._lookup(step_key(MergeOp(), names, self._epoch))
                if record is None:
                    return None
                below.append(record.diff_id or layer)
            merged += below
        return tuple(merged)
