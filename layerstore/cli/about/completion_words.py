"""The words of the command line as shells complete them: commands, options, what values are.

Taken from the parsers themselves, as the reference is, so that no list of them is kept twice.
What a value is follows from how help calls it: ``IMAGE``, ``FILE``, or ``a|b``, which is a or b.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

IMAGES, CONTAINERS, VOLUMES, FILES, ANYTHING = "images", "containers", "volumes", "files", "-"
"""What is asked of the store or of the shell; everything else are words, one ``|`` between two."""

_FILES = (
    "FILE",
    "DIR",
    "CONTEXT",
    "DOCKERFILE",
    "PATH",
    "STORE",
    "SPEC",
    "VIEW",
    "SOURCE:",
    "COPY",
)
_WORDS = re.compile(r"[a-z][a-z.-]*(\|[a-z][a-z.-]*)+")
_COMPLETED_HERE = {
    ("images", "NAME"): IMAGES,
    ("manifest", "NAME"): IMAGES,
    ("push", "NAME"): IMAGES,
    ("referrers", "NAME"): IMAGES,
    ("sign", "NAME"): IMAGES,
    ("tag", "NAME"): IMAGES,
    ("verify", "NAME"): IMAGES,
    ("volume", "NAME"): VOLUMES,
    ("rm", "IMAGE"): f"{IMAGES} {CONTAINERS}",
    ("commit", "VIEW"): f"{CONTAINERS} {FILES}",
    ("cp", "SOURCE"): f"{CONTAINERS} {FILES}",
    ("cp", "TARGET"): f"{CONTAINERS} {FILES}",
    ("diff", "VIEW|IMAGE"): f"{IMAGES} {CONTAINERS}",
}
"""Operands whose names say less than we know."""


class Option(NamedTuple):
    """An option: its spellings, what help says of it, and what its value is; empty for flags."""

    spellings: tuple[str, ...]
    summary: str
    value: str


class Operand(NamedTuple):
    """A word that is no option: how help calls it, what it is, and whether more may follow."""

    name: str
    value: str
    repeats: bool


class Command(NamedTuple):
    """A command: its name, its line of help, and what may follow it."""

    name: str
    summary: str
    options: tuple[Option, ...]
    operands: tuple[Operand, ...]
    ends_options: bool
    """Whether what follows the first operand is a command line of somebody else's."""


def commands() -> list[Command]:
    """Return the commands as help lists them, in its order."""
    import typer

    from layerstore.cli.app import build_app
    from layerstore.cli.main import FAST_COMMANDS

    known = getattr(typer.main.get_command(build_app()), "commands", {})
    return [
        _fast(name) if name in FAST_COMMANDS else _slow(name, command)
        for name, command in known.items()
        if not command.hidden
    ]


def _fast(name: str) -> Command:
    import argparse

    from layerstore.cli import fast
    from layerstore.cli.container.group import COMMANDS as CONTAINER_COMMANDS
    from layerstore.cli.settings import COMMANDS_WITH_COMMANDS

    options: list[Option] = []
    operands: list[Operand] = []
    for action in fast.parser_of(name)._actions:  # there is no public list
        if action.help == argparse.SUPPRESS:
            continue
        called = str(action.metavar or action.dest)
        words = "|".join(map(str, action.choices or ()))
        if action.option_strings:
            value = "" if action.nargs == 0 else words or _value(name, called, is_option=True)
            options.append(Option(tuple(action.option_strings), action.help or "", value))
        else:
            value = words or _value(name, called, is_option=False)
            operands.append(Operand(called, value, action.nargs in ("*", "+")))
    if name == "container":
        operands = [Operand("COMMAND", "|".join(CONTAINER_COMMANDS), repeats=False)]
        operands.append(Operand("CONTAINER", CONTAINERS, repeats=True))
    ends = name in COMMANDS_WITH_COMMANDS and name != "container"
    return Command(name, fast.summary_of(name), tuple(options), tuple(operands), ends)


def _slow(name: str, command: Any) -> Command:  # noqa: ANN401 - typer's or click's, by version
    options: list[Option] = []
    operands: list[Operand] = []
    for parameter in command.params:
        if parameter.param_type_name != "option":
            called = str(parameter.metavar or parameter.name)
            value = _value(name, called, is_option=False)
            operands.append(Operand(called.strip("[]."), value, parameter.nargs == -1))
            continue
        if parameter.hidden:
            continue
        value = ""
        if not (parameter.is_flag or parameter.count):
            value = _value(name, str(parameter.metavar or ""), is_option=True)
        spellings = (*parameter.opts, *parameter.secondary_opts)
        options.append(Option(spellings, parameter.help or "", value))
    options.append(Option(("--help", "-h"), "Show this message and exit.", ""))
    summary = command.get_short_help_str(limit=200)
    return Command(name, summary, tuple(options), tuple(operands), ends_options=name == "unshare")


def _value(command: str, called: str, *, is_option: bool) -> str:
    """Return what a value is that help calls so."""
    plain = called.strip("[].")
    if _WORDS.fullmatch(plain):
        return plain
    if not is_option and (command, plain) in _COMPLETED_HERE:
        return _COMPLETED_HERE[command, plain]
    kinds = [_kind(part.strip("[]./")) for part in plain.split("|")]
    return " ".join(_once(kind for kind in kinds if kind)) or ANYTHING


def _kind(word: str) -> str:
    if word == "IMAGE":
        return IMAGES
    if word == "CONTAINER":
        return CONTAINERS
    return FILES if word.startswith(_FILES) else ""


def _once(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))
