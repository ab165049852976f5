"""Bytes of a Dockerfile to logical lines: comments, continuations, directives, heredocs.

A logical line keeps where each of its parts stood in the file, so that any offset
in it gives a line and a column. What the words mean is `instructions`' business.

The rules are those of BuildKit's reader; docs/decisions/0030-dockerfile-language.md
lists the places where this one is stricter. Every pass is linear in the text.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from layerstore.build.dockerfile import limits
from layerstore.build.dockerfile.checks import parse_check
from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.hints import VERY_LIKE, nearest
from layerstore.build.dockerfile.syntax import Directive, Heredoc, Notice, SourceSpan

if TYPE_CHECKING:
    from collections.abc import Iterator

# What Go's unicode.IsSpace takes for white space; Python's str.strip also takes \x1c-\x1f.
SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
)
SPACE += "\u2028\u2029\u202f\u205f\u3000"

_BOM = b"\xef\xbb\xbf"
_DIRECTIVE = re.compile(r"([a-zA-Z][a-zA-Z0-9]*)[ \t\v\f]*=[ \t\v\f]*(\S.*)")
_DIRECTIVES = ("syntax", "escape", "check")
_FRONTENDS = re.compile(
    r"(?:docker\.io/)?docker/dockerfile(?:-upstream)?(?::[\w.-]{1,128})?(?:@sha256:[0-9a-f]{64})?"
)


class Source:
    """The decoded text of one file, by physical lines without their newline."""

    __slots__ = ("file", "lines")

    def __init__(self, file: str, lines: list[str]) -> None:
        self.file = file
        self.lines = lines

    def span(self, line: int, column: int = 1, end_line: int | None = None) -> SourceSpan:
        """Return the span of a line and column, both from 1."""
        text = self.lines[line - 1] if line <= len(self.lines) else ""
        return SourceSpan(self.file, line, column, end_line or line, text)


class Piece(NamedTuple):
    """From ``offset`` of a logical line on, the text stands at ``line``, ``column`` (from 1)."""

    offset: int
    line: int
    column: int


class LogicalLine:
    """One instruction's text with its continuations joined."""

    __slots__ = ("_offsets", "_pieces", "last_line", "source", "text")

    def __init__(self, source: Source, text: str, pieces: list[Piece], last_line: int) -> None:
        self.source = source
        self.text = text
        self.last_line = last_line
        self._pieces = pieces
        self._offsets = [piece.offset for piece in pieces]

    def span(self, offset: int = 0, *, end_line: int | None = None) -> SourceSpan:
        """Return where the character at ``offset`` stands."""
        piece = self._pieces[max(0, bisect_right(self._offsets, offset) - 1)]
        column = piece.column + offset - piece.offset
        return self.source.span(piece.line, column, end_line)


def decode(data: bytes, file: str) -> Source:
    """Return the lines of a file's bytes.

    Raises:
        SpecError: Not UTF-8, or it holds a NUL.
        LimitExceededError: Longer than `limits.MAX_FILE_BYTES`, or too many lines.
    """
    start = SourceSpan(file, 1, 1, 1)
    if len(data) > limits.MAX_FILE_BYTES:
        raise limits.limit_exceeded(
            start, f"the file has {len(data):,} bytes", limits.MAX_FILE_BYTES
        )
    count = data.count(b"\n") + 1
    if count > limits.MAX_LINES:
        raise limits.limit_exceeded(start, f"the file has {count:,} lines", limits.MAX_LINES)
    data = data.removeprefix(_BOM)
    try:
        text = data.decode()
    except UnicodeDecodeError as err:
        span = _byte_span(data, err.start, file)
        hint = "store the file as UTF-8"
        raise SpecError(f"byte 0x{data[err.start]:02x} is not UTF-8", span, hint=hint) from None
    if "\0" in text:
        raise SpecError("the text holds a NUL byte", _byte_span(data, data.index(0), file))
    return Source(file, text.split("\n"))


def _byte_span(data: bytes, position: int, file: str) -> SourceSpan:
    line_start = data.rfind(b"\n", 0, position) + 1
    before = data[line_start:position].decode(errors="replace")
    line = data.count(b"\n", 0, position) + 1
    return SourceSpan(file, line, len(before) + 1, line)


