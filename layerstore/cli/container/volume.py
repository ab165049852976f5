"""``volume COMMAND``: directories of the store that outlive containers."""

from __future__ import annotations

import contextlib

from layerstore.cli.container.several import on_each, unheard
from layerstore.cli.failure import tell_all
from layerstore.cli.output import write_json, write_line, write_table
from layerstore.containers.volumes import volume_data, volume_names
from layerstore.errors import ConflictError, InputError, LayerstoreError, NotFoundError
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_FILTERS = ("name", "dangling", "driver")
_TITLES = {"Name": "VOLUME NAME"}
_TRUE, _FALSE = ("1", "true"), ("0", "false")
_ABSENT = 1
"""podman's status of ``exists``."""


def volume_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``volume`` takes."""
    add = parser.add_argument
    add(
        "volume_command", choices=tuple(_COMMANDS), metavar="COMMAND",
        help="ls, create [NAME], rm NAME..., inspect NAME..., exists NAME, prune",
    )  # fmt: skip
    add("names", nargs="*", metavar="NAME", help="names of volumes")
    add("-q", "--quiet", action="store_true", help="of ls: print names only")
    add(
        "--filter", action="append", default=[], metavar="NAME=VALUE",
        help="of ls: only these, as -f: name=PART, dangling=true|false; may be repeated",
    )  # fmt: skip
    add(
        "-f", "--force", action="store_true",
        help="of rm: none need be there; prune does not ask anyway; of ls and inspect as docker's",
    )  # fmt: skip
    add("-a", "--all", action="store_true", help="of prune: those with a name, too")
    add("-d", "--driver", default="local", choices=("local",), help="docker's; there is one")
    add("--format", default="table", metavar="table|json|TEMPLATE", help="of ls and inspect")
    add("--json", dest="format", action="store_const", const="json", help="as --format json")


def volume(options: argparse.Namespace, root: str) -> int:
    """List, make and remove volumes."""
    return _COMMANDS[options.volume_command](options, root)


def _ls(options: argparse.Namespace, root: str) -> int:
    # -f is docker's letter for --filter here, and what stands behind it is no name.
    names = _filtered(root, [*options.filter, *options.names])
    if options.format == "json":
        write_json([{"name": name, "path": volume_data(root, name)} for name in names])
    elif options.quiet:
        for name in names:
            write_line(name)
    elif options.format == "table":
        write_table(["DRIVER", "VOLUME NAME"], [["local", name] for name in names])
    else:
        from layerstore.cli.parsing.templates import print_rows

        print_rows(options.format, [_told(root, name) for name in names], _TITLES)
    return 0


def _filtered(root: str, words: Sequence[str]) -> list[str]:
    """Return the volumes that filters leave: of one name any value will do, of several each must.

    Raises:
        InputError: No filter is called that, or its value means nothing.
    """
    from layerstore.containers.volume_users import unused_volumes

    values: dict[str, list[str]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if name not in _FILTERS or not equals:
            raise InputError(f"no filter {word!r}", hint=f"NAME=VALUE of {', '.join(_FILTERS)}")
        if name == "dangling" and value not in (*_TRUE, *_FALSE):
            raise InputError(f"{value!r} in --filter {word} is neither true nor false")
        values.setdefault(name, []).append(value)
    found = volume_names(root)
    if wanted := values.get("name"):
        found = [name for name in found if any(part in name for part in wanted)]
    if "driver" in values and "local" not in values["driver"]:
        return []
    if wanted := values.get("dangling"):
        unused = set(unused_volumes(root))
        kinds = {value in _TRUE for value in wanted}
        found = [name for name in found if (name in unused) in kinds]
    return found


def _told(root: str, name: str) -> dict[str, object]:
    return {
        "Name": name, "Driver": "local", "Scope": "local", "Mountpoint": volume_data(root, name)
    }  # fmt: skip


def _create(options: argparse.Namespace, root: str) -> int:
    from layerstore.containers.volumes import check_volume_name, make_volume, new_volume_name

    def make(name: str) -> None:
        check_volume_name(name)
        make_volume(root, name)

    return on_each(options.names or [new_volume_name()], make)


def _rm(options: argparse.Namespace, root: str) -> int:
    from layerstore.containers.volume_users import drop_volume

    def drop(name: str) -> None:
        drop_volume(root, name)

    return on_each(_named(options), drop, absent=unheard if options.force else None)


def _named(options: argparse.Namespace) -> list[str]:
    if not options.names:
        raise InputError("name volumes", hint="layerstore volume ls")
    return list(options.names)


def _inspect(options: argparse.Namespace, root: str) -> int:
    there = volume_names(root)
    # -f is docker's letter for --format here, and no volume has such a name.
    formats = [name for name in options.names if options.force and "{{" in name]
    options.names = [name for name in options.names if name not in formats]
    template = formats[-1] if formats else options.format
    names = _named(options)
    failures: list[LayerstoreError] = [
        NotFoundError(f"no volume {name!r}", hint="layerstore volume ls")
        for name in names
        if name not in there
    ]
    rows = [_told(root, name) for name in names if name in there]
    if template in ("json", "table"):
        write_json(rows)
    else:
        from layerstore.cli.parsing.templates import print_rows

        print_rows(template, rows, {})
    tell_all(failures)
    return 0


def _exists(options: argparse.Namespace, root: str) -> int:
    """Tell by the status alone, as podman does."""
    (name, *more) = _named(options)
    if more:
        raise InputError("exists takes one name")
    return 0 if name in volume_names(root) else _ABSENT


def _prune(options: argparse.Namespace, root: str) -> int:
    """Remove volumes that no container has; as docker, those alone that nobody gave a name."""
    from layerstore.containers.volume_users import drop_volume, unused_volumes
    from layerstore.containers.volumes import is_anonymous

    if options.filter or options.names:
        raise InputError(
            "volume prune takes no names and no filters",
            hint="layerstore volume rm NAME...; volume ls --filter dangling=true lists",
        )
    for name in unused_volumes(root):
        if not options.all and not is_anonymous(name):
            continue
        # Between the two looks somebody may have taken it, or removed it.
        with contextlib.suppress(ConflictError, NotFoundError):
            drop_volume(root, name)
            write_line(name)
    return 0


_COMMANDS = {
    "ls": _ls, "create": _create, "rm": _rm, "inspect": _inspect, "exists": _exists,
    "prune": _prune,
}  # fmt: skip
