r"""Glob patterns as bit-parallel automata: time linear in the path whatever the pattern.

Two dialects share one machine:

- ``filepath.Match`` (COPY sources): ``*`` and ``?`` stay within a component, ``[a-z]``
  classes, ``\`` escapes;
- ``.dockerignore`` adds ``**``, which crosses components.

An automaton holds any number of patterns side by side in one integer: bit *i* set
means that token *i* is next. Regular expressions that backtrack take time
like a power of the path's length on ``*a*a*a*b``, which any build context may bring.

Source: Go path/filepath.Match; github.com/moby/patternmatcher; G. Navarro and
M. Raffinot, Flexible Pattern Matching in Strings (2002), chapter 4.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import InputError, LimitExceededError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_PATTERN_CHARS = 4_096  # no path is longer
SPECIAL = frozenset("*?[\\")


class PatternError(InputError):
    """A pattern is malformed: an open ``[``, an empty range, a trailing escape."""


class Star(Enum):
    """A token that takes any number of characters."""

    COMPONENT = "*"  # no slash
    FOLDERS = "**/"  # nothing, or anything up to and with a slash
    ANY = "**"


class CharClass(NamedTuple):
    """``[a-z]``, ``[^a-z]``, or ``?`` (everything but the slash)."""

    negated: bool
    ranges: tuple[tuple[str, str], ...]

    def takes(self, char: str) -> bool:
        """Whether the class holds the character."""
        return any(low <= char <= high for low, high in self.ranges) != self.negated


Token = str | CharClass | Star
_NOT_SLASH = CharClass(negated=True, ranges=(("/", "/"),))


def tokenize(pattern: str, *, double_star: bool) -> list[Token]:
    """Return a pattern's tokens, with no two stars in a row.

    Args:
        pattern: With ``/`` between components.
        double_star: The ``.dockerignore`` dialect; else ``**`` is ``*``.

    Raises:
        PatternError: The pattern is malformed.
        LimitExceededError: It is longer than `MAX_PATTERN_CHARS`.
    """
    if len(pattern) > MAX_PATTERN_CHARS:
        what = f"a pattern has {len(pattern):,} characters (limit {MAX_PATTERN_CHARS:,})"
        raise LimitExceededError(what)
    tokens: list[Token] = []
    position = 0
    while position < len(pattern):
        char = pattern[position]
        if char == "*":
            star, position = _star(pattern, position, double_star=double_star)
            _append_star(tokens, star)
        elif char == "[":
            char_class, position = _char_class(pattern, position)
            tokens.append(char_class)
        elif char == "\\":
            if position + 1 == len(pattern):
                raise PatternError(f"the pattern {pattern!r} ends in an escape")
            tokens.append(pattern[position + 1])
            position += 2
        else:
            tokens.append(_NOT_SLASH if char == "?" else char)
            position += 1
    return tokens


def _star(pattern: str, position: int, *, double_star: bool) -> tuple[Star, int]:
    if not double_star or not pattern.startswith("**", position):
        return Star.COMPONENT, position + 1
    position += 2
    if pattern.startswith("/", position):
        position += 1
    if position == len(pattern):
        return Star.ANY, position
    return Star.FOLDERS, position


def _append_star(tokens: list[Token], star: Star) -> None:
    """Append a star; two in a row are one that takes what both took."""
    if not tokens or not isinstance(tokens[-1], Star):
        tokens.append(star)
    elif tokens[-1] is not star:
        tokens[-1] = Star.ANY


def _char_class(pattern: str, start: int) -> tuple[CharClass, int]:
    position = start + 1
    negated = pattern.startswith("^", position)
    position += negated
    ranges: list[tuple[str, str]] = []
    while position < len(pattern):
        if pattern[position] == "]" and ranges:
            return CharClass(negated, tuple(ranges)), position + 1
        low, position = _class_char(pattern, position)
        high = low
        if pattern.startswith("-", position):
            high, position = _class_char(pattern, position + 1)
        ranges.append((low, high))
    raise PatternError(f"the pattern {pattern!r} has an open [")


def _class_char(pattern: str, position: int) -> tuple[str, int]:
    char = pattern[position : position + 1]
    if char in ("", "-", "]"):
        raise PatternError(f"the pattern {pattern!r} has a bad range")
    if char == "\\":
        char = pattern[position + 1 : position + 2]
        if not char:
            raise PatternError(f"the pattern {pattern!r} ends in an escape")
        position += 1
    return char, position + 1


class Automaton:
    """Matches paths against many patterns at once.

    Masks of characters are made when first seen. Several threads may ask one: each makes the same.
    """

    __slots__ = (
        "_classes",
        "_cross",
        "_final",
        "_literals",
        "_loop_any",
        "_loop_component",
        "_masks",
        "_size",
        "_skip_one",
        "_skip_two",
        "_start",
    )

    def __init__(self, patterns: Iterable[Sequence[Token]]) -> None:
        self._masks: dict[str, int] = {}
        self._literals: dict[str, list[int]] = {}
        self._classes: list[tuple[CharClass, int]] = []
        bits: dict[str, list[int]] = {
            name: [] for name in ("start", "final", "component", "any", "cross", "one", "two")
        }
        position = 0
        for tokens in patterns:
            bits["start"].append(position)
            for token in tokens:
                position = self._place(token, position, bits)
            bits["final"].append(position)
            position += 1
        self._size = position
        self._final = self._mask(bits["final"])
        self._loop_component = self._mask(bits["component"])
        self._loop_any = self._mask(bits["any"])
        self._cross = self._mask(bits["cross"])
        self._skip_one = self._mask(bits["one"])
        self._skip_two = self._mask(bits["two"])
        self._start = self._closure(self._mask(bits["start"]))

    def _place(self, token: Token, position: int, bits: dict[str, list[int]]) -> int:
        """Note the token at a bit position; return the next one's."""
        if isinstance(token, str):
            self._literals.setdefault(token, []).append(position)
        elif isinstance(token, CharClass):
            self._classes.append((token, position))
        elif token is Star.FOLDERS:
            # An entry that leads into the loop or past it, and the loop, left by a slash.
            bits["one"].append(position)
            bits["two"].append(position)
            bits["any"].append(position + 1)
            bits["cross"].append(position + 1)
            return position + 2
        else:
            bits["one"].append(position)
            bits["any" if token is Star.ANY else "component"].append(position)
        return position + 1

    def _mask(self, positions: list[int]) -> int:
        # Through bytes, because setting bits of a long int one by one is quadratic.
        data = bytearray(self._size // 8 + 1)
        for position in positions:
            data[position >> 3] |= 1 << (position & 7)
        return int.from_bytes(data, "little")

    def _takes(self, char: str) -> int:
        """Return the tokens that consume one ``char`` and then are done."""
        mask = self._masks.get(char)
        if mask is None:
            positions = list(self._literals.get(char, ()))
            positions += [position for each, position in self._classes if each.takes(char)]
            mask = self._mask(positions)
            if char == "/":
                mask |= self._cross
            self._masks[char] = mask
        return mask

    def _closure(self, state: int) -> int:
        """Add what can be reached without a character; one pass, as no two stars adjoin."""
        return state | (state & self._skip_one) << 1 | (state & self._skip_two) << 2

    def run(self, path: str) -> int:
        """Return the state after a path; 0 when no pattern can match it or go on from it."""
        state = self._start
        for char in path:
            loops = self._loop_any if char == "/" else self._loop_any | self._loop_component
            state = self._closure((state & self._takes(char)) << 1 | state & loops)
            if not state:
                return 0
        return state

    def matches(self, path: str) -> bool:
        """Whether some pattern matches the whole path."""
        return bool(self.run(path) & self._final)
