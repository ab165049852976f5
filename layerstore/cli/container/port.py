"""The command ``port``: where the programs of a container are reached."""

from __future__ import annotations

from layerstore.cli.container.commands import reference_of
from layerstore.cli.output import write_json, write_line
from layerstore.containers.listening import listeners_of
from layerstore.containers.records import find
from layerstore.containers.running import require_running
from layerstore.containers.states import state_of
from layerstore.containers.usage import processes_of
from layerstore.errors import InputError, NotFoundError
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def port_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``port`` takes."""
    add = parser.add_argument
    add("container", metavar="CONTAINER", help="name or id")
    add("port", nargs="?", metavar="PORT[/tcp|udp]", help="this one's addresses alone")
    add("--json", action="store_true", help="print JSON for machines")


def port(options: argparse.Namespace, root: str) -> int:
    """Print where a container listens; nothing of one without the host's network."""
    container = find(root, reference_of(options.container))
    wanted = None if options.port is None else _wanted(options.port)
    require_running(root, container)
    found = []
    if container.settings.network == "host":
        state = state_of(root, container)
        found = listeners_of(processes_of(container.container_id, state))
    if wanted is not None:
        found = [one for one in found if (one.port, one.protocol) == wanted]
        if not found:
            raise NotFoundError(
                f"nothing in container {container.name} listens at {wanted[0]}/{wanted[1]}",
                hint=f"layerstore port {container.name}",
            )
    if options.json:
        write_json([one._asdict() for one in found])
    for one in () if options.json else found:
        write_line(str(one) if wanted else f"{one.port}/{one.protocol} -> {one}")
    return 0


def _wanted(word: str) -> tuple[int, str]:
    number, _, protocol = word.partition("/")
    if not (number.isascii() and number.isdigit()) or protocol not in ("", "tcp", "udp"):
        raise InputError(f"{word!r} is no port", hint="80, or 53/udp")
    return int(number[:6]), protocol or "tcp"
