"""What all RUN steps of a build share; apart from the steps so that reading it costs nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class RunSettings(NamedTuple):
    """What all RUN steps of a build share.

    Attributes:
        proxies: Variables such as HTTP_PROXY that steps see but no key or history holds.
        secrets: Values by id.
        cache_root: Directory of the cache mounts.
    """

    proxies: Mapping[str, str]
    secrets: Mapping[str, bytes]
    cache_root: Path
