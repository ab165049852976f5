"""Handing work to a thread, a few pieces ahead, in a way that survives Ctrl-C at any moment."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class Handover(Generic[T]):
    """A queue of bounded length from one thread to one other.

    ``queue.Queue`` keeps its locks in Python code: an exception that a signal raises between
    taking one and the block that gives it back leaves it taken for good, and who cleans up
    afterwards waits forever. ``SimpleQueue`` is one call into C, which a signal either
    interrupts or does not, but it has no bound; a second one with the free places gives that.
    """

    def __init__(self, places: int) -> None:
        """Prepare for ``places`` pieces that wait."""
        self._pieces: SimpleQueue[T | None] = SimpleQueue()
        self._free: SimpleQueue[None] = SimpleQueue()
        for _ in range(places):
            self._free.put(None)

    def put(self, piece: T) -> None:
        """Hand over a piece, waiting while too many wait."""
        self._free.get()
        self._pieces.put(piece)

    def end(self) -> None:
        """Say that no more comes. Never waits, and needs no free place."""
        self._pieces.put(None)

    def get(self) -> T | None:
        """Return the next piece, waiting for it; None after the last."""
        piece = self._pieces.get()
        self._free.put(None)
        return piece
