"""What a build did, step by step: for comparing two builds, and for telling where one came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.build.graph import ContextOp, topological

if TYPE_CHECKING:
    from layerstore.build.dockerfile.syntax import SourceSpan
    from layerstore.build.graph import Op, Vertex
    from layerstore.build.solver import Executor, Solver
    from layerstore.digest import DiffId


class MadeStep(NamedTuple):
    """One vertex of the graph after it was solved.

    Attributes:
        label: As the progress shows it; empty for the build context.
        span: The instruction's place, None for what no file has.
        layers: Everything below and the step's own layer.
        diff_id: Of the step's own layer, None when it changed nothing.
        inputs: Numbers of the steps it needed, in this same list.
    """

    label: str
    span: SourceSpan | None
    op: Op
    layers: tuple[DiffId, ...]
    diff_id: DiffId | None
    inputs: tuple[int, ...]


def made_steps(target: Vertex, solver: Solver) -> tuple[MadeStep, ...]:
    """Return every step that ``target`` needed, itself last, each after its inputs."""
    order = topological(target)
    numbers = {id(vertex): number for number, vertex in enumerate(order)}
    steps = []
    for vertex in order:
        result = solver.result(vertex)
        inputs = tuple(numbers[id(each)] for each in vertex.inputs)
        steps.append(
            MadeStep(vertex.label, vertex.span, vertex.op, result.layers, result.diff_id, inputs)
        )
    return tuple(steps)


def context_keys(target: Vertex, solver: Solver, executor: Executor) -> tuple[str, ...]:
    """Return the digests that name what the steps of a solved graph took from the build context."""
    keys: list[str] = []
    for vertex in topological(target):
        if any(isinstance(each.op, ContextOp) for each in vertex.inputs):
            inputs = [solver.result(each) for each in vertex.inputs]
            keys += executor.content_key(vertex, inputs)
    return tuple(keys)
