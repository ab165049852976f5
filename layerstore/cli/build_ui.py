"""Showing a build: lines for logs, a moving picture for terminals, little for scripts.

What commands print is text of strangers: colours are dropped and every other control
character is shown instead of obeyed.
"""

from __future__ import annotations

import codecs
import contextlib
import re
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, TextIO

from layerstore.cli.output import printable
from layerstore.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.text import Text

    from layerstore.build.dockerfile.syntax import Notice
    from layerstore.build.ui import BuildUi, StepOutcome

TAIL_LINES = 6
"""Lines of a running step that a terminal shows."""

FAILED_LINES = 20
"""Lines of a failed step that are shown when the rest was not."""

_TERMINAL_CODES = re.compile(
    r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][A-Z0-9])"
)


class StepLog:
    """Turns one step's pieces of output into whole, harmless lines."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self.tail: deque[str] = deque(maxlen=FAILED_LINES)

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that ``data`` completes."""
        *lines, self._rest = (self._rest + self._decoder.decode(data)).split("\n")
        return self._taken(lines)

    def finish(self) -> list[str]:
        """Return what remains without a line's end."""
        rest, self._rest = self._rest + self._decoder.decode(b"", final=True), ""
        return self._taken([rest] if rest else [])

    def _taken(self, lines: list[str]) -> list[str]:
        clean = [clean_line(line) for line in lines]
        self.tail.extend(clean)
        return clean


def clean_line(line: str) -> str:
    """Return a line as it would look when it had stopped moving, without codes."""
    # Progress bars redraw themselves after a carriage return: the last state is the line.
    last = line.rstrip("\r").rpartition("\r")[2]
    return printable(_TERMINAL_CODES.sub("", last).expandtabs())


class PlainUi:
    """Numbered lines on a stream, in the manner of BuildKit's plain progress."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._logs: dict[int, StepLog] = {}
        self._began: dict[int, float] = {}

    def started(self, number: int, label: str) -> None:
        """Print the step."""
        self._logs[number] = StepLog()
        self._began[number] = time.monotonic()
        self._print(number, label)

    def finished(self, number: int, label: str, outcome: StepOutcome) -> None:
        """Print how it ended."""
        self._print_lines(number, self._finish(number))
        if outcome.cached:
            self._print(number, label)
            self._print(number, "CACHED")
        else:
            self._print(number, f"DONE {format_duration(outcome.seconds)}{_added(outcome)}")

    def failed(self, number: int, label: str) -> None:
        """Print that it failed; its output stands above."""
        self._print_lines(number, self._finish(number))
        self._print(number, f"ERROR {label}")

    def output(self, number: int, data: bytes) -> None:
        """Print the lines that are complete."""
        log = self._logs.setdefault(number, StepLog())
        self._print_lines(number, log.feed(data))

    def warning(self, notice: Notice) -> None:
        """Print a warning."""
        self._stream.write(f"warning: {printable(str(notice))}\n")

    def message(self, text: str) -> None:
        """Print a line."""
        self._stream.write(printable(text) + "\n")

    def _finish(self, number: int) -> list[str]:
        log = self._logs.pop(number, None)
        return log.finish() if log else []

    def _print_lines(self, number: int, lines: list[str]) -> None:
        elapsed = time.monotonic() - self._began.get(number, time.monotonic())
        for line in lines:
            self._print(number, f"{elapsed:.1f} {line}")

    def _print(self, number: int, text: str) -> None:
        self._stream.write(f"#{number} {printable(text)}\n")
        self._stream.flush()


class QuietUi:
    """Says nothing unless a step fails: then the end of its output."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._logs: dict[int, StepLog] = {}

    def started(self, number: int, label: str) -> None:  # noqa: ARG002 - the protocol's
        """Begin to remember."""
        self._logs[number] = StepLog()

    def finished(self, number: int, label: str, outcome: StepOutcome) -> None:  # noqa: ARG002
        """Forget."""
        self._logs.pop(number, None)

    def failed(self, number: int, label: str) -> None:
        """Print the end of the output."""
        log = self._logs.pop(number, StepLog())
        log.finish()
        self._stream.write(f"{printable(label)}\n")
        self._stream.writelines(f"  {line}\n" for line in log.tail)

    def output(self, number: int, data: bytes) -> None:
        """Remember."""
        self._logs.setdefault(number, StepLog()).feed(data)

    def warning(self, notice: Notice) -> None:
        """Ignore it."""

    def message(self, text: str) -> None:
        """Ignore it."""


class TerminalUi:
    """Finished steps as lines, running ones below with the end of their output."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._running: dict[int, tuple[str, float, StepLog]] = {}

    def started(self, number: int, label: str) -> None:
        """Show the step among the running ones."""
        self._running[number] = (label, time.monotonic(), StepLog())

    def finished(self, number: int, label: str, outcome: StepOutcome) -> None:
        """Move it up to the finished ones."""
        self._running.pop(number, None)
        how = "CACHED" if outcome.cached else format_duration(outcome.seconds) + _added(outcome)
        self._line("✔", "green", f"{label}  {how}")

    def failed(self, number: int, label: str) -> None:
        """Print the end of its output."""
        _, _, log = self._running.pop(number, (label, 0.0, StepLog()))
        log.finish()
        self._line("✘", "red", label)
        for line in log.tail:
            self._console.print(f"    {line}", markup=False, highlight=False)

    def output(self, number: int, data: bytes) -> None:
        """Show the last lines."""
        if number in self._running:
            self._running[number][2].feed(data)

    def warning(self, notice: Notice) -> None:
        """Print a warning."""
        self._line("!", "yellow", str(notice))

    def message(self, text: str) -> None:
        """Print a line."""
        self._line(" ", "default", text)

    def picture(self) -> Text:
        """Return the running steps as they are now; drawn again several times a second."""
        from rich.text import Text

        picture = Text(no_wrap=True, overflow="ellipsis")
        now = time.monotonic()
        for label, began, log in list(self._running.values()):
            picture.append(f"▸ {printable(label)}  {format_duration(now - began)}\n", "bold")
            for line in list(log.tail)[-TAIL_LINES:]:
                picture.append(f"    {line}\n", "dim")
        picture.rstrip()
        return picture

    def _line(self, mark: str, style: str, text: str) -> None:
        from rich.text import Text

        self._console.print(Text.assemble((mark, style), f" {printable(text)}"))


@contextlib.contextmanager
def watching(progress: str, *, quiet: bool) -> Iterator[BuildUi]:
    """Give the watcher for ``--progress`` and ``--quiet``; everything goes to stderr."""
    if quiet:
        yield QuietUi(sys.stderr)
    elif progress == "plain" or (progress == "auto" and not sys.stderr.isatty()):
        yield PlainUi(sys.stderr)
    else:
        from rich.console import Console
        from rich.live import Live

        console = Console(file=sys.stderr)
        ui = TerminalUi(console)
        with Live(console=console, get_renderable=ui.picture, transient=True, refresh_per_second=8):
            yield ui


def _added(outcome: StepOutcome) -> str:
    if not outcome.new_bytes and not outcome.reused_bytes:
        return ""
    return f", {format_size(outcome.new_bytes)} new, {format_size(outcome.reused_bytes)} shared"
