"""Texts as Go's fmt package writes them, because BuildKit's image histories hold them. Pure.

Source: https://pkg.go.dev/fmt (verbs %q and %v), https://pkg.go.dev/time#Duration.String.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_ESCAPES = {
    "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v",
    "\\": "\\\\", '"': '\\"',
}  # fmt: skip


def quoted(text: str) -> str:
    """Return ``%q`` of a string."""
    return '"' + "".join(map(_quoted_char, text)) + '"'


def quoted_list(texts: Iterable[str]) -> str:
    """Return ``%q`` of a slice of strings: ``["sh" "-c"]``."""
    return "[" + " ".join(map(quoted, texts)) + "]"


def plain_list(texts: Iterable[str]) -> str:
    """Return ``%v`` of a slice of strings: ``[sh -c]``."""
    return "[" + " ".join(texts) + "]"


def duration(nanoseconds: int) -> str:
    """Return a ``time.Duration``: ``1h0m5s``, ``1.5s``, ``300ms``, ``0s``."""
    if nanoseconds == 0:
        return "0s"
    for unit, size in (("ns", 1), ("µs", 10**3), ("ms", 10**6)):
        if nanoseconds < size * 1000:
            return _decimal(nanoseconds, size) + unit
    minutes, rest = divmod(nanoseconds, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    seconds = _decimal(rest, 10**9) + "s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def _decimal(value: int, unit: int) -> str:
    whole, fraction = divmod(value, unit)
    digits = str(fraction).rjust(len(str(unit)) - 1, "0").rstrip("0") if fraction else ""
    return f"{whole}.{digits}" if digits else str(whole)


def _quoted_char(char: str) -> str:
    escape = _ESCAPES.get(char)
    if escape is not None:
        return escape
    if char == " " or char.isprintable():
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8, as Python keeps it
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def is_true(text: str) -> bool:
    """Return whether Go reads a text as true (``strconv.ParseBool``); nonsense is false."""
    return text in ("1", "t", "T", "TRUE", "true", "True")
