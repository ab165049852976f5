"""Errors of running a build; errors of the spec itself are in dockerfile.errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.errors import BuildError

if TYPE_CHECKING:
    from layerstore.build.dockerfile.syntax import SourceSpan

LINES_AROUND = 2
LINES_MAX = 12
"""Lines of a long instruction that an error quotes."""


class BuildStepError(BuildError):
    """A step could not be carried out; the message begins with ``file:line:column``.

    Attributes:
        span: The instruction's place, None for steps that no file has.
        label: The step as the progress shows it.
        source: The spec's lines around the instruction, numbered; empty until somebody who has the
            spec calls :meth:`quote`.
    """

    source = ""

    def __init__(
        self, reason: str, span: SourceSpan | None, label: str, *, hint: str | None = None
    ) -> None:
        place = f"{span}: " if span is not None else ""
        super().__init__(f"{place}{reason}", hint=hint)
        self.reason = reason
        self.span = span
        self.label = label

    def quote(self, file: str, text: bytes) -> None:
        """Remember the lines around the instruction, if it stands in this file."""
        if self.span is not None and self.span.file == file:
            self.source = source_lines(text.decode("utf-8", "replace"), self.span)


class StepFailedError(BuildStepError):
    """The command of a RUN ended with an error.

    Attributes:
        status: Its exit status, 128 and the signal's number when a signal ended it.
        tail: The last lines of its output.
    """

    def __init__(
        self, command: str, status: int, tail: str, span: SourceSpan | None, label: str
    ) -> None:
        super().__init__(f"{command!r} ended with exit status {status}", span, label)
        self.status = status
        self.tail = tail


def source_lines(text: str, span: SourceSpan) -> str:
    """Return an instruction with the lines around it, each with its number, as buildx does.

    The instruction's own lines are marked; a long one is cut. What is in the lines is the
    file's: it may hold control characters.
    """
    lines = text.removesuffix("\n").split("\n")
    end = min(span.end_line, span.line + LINES_MAX - 1)
    first, last = max(1, span.line - LINES_AROUND), min(len(lines), end + LINES_AROUND)
    if end < span.end_line:
        last = end
    rule = "-" * 20
    shown = [f"{span.file}:{span.line}", rule]
    for number in range(first, last + 1):
        mark = ">>>" if span.line <= number <= end else "   "
        shown.append(f"{number:4} | {mark} {lines[number - 1].expandtabs()}".rstrip())
    if end < span.end_line:
        shown.append(f"     | >>> ... to line {span.end_line}")
    return "\n".join([*shown, rule])


class BuildCanceledError(BuildError):
    """A step was given up because another one failed or the build was interrupted."""

    def __init__(self) -> None:
        super().__init__("the step was given up because the build ended")
