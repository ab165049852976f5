"""Which server a registry's name means, and how far it is trusted.

``registries.toml`` of layerstore, then containers' ``registries.conf`` and docker's ``certs.d``,
say where a registry's mirrors are, which registries may be spoken to without checked TLS, which
authorities sign their certificates, and which servers may ask for tokens on their behalf.

Source: docs/reference/registries-toml.md; containers-registries.conf(5); docker's documentation of
``certs.d`` and ``insecure-registries``.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from layerstore.net.urls import is_loopback
from layerstore.registry.errors import RegistryConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

MAX_CONFIG_BYTES = 1 << 20

API_HOSTS = {"docker.io": "registry-1.docker.io"}
"""Registries whose API is at another host than their names say."""

_PAIRED_REALMS = {
    "docker.io": ("auth.docker.io",),
    "registry.gitlab.com": ("gitlab.com",),
    "lscr.io": ("ghcr.io",),
}
"""Token servers of public registries at hosts of another name."""

_KNOWN_KEYS = {"mirrors", "insecure", "blocked", "ca", "cert", "key", "realms"}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRules:
    """How one registry is reached.

    Attributes:
        mirrors: ``host[:port][/path]``, asked first for pulls.
        location: ``host[:port][/path]`` where it lies instead of where its name says; empty if
            it does not.
        insecure: Certificates are not checked, and HTTP will do.
        blocked: It is not asked at all.
        ca_files: Authorities beside the system's.
        client: Certificate and key to show; None for none.
        realms: ``host[:port]`` of token servers at other hosts.
    """

    mirrors: tuple[str, ...] = ()
    location: str = ""
    insecure: bool = False
    blocked: bool = False
    ca_files: tuple[str, ...] = ()
    client: tuple[str, str] | None = None
    realms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Registries:
    """The rules for every registry.

    Attributes:
        rules: By ``host[:port]`` as names have it.
        certificate_directories: With a folder for each ``host[:port]``, as docker's ``certs.d``.
        tls_verify: What the command line says of all of them; None for nothing.
    """

    rules: Mapping[str, HostRules] = field(default_factory=dict)
    certificate_directories: Sequence[Path] = ()
    tls_verify: bool | None = None

    def of(self, host: str) -> HostRules:
        """Return the rules for a registry; its own services of this host need no TLS."""
        rules = self.rules.get(host, HostRules())
        found = _certificates(self.certificate_directories, host)
        if self.tls_verify is not None:
            rules = replace(rules, insecure=not self.tls_verify)
        elif host not in self.rules and not found.ca_files and is_local(host):
            rules = replace(rules, insecure=True)
        return replace(
            rules,
            ca_files=(*rules.ca_files, *found.ca_files),
            client=rules.client or found.client,
            realms=(*rules.realms, *_PAIRED_REALMS.get(host, ())),
        )

    def tls(self, authority: str) -> ssl.SSLContext:
        """Return the context for connections to ``host[:port]``.

        Raises:
            RegistryConfigError: A certificate's file cannot be read.
        """
        context = ssl.create_default_context()
        names = [name for name, api in API_HOSTS.items() if api == authority]
        with_port = f"{authority}:443"  # which names may have, and URLs do not
        if authority not in self.rules and with_port in self.rules:
            names = [with_port]
        rules = self.of(names[0] if names else authority)
        try:
            for path in rules.ca_files:
                context.load_verify_locations(path)
            if rules.client is not None:
                context.load_cert_chain(*rules.client)
        except OSError as err:  # ssl.SSLError is one
            raise RegistryConfigError(
                f"the certificates for {authority} cannot be used: {err}"
            ) from err
        if rules.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def is_local(host: str) -> bool:
    """Return whether a registry is on this host's loopback; docker trusts those without TLS."""
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    return is_loopback(name)


def read_registries(
    paths: Iterable[Path], containers: Iterable[Path], certificate_directories: Sequence[Path]
) -> Registries:
    """Return the rules in configuration files; those that do not exist say nothing.

    Args:
        paths: ``registries.toml`` files; the first that names a registry wins.
        containers: ``registries.conf`` files; the first that exists counts.
        certificate_directories: See :class:`Registries`.

    Raises:
        RegistryConfigError: A file cannot be understood.
    """
    rules: dict[str, HostRules] = {}
    for path in paths:
        for host, value in _table(_toml(path), "registry", path).items():
            rules.setdefault(host, _own_rules(value, host, path))
    for path in containers:
        document = _toml(path)
        if document is not None:
            for host, found in _containers_rules(document, path):
                rules.setdefault(host, found)
            break
    return Registries(rules=rules, certificate_directories=certificate_directories)


