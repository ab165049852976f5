"""Handing work to a thread, a few pieces ahead, in a way that survives Ctrl-C at any moment."""

from __future__ import annotations

import threading
from _queue import SimpleQueue  # queue imports heapq for what is not used here
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Beside:
    """A function that runs in a thread of its own from the beginning."""

    def __init__(self, work: Callable[[], object], name: str) -> None:
        """Begin.

        Args:
            work: Without a result.
            name: Of the thread.
        """
        self._work = work
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name)
        self._thread.start()

    def wait(self) -> None:
        """Wait for its end, whatever that is."""
        self._thread.join()

    def result(self) -> None:
        """Wait for its end, and raise what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as err:  # noqa: BLE001 -- told by result()
            self._error = err


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
