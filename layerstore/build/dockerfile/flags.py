"""The flags of instructions: which exist, how they are split off, what they may hold.

Source: Dockerfile reference, and BuildKit's order of quote removal: quotes and
backslashes of flags are gone before their value is looked at.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.hints import nearest
from layerstore.build.dockerfile.lexer import SPACE, LogicalLine
from layerstore.build.dockerfile.syntax import Flag

if TYPE_CHECKING:
    from collections.abc import Sequence


class Kind(Enum):
    """How often a flag may stand and whether it takes a value."""

    SWITCH = "switch"  # --link, --link=true, --link=false
    VALUE = "value"
    REPEATED = "repeated"


_COPY = {
    "chown": Kind.VALUE,
    "chmod": Kind.VALUE,
    "link": Kind.SWITCH,
    "exclude": Kind.REPEATED,
}
FLAGS: dict[str, dict[str, Kind]] = {
    "FROM": {"platform": Kind.VALUE},
    "RUN": {
        "mount": Kind.REPEATED,
        "network": Kind.VALUE,
        "security": Kind.VALUE,
        "device": Kind.REPEATED,
    },
    "COPY": {**_COPY, "from": Kind.VALUE, "parents": Kind.SWITCH},
    "ADD": {
        **_COPY,
        "checksum": Kind.VALUE,
        "unpack": Kind.SWITCH,
        "keep-git-dir": Kind.SWITCH,
    },
    "HEALTHCHECK": {
        "interval": Kind.VALUE,
        "timeout": Kind.VALUE,
        "start-period": Kind.VALUE,
        "start-interval": Kind.VALUE,
        "retries": Kind.VALUE,
    },
}

_PLAIN = re.compile(rf"[^{SPACE}'\"\\]+")
_QUOTED = {"'": re.compile(r"[^'\\]+"), '"': re.compile(r'[^"\\]+')}


class FlagWord(NamedTuple):
    """A word beginning with ``--``, quotes removed, and its offset in the logical line."""

    text: str
    offset: int


def split_flags(text: str, offset: int) -> tuple[list[FlagWord], int]:
    """Split the flags off the front of an instruction's arguments.

    Args:
        text: The logical line.
        offset: Where the arguments begin.

    Returns:
        The flags, and where the arguments go on. A lone ``--`` ends the flags and is dropped.
    """
    words: list[FlagWord] = []
    while True:
        offset = _skip_space(text, offset)
        if not text.startswith("--", offset):
            return words, offset
        word, end = _flag_word(text, offset)
        if word == "--":
            return words, end
        words.append(FlagWord(word, offset))
        offset = end


def _skip_space(text: str, offset: int) -> int:
    while offset < len(text) and text[offset] in SPACE:
        offset += 1
    return offset


def _flag_word(text: str, offset: int) -> tuple[str, int]:
    """Return the word at ``offset`` without its quotes and escapes, and where it ends."""
    out: list[str] = []
    quote = ""
    while offset < len(text):
        char = text[offset]
        if char == "\\":
            out.append(text[offset + 1 : offset + 2])
            offset += 2
        elif quote:
            match = _QUOTED[quote].match(text, offset)
            if match is None:
                quote = ""
                offset += 1
            else:
                out.append(match[0])
                offset = match.end()
        elif char in "'\"":
            quote = char
            offset += 1
        elif char in SPACE:
            break
        else:
            match = _PLAIN.match(text, offset)
            assert match is not None
            out.append(match[0])
            offset = match.end()
    return "".join(out), min(offset, len(text))


class ParsedFlags:
    """The checked flags of one instruction.

    Raises:
        SpecError: Unknown, given twice, without the value it needs, or with one it cannot have.
    """

    __slots__ = ("_by_name", "flags", "keyword")

    def __init__(self, keyword: str, words: Sequence[FlagWord], line: LogicalLine) -> None:
        known = FLAGS.get(keyword, {})
        self.keyword = keyword
        self._by_name: dict[str, list[Flag]] = {}
        for word in words:
            name, equals, value = word.text[2:].partition("=")
            flag = Flag(name, value if equals else None, line.span(word.offset))
            if name not in known:
                raise _unknown(flag, keyword, known)
            if name in self._by_name and known[name] is not Kind.REPEATED:
                raise SpecError(f"--{name} stands here twice", flag.span)
            if flag.value is None and known[name] is not Kind.SWITCH:
                hint = f"write --{name}=VALUE"
                raise SpecError(f"--{name} needs a value", flag.span, hint=hint)
            self._by_name.setdefault(name, []).append(flag)
        self.flags = tuple(flag for flags in self._by_name.values() for flag in flags)
        if len(self._by_name) > 1:
            places = {id(f): i for i, f in enumerate(self.flags)}
            by_place = sorted(self.flags, key=lambda f: (f.span.line, f.span.column, places[id(f)]))
            self.flags = tuple(by_place)

    def get(self, name: str) -> Flag | None:
        """Return the flag, None when it is absent or its value is empty (which means absent)."""
        flags = self._by_name.get(name)
        return flags[0] if flags and flags[0].value else None

    def value(self, name: str) -> str | None:
        """Return the flag's value, None when absent or empty."""
        flag = self.get(name)
        return flag.value if flag else None

    def all(self, name: str) -> list[Flag]:
        """Return every occurrence of a repeated flag."""
        return self._by_name.get(name, [])

    def switch(self, name: str) -> bool | None:
        """Return a switch's state, None when absent.

        Raises:
            SpecError: Neither ``true`` nor ``false``.
        """
        flags = self._by_name.get(name)
        if not flags:
            return None
        value = flags[0].value
        if value is None:
            return True
        if value.lower() not in ("true", "false"):
            hint = f"write --{name}, --{name}=true or --{name}=false"
            raise SpecError(f"--{name} cannot be {value!r}", flags[0].span, hint=hint)
        return value.lower() == "true"


def _unknown(flag: Flag, keyword: str, known: dict[str, Kind]) -> SpecError:
    near = nearest(flag.name, list(known))
    if near is not None:
        hint = f"did you mean --{near}?"
    elif known:
        hint = f"{keyword} knows " + ", ".join(f"--{name}" for name in sorted(known))
    else:
        hint = f"{keyword} takes no flags; write -- in front if --{flag.name} is an argument"
    return SpecError(f"unknown flag --{flag.name} for {keyword}", flag.span, hint=hint)
