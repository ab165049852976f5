"""Splitting an instruction's arguments into words, pairs and JSON arrays.

Words keep their quotes and escapes (`expand` interprets them) and know their
offset in the logical line.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import NamedTuple

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.lexer import SPACE, LogicalLine

# BuildKit splits lists at these and not at all white space.
_BLANKS = re.compile(r"[\t\v\f\r ]+")
_SURROGATES = re.compile("[\ud800-\udfff]")


class Word(NamedTuple):
    """A word as written and its offset in the logical line."""

    text: str
    offset: int


class JsonArray(NamedTuple):
    """The strings of a JSON array."""

    items: tuple[str, ...]


def split_blanks(text: str, offset: int) -> list[Word]:
    """Split at runs of blanks, whatever quotes say: COPY, ADD, EXPOSE, FROM, VOLUME."""
    words: list[Word] = []
    start = 0
    for match in _BLANKS.finditer(text):
        words.append(Word(text[start : match.start()], offset + start))
        start = match.end()
    if text:
        words.append(Word(text[start:], offset + start))
    return words


@lru_cache(maxsize=8)
def _run(special: str) -> re.Pattern[str]:
    return re.compile(f"[^{re.escape(special)}]+")


def split_quoted(text: str, offset: int, escape: str) -> list[Word]:
    """Split at white space outside quotes: ENV, LABEL, ARG.

    A quote that is never closed reaches to the end; expanding the word refuses it.
    """
    words: list[Word] = []
    plain = _run(f"{SPACE}'\"{escape}")
    position = 0
    while position < len(text):
        if text[position] in SPACE:
            position += 1
            continue
        start = position
        end = position = _word_end(text, position, escape, plain)
        if _dangling_escape(text, start, end, escape):
            end -= 1
        if end > start:
            words.append(Word(text[start:end], offset + start))
    return words


def _word_end(text: str, position: int, escape: str, plain: re.Pattern[str]) -> int:
    while position < len(text) and (char := text[position]) not in SPACE:
        if char == escape:
            position += 2
        elif char in "'\"":
            position = _quote_end(text, position, char, escape)
        else:
            match = plain.match(text, position)
            assert match is not None
            position = match.end()
    return min(position, len(text))


def _quote_end(text: str, position: int, quote: str, escape: str) -> int:
    """Return the position behind the closing quote; escapes count in double quotes only."""
    position += 1
    if quote == "'":
        end = text.find(quote, position)
        return len(text) if end < 0 else end + 1
    plain = _run(quote + escape)
    while position < len(text):
        char = text[position]
        if char == quote:
            return position + 1
        match = plain.match(text, position)
        position = position + 2 if match is None else match.end()
    return len(text)


def _dangling_escape(text: str, start: int, end: int, escape: str) -> bool:
    """Whether the line ends in an escape that escapes nothing."""
    if end != len(text) or not text.endswith(escape):
        return False
    run = len(text) - len(text.rstrip(escape))
    return run % 2 == 1 and end - start >= 1


def json_array(text: str, line: LogicalLine, offset: int) -> JsonArray | None:
    """Return the array a text holds, None when it is not one (then it is shell form).

    Raises:
        SpecError: A JSON array, but not of strings.
    """
    text = text.lstrip(SPACE)
    if not text.startswith("["):
        return None
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        return None
    except RecursionError:
        value = [None]
    if not all(isinstance(item, str) for item in value):
        hint = "put every item into double quotes"
        raise SpecError("a JSON array here holds strings only", line.span(offset), hint=hint)
    return JsonArray(tuple(_SURROGATES.sub("\N{REPLACEMENT CHARACTER}", item) for item in value))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
