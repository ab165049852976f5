"""Errors of running a build; errors of the spec itself are in dockerfile.errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.errors import BuildError

if TYPE_CHECKING:
    from layerstore.build.dockerfile.syntax import SourceSpan


class BuildStepError(BuildError):
    """A step could not be carried out; the message begins with ``file:line:column``.

    Attributes:
        span: The instruction's place, None for steps that no file has.
        label: The step as the progress shows it.
    """

    def __init__(
        self, reason: str, span: SourceSpan | None, label: str, *, hint: str | None = None
    ) -> None:
        place = f"{span}: " if span is not None else ""
        super().__init__(f"{place}{reason}", hint=hint)
        self.reason = reason
        self.span = span
        self.label = label


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
