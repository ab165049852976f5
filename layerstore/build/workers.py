"""Threads that carry out steps while the caller's thread decides what is next.

Only the caller's thread is interrupted by Ctrl-C, and it never waits for anything but the
end of a task. Threads that are told to stop end by themselves: :meth:`Workers.drain` waits
for them.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from layerstore.build.errors import BuildCanceledError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_NAP_S = 0.25
"""How long a signal may go unheard, at most."""


class Ended(NamedTuple, Generic[T]):
    """A task that ended.

    Attributes:
        token: What it was started as.
        outcome: What it returned, None if it failed.
        error: What it raised.
    """

    token: int
    outcome: T | None
    error: BaseException | None


class Workers(Generic[T]):
    """Runs tasks, each in a thread of its own.

    Args:
        count: How many run at the same time, at most.
        stopping: Tasks that have not begun when this is set are canceled.
    """

    def __init__(self, count: int, stopping: threading.Event) -> None:
        self._count = count
        self._stopping = stopping
        self._ended: queue.SimpleQueue[Ended[T]] = queue.SimpleQueue()
        self._threads: dict[int, threading.Thread] = {}

    @property
    def has_room(self) -> bool:
        """Whether one more task may begin."""
        return len(self._threads) < self._count

    def start(self, token: int, task: Callable[[], T]) -> None:
        """Begin a task; its end comes out of :meth:`next` or :meth:`drain`."""
        thread = threading.Thread(
            target=self._work, args=(token, task), name=f"build-step-{token}", daemon=True
        )
        self._threads[token] = thread
        thread.start()

    def next(self) -> Ended[T]:
        """Wait for a task to end."""
        while True:
            # A signal that comes just before the thread falls asleep does not wake it.
            with contextlib.suppress(queue.Empty):
                ended = self._ended.get(timeout=_NAP_S)
                del self._threads[ended.token]
                return ended

    def drain(self) -> list[Ended[T]]:
        """Wait for every task that runs; call it when ``stopping`` is set."""
        for thread in self._threads.values():
            # An interrupt may have come before it began: then it sees that it is to stop.
            if thread.ident is not None:
                thread.join()
        self._threads.clear()
        ended = []
        while not self._ended.empty():
            ended.append(self._ended.get())
        return ended

    def _work(self, token: int, task: Callable[[], T]) -> None:
        try:
            if self._stopping.is_set():
                raise BuildCanceledError
            self._ended.put(Ended(token, task(), None))
        except BaseException as err:  # noqa: BLE001 -- raised again in the caller's thread
            self._ended.put(Ended(token, None, err))
