"""Where docker's client finds its daemon, and by which certificates they know each other.

Source: docker(1), "Environment variables"; docker/cli, ``cli/context/store`` for contexts.
"""

from __future__ import annotations

import hashlib
import json
import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import InputError, LayerstoreError, NotFoundError
from layerstore.formats import strict_json
from layerstore.formats._fields import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping

_META_BYTES = 1 << 20


class EngineTls(NamedTuple):
    """How a daemon is spoken to by TLS.

    Attributes:
        folder: Has ``ca.pem``, and ``cert.pem`` with ``key.pem``, as far as they are needed.
        verify: Whether the daemon must show a certificate that the authority signed.
    """

    folder: Path
    verify: bool

    def context(self) -> ssl.SSLContext:
        """Return what makes the connections.

        Raises:
            InputError: A certificate's file cannot be used.
        """
        authority, own, key = (self.folder / name for name in ("ca.pem", "cert.pem", "key.pem"))
        try:
            context = ssl.create_default_context(
                cafile=authority if self.verify and authority.exists() else None
            )
            if own.exists() or key.exists():
                context.load_cert_chain(own, key)
        except OSError as err:  # ssl.SSLError is one
            raise InputError(
                f"the certificates in {self.folder} cannot be used: {err}",
                hint="DOCKER_CERT_PATH names the directory of ca.pem, cert.pem and key.pem",
            ) from err
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


class EnginePlace(NamedTuple):
    """Where an engine listens, and by TLS if ``tls`` is given."""

    address: str
    tls: EngineTls | None = None


def docker_place(environment: Mapping[str, str], host: str | None, usual: str) -> EnginePlace:
    """Return where docker's client would go.

    That is an address that is given, ``DOCKER_HOST``, or what the context says that
    ``DOCKER_CONTEXT`` or ``docker context use`` chose; else its usual socket.

    Args:
        environment: Variables of the process.
        host: What the user names; goes before all others.
        usual: The address of its usual socket.

    Raises:
        NotFoundError: There is no such context.
        InputError: A context's file says something else.
    """
    config = Path(environment.get("DOCKER_CONFIG") or Path(environment.get("HOME", "/"), ".docker"))
    address = host or environment.get("DOCKER_HOST", "")
    context = "" if address else environment.get("DOCKER_CONTEXT", "") or _current(config)
    if context and context != "default":
        return _of_context(config / "contexts", context)
    address = address or usual
    verify = bool(environment.get("DOCKER_TLS_VERIFY"))
    if not address.startswith("tcp://") or not (verify or environment.get("DOCKER_TLS")):
        return EnginePlace(address)
    folder = Path(environment.get("DOCKER_CERT_PATH") or config)
    return EnginePlace(address, EngineTls(folder, verify))


def _current(config: Path) -> str:
    """Return the context that ``docker context use`` chose; empty for none."""
    path = config / "config.json"
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return ""  # who has no contexts need not have this file, or a good one
    chosen = value.get("currentContext", "") if isinstance(value, dict) else ""
    return chosen if isinstance(chosen, str) else ""


def _of_context(contexts: Path, name: str) -> EnginePlace:
    folder = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
    path = contexts / "meta" / folder / "meta.json"
    try:
        with path.open("rb") as file:
            raw = file.read(_META_BYTES)
    except FileNotFoundError as err:
        raise NotFoundError(
            f"docker has no context {name!r}", hint="docker context ls lists them"
        ) from err
    try:
        fields = Fields(strict_json.decode(raw, "context"), "context")
        endpoint = Fields(Fields(fields.members("Endpoints"), "Endpoints").members("docker"), name)
        address, unchecked = endpoint.required_text("Host"), endpoint.boolean("SkipTLSVerify")
    except LayerstoreError as err:
        raise InputError(f"{path}: {err.message}") from err
    certificates = contexts / "tls" / folder / "docker"
    if address.startswith("tcp://") and (unchecked or os.path.isdir(certificates)):
        return EnginePlace(address, EngineTls(certificates, verify=not unchecked))
    return EnginePlace(address)
