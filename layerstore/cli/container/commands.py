"""The commands of containers, and how their command lines are taken apart.

Modules of the single commands are imported when they are called, so that ``ps`` does not pay
for starting.
"""

from __future__ import annotations

from layerstore.errors import InputError
from layerstore.light_typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from layerstore.cli.fast import Command

NAMES = (
    "run", "create", "start", "attach", "exec", "ps", "logs", "top", "stats", "stop", "restart",
    "kill", "wait", "cp", "pause", "unpause", "rename", "update", "port", "container", "volume",
    "bundle", "generate", "warm",
)  # fmt: skip
"""What is added to the commands of images and views, in the order of the help."""


def split_command_line(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Split the arguments of ``run`` or ``exec`` behind their first positional word.

    What follows is the container's, whatever it looks like.
    """
    actions = parser._option_string_actions
    index = 0
    while index < len(arguments):
        word = arguments[index]
        index += 1
        if word == "--":
            break
        if not word.startswith("-") or word == "-":
            return list(arguments[:index]), list(arguments[index:])
        if word.startswith("--"):
            action = actions.get(word)  # with a value behind "=" it is none of these
            index += int(action is not None and action.nargs is None)
            continue
        for position, letter in enumerate(word[1:], 2):
            action = actions.get(f"-{letter}")
            if action is not None and action.nargs is None:
                index += int(position == len(word))
                break
    # Without a positional word, or behind "--", argparse says what is wrong.
    return list(arguments[: index + 1]), list(arguments[index + 1 :])


def _of(module: str, name: str) -> Callable[..., Any]:
    """Return a function of a module that is imported when it is called."""

    def call(*arguments: Any) -> Any:  # noqa: ANN401 -- of two kinds: declares, or does
        import importlib

        return getattr(importlib.import_module(f"layerstore.cli.{module}"), name)(*arguments)

    return call


def _where_containers_are(execute: Callable[..., int]) -> Callable[..., int]:
    """Return what does the same as root of the namespace of the user's containers."""

    def call(options: argparse.Namespace, root: str) -> int:
        import os

        if os.geteuid() != 0:
            from layerstore.cli.rootless.containers_namespace import join

            join(root)
        return execute(options, root)

    return call


def _entry(module: str, name: str, summary: str) -> Command:
    return _of(module, f"{name}_options"), _of(module, name), summary


def _inside(module: str, name: str, summary: str) -> Command:
    options, execute, summary = _entry(module, name, summary)
    return options, _where_containers_are(execute), summary


COMMANDS: dict[str, Command] = {
    "run": _entry("container.run", "run", "Run a command in a new container of an image."),
    "create": _entry("container.run", "create", "Make a container that start will run."),
    "start": _entry("container.run", "start", "Start containers that do not run."),
    "attach": _inside("container.run", "attach", "Join the streams of a running container."),
    "exec": _inside("container.exec", "execute", "Run one more command in a container."),
    "ps": _inside("container.ps", "ps", "List containers, newest first."),
    "logs": _inside("container.ps", "logs", "Print what a container has printed."),
    "top": _inside("container.watching", "top", "List the processes of a container."),
    "stats": _inside("container.watching", "stats", "Show what running containers take, live."),
    "stop": _inside("container.ending", "stop", "Stop containers: TERM, and KILL in the end."),
    "restart": _inside("container.ending", "restart", "Stop containers and start them again."),
    "kill": _inside("container.ending", "kill", "Send containers a signal, KILL by default."),
    "wait": _inside("container.ending", "wait", "Wait for containers, print their exit codes."),
    "cp": _inside("container.cp", "cp", "Copy files between a container and the host."),
    "pause": _inside("container.changing", "pause", "Let containers stand still."),
    "unpause": _inside("container.changing", "unpause", "Let paused containers go on."),
    "rename": _inside("container.changing", "rename", "Call a container otherwise."),
    "update": _inside("container.changing", "update", "Change limits and restarts of containers."),
    "port": _inside("container.port", "port", "Print where a container listens."),
    "container": _inside("container.group", "group", "Commands of containers alone: rm, ls ..."),
    "volume": _inside("container.volume", "volume", "List, make and remove volumes."),
    "bundle": _entry("container.bundle", "bundle", "Write an image as a bundle for runtimes."),
    "warm": _entry("warm.helper", "warm", "Leave a process loaded that run is faster with."),
    "generate": _entry(
        "container.systemd_unit", "generate", "Print a systemd unit for a container."
    ),
}


def reference_of(word: str) -> str:
    """Return what names a container, checked for what no name can be.

    Raises:
        InputError: It is empty.
    """
    if not word:
        raise InputError("a container's name is empty", hint="'layerstore ps -a' lists them")
    return word
