"""Which commands of a build are still to come, and what they will lie over.

So that what showed layers to commands goes when the last of them has ended, and what the next
ones need can be made while others run. Commands are bits by the numbers of their steps. Calls
may come from several threads.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

from layerstore.build.graph import RunOp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from layerstore.build.graph import Vertex
    from layerstore.digest import DiffId


class _Tip(NamedTuple):
    """A chain over which nothing is solved yet."""

    commands: int
    layers: tuple[DiffId, ...]


class Upcoming:
    """See the module.

    Args:
        over: By the id() of each vertex the commands that lie over it or mount it, step n as bit
            n; see :meth:`layerstore.build.schedule.Schedule.commands_over`.
    """

    def __init__(self, over: Mapping[int, int]) -> None:
        self._over = over
        self._lock = threading.Lock()
        self._ended = 0
        self._every = 0
        for commands in over.values():
            self._every |= commands
        self._tips: dict[int, _Tip] = {}

    def comes_after(self, vertex: Vertex) -> bool:
        """Return whether the graph has a command over a vertex."""
        return id(vertex) in self._over

    def is_needed(self, vertex: Vertex) -> bool:
        """Return whether a command over a vertex has not ended."""
        return bool(self._over.get(id(vertex), 0) & ~self._ended)

    def solved(self, number: int, vertex: Vertex, layers: tuple[DiffId, ...]) -> None:
        """Learn of a vertex that has a result, and of a step's number."""
        if isinstance(vertex.op, RunOp):
            self.ended(number)
        with self._lock:
            if vertex.inputs:
                self._tips.pop(id(vertex.inputs[0]), None)
            if commands := self._over.get(id(vertex)):
                self._tips[id(vertex)] = _Tip(commands, layers)

    def ended(self, number: int) -> None:
        """Learn that a command looks at nothing any more."""
        with self._lock:
            self._ended |= 1 << number

    def has_ended(self, number: int) -> bool:
        """Return whether a command looks at nothing any more."""
        return bool(self._ended >> number & 1)

    def is_last(self, number: int) -> bool:
        """Return whether a command is the only one that has not ended."""
        return not self._every & ~self._ended & ~(1 << number)

    @property
    def is_over(self) -> bool:
        """Whether no command is to come any more."""
        return not self._every & ~self._ended

    def take_chains(self, running: int) -> list[tuple[DiffId, ...]]:
        """Return chains that commands will lie over with more above them, each once.

        Args:
            running: A step that is no reason.
        """
        with self._lock:
            tips, self._tips = self._tips, {}
            without = self._ended | 1 << running
            return [tip.layers for tip in tips.values() if tip.layers and tip.commands & ~without]
