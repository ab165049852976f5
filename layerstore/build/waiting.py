"""Waiting for what other steps hold, in a thread that no signal reaches.

A thread that sleeps in flock(2) cannot be told that its build has ended, so locks are
asked for again and again, more seldom the longer it takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from layerstore.build.errors import BuildCanceledError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

T = TypeVar("T")

_FIRST_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 0.05


class Patience:
    """Waits until something is there, or the build ends.

    Args:
        stopping: Set when the build ends.
        tell: Hears what is waited for, once each time.
    """

    def __init__(self, stopping: threading.Event, tell: Callable[[str], None]) -> None:
        self._stopping = stopping
        self._tell = tell

    def wait_for(self, attempt: Callable[[], T | None], what: str) -> T:
        """Return what ``attempt`` gives once that is not None.

        Args:
            attempt: Asks without waiting.
            what: What is waited for, for people.

        Raises:
            BuildCanceledError: The build ended first.
        """
        got = attempt()
        pause = 0.0
        while got is None:
            if not pause:
                self._tell(what)
            pause = min(pause * 2 or _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
            if self._stopping.wait(pause):
                raise BuildCanceledError
            got = attempt()
        return got
