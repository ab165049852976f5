"""What is cut when work ends early, so that no thread goes on waiting for a server.

A thread that reads from a socket or a pipe hears of nothing else. Whoever is about to wait
leaves here how to end the wait. On the path of every build: imports next to nothing.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from layerstore.net.errors import CanceledError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from layerstore.errors import LayerstoreError


class Lifelines:
    """See the module. For several threads.

    Args:
        canceled: Makes the error of waits that were cut.

    Attributes:
        is_cut: The work has ended: nothing is worth trying again.
    """

    def __init__(self, canceled: Callable[[], LayerstoreError] = CanceledError) -> None:
        self.canceled = canceled
        self._lock = threading.RLock()  # a signal may cut what its own thread is about to hold
        self._ends: dict[object, Callable[[], None]] = {}
        self.is_cut = False

    @contextlib.contextmanager
    def held(self, end: Callable[[], None]) -> Iterator[None]:
        """Have ``end`` called if the work ends within the block.

        Args:
            end: Ends a wait, in whatever state it is; called from another thread.

        Raises:
            LayerstoreError: The work has ended already: ``canceled``'s.
        """
        token = object()
        with self._lock:
            if self.is_cut:
                end()
                raise self.canceled()
            self._ends[token] = end
        try:
            yield
        finally:
            with self._lock:
                del self._ends[token]

    def wait(self, seconds: float) -> None:
        """Wait for some seconds.

        Raises:
            LayerstoreError: The work has ended: ``canceled``'s.
        """
        # No Event: a signal may cut within the thread that waits, and an Event has a lock of its
        # own that this thread may hold then.
        ended = threading.Lock()
        ended.acquire()

        def end() -> None:
            with contextlib.suppress(RuntimeError):  # it was cut before
                ended.release()

        with self.held(end):
            ended.acquire(timeout=seconds)
        if self.is_cut:
            raise self.canceled()

    def cut(self) -> None:
        """End every wait, and those that are about to begin."""
        with self._lock:
            self.is_cut = True
            for end in self._ends.values():
                end()
