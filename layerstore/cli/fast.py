"""The commands that container runtimes call in loops, parsed without typer.

Options of these commands are declared here, or in the module that does the work, and nowhere
else; the root's help lists them through pass-through commands. Every start of one passes through
here: modules are imported inside the functions that need them, so that ``mounts`` does not pay
for the catalog nor ``images`` for mounting.
"""

from __future__ import annotations

import contextlib

from layerstore.cli.failure import describe, show
from layerstore.cli.settings import COMMANDS_WITH_COMMANDS, current_root, open_catalog
from layerstore.errors import InputError
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from layerstore.cli.parsing.light_parser import LightParser

USAGE = 125
"""docker's status for words that are no command line."""

_AS_DOCKERS = ("run", "create", "exec")
Command = tuple[
    "Callable[[argparse.ArgumentParser], None]",
    "Callable[[argparse.Namespace, str], int]",
    str,
]
"""Declares options; does the work; one line of help."""


def run(command: str, arguments: Sequence[str], store: str | None) -> int:
    """Run one fast command and return its exit code.

    Raises:
        LayerstoreError: The command failed.
    """
    try:
        options = parse(command, arguments)
    except SystemExit as err:  # after printing its help
        return int(err.code or 0)
    except InputError as err:
        return _refused(command, err)
    try:
        return execute(command, options, store)
    except InputError as err:
        return _refused(command, err)


def _refused(command: str, err: InputError) -> int:
    """Tell that words are wrong, and return docker's status for it; of others' commands, raise."""
    if command not in _AS_DOCKERS:
        raise err
    show(describe(err), err)
    return USAGE


def execute(command: str, options: argparse.Namespace, store: str | None) -> int:
    """Run one fast command with its parsed options and return its exit code.

    Raises:
        LayerstoreError: The command failed.
    """
    return _command(command)[1](options, current_root(store or getattr(options, "store", None)))


def parse(command: str, arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options in a fast command's arguments.

    Raises:
        InputError: They are none of the command's.
    """
    if command in ("run", "create", "exec"):
        from layerstore.cli.parsing.light_parser import LightParser

        light = LightParser()
        declare(command, light)
        plain = light.parse(arguments)
        if plain is not None:
            return plain
    parser = parser_of(command)
    if command not in COMMANDS_WITH_COMMANDS:
        return parser.parse_args(arguments)
    from layerstore.cli.container.commands import split_command_line

    own, rest = split_command_line(parser, arguments)
    options = parser.parse_args(own)
    options.command = rest
    return options


def _command(name: str) -> Command:
    if name in _COMMANDS:
        return _COMMANDS[name]
    from layerstore.cli.container.commands import COMMANDS

    return COMMANDS[name]


def parser_of(command: str) -> argparse.ArgumentParser:
    """Return the parser of a fast command, which also formats its help."""
    from layerstore.cli.parsing.parsers import make_parser

    has_help = command not in COMMANDS_WITH_COMMANDS
    parser = make_parser(command, summary_of(command), has_help=has_help)
    declare(command, parser)
    return parser


def declare(command: str, parser: argparse.ArgumentParser | LightParser) -> None:
    """Declare the options of a fast command."""
    if command in COMMANDS_WITH_COMMANDS:  # where -h is --hostname
        parser.add_argument("--help", action="help", help="show this help message and exit")
        parser.add_argument("--store", metavar="DIR", help="the store, unless it stands in front")
    _command(command)[0](parser)  # type: ignore[arg-type]  # a light one takes the same


def summary_of(command: str) -> str:
    """Return a fast command's one line of help."""
    return _command(command)[2]


# -- images


def _images_options(parser: argparse.ArgumentParser) -> None:
    from layerstore.cli.parsing.parsers import same_as_json

    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="only this repository or name, or a pattern: 'app/*'",
    )
    parser.add_argument("-a", "--all", action="store_true", help="docker's; all are listed anyway")
    parser.add_argument("-q", "--quiet", action="store_true", help="print ids only")
    parser.add_argument("-v", "--verbose", action="store_true", help="print last uses and pins too")
    parser.add_argument("--no-trunc", action="store_true", help="print whole ids")
    parser.add_argument("--digests", action="store_true", help="print manifest digests")
    parser.add_argument(
        "-f", "--filter", action="append", default=[], metavar="NAME=VALUE",
        help="only these: reference=PATTERN, dangling=true, label=KEY[=VALUE], before=IMAGE, "
        "since=IMAGE; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--of", metavar="docker|podman", help="list those of a running engine, not of the store"
    )
    parser.add_argument(
        "--host", metavar="ADDRESS", help="of the engine: unix:///path or tcp://host:port"
    )
    parser.add_argument(
        "--format", default="table", metavar="table|json|TEMPLATE",
        help="json, or a template: '{{.Repository}}:{{.Tag}} {{.Size}}'",
    )  # fmt: skip
    same_as_json(parser)


