"""Names of the rows of the build cache that keep cache mounts at rest (docs/format/catalog.md)."""

from __future__ import annotations

import hashlib
from typing import Final

PREFIX: Final = "mount:"
"""Begins the key of such a row."""

_CONTEXT: Final = b"layerstore cache mount 1\0"


def resting_key(name: str) -> str:
    """Return the key of the row that keeps a cache, from the name of its directory."""
    return PREFIX + hashlib.sha256(_CONTEXT + name.encode()).hexdigest()
