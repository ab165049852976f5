"""``printf`` of Go's templates: ``{{printf "%-20s %s" .Names .ID}}``.

What is here: ``%s``, ``%v``, ``%q`` of texts, ``%d`` and ``%x`` of numbers, ``%x`` of texts,
``%f`` of numbers, ``%t``, ``%%``; a width, a precision, and the flags ``-`` (to the left) and
``0`` (zeros in front of numbers). Of a list each member is written so, in brackets. Everything
else is refused in words, where Go writes ``%!d(string=hi)`` into the output.

Source: https://pkg.go.dev/fmt.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from layerstore.build.go_text import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_VERB = re.compile(
    r"%(?P<flags>[-+# 0]*)(?P<width>\d{0,4})(?:\.(?P<precision>\d{0,4}))?(?P<verb>.?)", re.DOTALL
)
_KNOWN = "%s %v %q %d %x %X %f %t %%"
_WIDTH_MAX = 1000
"""Columns and digits; a template may be a stranger's, and a million spaces are nobody's table."""

_DEFAULT_DECIMALS = 6


class Title(str):
    """The title of a column, which stands where its values do: any verb suits it."""

    __slots__ = ()


class _Verb(NamedTuple):
    """One verb: ``%-20s``.

    Attributes:
        text: As it is written.
        precision: -1 if none was given.
    """

    text: str
    letter: str
    left: bool
    zeros: bool
    width: int
    precision: int


def formatted(text: str, values: Sequence[object], shown: Callable[[object], str]) -> str:
    """Return a format filled in with values.

    Args:
        text: The format.
        values: One for each of its verbs.
        shown: Writes a value as templates do without a verb.

    Raises:
        ValueError: A verb is not known or does not suit its value, or there are more of the one
            than of the other; in words.
    """
    left = list(values)
    parts = []
    position = 0
    for found in _VERB.finditer(text):
        parts.append(text[position : found.start()])
        position = found.end()
        if found[0] == "%%":
            parts.append("%")
            continue
        verb = _verb_of(found)
        if not left:
            raise ValueError(f"{verb.text} has no value")
        parts.append(_written(verb, left.pop(0), shown))
    if left:
        raise ValueError(f"{text!r} has fewer verbs than there are values")
    return "".join(parts) + text[position:]


def _verb_of(found: re.Match[str]) -> _Verb:
    width, precision = int(found["width"] or 0), found["precision"]
    verb = _Verb(
        found[0], found["verb"], "-" in found["flags"], "0" in found["flags"], width,
        -1 if precision is None else int(precision or 0),
    )  # fmt: skip
    if not verb.letter or verb.letter not in "svqdxXft" or set(found["flags"]) - {"-", "0"}:
        raise ValueError(f"{verb.text} is not known; there are {_KNOWN}, a width, '-' and '0'")
    if max(width, verb.precision) > _WIDTH_MAX:
        raise ValueError(f"{verb.text} is wider than {_WIDTH_MAX}")
    return verb


def _written(verb: _Verb, value: object, shown: Callable[[object], str]) -> str:
    if isinstance(value, Title):
        verb = verb._replace(letter="s")
    if isinstance(value, list | tuple):
        return "[" + " ".join(_written(verb, each, shown) for each in value) + "]"
    written = _unpadded(verb, value, shown)
    if verb.left:
        return written.ljust(verb.width)
    zeros = verb.zeros and _is_number(value)
    return written.zfill(verb.width) if zeros else written.rjust(verb.width)


def _unpadded(verb: _Verb, value: object, shown: Callable[[object], str]) -> str:
    match verb.letter:
        case "s" | "v":
            written = "<nil>" if value is None else shown(value)
            if verb.precision >= 0 and isinstance(value, str):
                written = written[: verb.precision]
        case "q":
            if not isinstance(value, str):
                raise _unsuitable(verb, value, "a text")
            written = quoted(value)
        case "t":
            if not isinstance(value, bool):
                raise _unsuitable(verb, value, "true or false")
            written = shown(value)
        case "f":
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise _unsuitable(verb, value, "a number")
            decimals = _DEFAULT_DECIMALS if verb.precision < 0 else verb.precision
            written = f"{value:.{decimals}f}"
        case _:
            written = _digits(verb, value)
    return written


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _digits(verb: _Verb, value: object) -> str:
    """Return ``%d`` or ``%x`` of a value."""
    if verb.letter != "d" and isinstance(value, str):
        written = value.encode("utf-8", "surrogateescape").hex()
        return written.upper() if verb.letter == "X" else written
    if isinstance(value, float) and value.is_integer():  # JSON's numbers are all alike
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _unsuitable(verb, value, "a whole number")
    digits = f"{abs(value):{verb.letter}}".rjust(max(0, verb.precision), "0")
    return f"-{digits}" if value < 0 else digits


def _unsuitable(verb: _Verb, value: object, what: str) -> ValueError:
    return ValueError(f"{verb.text} wants {what}, and {str(value)[:100]!r} is none")