def _images(options: argparse.Namespace, root: str) -> int:
    if options.of is not None or options.host is not None:
        from layerstore.cli.transfer.engines import list_images

        list_images(options)
        return 0
    from layerstore.cli.image.table import Shown, named, show_images
    from layerstore.store.names.pins import pins
    from layerstore.store.names.usage import image_uses

    with contextlib.closing(open_catalog(root)) as catalog:
        tags, images, pinned = catalog.tags(), catalog.images(), pins(catalog)
        shown = images if options.verbose or options.format == "json" else ()
        uses = image_uses(catalog.paths, [image.image_id for image in shown])
        images, names = named(images, tags, options.name)
        if options.filter:
            from layerstore.cli.image.filters import filtered

            images, names = filtered(images, names, options.filter, catalog)
    show_images(images, names, Shown(uses, pinned), options)
    return 0


def _inspect_options(parser: argparse.ArgumentParser) -> None:
    from layerstore.cli.image.inspecting import inspect_options

    inspect_options(parser)


def _inspect(options: argparse.Namespace, root: str) -> int:
    from layerstore.cli.image.inspecting import inspect

    return inspect(options, root)


# -- import


def _import_options(parser: argparse.ArgumentParser) -> None:
    from layerstore.cli.parsing.parsers import json_option

    parser.add_argument(
        "source",
        metavar="FILE|DIR|-",
        help="a tar (gzip, zstd, xz, bzip2 or plain), a directory, or stdin",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="name of the image, as --tag")
    parser.add_argument(
        "-t", "--tag", action="append", metavar="NAME", help="name of the image; may be repeated"
    )
    parser.add_argument(
        "-c",
        "--change",
        action="append",
        metavar="INSTRUCTION",
        help="Dockerfile instruction, such as 'CMD [\"bash\"]'; may be repeated",
    )
    parser.add_argument(
        "-m", "--message", default="", metavar="TEXT", help="comment for the history"
    )
    parser.add_argument(
        "--platform",
        metavar="OS/ARCH[/VARIANT]",
        help="what it is for (default: this host)",
    )
    parser.add_argument(
        "--reread",
        action="store_true",
        help="read every file, even if the directory did not change since last time",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print ids only")
    json_option(parser)


def _import(options: argparse.Namespace, root: str) -> int:
    from layerstore.cli.transfer.importing import import_rootfs

    return import_rootfs(options, root)


# -- views


def _mount_options(parser: argparse.ArgumentParser) -> None:
    from layerstore.cli.views.mounting import mount_options

    mount_options(parser)


def _mount(options: argparse.Namespace, root: str) -> int:
    from layerstore.cli.views.mounting import mount

    return mount(options, root)


def _mounts_options(parser: argparse.ArgumentParser) -> None:
    from layerstore.cli.views.mounting import mounts_options

    mounts_options(parser)


def _mounts(options: argparse.Namespace, root: str) -> int:
    from layerstore.cli.views.mounting import list_mounts

    return list_mounts(options, root)


def _umount_options(parser: argparse.ArgumentParser) -> None:
    from layerstore.cli.views.umount import umount_options

    umount_options(parser)


def _umount(options: argparse.Namespace, root: str) -> int:
    from layerstore.cli.views.umount import umount

    return umount(options, root)


# -- df


def _df_options(parser: argparse.ArgumentParser) -> None:
    from layerstore.cli.measure import disk_usage
    from layerstore.cli.parsing.parsers import json_option

    disk_usage.add_options(parser)
    json_option(parser, csv=True)


def _df(options: argparse.Namespace, root: str) -> int:
    from layerstore.cli.measure.disk_usage import show_disk_usage

    show_disk_usage(options, root)
    return 0


_COMMANDS: dict[str, Command] = {
    "df": (_df_options, _df, "Show what the store holds on disk, and what gc could free."),
    "images": (_images_options, _images, "List images, newest first."),
    "import": (_import_options, _import, "Make an image from a root file system."),
    "inspect": (
        _inspect_options,
        _inspect,
        "Print everything about images and containers, as docker's JSON.",
    ),
    "mount": (_mount_options, _mount, "Show an image at a directory."),
    "mounts": (
        _mounts_options,
        _mounts,
        "List views and snapshots, and their state.",
    ),
    "umount": (
        _umount_options,
        _umount,
        "Take views away, with their writable layers.",
    ),
}
