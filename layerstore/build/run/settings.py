"""What all RUN steps of a build share; apart from the steps so that reading it costs nothing."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from layerstore.runtime.settings import DEFAULT_OPTIONS, RunOptions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

INSECURE = "security.insecure"
HOST_NETWORK = "network.host"
ENTITLEMENTS = (HOST_NETWORK, INSECURE)
"""What a Dockerfile may ask for only if whoever builds it allows it, as BuildKit names it."""


class SshSource(NamedTuple):
    """What stands behind an id of ``--ssh``: an agent, or keys for one of the build's own.

    Attributes:
        socket: Path of the agent's socket; empty when there are keys.
        keys: Paths of private keys.
    """

    socket: str = ""
    keys: tuple[str, ...] = ()


class RunSettings(NamedTuple):
    """What all RUN steps of a build share.

    Attributes:
        proxies: Variables such as HTTP_PROXY that steps see but no key or history holds.
        secrets: Values by id.
        cache_root: Directory of the cache mounts.
        options: How commands run. In no key.
        ssh: Agents by id.
        hostname: Of steps; empty for the usual one.
    """

    proxies: Mapping[str, str]
    secrets: Mapping[str, bytes]
    cache_root: Path
    options: RunOptions = DEFAULT_OPTIONS
    ssh: Mapping[str, SshSource] = MappingProxyType({})
    hostname: str = ""
