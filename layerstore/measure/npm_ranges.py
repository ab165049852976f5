"""Which versions a range of npm allows.

Texts are a stranger's. What is no range of versions (a tag, a URL, an alias, a path) is told as
such, and nobody guesses what it means.

Source: node-semver's README, "Ranges", and its grammar.
"""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from layerstore.measure.versions import version_key

if TYPE_CHECKING:
    from collections.abc import Iterator

_RANGE_MAX_CHARACTERS: Final = 256
_NUMBER = r"(\d{1,9}|[xX*])"
_PARTIAL = re.compile(
    rf"v?{_NUMBER}(?:\.{_NUMBER}(?:\.{_NUMBER}(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?)?)?",
    re.ASCII,
)
_HYPHEN = re.compile(r"(\S+)\s+-\s+(\S+)")
_SPACED = re.compile(r"(>=|<=|>|<|=|~>|~|\^)\s+")
_COMPARED = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq,
}  # fmt: skip
_SIMPLE = re.compile(r"(>=|<=|>|<|=|~>|~|\^|)(.*)")


class _Partial(NamedTuple):
    """A version whose last numbers may be missing, or any."""

    major: int | None
    minor: int | None
    patch: int | None
    before: str

    @property
    def is_whole(self) -> bool:
        return self.patch is not None

    def lowest(self) -> str:
        """Return the lowest release that begins so, or the version that it is."""
        before = f"-{self.before}" if self.before else ""
        return f"{self.major or 0}.{self.minor or 0}.{self.patch or 0}{before}"

    def above(self) -> str:
        """Return what is just above everything that begins so, what comes before that left out."""
        if self.minor is None:
            return f"{(self.major or 0) + 1}.0.0-0"
        if self.patch is None:
            return f"{self.major}.{self.minor + 1}.0-0"
        return f"{self.major}.{self.minor}.{self.patch + 1}-0"


class _Bound(NamedTuple):
    """One comparison; ``pre`` are the numbers of a release whose forerunners it lets in."""

    word: str
    key: Any
    pre: tuple[int, ...] | None


class _Unknown(Exception):  # noqa: N818 -- no error: a range is something else
    """A text is no range of versions."""


def allows(wanted: str, version: str) -> bool | None:
    """Return whether a range allows a version; None if it is no range of versions.

    Args:
        wanted: As a ``package.json`` has it.
        version: Exact.
    """
    key = version_key("npm", version)
    if key is None or len(wanted) > _RANGE_MAX_CHARACTERS:
        return None
    try:
        alternatives = [list(_bounds(part.strip())) for part in wanted.split("||")]
    except _Unknown:
        return None
    return any(_is_within(key, bounds) for bounds in alternatives)


def _is_within(key: Any, bounds: list[_Bound]) -> bool:  # noqa: ANN401 -- as versions sort by
    if not all(_COMPARED[bound.word](key, bound.key) for bound in bounds):
        return False
    is_release = bool(key[3])
    return is_release or any(bound.pre == key[:3] for bound in bounds)


def _bounds(part: str) -> Iterator[_Bound]:
    """Yield the comparisons of one alternative; none where everything is allowed."""
    hyphen = _HYPHEN.fullmatch(part)
    if hyphen is not None:
        first, last = _partial(hyphen[1]), _partial(hyphen[2])
        yield from _compared(">=", first)
        yield from _compared("<=", last)
        return
    for word in _SPACED.sub(r"\1", part).split():
        match = _SIMPLE.fullmatch(word)
        assert match is not None  # every word is one, with an operator or without
        partial = _partial(match[2])
        if match[1] == "^":
            yield from _caret(partial)
        elif match[1] in ("~", "~>"):
            yield from _tilde(partial)
        else:
            yield from _compared(match[1] or "=", partial)


def _partial(text: str) -> _Partial:
    match = _PARTIAL.fullmatch(text)
    if match is None:
        raise _Unknown
    numbers: list[int | None] = []
    for word in match.groups()[:3]:
        is_any = word is None or not word.isdigit() or None in numbers
        numbers.append(None if is_any else int(word))
    major, minor, patch = numbers
    return _Partial(major, minor, patch, match[4] if patch is not None and match[4] else "")


def _bound(word: str, version: str, *, lets_in: bool = False) -> _Bound:
    key = version_key("npm", version)
    if key is None:
        raise _Unknown
    return _Bound(word, key, key[:3] if lets_in else None)


def _compared(word: str, partial: _Partial) -> Iterator[_Bound]:
    if partial.major is None:  # any version at all, and none is above or below all of them
        if word in ("<", ">"):
            yield _bound("<", "0.0.0-0")
    elif partial.is_whole:
        yield _bound(word, partial.lowest(), lets_in=bool(partial.before))
    elif word == "<":
        yield _bound("<", f"{partial.lowest()}-0")
    elif word == ">":
        yield _bound(">=", partial.above())
    else:
        if word != "<=":
            yield _bound(">=", partial.lowest())
        if word != ">=":
            yield _bound("<", partial.above())


def _tilde(partial: _Partial) -> Iterator[_Bound]:
    if partial.major is None:
        return
    yield _bound(">=", partial.lowest(), lets_in=bool(partial.before))
    yield _bound("<", partial._replace(patch=None).above())


def _caret(partial: _Partial) -> Iterator[_Bound]:
    if partial.major is None:
        return
    yield _bound(">=", partial.lowest(), lets_in=bool(partial.before))
    if partial.major or partial.minor is None:
        yield _bound("<", partial._replace(minor=None, patch=None).above())
    elif partial.minor or partial.patch is None:
        yield _bound("<", partial._replace(patch=None).above())
    else:
        yield _bound("<", partial.above())
