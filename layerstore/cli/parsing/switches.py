"""Switches with a value, ``--no-cache=false``: what docker's and podman's command lines allow.

click and argparse give switches no value, so they are written as those want them before they read
the line.

Source: pflag, flags of type bool (syntax); Go, ``strconv.ParseBool`` (values).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.errors import InputError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    Switches = Mapping[str, tuple[frozenset[str], str]]
    """By each of its names: all names of a switch, and that of the one that says the opposite."""

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
    return _rewritten(words, _switches(command, words))


def without_values_for(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """Return the same for a command that argparse reads, without the command's name.

    Raises:
        InputError: A value that is neither true nor false.
    """
    actions = parser._option_string_actions  # there is no public list
    switches = {
        name: (frozenset(action.option_strings), "")
        for name, action in actions.items()
        if action.nargs == 0 and action.const is True
    }
    return _rewritten(words, switches)


def _rewritten(words: Sequence[str], switches: Switches) -> list[str]:
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


def _switches(command: object, words: Sequence[str]) -> Switches:
    """Return the switches of the command that a line names."""
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
