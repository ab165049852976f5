"""Where in a TOML text each key and value stands; the standard reader does not say.

A walk over the text that knows strings, brackets and keys, and nothing of dates, numbers or
what may be written twice: ``tomllib`` decides what is valid, so a text that this walk does
not understand simply has no more places from there on. It also holds nesting to a limit, in
front of the standard reader, which recurses.

Pure; time linear in the text.

Source: TOML 1.0.0.
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from layerstore.build.dockerfile.syntax import SourceSpan
from layerstore.build.native.limits import MAX_DEPTH, limit_exceeded

if TYPE_CHECKING:
    from collections.abc import Sequence

Path = tuple[str | int, ...]

_BLANK = re.compile(r"[ \t]*+(?:#[^\n]*+)?")
_BLANK_LINES = re.compile(r"(?:[ \t\n]++|#[^\n]*+)*+")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]++")
_STRING = re.compile(
    r'"""(?:\\.|[^\\"]|"{1,2}(?!"))*+"{3,5}'
    r"|'''(?:[^']|'{1,2}(?!'))*+'{3,5}"
    r'|"(?:\\.|[^"\\\n])*+"'
    r"|'[^'\n]*+'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}\n#]++")


class Place(NamedTuple):
    """Offsets of a value and of the key in front of it (equal for items of lists)."""

    key: int
    value: int


class _StrangeTextError(Exception):
    """The walk met something that is no TOML it knows."""


class Lines:
    """Turns offsets of a text into spans."""

    def __init__(self, text: str, file: str) -> None:
        self._file = file
        self._lines = text.split("\n")
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line) + 1)

    def span(self, offset: int) -> SourceSpan:
        """Return the place of an offset."""
        line = min(bisect_right(self._starts, offset), len(self._lines))
        return self.at(line, offset - self._starts[line - 1] + 1)

    def at(self, line: int, column: int) -> SourceSpan:
        """Return the place of a line and column that count from 1."""
        line = max(1, min(line, len(self._lines)))
        return SourceSpan(self._file, line, max(1, column), line, self._lines[line - 1])


def locate(text: str, lines: Lines) -> dict[Path, Place]:
    r"""Return the first place of every table, key and item.

    Args:
        text: The text, its line ends already ``\\n``.
        lines: Of the same text.

    Raises:
        LimitExceededError: Nested deeper than ``MAX_DEPTH``.
    """
    walk = _Walk(text, lines)
    with contextlib.suppress(_StrangeTextError):
        walk.document()
    return walk.places


class _Walk:
    def __init__(self, text: str, lines: Lines) -> None:
        self._text = text
        self._lines = lines
        self._at = 0
        self._table: Path = ()
        self._array_sizes: dict[Path, int] = {}
        self.places: dict[Path, Place] = {}

    def document(self) -> None:
        while True:
            self._skip(_BLANK_LINES)
            if self._at >= len(self._text):
                return
            start = self._at
            if self._next("[["):
                self._table = self._header(start, is_array=True)
                self._expect("]]")
            elif self._next("["):
                self._table = self._header(start, is_array=False)
                self._expect("]")
            else:
                self._pair(self._table)
            self._skip(_BLANK)
            if self._at < len(self._text) and not self._next("\n"):
                raise _StrangeTextError

    def _header(self, start: int, *, is_array: bool) -> Path:
        keys = self._keys()
        path: Path = ()
        for index, key in enumerate(keys):
            path = (*path, key)
            last = index == len(keys) - 1
            self.places.setdefault(path, Place(start, start))
            if last and is_array:
                self._array_sizes[path] = self._array_sizes.get(path, 0) + 1
            if path in self._array_sizes:
                path = (*path, self._array_sizes[path] - 1)
                self.places.setdefault(path, Place(start, start))
        self._limit_depth(path, start)
        return path

    def _pair(self, table: Path) -> None:
        start = self._at
        path = table
        places = []
        for key in self._keys():
            path = (*path, key)
            places.append(path)
        self._limit_depth(path, start)
        self._expect("=")
        self._skip(_BLANK)
        for prefix in places:
            self.places.setdefault(prefix, Place(start, self._at))
        self._value(path)

    def _value(self, path: Path) -> None:
        self._limit_depth(path, self._at)
        if self._next("["):
            self._list(path)
        elif self._next("{"):
            self._inline_table(path)
        elif self._text[self._at : self._at + 1] in ('"', "'"):
            self._match(_STRING)
        else:
            self._match(_SCALAR)

    def _list(self, path: Path) -> None:
        index = 0
        while True:
            self._skip(_BLANK_LINES)
            if self._next("]"):
                return
            item = (*path, index)
            self.places.setdefault(item, Place(self._at, self._at))
            self._value(item)
            index += 1
            self._skip(_BLANK_LINES)
            if self._next(","):
                continue
            self._expect("]")
            return

    def _inline_table(self, path: Path) -> None:
        while True:
            self._skip(_BLANK_LINES)  # TOML 1.1 allows lines here; 1.0 is refused by tomllib
            if self._next("}"):
                return
            self._pair(path)
            self._skip(_BLANK_LINES)
            if self._next(","):
                continue
            self._expect("}")
            return

    def _keys(self) -> list[str]:
        start = self._at
        keys: list[str] = []
        while True:
            self._skip(_BLANK)
            keys.append(self._key())
            self._limit_depth(keys, start)  # at once: what is done with them is quadratic
            self._skip(_BLANK)
            if not self._next("."):
                return keys

    def _key(self) -> str:
        if self._text[self._at : self._at + 1] not in ('"', "'"):
            return self._match(_BARE_KEY)
        raw = self._match(_STRING)
        if "\\" not in raw:
            return raw[1:-1]
        try:
            return str(tomllib.loads(f"key = {raw}")["key"])
        except ValueError as err:
            raise _StrangeTextError from err

    def _limit_depth(self, path: Sequence[str | int], offset: int) -> None:
        if len(path) > MAX_DEPTH:
            span = self._lines.span(offset)
            raise limit_exceeded(span, "tables and lists are nested too deep", MAX_DEPTH)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self._text, self._at)
        assert found is not None
        self._at = found.end()

    def _match(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise _StrangeTextError
        self._at = found.end()
        return found[0]

    def _next(self, word: str) -> bool:
        if self._text.startswith(word, self._at):
            self._at += len(word)
            return True
        return False

    def _expect(self, word: str) -> None:
        if not self._next(word):
            raise _StrangeTextError