class Lexer:
    """Reads a file's logical lines in order; heredocs are read on demand in between.

    `directives` and `escape` are known after construction.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.directives: list[Directive] = []
        self.notices: list[Notice] = []
        self.escape = "\\"
        self._next = 0  # index of the physical line to read next
        self._read_directives()

    @property
    def line_number(self) -> int:
        """The number of the physical line read last."""
        return self._next

    def __iter__(self) -> Iterator[LogicalLine]:
        while self._next < len(self.source.lines):
            line = self._read_logical()
            if line is not None:
                yield line

    def _read_logical(self) -> LogicalLine | None:
        number, raw = self._take()
        text = raw.lstrip(SPACE)
        if not text or text[0] == "#":
            return None
        parts: list[str] = []
        pieces: list[Piece] = []
        column = len(raw) - len(text) + 1
        size = 0
        blank: int | None = None
        while True:
            body, continued = self._cut(text)
            pieces.append(Piece(size, number, column))
            parts.append(body)
            size += len(body)
            if size > limits.MAX_LINE_CHARS:
                what = f"the line has more than {limits.MAX_LINE_CHARS:,} characters"
                raise limits.limit_exceeded(self.source.span(number), what, limits.MAX_LINE_CHARS)
            if len(parts) > limits.MAX_CONTINUATIONS:
                what = "the instruction has too many continuation lines"
                span = self.source.span(pieces[0].line)
                raise limits.limit_exceeded(span, what, limits.MAX_CONTINUATIONS)
            if not continued:
                break
            following, skipped = self._take_continuation()
            blank = blank or skipped
            if following is None:
                break
            number, text = following
            column = 1
        if blank is not None:
            message = "empty line inside a continued instruction; docker will refuse it one day"
            notice = Notice(message, self.source.span(blank), "NoEmptyContinuation")
            self.notices.append(notice)
        return LogicalLine(self.source, "".join(parts), pieces, self._next)

    def _take(self) -> tuple[int, str]:
        raw = self.source.lines[self._next].rstrip("\r")
        self._next += 1
        return self._next, raw

    def _take_continuation(self) -> tuple[tuple[int, str] | None, int | None]:
        """Return the next line that counts (None at the end), and the first blank one passed."""
        blank = None
        last = len(self.source.lines)
        while self._next < last:
            number, raw = self._take()
            text = raw.lstrip(SPACE)
            if text and text[0] != "#":
                return (number, raw), blank
            # The empty "line" behind the file's last newline is nobody's mistake.
            if not text and blank is None and number < last:
                blank = number
        return None, blank

    def _cut(self, text: str) -> tuple[str, bool]:
        """Return a physical line without its continuation mark, and whether it had one.

        An escaped escape at the end of a line continues nothing.
        """
        stripped = text.rstrip(" \t")
        if stripped.endswith(self.escape) and not stripped.endswith(self.escape * 2):
            return stripped[:-1], True
        return text, False

    def read_heredoc(self, opening: Heredoc, line: LogicalLine, offset: int) -> Heredoc:
        """Return ``opening`` with the content that follows in the file.

        Raises:
            SpecError: The delimiter never comes.
        """
        content: list[str] = []
        last = len(self.source.lines)
        while self._next < last:
            raw = self.source.lines[self._next]
            self._next += 1
            possible = raw.rstrip("\r")
            if opening.chomp:
                possible = possible.lstrip("\t")
            if possible == opening.name:
                return Heredoc(
                    opening.name,
                    "".join(content),
                    opening.expand,
                    opening.chomp,
                    opening.descriptor,
                )
            content.append(raw if self._next == last else raw + "\n")
        hint = f"end it with a line that is just {opening.name}"
        raise SpecError(f"the heredoc {opening.name!r} does not end", line.span(offset), hint=hint)

    def _read_directives(self) -> None:
        """Read the comments at the very top that are parser directives.

        A ``#!`` line in front hides the others, as docker has it, but not ``syntax``:
        what decides the language must not pass unseen.
        """
        shebang = self.source.lines[0].startswith("#!")
        seen: set[str] = set()
        for number, raw in enumerate(self.source.lines[shebang:], start=1 + shebang):
            text = raw.strip(SPACE)
            match = _DIRECTIVE.fullmatch(text[1:].lstrip(SPACE)) if text[:1] == "#" else None
            name = match[1].lower() if match else ""
            if match is None or name not in _DIRECTIVES or (shebang and name != "syntax"):
                self._note_likeness(name, number)
                return
            column = raw.index("#") + 1
            directive = Directive(name, match[2], self.source.span(number, column))
            if name in seen:
                raise SpecError(f"the directive {name} stands here twice", directive.span)
            seen.add(name)
            self.directives.append(directive)
            self._apply(directive)

    def _note_likeness(self, name: str, number: int) -> None:
        """Remark on a comment that may have been meant as a directive."""
        near = nearest(name, _DIRECTIVES, cutoff=VERY_LIKE) if name not in _DIRECTIVES else None
        if name and near:
            message = f"this is a comment: there is no directive {name}; did you mean {near}?"
            self.notices.append(Notice(message, self.source.span(number)))

    def _apply(self, directive: Directive) -> None:
        value, span = directive.value, directive.span
        if directive.name == "escape":
            if value not in ("\\", "`"):
                raise SpecError(f"escape must be \\ or `, not {value!r}", span)
            self.escape = value
        elif directive.name == "check":
            parse_check(value, span)
        else:
            check_frontend(value, span)
            message = f"syntax {value.split()[0]} is built in: nothing is fetched"
            self.notices.append(Notice(message, span))


def check_frontend(value: str, span: SourceSpan) -> None:
    """Refuse a frontend that is not the Dockerfile language; no frontend is ever fetched."""
    if not _FRONTENDS.fullmatch((value.split() or [""])[0]):
        hint = "remove the line, or write it in the Dockerfile language"
        raise SpecError(f"the frontend {value!r} is not available", span, hint=hint)
