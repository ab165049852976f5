"""Which vertices of a graph can be solved next, and the numbers that people see.

Numbers go by the steps' places in the file, not by when they run, so two builds of one
file call a step the same. Of what is ready, that is given out first which the most work
waits for: the longest way to a target decides how long a build takes.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from layerstore.build.graph import BaseOp, ContextOp, CopyOp, MergeOp, RunOp, topological

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.build.graph import Vertex

_COMMAND = 10
"""What a command is guessed to take where copying takes 1."""


def is_step(vertex: Vertex) -> bool:
    """Return whether a vertex is something to do, which people see."""
    return not isinstance(vertex.op, BaseOp | ContextOp | MergeOp)


def needed_inputs(vertex: Vertex) -> tuple[Vertex, ...]:
    """Return the inputs without which a vertex cannot begin.

    A linked COPY makes the same layer whatever it comes to lie over.
    """
    if isinstance(vertex.op, CopyOp) and vertex.op.link:
        return vertex.inputs[1:]
    return vertex.inputs


class Schedule:
    """The order in which everything that the targets need becomes ready.

    Attributes:
        steps: Everything that people see done, by number from 1.
    """

    def __init__(self, *targets: Vertex) -> None:
        order = topological(*targets)
        self._numbers = step_numbers(order)
        steps = {self._numbers[id(vertex)]: vertex for vertex in order if is_step(vertex)}
        self.steps = dict(sorted(steps.items()))
        self._places = {id(vertex): place for place, vertex in enumerate(order)}
        self._order = order
        self._dependents: dict[int, list[Vertex]] = {}
        self._missing: dict[int, int] = {}
        self._unsolved = len(order)
        self._ready: list[tuple[int, int, int]] = []
        self._work = _work_behind(order)
        for vertex in order:
            needed = {id(each) for each in needed_inputs(vertex)}
            self._missing[id(vertex)] = len(needed)
            for each in needed:
                self._dependents.setdefault(each, []).append(vertex)
            if not needed:
                self._add_ready(vertex)

    @property
    def is_done(self) -> bool:
        """Whether everything is solved."""
        return not self._unsolved

    def number(self, vertex: Vertex) -> int:
        """Return a step's number, from 1; 0 for what is no step."""
        return self._numbers.get(id(vertex), 0)

    def commands_over(self) -> dict[int, int]:
        """Return by id() of vertices the commands that lie over them or mount them.

        Step n is bit n. What files are merely copied from is shown to nobody.
        """
        over: dict[int, int] = {}
        for vertex in reversed(self._order):
            above = over.get(id(vertex), 0)
            own = 1 << self.number(vertex) if isinstance(vertex.op, RunOp) else 0
            for place, each in enumerate(vertex.inputs):
                below = place == 0 or isinstance(vertex.op, MergeOp)
                if commands := own | (above if below else 0):
                    over[id(each)] = over.get(id(each), 0) | commands
        return over

    def next_ready(self) -> Vertex | None:
        """Take the first vertex whose inputs are solved; None when there is none now."""
        return self._order[heapq.heappop(self._ready)[2]] if self._ready else None

    def solved(self, vertex: Vertex) -> None:
        """Learn that a vertex has a result."""
        self._unsolved -= 1
        for dependent in self._dependents.get(id(vertex), ()):
            self._missing[id(dependent)] -= 1
            if not self._missing[id(dependent)]:
                self._add_ready(dependent)

    def _add_ready(self, vertex: Vertex) -> None:
        urgency = self._work[id(vertex)]
        heapq.heappush(self._ready, (-urgency, self.number(vertex), self._places[id(vertex)]))


def _work_behind(order: Sequence[Vertex]) -> dict[int, int]:
    """Return by identity how much work is on the longest way from a vertex to a target."""
    work: dict[int, int] = {}
    for vertex in reversed(order):
        behind = work.get(id(vertex), 0) + (_COMMAND if isinstance(vertex.op, RunOp) else 1)
        work[id(vertex)] = behind
        for each in needed_inputs(vertex):
            work[id(each)] = max(work.get(id(each), 0), behind)
    return work


def step_numbers(order: Sequence[Vertex]) -> dict[int, int]:
    """Return the numbers of steps, from 1, by the identity of their vertices.

    Args:
        order: Everything that is needed, each vertex after its inputs.
    """
    steps = _in_file_order([vertex for vertex in order if is_step(vertex)])
    return {id(vertex): number for number, vertex in enumerate(steps, start=1)}


def _in_file_order(steps: Sequence[Vertex]) -> list[Vertex]:
    """Return steps by their lines, when one file has them all and in that order, else as they are.

    A Dockerfile has what a step needs above it; in a native spec keys stand as one likes.
    """
    if len({vertex.span.file if vertex.span else None for vertex in steps}) != 1:
        return list(steps)
    if any(_line(needed) > _line(vertex) for vertex in steps for needed in vertex.inputs):
        return list(steps)
    # Stable: what ONBUILD brings has the place of its FROM and stays in order.
    return sorted(steps, key=_line)


def _line(vertex: Vertex) -> int:
    return vertex.span.line if vertex.span else 0
