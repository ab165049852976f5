"""The known word that a wrong one is most like."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_LIKE = 0.6
VERY_LIKE = 0.75
"""For words that are most likely no mistake at all."""


def nearest(word: str, known: Sequence[str], *, cutoff: float = _LIKE) -> str | None:
    """Return the known word (lower case) most like ``word``, None when none is like it."""
    from difflib import get_close_matches  # 3 ms, and only for a message

    found = get_close_matches(word.lower()[:64], known, n=1, cutoff=cutoff)
    return found[0] if found else None


def suggestion(word: str, known: Sequence[str], otherwise: str) -> str:
    """Return the hint for a word that is not known: the one it is like, or another hint."""
    near = nearest(word, [each.lower() for each in known])
    found = next((each for each in known if each.lower() == near), None)
    return f"did you mean {found}?" if found else otherwise
