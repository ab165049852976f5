"""Repositories by the names of images: mirrors first, then the registry itself."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from layerstore.registry.host import Host
from layerstore.registry.repository import Repository

if TYPE_CHECKING:
    from layerstore.formats.reference import Reference
    from layerstore.registry.host import Surroundings


class RegistryClient:
    """See the module. For several threads.

    Args:
        around: What registries are reached with.
    """

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._lock = threading.Lock()
        self._hosts: dict[tuple[str, str], Host] = {}

    def repository(self, reference: Reference) -> Repository:
        """Return the repository of a name; nothing is asked yet."""
        rules = self._around.registries.of(reference.host)
        # Never where its name says if it lies elsewhere: others may have that name there.
        places = (*rules.mirrors, rules.location or reference.host)
        parts = [place.partition("/") for place in places]
        hosts = [self.host(host, prefix) for host, _, prefix in parts]
        return Repository(hosts, reference.path, reference.host)

    def host(self, name: str, prefix: str = "") -> Host:
        """Return a registry, the same one for the same name."""
        with self._lock:
            key = name, prefix.strip("/")
            if key not in self._hosts:
                self._hosts[key] = Host(name, self._around, key[1])
            return self._hosts[key]

    def close(self) -> None:
        """Close the connections."""
        self._around.transport.close()
