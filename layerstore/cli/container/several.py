"""Which containers a command is for: those that are named, or all that are in a state."""

from __future__ import annotations

from layerstore.cli.container.commands import reference_of
from layerstore.cli.failure import tell_all
from layerstore.cli.output import write_line
from layerstore.containers.records import find
from layerstore.errors import ConflictError, FormatError, InputError, LayerstoreError, NotFoundError
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Collection, Iterable

    from layerstore.containers.records import Container


IGNORE_HELP = "who is not there is no failure"


def names(parser: argparse.ArgumentParser) -> None:
    """Declare the containers that a command takes, each by its name."""
    parser.add_argument("containers", nargs="+", metavar="CONTAINER", help="names or ids")


def names_or_all(parser: argparse.ArgumentParser, which: str, *, short: bool = True) -> None:
    """Declare the containers that a command takes, by name or as podman finds them.

    Args:
        parser: Of the command.
        which: Those that ``--all`` means, for the help.
        short: Whether ``-f`` is ``--filter``, and no option of the command's own.
    """
    add = parser.add_argument
    add("containers", nargs="*", metavar="CONTAINER", help="names or ids")
    add("-a", "--all", action="store_true", help=which)
    add(
        *(("-f",) if short else ()), "--filter", action="append", default=[], metavar="NAME=VALUE",
        help="those of them that ps finds so; may be repeated",
    )  # fmt: skip


def on_each(
    names: Iterable[str],
    act: Callable[[str], object],
    *,
    absent: Callable[[NotFoundError], object] | None = None,
    failures: Iterable[LayerstoreError] = (),
) -> int:
    """Do something to each of some things, and print its name; one that fails stops no other.

    Args:
        names: As they were given.
        act: What is done.
        absent: Told of one that is not there, which is no failure then.
        failures: Those that there are already.
    """
    failed = [*failures]
    for name in names:
        try:
            act(name)
        except NotFoundError as err:
            if absent is None:
                failed.append(err)
            else:
                absent(err)
        except LayerstoreError as err:
            failed.append(err)
        else:
            write_line(name)
    tell_all(failed)
    return 0


def unheard(_: NotFoundError) -> None:
    """Pass over one that is not there."""


def each(options: argparse.Namespace, root: str, act: Callable[[Container], object]) -> int:
    """Do something to every container that is named; one that fails does not stop the others."""
    absent = unheard if getattr(options, "ignore", False) else None
    return on_each(
        options.containers, lambda name: act(find(root, reference_of(name))), absent=absent
    )


def each_or_all(
    options: argparse.Namespace,
    root: str,
    statuses: Collection[str],
    act: Callable[[Container], object],
) -> int:
    """Do something to every container that is named, or to all in one of some states.

    One of these that has left its state meanwhile is no failure: nobody named it.

    Args:
        options: Of :func:`names_or_all`.
        root: The store.
        statuses: In the words of ``ps``; none for any.
        act: What is done.
    """
    from layerstore.cli.container.ps import filtered, status_of
    from layerstore.containers.states import state_of

    require_one_way(options)
    if options.containers:
        return each(options, root, act)
    unreadable: list[FormatError] = []
    rows = filtered(root, options.filter, unreadable)
    failures: list[LayerstoreError] = [*unreadable]
    for container in [row.container for row in rows if not statuses or row.status in statuses]:
        try:
            act(container)
        except NotFoundError:
            continue
        except ConflictError as err:
            if not statuses or status_of(container, state_of(root, container)) in statuses:
                failures.append(err)
        except LayerstoreError as err:
            failures.append(err)
        else:
            write_line(container.container_id)
    tell_all(failures)
    return 0


def require_one_way(options: argparse.Namespace) -> None:
    """Refuse names together with ``--all`` or ``--filter``, and neither.

    Raises:
        InputError: It is so.
    """
    if bool(options.containers) == bool(options.all or options.filter):
        raise InputError("name containers, or --all", hint="layerstore ps -a")
