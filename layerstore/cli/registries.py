"""How the command line reaches registries: its options, and the files and variables it heeds.

The one place that reads the environment for it. Imports next to nothing until it is asked.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.output import write_note

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from layerstore.net.lifelines import Lifelines
    from layerstore.registry.client import RegistryClient
    from layerstore.registry.credentials import Credentials, Keychain
    from layerstore.registry.hosts import Registries

AUTH_FILE_VARIABLE = "REGISTRY_AUTH_FILE"

TlsVerify = Annotated[
    bool | None,
    typer.Option(
        "--tls-verify/--no-tls-verify",
        help="Whether certificates of registries are checked; also --tls-verify=false.",
    ),
]


@contextlib.contextmanager
def registry_client(
    tls_verify: bool | None = None,
    *,
    credentials: Credentials | None = None,
    lifelines: Lifelines | None = None,
) -> Iterator[RegistryClient]:
    """Give a client of registries with what files and variables say, until the block ends.

    Args:
        tls_verify: Of the command line; None for what the files say.
        credentials: Who we are everywhere; None for what is kept.
        lifelines: Cut when what is asked for is not wanted any more.

    Raises:
        RegistryConfigError: A file cannot be understood.
    """
    from layerstore.net.proxies import proxy_environment
    from layerstore.net.transport import HttpSettings, Transport
    from layerstore.registry.client import RegistryClient
    from layerstore.registry.host import Surroundings

    environ = os.environ
    registries = found_registries(environ, tls_verify=tls_verify)
    settings = HttpSettings(proxies=proxy_environment(environ), tls=registries.tls)
    around = Surroundings(
        transport=Transport(settings, lifelines),
        registries=registries,
        keychain=found_keychain(environ),
        credentials=credentials,
        note=write_note,
    )
    with contextlib.closing(RegistryClient(around)) as client:
        yield client


def found_registries(environ: Mapping[str, str], *, tls_verify: bool | None = None) -> Registries:
    """Return what the configuration says of registries.

    Raises:
        RegistryConfigError: A file cannot be understood.
    """
    from dataclasses import replace

    from layerstore.registry.hosts import read_registries

    home = _config_home(environ)
    named = environ.get("CONTAINERS_REGISTRIES_CONF")
    containers = [Path(named)] if named else [
        *([home / "containers/registries.conf"] if home else []),
        Path("/etc/containers/registries.conf"),
    ]  # fmt: skip
    own = [*([home / "layerstore"] if home else []), Path("/etc/layerstore")]
    found = read_registries(
        [directory / "registries.toml" for directory in own],
        containers,
        [Path("/etc/docker/certs.d"), Path("/etc/containers/certs.d")],
    )
    return replace(found, tls_verify=tls_verify)


def found_keychain(environ: Mapping[str, str]) -> Keychain:
    """Return where it is kept who we are: docker's file, then those of containers."""
    from layerstore.registry.credentials import Keychain

    named = environ.get(AUTH_FILE_VARIABLE)
    if named:
        return Keychain([Path(named)], Path(named), environ)
    home = environ.get("HOME", "")
    directory = environ.get("DOCKER_CONFIG") or (f"{home}/.docker" if home else "")
    docker = Path(directory or "/nonexistent") / "config.json"
    files = [docker]
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        files.append(Path(runtime) / "containers/auth.json")
    if config := _config_home(environ):
        files.append(config / "containers/auth.json")
    return Keychain(files, docker, environ)


def _config_home(environ: Mapping[str, str]) -> Path | None:
    chosen = environ.get("XDG_CONFIG_HOME", "")
    if os.path.isabs(chosen):  # the specification: relative values are ignored
        return Path(chosen)
    home = environ.get("HOME", "")
    return Path(home) / ".config" if os.path.isabs(home) else None
