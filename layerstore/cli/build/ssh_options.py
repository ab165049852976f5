"""The build command's ``--ssh``, from words to agents and keys."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.build.run.settings import SshSource
from layerstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Ssh = Annotated[
    list[str] | None,
    typer.Option(
        "--ssh",
        metavar="default|ID[=SOCKET|KEY,...]",
        help="Agent for RUN --mount=type=ssh: $SSH_AUTH_SOCK, another socket, or one that holds "
        "these private keys while the build runs. Repeatable.",
    ),
]
_VARIABLE = "SSH_AUTH_SOCK"


def parse_ssh(words: Sequence[str], environ: Mapping[str, str]) -> dict[str, SshSource]:
    """Return agents by id.

    Raises:
        InputError: Not an agent, or what it names is not there.
    """
    sources: dict[str, SshSource] = {}
    for word in words:
        identity, equals, places = word.partition("=")
        if not identity or (equals and not places):
            raise InputError(
                f"{word!r} is not an ssh agent", hint="--ssh default, or --ssh ID=SOCKET-OR-KEY"
            )
        if identity in sources:
            raise InputError(f"--ssh {identity} is given twice", hint="ID=KEY,KEY for several keys")
        sources[identity] = (
            _source(identity, places.split(",")) if equals else _agent(word, environ)
        )
    return sources


def _agent(identity: str, environ: Mapping[str, str]) -> SshSource:
    path = environ.get(_VARIABLE, "")
    if not path:
        raise InputError(
            f"--ssh {identity}: ${_VARIABLE} is not set",
            hint=f"eval $(ssh-agent); ssh-add; or name a key: --ssh {identity}=FILE",
        )
    return SshSource(socket=os.path.abspath(path))


def _source(identity: str, places: Sequence[str]) -> SshSource:
    sockets: list[str] = []
    keys: list[str] = []
    for place in places:
        path = os.path.abspath(os.path.expanduser(place))
        try:
            mode = os.stat(path).st_mode
        except OSError as err:
            raise InputError(f"--ssh {identity}: cannot read {place}: {err.strerror}") from err
        if not (stat.S_ISSOCK(mode) or stat.S_ISREG(mode)):
            raise InputError(f"--ssh {identity}: {place} is neither a socket nor a key")
        (sockets if stat.S_ISSOCK(mode) else keys).append(path)
    if len(sockets) > 1 or (sockets and keys):
        raise InputError(f"--ssh {identity} takes one agent's socket, or keys, and not both")
    return SshSource(socket=sockets[0]) if sockets else SshSource(keys=tuple(keys))
