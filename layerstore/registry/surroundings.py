"""Registries as a user's files and variables say: rules, authorities, who we are.

Nothing here looks at the process's environment: the command line hands it in, and a server of a
lazy view what it was started with.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from layerstore.net.proxies import proxy_environment
from layerstore.net.transport import HttpSettings, Transport
from layerstore.registry.client import RegistryClient
from layerstore.registry.credentials import Keychain
from layerstore.registry.host import Surroundings, say_nothing
from layerstore.registry.hosts import Registries, read_registries

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from layerstore.net.lifelines import Lifelines
    from layerstore.registry.credentials import Credentials

AUTH_FILE_VARIABLE: Final = "REGISTRY_AUTH_FILE"

PLACES: Final = (
    "HOME",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    "DOCKER_CONFIG",
    AUTH_FILE_VARIABLE,
    "CONTAINERS_REGISTRIES_CONF",
)
"""Variables that say where files are; no secrets."""


def client_of(
    environ: Mapping[str, str],
    *,
    tls_verify: bool | None = None,
    credentials: Credentials | None = None,
    lifelines: Lifelines | None = None,
    note: Callable[[str], None] = say_nothing,
) -> RegistryClient:
    """Return a client of registries with what files and variables say. Close it.

    Args:
        environ: The variables.
        tls_verify: Of the command line; None for what the files say.
        credentials: Who we are everywhere; None for what is kept.
        lifelines: Cut when what is asked for is not wanted any more.
        note: Takes what people should know.

    Raises:
        RegistryConfigError: A file cannot be understood.
    """
    registries = found_registries(environ, tls_verify=tls_verify)
    settings = HttpSettings(proxies=proxy_environment(environ), tls=registries.tls)
    return RegistryClient(
        Surroundings(
            transport=Transport(settings, lifelines),
            registries=registries,
            keychain=found_keychain(environ),
            credentials=credentials,
            note=note,
        )
    )


def found_registries(environ: Mapping[str, str], *, tls_verify: bool | None = None) -> Registries:
    """Return what the configuration says of registries.

    Raises:
        RegistryConfigError: A file cannot be understood.
    """
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
