"""Showing a build: which watcher there is for whom, and what they share.

Lines for logs are here; the moving picture for terminals is :mod:`layerstore.cli.build.terminal`,
objects for programs are :mod:`layerstore.cli.build.json_lines`. What commands print is text of
strangers: colours are dropped and every other control character is shown instead of obeyed.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
import time
from collections import deque

from layerstore.build.ui import SilentUi
from layerstore.cli.output import printable
from layerstore.errors import InputError
from layerstore.light_re import Pattern
from layerstore.light_typing import TYPE_CHECKING
from layerstore.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TextIO

    from layerstore.build.dockerfile.syntax import Notice
    from layerstore.build.ui import BuildUi, Reason, StepOutcome

JSON_PROGRESS = ("json", "rawjson")
PROGRESS = ("auto", "plain", "tty", "quiet", *JSON_PROGRESS)

FAILED_LINES = 20
"""Lines of a failed step's output that are shown with the failure."""

_TERMINAL_CODES = Pattern(
    r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][A-Z0-9])"
)

_RULE = "------"


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
    return printable(_TERMINAL_CODES.sub(lambda _: "", last).expandtabs())


def one_line(label: str) -> str:
    """Return a step's label harmless and on one line, however the instruction was laid out."""
    return printable(" ".join(label.split()))


def sizes(new_bytes: int, reused_bytes: int) -> str:
    """Return what was stored, in words that follow others; nothing if that is nothing."""
    if not new_bytes and not reused_bytes:
        return ""
    return f", {format_size(new_bytes)} new, {format_size(reused_bytes)} shared"


def summary(
    names: Sequence[str],
    size: int,
    cached: int,
    steps: int,
    stored: str = "",
    *,
    is_stored: bool = True,
) -> str:
    """Return the line that ends a build: what it made and how much of it was known."""
    nameless = "an image without a name (the next gc removes it)"
    what = (", ".join(names) or nameless) if is_stored else "written"
    return f"{what}: {format_size(size)} of files, {cached} of {steps} steps from the cache{stored}"


def outcome_words(outcome: StepOutcome) -> str:
    """Return how a step ended that was not cached: its duration and what it stored."""
    stored = sizes(outcome.new_bytes, outcome.reused_bytes)
    return f"{format_duration(outcome.seconds)}{stored}"


class PlainUi:
    """Numbered lines on a stream, in the manner of BuildKit's plain progress.

    Where steps run side by side their lines come mixed, each with its step's number, and an
    empty line where another step goes on.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._logs: dict[int, StepLog] = {}
        self._began: dict[int, float] = {}
        self._last = 0

    def planned(self, total: int) -> None:
        """Say nothing: lines need no total."""

    def started(self, number: int, label: str) -> None:
        """Print the step."""
        self._logs[number] = StepLog()
        self._began[number] = time.monotonic()
        self._print(number, one_line(label))

    def explained(self, number: int, label: str, reasons: Sequence[Reason]) -> None:
        """Print the reasons; the step's own line follows."""
        del label
        for reason in reasons:
            self._print(number, f"because {reason.text}")

    def finished(self, number: int, label: str, outcome: StepOutcome) -> None:
        """Print how it ended."""
        log = self._logs.pop(number, None)
        self._print_lines(number, _rest_of(log))
        if outcome.cached:
            if log is None:
                self._print(number, one_line(label))
            self._print(number, "CACHED")
        else:
            self._print(number, f"DONE {outcome_words(outcome)}")

    def failed(self, number: int, label: str) -> None:
        """Print that it failed, and the end of its output once more, without others' lines."""
        log = self._logs.pop(number, None)
        self._print_lines(number, _rest_of(log))
        self._print(number, f"ERROR {one_line(label)}")
        write_failure(self._stream, label, log)

    def canceled(self, number: int, label: str) -> None:
        """Print that it was given up."""
        self._print_lines(number, _rest_of(self._logs.pop(number, None)))
        self._print(number, f"CANCELED {one_line(label)}")

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

    def fetched(self, number: int, done: int, total: int | None) -> None:
        """Print nothing: logs are for lines that stay true."""

    def waiting(self, what: str) -> None:
        """Print what is waited for."""
        self._stream.write(f"waiting for {printable(what)}\n")
        self._stream.flush()

    def _print_lines(self, number: int, lines: list[str]) -> None:
        elapsed = time.monotonic() - self._began.get(number, time.monotonic())
        for line in lines:
            self._print(number, f"{elapsed:.1f} {line}")

    def _print(self, number: int, text: str) -> None:
        gap = "\n" if self._last in self._logs and self._last != number else ""
        self._last = number
        self._stream.write(f"{gap}#{number} {printable(text)}\n")
        self._stream.flush()


class QuietUi(SilentUi):
    """Says nothing unless a step fails: then the end of its output."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._logs: dict[int, StepLog] = {}

    def started(self, number: int, label: str) -> None:
        """Begin to remember."""
        del label
        self._logs[number] = StepLog()

    def finished(self, number: int, label: str, outcome: StepOutcome) -> None:
        """Forget."""
        del label, outcome
        self._logs.pop(number, None)

    def failed(self, number: int, label: str) -> None:
        """Print the end of the output."""
        log = self._logs.pop(number, StepLog())
        log.finish()
        write_failure(self._stream, label, log)

    def output(self, number: int, data: bytes) -> None:
        """Remember."""
        self._logs.setdefault(number, StepLog()).feed(data)


def write_failure(stream: TextIO, label: str, log: StepLog | None) -> None:
    """Write a failed step with the end of its output, framed as BuildKit frames it."""
    lines = list(log.tail) if log is not None else []
    if not lines:
        return  # what failed said nothing: an empty frame would only ask what is missing
    stream.write("".join(f"{line}\n" for line in (_RULE, f" > {one_line(label)}:", *lines, _RULE)))
    stream.flush()


def _rest_of(log: StepLog | None) -> list[str]:
    return log.finish() if log is not None else []


def check_progress(progress: str) -> None:
    """Refuse what is no ``--progress``.

    Raises:
        InputError: It is none.
    """
    if progress not in PROGRESS:
        raise InputError(f"{progress!r} is no progress", hint="one of " + ", ".join(PROGRESS))


@contextlib.contextmanager
def watching(progress: str, *, quiet: bool) -> Iterator[BuildUi]:
    """Give the watcher for ``--progress`` and ``--quiet``; everything goes to stderr."""
    if progress in JSON_PROGRESS:
        from layerstore.cli.build.json_lines import JsonUi

        with JsonUi(sys.stderr).telling_errors() as machine:
            yield machine
    elif quiet or progress == "quiet":
        yield QuietUi(sys.stderr)
    elif progress == "plain" or (progress == "auto" and not _is_capable(sys.stderr)):
        yield PlainUi(sys.stderr)
    else:
        from layerstore.cli.build.terminal import TerminalUi

        with TerminalUi(sys.stderr) as picture:
            yield picture


def _is_capable(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
