"""File modes as ``--chmod`` writes them: octal, or symbolic as chmod(1) reads them. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from layerstore.errors import InputError

_CLAUSE = re.compile(r"([ugoa]*)((?:[+\-=](?:[ugo]|[rwxXst]*))+)")
_ACTION = re.compile(r"([+\-=])([ugo]|[rwxXst]*)")
_SHIFTS = {"u": 6, "g": 3, "o": 0}
_MAX_MODE = 0o7777


class _Action(NamedTuple):
    who: str
    operator: str
    what: str


class ModeChange(NamedTuple):
    """What ``--chmod`` asks for: an absolute mode, or clauses applied to the old one."""

    absolute: int | None
    actions: tuple[_Action, ...] = ()

    def apply(self, mode: int, *, is_directory: bool) -> int:
        """Return the mode that a file of ``mode`` gets."""
        if self.absolute is not None:
            return self.absolute
        for action in self.actions:
            mode = _apply(mode, action, is_directory=is_directory)
        return mode


def parse_mode(text: str) -> ModeChange:
    """Return the change that ``text`` describes.

    Raises:
        InputError: Neither octal up to 7777 nor symbolic.
    """
    if re.fullmatch(r"[0-7]+", text):
        value = int(text, 8)
        if value <= _MAX_MODE:
            return ModeChange(value)
        raise _bad_mode(text)
    actions: list[_Action] = []
    for clause in text.split(","):
        match = _CLAUSE.fullmatch(clause)
        if match is None:
            raise _bad_mode(text)
        who = match[1].replace("a", "ugo") or "ugo"
        actions += [_Action(who, part[1], part[2]) for part in _ACTION.finditer(match[2])]
    return ModeChange(None, tuple(actions))


def _bad_mode(text: str) -> InputError:
    return InputError(
        f"{text!r} is not a file mode",
        hint="write an octal mode up to 7777, or a symbolic one such as u=rwX,go=rX",
    )


def _apply(mode: int, action: _Action, *, is_directory: bool) -> int:
    bits = _bits(mode, action, is_directory=is_directory)
    if action.operator == "+":
        return mode | bits
    if action.operator == "-":
        return mode & ~bits
    cleared = sum(0o7 << _SHIFTS[who] for who in set(action.who))
    cleared |= (0o4000 if "u" in action.who else 0) | (0o2000 if "g" in action.who else 0)
    return (mode & ~cleared) | bits


def _bits(mode: int, action: _Action, *, is_directory: bool) -> int:
    what = action.what
    if what in _SHIFTS and what:
        plain = mode >> _SHIFTS[what] & 0o7
    else:
        plain = (4 if "r" in what else 0) | (2 if "w" in what else 0) | (1 if "x" in what else 0)
        if "X" in what and (is_directory or mode & 0o111):
            plain |= 1
    bits = 0
    for who in set(action.who):
        bits |= plain << _SHIFTS[who]
    if "s" in what and what not in _SHIFTS:
        bits |= (0o4000 if "u" in action.who else 0) | (0o2000 if "g" in action.who else 0)
    if "t" in what and what not in _SHIFTS:
        bits |= 0o1000
    return bits
