"""The commands that end containers: ``stop``, ``restart``, ``kill``, ``wait``, ``rm``."""

from __future__ import annotations

from layerstore.cli.container.commands import reference_of
from layerstore.cli.container.options import signal_number
from layerstore.cli.container.several import (
    IGNORE_HELP,
    each_or_all,
    names,
    names_or_all,
    on_each,
    require_one_way,
    unheard,
)
from layerstore.cli.failure import tell_all
from layerstore.cli.output import write_line, write_note
from layerstore.cli.settings import current_run_base
from layerstore.containers.records import find
from layerstore.containers.settings import DEFAULT_STOP_SIGNAL
from layerstore.containers.states import PAUSED, RESTARTING, RUNNING
from layerstore.errors import ConflictError, FormatError, LayerstoreError, NotFoundError
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from layerstore.containers.records import Container


def _ending_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-t", "--time", "--timeout", type=int, metavar="SECONDS",
        help="until KILL; -1 for never (default: the container's, or 10)",
    )  # fmt: skip
    parser.add_argument(
        "-s", "--signal", metavar="SIGNAL", help="what asks it to end (default: the container's)"
    )


def stop_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``stop`` takes."""
    _ending_options(parser)
    parser.add_argument("-i", "--ignore", action="store_true", help=IGNORE_HELP)
    names_or_all(parser, "all that run")


def stop(options: argparse.Namespace, root: str) -> int:
    """Stop containers."""
    from layerstore.containers.lifecycle import stop as stop_one

    number = _signal(options)

    def act(container: Container) -> None:
        stop_one(root, container, options.time, number)

    return each_or_all(options, root, (RUNNING, PAUSED, RESTARTING), act)


def _signal(options: argparse.Namespace) -> int | None:
    return None if options.signal is None else signal_number(options.signal)


def restart_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``restart`` takes."""
    _ending_options(parser)
    names_or_all(parser, "all there are, whether they run or not")


def restart(options: argparse.Namespace, root: str) -> int:
    """Stop containers and start them again."""
    from layerstore.cli.container.run import start_again
    from layerstore.containers.lifecycle import stop as stop_one

    number = _signal(options)

    def act(container: Container) -> None:
        if container.settings.auto_remove:
            raise ConflictError(
                f"container {container.name} is removed at its end", hint="stop it, and run another"
            )
        stop_one(root, container, options.time, number)
        start_again(root, container, attached=False).connection.close()

    return each_or_all(options, root, (), act)


def kill_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``kill`` takes."""
    parser.add_argument("-s", "--signal", default="KILL", metavar="SIGNAL", help="(default: KILL)")
    names_or_all(parser, "all that run")


def kill(options: argparse.Namespace, root: str) -> int:
    """Send containers a signal."""
    from layerstore.containers.lifecycle import note_stop, send_signal, settle

    number = signal_number(options.signal)

    def act(container: Container) -> None:
        settle(root, container)
        # As docker: who kills it or stops it by hand does not want it restarted.
        if number in (9, container.settings.stop_signal):
            note_stop(root, container)
        # What goes on at which signal is docker's rule, too.
        heard = number == 9 or container.settings.stop_signal in (number, DEFAULT_STOP_SIGNAL)
        send_signal(root, container, number, heard=heard)

    return each_or_all(options, root, (RUNNING, PAUSED), act)


def wait_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``wait`` takes."""
    names(parser)


def wait(options: argparse.Namespace, root: str) -> int:
    """Wait for containers, one after the other, and print their statuses."""
    from layerstore.containers.lifecycle import wait_for_code

    failures: list[LayerstoreError] = []
    for reference in options.containers:
        try:
            write_line(str(wait_for_code(root, find(root, reference_of(reference)))))
        except LayerstoreError as err:
            failures.append(err)
    tell_all(failures)
    return 0


def rm_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``container rm`` takes."""
    parser.add_argument(
        "-f", "--force", action="store_true", help="kill those that run; none need be there"
    )
    parser.add_argument("-v", "--volumes", action="store_true", help="anonymous volumes, too")
    parser.add_argument("-i", "--ignore", action="store_true", help=IGNORE_HELP)
    names_or_all(parser, "all there are", short=False)


def rm(options: argparse.Namespace, root: str) -> int:
    """Remove containers."""
    from layerstore.cli.container.ps import filtered
    from layerstore.containers.lifecycle import remove
    from layerstore.containers.records import find_id

    require_one_way(options)
    base = current_run_base(root)
    failures: list[LayerstoreError] = []
    if not options.containers:
        unreadable: list[FormatError] = []
        rows = filtered(root, options.filter, unreadable)
        options.containers = [row.container.container_id for row in rows]
        failures += unreadable  # which of them are meant, their records alone could tell

    def drop(reference: str) -> None:
        container_id = find_id(root, reference_of(reference))
        remove(root, base, container_id, force=options.force, volumes=options.volumes)

    absent = unheard if options.ignore else _tell_absent if options.force else None
    return on_each(options.containers, drop, absent=absent, failures=failures)


def _tell_absent(err: NotFoundError) -> None:
    write_note(f"note: {err.message}")
