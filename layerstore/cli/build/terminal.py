"""A build on a terminal: finished steps as lines, running ones below with the end of their output.

Drawn with a handful of terminal codes and no library: a build whose steps are all cached
should not wait for one to be imported. Every frame is one write. Lines are cut by the
terminal itself (auto-wrap is off within a frame), so the widths of characters need not be
known. Nothing is drawn, and no thread started, before a step runs.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, Self, TextIO

from layerstore.build.ui import SilentUi
from layerstore.cli.build.ui import StepLog, one_line, outcome_words
from layerstore.cli.output import printable
from layerstore.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.build.dockerfile.syntax import Notice
    from layerstore.build.ui import Reason, StepOutcome

TAIL_LINES = 6
"""Lines of output below a running step, if the terminal is high enough."""

_FRAME_S = 0.1
_GREEN, _RED, _YELLOW, _DIM, _BOLD = "32", "31", "33", "2", "1"
_WRAP_OFF, _WRAP_ON = "\x1b[?7l", "\x1b[?7h"
_DEFAULT_SIZE = os.terminal_size((80, 24))


class _Running(NamedTuple):
    label: str
    began: float
    log: StepLog


class TerminalUi(SilentUi):
    """See the module; use it in a ``with`` block, whose end takes the moving part away.

    Args:
        stream: The terminal.
        size: Columns and lines; None asks the terminal.
    """

    def __init__(self, stream: TextIO, size: os.terminal_size | None = None) -> None:
        self._stream = stream
        self._size = size
        self._color = not os.environ.get("NO_COLOR")
        self._lock = threading.Lock()
        self._running: dict[int, _Running] = {}
        self._fetched: dict[int, str] = {}
        self._began = time.monotonic()
        self._total = self._done = 0
        self._drawn = 0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            self._running.clear()
            self._draw([])

    def planned(self, total: int) -> None:
        """Remember how many steps there are."""
        self._total, self._done = total, 0

    def started(self, number: int, label: str) -> None:
        """Show the step among the running ones."""
        with self._lock:
            self._running[number] = _Running(one_line(label), time.monotonic(), StepLog())
            self._draw([])
        if self._thread is None:
            self._thread = threading.Thread(target=self._animate, name="progress", daemon=True)
            self._thread.start()

    def explained(self, number: int, label: str, reasons: Sequence[Reason]) -> None:
        """Print why a step runs."""
        del number
        lines = [f"{self._styled('?', _YELLOW)} {one_line(label)}"]
        lines += [f"    because {printable(reason.text)}" for reason in reasons]
        self._say(lines)

    def finished(self, number: int, label: str, outcome: StepOutcome) -> None:
        """Move it up to the finished ones."""
        self._done += 1
        how = self._styled("CACHED" if outcome.cached else outcome_words(outcome), _DIM)
        with self._lock:
            self._running.pop(number, None)
            self._draw([f"{self._styled('✔', _GREEN)} {one_line(label)}  {how}"])

    def failed(self, number: int, label: str) -> None:
        """Print the end of its output."""
        with self._lock:
            running = self._running.pop(number, None)
            lines = []
            if running is not None:
                running.log.finish()
                lines = [f"    {line}" for line in running.log.tail]
            self._draw([f"{self._styled('✘', _RED)} {one_line(label)}", *lines])

    def canceled(self, number: int, label: str) -> None:
        """Print that it was given up."""
        with self._lock:
            self._running.pop(number, None)
            self._draw([self._styled(f"✘ {one_line(label)}  CANCELED", _DIM)])

    def output(self, number: int, data: bytes) -> None:
        """Remember the last lines for the next frame."""
        with self._lock:
            if number in self._running:
                self._running[number].log.feed(data)

    def fetched(self, number: int, done: int, total: int | None) -> None:
        """Remember how much of a file there is for the next frame."""
        of = "" if total is None else f" of {format_size(total)}"
        with self._lock:
            self._fetched[number] = f"  {format_size(done)}{of}"

    def warning(self, notice: Notice) -> None:
        """Print a warning."""
        self._say([f"{self._styled('!', _YELLOW)} {printable(str(notice))}"])

    def message(self, text: str) -> None:
        """Print a line."""
        self._say([f"  {printable(text)}"])

    def waiting(self, what: str) -> None:
        """Print what is waited for."""
        self._say([f"  waiting for {printable(what)}"])

    def picture(self) -> list[str]:
        """Return the moving part as it is now, a line each."""
        if not self._running:
            return []
        now = time.monotonic()
        _, height = self._terminal_size()
        # One line is left free, and one is for each running step and for the head.
        spare = max(0, height - 2 - len(self._running))
        tail = min(TAIL_LINES, spare // len(self._running))
        count = f" ({self._done}/{self._total})" if self._total else ""
        lines = [f"building {format_duration(now - self._began)}{count}"]
        for number, step in list(self._running.items()):
            took = format_duration(now - step.began)
            fetched = self._fetched.get(number, "")
            lines.append(self._styled(f"▸ {took} {step.label}{fetched}", _BOLD))
            if tail:
                lines += [self._styled(f"    {line}", _DIM) for line in list(step.log.tail)[-tail:]]
        return lines[: max(1, height - 1)]

    def _say(self, lines: Sequence[str]) -> None:
        with self._lock:
            self._draw(lines)

    def _draw(self, lasting: Sequence[str]) -> None:
        """Put lines above the moving part for good, and draw that anew; the lock is held."""
        parts = [f"\x1b[{self._drawn}A\r\x1b[J"] if self._drawn else []
        parts += [f"{line}\n" for line in lasting]
        frame = self.picture()
        if frame:
            parts += [_WRAP_OFF, *(f"{line}\n" for line in frame), _WRAP_ON]
        self._drawn = len(frame)
        if parts:
            self._stream.write("".join(parts))
            self._stream.flush()

    def _animate(self) -> None:
        while not self._over.wait(_FRAME_S):
            with self._lock:
                if self._running:
                    self._draw([])

    def _terminal_size(self) -> os.terminal_size:
        if self._size is not None:
            return self._size
        try:
            return os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            return _DEFAULT_SIZE

    def _styled(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._color else text