def _toml(path: Path) -> dict[str, object] | None:
    import tomllib

    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except OSError as err:
        raise RegistryConfigError(f"{path} cannot be read: {err.strerror}") from err
    if len(raw) > MAX_CONFIG_BYTES:
        raise RegistryConfigError(f"{path} has more than {MAX_CONFIG_BYTES} bytes")
    try:
        return tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as err:
        raise RegistryConfigError(f"{path} is not TOML: {err}") from err


def _table(document: dict[str, object] | None, name: str, path: Path) -> dict[str, object]:
    found = (document or {}).get(name, {})
    if not isinstance(found, dict):
        raise RegistryConfigError(f"{path}: {name} is not a table")
    unknown = set(document or {}) - {name}
    if unknown:
        raise RegistryConfigError(
            f"{path}: {min(unknown)!r} is not known", hint='write [registry."HOST"]'
        )
    return found


def _own_rules(value: object, host: str, path: Path) -> HostRules:
    if not isinstance(value, dict):
        raise RegistryConfigError(f'{path}: registry."{host}" is not a table')
    where = f'{path}: registry."{host}"'
    unknown = set(value) - _KNOWN_KEYS
    if unknown:
        raise RegistryConfigError(
            f"{where}: {min(unknown)!r} is not known",
            hint="one of " + ", ".join(sorted(_KNOWN_KEYS)),
        )
    certificate, key = value.get("cert"), value.get("key")
    if (certificate is None) != (key is None):
        raise RegistryConfigError(f"{where}: cert and key belong together")
    client = None
    if certificate is not None:
        client = _text(certificate, f"{where}.cert"), _text(key, f"{where}.key")
    authorities = value.get("ca", [])
    return HostRules(
        mirrors=_texts(value.get("mirrors", []), f"{where}.mirrors"),
        insecure=_flag(value.get("insecure", False), f"{where}.insecure"),
        blocked=_flag(value.get("blocked", False), f"{where}.blocked"),
        ca_files=_texts(
            [authorities] if isinstance(authorities, str) else authorities, f"{where}.ca"
        ),
        client=client,
        realms=_texts(value.get("realms", []), f"{where}.realms"),
    )


def _containers_rules(document: dict[str, object], path: Path) -> list[tuple[str, HostRules]]:
    """Return what containers' format says of whole registries; of single namespaces nothing."""
    entries = document.get("registry", [])
    if not isinstance(entries, list):
        return []  # version 1 of the format
    found = []
    for entry in entries:
        if not isinstance(entry, dict):
            raise RegistryConfigError(f"{path}: a registry is not a table")
        host = str(entry.get("prefix") or entry.get("location") or "")
        location = str(entry.get("location") or host)
        if not host or "/" in host or "*" in host:
            continue
        mirrors = entry.get("mirror", [])
        places = [
            str(mirror.get("location", ""))
            for mirror in (mirrors if isinstance(mirrors, list) else [])
            if isinstance(mirror, dict) and mirror.get("location")
        ]
        is_blocked = entry.get("blocked") is True  # its mirrors, too: that is said of names
        is_insecure = entry.get("insecure") is True
        rules = HostRules(
            mirrors=() if is_blocked else tuple(places),
            location="" if is_blocked or location == host else location,
            insecure=is_insecure,
            blocked=is_blocked,
        )
        found.append((host, rules))
        if is_insecure and location != host:
            found.append((location.partition("/")[0], HostRules(insecure=True)))
        found += [
            (str(mirror["location"]).partition("/")[0], HostRules(insecure=True))
            for mirror in (mirrors if isinstance(mirrors, list) else [])
            if isinstance(mirror, dict)
            and mirror.get("insecure") is True
            and mirror.get("location")
        ]
    return found


def _certificates(directories: Sequence[Path], host: str) -> HostRules:
    """Return what folders called like a host hold: ``*.crt``, and ``*.cert`` with ``*.key``."""
    if "/" in host or host in ("", ".", ".."):
        return HostRules()
    authorities: list[str] = []
    client: tuple[str, str] | None = None
    for directory in directories:
        try:
            names = sorted(entry.name for entry in (directory / host).iterdir())
        except OSError:  # none, or not for us
            continue
        for name in names:
            if name.endswith(".crt"):
                authorities.append(str(directory / host / name))
            elif name.endswith(".cert") and client is None:
                key = name.removesuffix(".cert") + ".key"
                if key in names:
                    client = str(directory / host / name), str(directory / host / key)
    return HostRules(ca_files=tuple(authorities), client=client)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise RegistryConfigError(f"{where} is not a text")
    return value


def _texts(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise RegistryConfigError(f"{where} is not a list of texts")
    return tuple(_text(entry, where) for entry in value)


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise RegistryConfigError(f"{where} is neither true nor false")
    return value
