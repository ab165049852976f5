"""Layers that the store has already when containerd is about to fetch them.

Before it fetches a layer, containerd asks for a snapshot whose label
``containerd.io/snapshot.ref`` is the chain ID that the layer would lead to. A chain ID is
made of diff IDs, which are digests: a store that has layers with these diff IDs has the
very files.

Source: containerd, docs/remote-snapshotter.md; OCI image spec, config.md, "Layer ChainID".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from layerstore.digest import chain_id

if TYPE_CHECKING:
    from layerstore.digest import DiffId
    from layerstore.snapshotter.records import Snapshot
    from layerstore.store.store import Store

REFERENCE: Final = "containerd.io/snapshot.ref"
_CHAIN: Final = re.compile(r"(?:.*/)?(sha256:[0-9a-f]{64})")
"""containerd calls what it unpacked ``NAMESPACE/NUMBER/CHAIN-ID``."""


def layers_of_chain(store: Store, wanted: str) -> tuple[DiffId, ...]:
    """Return the layers of a chain ID that an image of the store begins with; none if no image."""
    for image in store.images():
        # From the top: a chain that is whole is asked for more often than a part of one.
        for count in range(len(image.layers), 0, -1):
            layers = image.layers[:count]
            if chain_id(layers) == wanted and all(store.has_layer(layer) for layer in layers):
                return layers
    return ()


def claimed_chain(snapshot: Snapshot) -> str:
    """Return the chain ID that a committed snapshot is said to have, "" if nobody says."""
    if snapshot.chain:
        return snapshot.chain
    match = _CHAIN.fullmatch(snapshot.key)
    return match[1] if match is not None else ""
