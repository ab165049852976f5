"""``container COMMAND``, for what images have too, and ``volume COMMAND``."""

from __future__ import annotations

import contextlib

from layerstore.cli.docker_words import INSTEAD, missing
from layerstore.cli.output import write_json, write_line, write_table
from layerstore.errors import ConflictError, InputError, LayerstoreError, NotFoundError
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

_SAME = (
    "run", "create", "start", "attach", "exec", "logs", "top", "stats", "stop", "restart", "kill",
    "wait", "cp", "pause", "unpause", "rename", "update",
)  # fmt: skip
COMMANDS = ("rm", "ls", "inspect", "prune", *_SAME)
"""What may stand behind ``container``."""


def group_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``container`` takes."""
    parser.add_argument(
        "container_command", metavar="COMMAND",
        help="rm, ls, inspect, prune; or one of " + ", ".join(_SAME),
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
        return _prune(root)
    if f"container {name}" in INSTEAD or name in INSTEAD:
        raise missing(f"container {name}" if f"container {name}" in INSTEAD else name)
    raise InputError(
        f"container has no command {name!r}", hint="rm, ls, inspect, prune, " + ", ".join(_SAME)
    )


def _rm(words: list[str], root: str) -> int:
    from layerstore.cli.container_end import rm, rm_options
    from layerstore.cli.parsers import make_parser

    parser = make_parser("container rm", "Remove containers.")
    rm_options(parser)
    try:
        options = parser.parse_args(words)
    except SystemExit as err:
        return int(err.code or 0)
    return rm(options, root)


def _prune(root: str) -> int:
    """Remove all containers that have ended."""
    from layerstore.cli.container_list import filtered
    from layerstore.cli.settings import current_run_base
    from layerstore.containers.lifecycle import remove
    from layerstore.containers.states import CREATED, EXITED

    base = current_run_base(root)
    for row in filtered(root, ()):
        if row.state.status in (CREATED, EXITED):
            with contextlib.suppress(ConflictError):  # it was about to start
                remove(root, base, row.container.container_id, force=False, volumes=False)
                write_line(row.container.container_id)
    return 0


def volume_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``volume`` takes."""
    parser.add_argument(
        "volume_command", choices=("ls", "create", "rm", "inspect", "prune"), metavar="COMMAND",
        help="ls, create NAME, rm NAME..., inspect NAME..., prune",
    )  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="NAME", help="names of volumes")
    parser.add_argument("-q", "--quiet", action="store_true", help="print names only")
    parser.add_argument("-f", "--force", action="store_true", help="do not ask; nothing here asks")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def volume(options: argparse.Namespace, root: str) -> int:
    """List, make and remove volumes."""
    from layerstore.cli.failure import tell_all
    from layerstore.containers.volume_users import drop_volume
    from layerstore.containers.volumes import (
        check_volume_name,
        make_volume,
        volume_data,
        volume_names,
    )

    names = options.names
    if options.volume_command == "ls":
        _list(volume_names(root), root, options)
        return 0
    if options.volume_command == "prune":
        return _prune_volumes(root)
    if options.volume_command == "create" and not names:
        import os

        names = [os.urandom(32).hex()]
    elif not names:
        raise InputError("name volumes", hint="layerstore volume ls")
    if options.volume_command == "inspect":
        there = volume_names(root)
        for name in names:
            if name not in there:
                raise InputError(f"no volume {name!r}", hint="layerstore volume ls")
        write_json(
            [
                {"Name": name, "Driver": "local", "Mountpoint": volume_data(root, name)}
                for name in names
            ]
        )
        return 0
    failures: list[LayerstoreError] = []
    for name in names:
        try:
            if options.volume_command == "create":
                check_volume_name(name)
                make_volume(root, name)
            else:
                drop_volume(root, name)
        except LayerstoreError as err:
            failures.append(err)
        else:
            write_line(name)
    tell_all(failures)
    return 0


def _prune_volumes(root: str) -> int:
    """Remove every volume that no container has."""
    from layerstore.containers.volume_users import drop_volume, unused_volumes

    for name in unused_volumes(root):
        # Between the two looks somebody may have taken it, or removed it.
        with contextlib.suppress(ConflictError, NotFoundError):
            drop_volume(root, name)
            write_line(name)
    return 0


def _list(names: list[str], root: str, options: argparse.Namespace) -> None:
    from layerstore.containers.volumes import volume_data

    if options.json:
        write_json([{"name": name, "path": volume_data(root, name)} for name in names])
    elif options.quiet:
        for name in names:
            write_line(name)
    else:
        write_table(["DRIVER", "VOLUME NAME"], [["local", name] for name in names])
