"""``container COMMAND``, for what images have too."""

from __future__ import annotations

import contextlib

from layerstore.cli.output import write_line
from layerstore.cli.parsing.docker_words import INSTEAD, missing
from layerstore.errors import ConflictError, InputError, NotFoundError
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

_SAME = (
    "run", "create", "start", "attach", "exec", "logs", "top", "stats", "stop", "restart", "kill",
    "wait", "cp", "pause", "unpause", "rename", "update", "port",
)  # fmt: skip
COMMANDS = ("rm", "ls", "inspect", "prune", "exists", *_SAME)
"""What may stand behind ``container``."""


def group_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``container`` takes."""
    parser.add_argument(
        "container_command", metavar="COMMAND",
        help="rm, ls, inspect, prune, exists; or one of " + ", ".join(_SAME),
    )  # fmt: skip


def group(options: argparse.Namespace, root: str) -> int:
    """Run a command of containers alone."""
    from layerstore.cli import fast

    name, rest = options.container_command, options.command
    if name in _SAME:
        return fast.run(name, rest, root)
    if name in ("ls", "list", "ps"):
        return fast.run("ps", rest, root)
    if name == "rm":
        return _rm(rest, root)
    if name == "inspect":
        return fast.run(name, ["--type", "container", *rest], root)
    if name == "prune":
        return _prune(rest, root)
    if name == "exists":
        return _exists(rest, root)
    if f"container {name}" in INSTEAD or name in INSTEAD:
        raise missing(f"container {name}" if f"container {name}" in INSTEAD else name)
    raise InputError(
        f"container has no command {name!r}",
        hint="rm, ls, inspect, prune, exists, " + ", ".join(_SAME),
    )


def _parsed(
    command: str,
    summary: str,
    words: list[str],
    declare: Callable[[argparse.ArgumentParser], object],
) -> argparse.Namespace | int:
    """Return the options of a command of two words, or a status where help was printed."""
    from layerstore.cli.parsing.parsers import make_parser

    parser = make_parser(command, summary)
    declare(parser)
    try:
        return parser.parse_args(words)
    except SystemExit as err:
        return int(err.code or 0)


def _rm(words: list[str], root: str) -> int:
    from layerstore.cli.container.ending import rm, rm_options

    options = _parsed("container rm", "Remove containers.", words, rm_options)
    return options if isinstance(options, int) else rm(options, root)


_ABSENT = 1
"""podman's status of ``exists``."""


def _exists(words: list[str], root: str) -> int:
    """Tell by the status alone whether there is a container, as podman does."""
    from layerstore.containers.records import find_id

    def declare(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("container", metavar="CONTAINER", help="name or id")

    what = "Say by the status whether there is a container: 0, or 1."
    options = _parsed("container exists", what, words, declare)
    if isinstance(options, int):
        return options
    try:
        find_id(root, options.container)
    except NotFoundError:
        return _ABSENT
    return 0


def _prune(words: list[str], root: str) -> int:
    """Remove all containers that have ended, or those of them that filters leave."""
    from layerstore.cli.container.ps import filtered
    from layerstore.cli.settings import current_run_base
    from layerstore.containers.lifecycle import remove
    from layerstore.containers.states import CREATED, EXITED

    def declare(parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("-f", "--force", action="store_true", help="do not ask; nothing here asks")
        add(
            "--filter", action="append", default=[], metavar="NAME=VALUE",
            help="only these, as of ps; may be repeated",
        )  # fmt: skip

    options = _parsed("container prune", "Remove all that have ended.", words, declare)
    if isinstance(options, int):
        return options
    base = current_run_base(root)
    for row in filtered(root, options.filter):
        if row.state.status in (CREATED, EXITED):
            with contextlib.suppress(ConflictError):  # it was about to start
                remove(root, base, row.container.container_id, force=False, volumes=False)
                write_line(row.container.container_id)
    return 0
