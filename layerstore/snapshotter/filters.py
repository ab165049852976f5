"""containerd's filter language: which snapshots ``List`` is to tell.

    filter    := selector ("," selector)*           all must match
    selector  := fieldpath [("==" | "!=" | "~=") value]
    fieldpath := field ("." field)*
    field     := quoted | letters, digits, "_", beginning with a letter
    value     := quoted | anything but spaces and commas
    quoted    := as strings of Go are written; after "~=" between "/" or "|" as well

Several filters are alternatives. Without operator a selector asks whether the field is there.

Source: containerd, pkg/filters.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from layerstore.snapshotter.failures import SnapshotRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Fields = Callable[[Sequence[str]], str | None]
    """Returns the value of a field, given the parts of its path; None if it is not there."""

FILTER_MAX_CHARACTERS: Final = 16_384
"""containerd sends names of labels and keys, each a few hundred characters long."""

_FIELD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_OPERATOR: Final = re.compile(r"==|!=|~=")
_VALUE: Final = re.compile(r"[^\s,\"]+")
_QUOTED: Final = re.compile(r'"(?:[^"\\\n]|\\.)*"|`[^`]*`')
_QUOTED_PATTERN: Final = re.compile(_QUOTED.pattern + r"|/(?:[^/\\\n]|\\.)*/|\|(?:[^|\\\n]|\\.)*\|")
_ESCAPE: Final = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))"
)
_SIMPLE: Final = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v",
    "\\": "\\", '"': '"', "'": "'", "/": "/", "|": "|",
}  # fmt: skip


class _Selector(NamedTuple):
    path: tuple[str, ...]
    operator: str
    value: str
    pattern: re.Pattern[str] | None = None

    def matches(self, fields: Fields) -> bool:
        found = fields(self.path)
        if self.operator == "!=":
            return (found or "") != self.value
        if found is None:
            return False
        if self.operator == "==":
            return found == self.value
        return self.pattern is None or self.pattern.search(found) is not None


class Filter:
    """What several filters amount to.

    Args:
        texts: As a client sent them; none matches everything.

    Raises:
        SnapshotRequestError: One of them is not of the language.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._alternatives = [_Parser(text).selectors() for text in texts]

    def matches(self, fields: Fields) -> bool:
        """Whether something with these fields is meant."""
        if not self._alternatives:
            return True
        return any(
            all(selector.matches(fields) for selector in alternative)
            for alternative in self._alternatives
        )


class _Parser:
    def __init__(self, text: str) -> None:
        if len(text) > FILTER_MAX_CHARACTERS:
            raise SnapshotRequestError(
                f"a filter of {len(text)} characters, {FILTER_MAX_CHARACTERS} are allowed"
            )
        self._text = text
        self._at = 0

    def selectors(self) -> list[_Selector]:
        found: list[_Selector] = []
        if not self._text:
            return found
        while True:
            found.append(self._selector())
            if self._at == len(self._text):
                return found
            self._expect(",")

    def _selector(self) -> _Selector:
        path = [self._field()]
        while self._next_is("."):
            self._at += 1
            path.append(self._field())
        operator = self._take(_OPERATOR)
        if operator is None:
            return _Selector(tuple(path), "", "")
        value = self._quoted(_QUOTED_PATTERN if operator == "~=" else _QUOTED)
        if value is None:
            value = self._take(_VALUE)
        if value is None:
            raise self._error("expected a value")
        pattern = None
        if operator == "~=":
            try:
                pattern = re.compile(value)
            except re.error as err:
                raise self._error(f"{value!r} is no regular expression: {err}") from err
        return _Selector(tuple(path), operator, value, pattern)

    def _field(self) -> str:
        field = self._quoted()
        if field is None:
            field = self._take(_FIELD)
        if field is None:
            raise self._error("expected the name of a field")
        return field

    def _quoted(self, form: re.Pattern[str] = _QUOTED) -> str | None:
        quoted = self._take(form)
        if quoted is None:
            return None
        return quoted[1:-1] if quoted[0] == "`" else _ESCAPE.sub(self._unescaped, quoted[1:-1])

    def _unescaped(self, escape: re.Match[str]) -> str:
        hexadecimal = escape[1] or escape[2] or escape[3]
        code = int(hexadecimal, 16) if hexadecimal else int(escape[4], 8) if escape[4] else None
        if code is not None:
            if code > 0x10FFFF:
                raise self._error(f"{escape[0]} is no character")
            return chr(code)
        try:
            return _SIMPLE[escape[5]]
        except KeyError:
            raise self._error(f"{escape[0]} means nothing") from None

    def _take(self, pattern: re.Pattern[str]) -> str | None:
        match = pattern.match(self._text, self._at)
        if match is None:
            return None
        self._at = match.end()
        return match[0]

    def _next_is(self, character: str) -> bool:
        return self._text[self._at : self._at + 1] == character

    def _expect(self, character: str) -> None:
        if not self._next_is(character):
            raise self._error(f"expected {character!r}")
        self._at += 1

    def _error(self, what: str) -> SnapshotRequestError:
        place = f"{self._text[: self._at][-100:]}>|{self._text[self._at :][:100]}"
        return SnapshotRequestError(f"filter {place!r}: {what}")
