"""Run a command that gets SIGTERM in the middle of the library's locks.

``python -m tests.support.signalling FUNCTION COUNT ARGUMENT...`` runs layerstore in this process
and has its handler of SIGTERM called when ``FUNCTION`` of threading, queue or concurrent.futures
returns for the ``COUNT``th time in the main thread: where a real signal finds it once in some
hundred thousand times. ``FUNCTION`` may be ``*``: each step of any of them counts.
"""

import signal
import sys
from types import FrameType
from typing import Any

from layerstore.cli import main

LIBRARY = ("threading", "queue", "concurrent.futures.thread", "concurrent.futures._base")


class Interruption:
    """Calls the handler of SIGTERM at one place of a command."""

    def __init__(self, function: str, count: int) -> None:
        self._function = function
        self._left = count

    def call(self, frame: FrameType, _event: str, _argument: object) -> Any:
        """Follow the functions of the library alone."""
        if frame.f_globals.get("__name__") not in LIBRARY:
            return None
        if self._function == "*":
            frame.f_trace_opcodes = True
            return self._step
        return self._step if frame.f_code.co_name == self._function else None

    def _step(self, frame: FrameType, event: str, _argument: object) -> Any:
        if event == ("opcode" if self._function == "*" else "return"):
            self._left -= 1
            if self._left == 0:
                sys.settrace(None)
                signal.getsignal(signal.SIGTERM)(signal.SIGTERM, frame)  # type: ignore[operator,misc]
        return self._step


def run(function: str, count: int, arguments: list[str]) -> int:
    sys.argv = ["layerstore", *arguments]
    sys.settrace(Interruption(function, count).call)
    return main.main()


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
