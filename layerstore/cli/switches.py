"""Switches with a value, ``--no-cache=false``: what docker's and podman's command lines allow.

click gives switches no value, so they are written as it wants them before it reads the line.

Source: pflag, flags of type bool (syntax); Go, ``strconv.ParseBool`` (values).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

_VALUES = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}


def without_values(command: object, words: Sequence[str]) -> list[str]:
    """Return a command line in which no switch has a value.

    Of a switch that is given several times the last one counts, as in docker.

    Args:
        command: What click made of the command line.
        words: The line, with the command's name.

    Raises:
        InputError: A value that is neither true nor false.
    """
    switches = _switches(command, words)
    line: list[str] = []
    for number, word in enumerate(words):
        if word == "--":
            return [*line, *words[number:]]
        name, equals, value = word.partition("=")
        if not equals or name not in switches:
            line.append(word)
            continue
        if value not in _VALUES:
            raise InputError(f"{name} is true or false, not {value!r}", hint=f"{name}, or leave it")
        names, opposite = switches[name]
        if _VALUES[value]:
            line.append(name)
        elif opposite:
            line.append(opposite)
        else:
            line = [earlier for earlier in line if earlier not in names]
    return line


def _switches(command: object, words: Sequence[str]) -> dict[str, tuple[frozenset[str], str]]:
    """Return the switches of the command that a line names, by each of their names.

    With each go all the names that it has, and the one that says the opposite, if any.
    """
    for word in words:
        inner = getattr(command, "commands", {}).get(word)
        if inner is None:
            break
        command = inner
    if getattr(command, "context_settings", {}).get("ignore_unknown_options"):
        return {}  # words are another program's
    found: dict[str, tuple[frozenset[str], str]] = {}
    for parameter in getattr(command, "params", ()):
        if getattr(parameter, "is_flag", False) and not parameter.count:
            opposite = parameter.secondary_opts[0] if parameter.secondary_opts else ""
            for name in parameter.opts:
                found[name] = (frozenset(parameter.opts), opposite)
    return found
