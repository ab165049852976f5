r"""Wildcards of ``${name#pattern}`` and ``${name/pattern/text}``: ``*``, ``?`` and escapes.

A pattern is a list of fixed parts with a ``*`` between each two. Placing every part
as far left (for the shortest match) or only the last one as far right (for the
longest) as it goes is exact for such patterns and needs no backtracking.

Source: POSIX.1-2017, Shell Command Language, 2.13, without bracket expressions.
"""

from __future__ import annotations

import re

_ESCAPABLE = "*?\\"


class PatternSyntaxError(ValueError):
    r"""The pattern has a ``\`` before a character that needs none, or at its end."""


class _Part:
    """A part of a pattern without ``*``: literal characters and ``?``."""

    __slots__ = ("_any", "_literal", "_regex", "length")

    def __init__(self, tokens: list[str | None]) -> None:
        self.length = len(tokens)
        self._any = None in tokens
        self._literal = "".join(token or "" for token in tokens)
        parts = ("." if token is None else re.escape(token) for token in tokens)
        self._regex = re.compile("".join(parts), re.DOTALL) if self._any else None

    def find(self, text: str, start: int) -> int:
        if self._regex is None:
            return text.find(self._literal, start)
        match = self._regex.search(text, start)
        return -1 if match is None else match.start()

    def matches_at(self, text: str, start: int) -> bool:
        if self._regex is None:
            return text.startswith(self._literal, start)
        return self._regex.match(text, start) is not None


def _tokens(pattern: str) -> list[list[str | None]]:
    """Return the parts between stars; None stands for ``?``."""
    parts: list[list[str | None]] = [[]]
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char == "*":
            parts.append([])
        elif char == "?":
            parts[-1].append(None)
        elif char == "\\":
            following = pattern[position : position + 1]
            if following in ("}", "/"):
                continue  # the escape was for the substitution, the character is next
            if not following or following not in _ESCAPABLE:
                raise PatternSyntaxError(f"\\{following} escapes nothing")
            parts[-1].append(following)
            position += 1
        else:
            parts[-1].append(char)
    return parts


class Wildcard:
    """A compiled pattern.

    Raises:
        PatternSyntaxError: A bad escape.
    """

    __slots__ = ("_backward", "_forward", "_stars")

    def __init__(self, pattern: str) -> None:
        tokens = _tokens(pattern)
        self._stars = len(tokens) > 1
        self._forward = _compact(tokens)
        self._backward = _compact([part[::-1] for part in reversed(tokens)])

    def without_prefix(self, value: str, *, longest: bool) -> str:
        """Return the value without the shortest or longest prefix that matches."""
        end = self._end(self._forward, self._backward, value, 0, longest=longest)
        return value if end is None else value[end:]

    def without_suffix(self, value: str, *, longest: bool) -> str:
        """Return the value without the shortest or longest suffix that matches."""
        turned = value[::-1]
        end = self._end(self._backward, self._forward, turned, 0, longest=longest)
        return value if end is None else turned[end:][::-1]

    def replace(self, value: str, text: str, *, everywhere: bool, budget: int) -> str | None:
        """Return the value with the first match, or all of them, replaced.

        Returns None when the result would have more than ``budget`` characters.
        """
        if not self._stars and not self._forward[0].length:
            return _insert(value, text, everywhere=everywhere, budget=budget)
        out: list[str] = []
        size = len(value)
        done = 0
        while (found := self._search(value, done)) is not None:
            start, end = found
            size += len(text)
            if size > budget:
                return None
            out += (value[done:start], text)
            done = end
            # Only a match of stars alone is empty or reaches the end without using it up.
            if not everywhere or end == len(value):
                break
        out.append(value[done:])
        return "".join(out)

    def _search(self, value: str, position: int) -> tuple[int, int] | None:
        """Return the leftmost match from ``position`` on, the longest one there."""
        first = self._forward[0]
        start = position if not first.length and self._stars else first.find(value, position)
        if start < 0:
            return None
        end = self._end(self._forward, self._backward, value, start, longest=True)
        return None if end is None else (start, end)

    def _end(
        self,
        parts: tuple[_Part, ...],
        turned_parts: tuple[_Part, ...],
        value: str,
        start: int,
        *,
        longest: bool,
    ) -> int | None:
        """Return where the match that begins at ``start`` ends, None when there is none."""
        if not parts[0].matches_at(value, start):
            return None
        end = start + parts[0].length
        for part in parts[1:]:
            found = part.find(value, end)
            if found < 0:
                return None
            end = found + part.length
        if not longest or not self._stars:
            return end
        turned = value[::-1]
        return len(value) - turned_parts[0].find(turned, 0)


def _compact(tokens: list[list[str | None]]) -> tuple[_Part, ...]:
    """Compile the parts; empty ones in the middle (``**``) say nothing."""
    middle = [part for part in tokens[1:-1] if part]
    ends = [tokens[0], *middle, tokens[-1]] if len(tokens) > 1 else tokens
    return tuple(_Part(part) for part in ends)


def _insert(value: str, text: str, *, everywhere: bool, budget: int) -> str | None:
    """Replace the matches of the empty pattern: before every character and at the end."""
    if not everywhere:
        return text + value
    if len(value) + len(text) * (len(value) + 1) > budget:
        return None
    return text + "".join(char + text for char in value)
