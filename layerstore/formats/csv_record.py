"""One line of CSV, as docker and BuildKit read words that hold several things. Pure.

A field may stand in double quotes, which protect commas; a quote inside is doubled. Quotes are
nowhere else, so that a path in half of them is no other path. Source: RFC 4180, and Go's
encoding/csv (https://pkg.go.dev/encoding/csv), which reads ``--mount`` there. On the fast path.
"""

from __future__ import annotations

from layerstore.errors import FormatError


def fields_of(text: str, what: str = "field") -> list[str]:
    """Return the fields of a line, without their quotes.

    Args:
        text: The line; a line break in it is as any other character.
        what: What the fields are, for messages.

    Raises:
        FormatError: A quote is not closed, or stands where none may.
    """
    if '"' not in text:  # as nearly always
        return text.split(",")
    fields: list[str] = []
    position = 0
    while position <= len(text):
        if text.startswith('"', position):
            field, position = _quoted(text, position, what)
        else:
            end = text.find(",", position)
            end = len(text) if end < 0 else end
            field, position = text[position:end], end + 1
            if '"' in field:
                raise FormatError(f"a quote inside the {what} {field!r}")
        fields.append(field)
    return fields


def _quoted(text: str, position: int, what: str) -> tuple[str, int]:
    """Return the field whose quote is at a position, and where the next one begins."""
    out: list[str] = []
    start = position + 1
    while (end := text.find('"', start)) >= 0:
        out.append(text[start:end])
        following = text[end + 1 : end + 2]
        if following != '"':
            if following not in ("", ","):
                raise FormatError(f"text behind a quoted {what}")
            return "".join(out), end + 2
        out.append('"')
        start = end + 2
    raise FormatError(f"the quote of a {what} is not closed")
