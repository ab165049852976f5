"""Commands about who we are at registries: login and logout."""

from __future__ import annotations

import getpass
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.output import write_line, write_note
from layerstore.cli.transfer.registries import TlsVerify  # noqa: TC001 - typer reads it
from layerstore.errors import InputError

if TYPE_CHECKING:
    from layerstore.registry.credentials import Credentials

MAX_PASSWORD_BYTES = 1 << 16

_Server = Annotated[
    str,
    typer.Argument(metavar="[HOST[:PORT]]", help="The registry; docker.io without one."),
]


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("login")(login)
    app.command("logout")(logout)


def login(
    server: _Server = "docker.io",
    *,
    username: Annotated[
        str, typer.Option("--username", "-u", metavar="NAME", help="Asked for without it.")
    ] = "",
    password: Annotated[
        str,
        typer.Option(
            "--password",
            "-p",
            metavar="TEXT",
            help="Seen by everybody on this host and kept by shells: better --password-stdin.",
        ),
    ] = "",
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from stdin.")
    ] = False,
    tls_verify: TlsVerify = None,
) -> None:
    """Log in to a registry, and keep that for pull, push and others' clients."""
    from layerstore.registry.credentials import Credentials

    host = _host(server)
    if password and password_stdin:
        raise InputError("--password and --password-stdin exclude each other")
    if password_stdin:
        if not username:
            raise InputError("--password-stdin needs --username")
        raw = sys.stdin.buffer.read(MAX_PASSWORD_BYTES + 1)
        password = raw.decode("utf-8", "surrogateescape").rstrip("\r\n")
    elif password:
        write_note("using --password is insecure: use --password-stdin")
    if not (username and password):
        username, password = _ask(host, username, password)
    if not username or not password or len(password) > MAX_PASSWORD_BYTES:
        raise InputError("a user name and a password are needed")
    credentials = Credentials(username, password)
    _check(host, credentials, tls_verify)
    from layerstore.registry.surroundings import found_keychain

    kept = found_keychain(os.environ).put(host, credentials)
    if not kept.is_helper:
        write_note(f"the password is stored unencrypted in {kept.place}; credsStore names a helper")
    write_line("Login Succeeded")


def logout(server: _Server = "docker.io") -> None:
    """Forget who we are at a registry."""
    host = _host(server)
    from layerstore.registry.surroundings import found_keychain

    if found_keychain(os.environ).remove(host):
        write_line(f"Removing login credentials for {host}")
    else:
        write_line(f"Not logged in to {host}")


def _ask(host: str, username: str, password: str) -> tuple[str, str]:
    """Return what somebody at the terminal says."""
    if not sys.stdin.isatty():
        raise InputError(
            f"who are you at {host}? stdin is no terminal to ask at",
            hint="layerstore login -u NAME --password-stdin HOST",
        )
    if not username:
        sys.stderr.write("Username: ")
        sys.stderr.flush()
        username = sys.stdin.readline().strip()
    return username, password or getpass.getpass("Password: ", sys.stderr)


def _check(host: str, credentials: Credentials, tls_verify: bool | None) -> None:
    """Ask the registry whether it knows these credentials.

    Raises:
        RegistryError: It does not, or cannot be asked.
    """
    from layerstore.cli.transfer.registries import registry_client

    with registry_client(tls_verify, credentials=credentials) as client:
        client.host(host).check()


def _host(server: str) -> str:
    """Return the registry that somebody means, however it is written.

    Raises:
        InputError: Not a host.
    """
    from layerstore.formats.reference import parse_reference
    from layerstore.registry.credentials import host_of_key

    host = host_of_key(server)
    if "@" in server or not host:
        raise InputError("a registry is HOST[:PORT], without credentials")
    return parse_reference(f"{host}/x").host if host != "docker.io" else host
