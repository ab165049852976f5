"""Errors of spec texts, with their place.

Source: docs/reference/errors.md, family InputError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.errors import InputError

if TYPE_CHECKING:
    from layerstore.build.dockerfile.syntax import SourceSpan

EXCERPT_COLUMNS = 100  # what fits a terminal beside the message's indentation


class SpecError(InputError):
    """A spec (Dockerfile, .dockerignore) says something that cannot be done.

    The message begins with ``file:line:column``.

    Args:
        reason: What is wrong, without the place.
        span: Where.
        hint: What to write instead.
    """

    def __init__(self, reason: str, span: SourceSpan, *, hint: str | None = None) -> None:
        self.reason = printable(reason)
        super().__init__(f"{printable(str(span))}: {self.reason}", hint=hint)
        self.span = span

    @property
    def file(self) -> str:
        """Return the file's name as the user gave it."""
        return self.span.file

    @property
    def line(self) -> int:
        """Return the line, from 1."""
        return self.span.line

    @property
    def column(self) -> int:
        """Return the column in characters, from 1."""
        return self.span.column

    def excerpt(self) -> str:
        """Return the source line and a caret under the column, or "" when unknown.

        Control characters are shown as spaces and a long line is cut around the
        column, so the text is safe and short enough for a terminal.
        """
        return excerpt(self.span)


def printable(text: str) -> str:
    """Return text with control and direction characters written as escapes.

    A message quotes the file, and the file must not be able to draw on the terminal.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def excerpt(span: SourceSpan) -> str:
    """Return a span's source line with a caret under its column (see `SpecError.excerpt`)."""
    if not span.text:
        return ""
    start = max(0, span.column - 1 - EXCERPT_COLUMNS // 2)
    shown = span.text[start : start + EXCERPT_COLUMNS].rstrip()
    shown = "".join(char if char.isprintable() else " " for char in shown)
    return f"{shown}\n{' ' * (span.column - 1 - start)}^"


def unsupported(span: SourceSpan, what: str, *, hint: str | None = None) -> SpecError:
    """Return the error for something valid that this version cannot build.

    Args:
        span: Of the instruction or, better, the flag (`Instruction.flag_span`).
        what: The feature in the spec's words: ``RUN --mount=type=ssh``.
        hint: What to do instead.
    """
    return SpecError(f"{what} is not supported yet", span, hint=hint)
