"""The keys of one vertex: which inputs name it, and in which order they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.build.cache_key import layers_input, step_key
from layerstore.build.graph import ContextOp, CopyOp, RunOp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from layerstore.build.graph import Vertex
    from layerstore.digest import DiffId


def vertex_keys(
    vertex: Vertex,
    stacks: Sequence[Sequence[DiffId]],
    content_key: Callable[[], list[str]],
    epoch: int | None,
) -> Iterator[str]:
    """Yield a vertex's keys, the cheap one first.

    Args:
        vertex: The step.
        stacks: The layers of each input.
        content_key: Reads the files that it takes; asked only for the key that needs it.
        epoch: SOURCE_DATE_EPOCH.
    """
    op = vertex.op
    base = [] if isinstance(op, CopyOp) and op.link else [layers_input(stacks[0])]
    if len(stacks) > 1 and not any(isinstance(each.op, ContextOp) for each in vertex.inputs):
        yield step_key(op, [*base, *map(layers_input, stacks[1:])], epoch)
        if isinstance(op, RunOp):
            return
    yield step_key(op, [*base, *content_key()], epoch)
