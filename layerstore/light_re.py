"""Regular expressions without the time they take, for what commands that run in loops import.

To import ``re`` takes 2 ms, most of it for its enumeration of flags, and each pattern 0.2 ms to
compile; a command uses few of those that its modules have, and often none.
"""

from __future__ import annotations

from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    import re
    from collections.abc import Callable

DIGITS = "0123456789"
LOWER = "abcdefghijklmnopqrstuvwxyz"
HEX = DIGITS + "abcdef"
LETTERS = LOWER + LOWER.upper()


def only(text: str, characters: str) -> bool:
    """Tell whether a text has no others than these characters; an empty one has none."""
    return not text.strip(characters)


class Pattern:
    """A regular expression, of ASCII classes, that is compiled when it is first asked."""

    __slots__ = ("_compiled", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._compiled: re.Pattern[str] | None = None

    def fullmatch(self, text: str) -> re.Match[str] | None:
        """Return the match of a whole text, as ``re`` does."""
        return self._pattern().fullmatch(text)

    def findall(self, text: str) -> list[tuple[str, ...]]:
        """Return the groups of all matches, of a pattern that has several."""
        return self._pattern().findall(text)

    def sub(self, replace: Callable[[re.Match[str]], str], text: str) -> str:
        """Return a text with every match replaced."""
        return self._pattern().sub(replace, text)

    def _pattern(self) -> re.Pattern[str]:
        if self._compiled is None:
            import re

            self._compiled = re.compile(self._text, re.ASCII)
        return self._compiled
