"""Records of containers/storage, which podman, buildah and CRI-O keep images by.

Bytes of the files that an additional image store has: ``overlay-images/images.json``,
``overlay-layers/layers.json``, and what lies beside an image. Pure.

A layer here stands for all layers of an image up to it: its content is complete, and what it
is called is what containers/image calls the same layers when it pulls them, so that an engine
that pulls or builds over them finds them and copies nothing.

Source: containers/storage, ``layers.go`` and ``images.go`` (fields), ``drivers/overlay``
(links); containers/image, ``storage`` (ids of layers, names of big data).
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, NamedTuple

from layerstore.digest import hex_of, sha256_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from layerstore.digest import DiffId, ImageId

LINK_CHARACTERS = 26
"""Of the short names by which overlays list their lower directories: a page holds 128 of them."""

_UNKNOWN_TIME = "0001-01-01T00:00:00Z"
"""Go's zero time."""

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


class StorageLayer(NamedTuple):
    """One layer with all below it.

    Attributes:
        layer_id: 64 hex digits (:func:`layer_ids`).
        parent: Id of the layer below; "" for the lowest.
        size: Bytes of its tar.
        created: RFC 3339; "" when unknown.
    """

    layer_id: str
    parent: str
    diff_id: DiffId
    size: int
    created: str


class StorageImage(NamedTuple):
    """One image.

    Attributes:
        names: Complete: ``docker.io/library/debian:bookworm``.
        layer: Id of its topmost layer; "" for an image without layers.
        created: RFC 3339; "" when unknown.
    """

    image_id: ImageId
    names: tuple[str, ...]
    layer: str
    created: str
    manifest: bytes
    config: bytes


def layer_ids(diff_ids: Sequence[DiffId]) -> list[str]:
    """Return what containers/image calls each of these layers over those before it."""
    ids: list[str] = []
    for diff_id in diff_ids:
        name = hex_of(diff_id)
        if ids:
            name = hashlib.sha256(f"{ids[-1]}+{name}".encode()).hexdigest()
        ids.append(name)
    return ids


def link_name(layer_id: str, directory: str) -> str:
    """Return the short name of a layer's directory: one for a layer in one store.

    Overlays of other stores with the same layer are told apart by it.
    """
    digest = hashlib.sha256(f"layerstore link {directory} {layer_id}".encode()).digest()
    return base64.b32encode(digest).decode()[:LINK_CHARACTERS]


def encode_layers(layers: Iterable[StorageLayer]) -> bytes:
    """Return ``layers.json``; parents come first."""
    return _json([_layer(layer) for layer in layers])


def _layer(layer: StorageLayer) -> dict[str, object]:
    parent = {"parent": layer.parent} if layer.parent else {}
    return {
        "id": layer.layer_id,
        **parent,
        "created": layer.created or _UNKNOWN_TIME,
        "diff-digest": layer.diff_id,
        "diff-size": layer.size,
    }


def encode_images(images: Iterable[StorageImage]) -> bytes:
    """Return ``images.json``."""
    return _json([_image(image) for image in images])


def _image(image: StorageImage) -> dict[str, object]:
    blobs = _blobs(image)
    layer = {"layer": image.layer} if image.layer else {}
    return {
        "id": hex_of(image.image_id),
        "digest": sha256_digest(image.manifest),
        "names": list(image.names),
        **layer,
        "metadata": "{}",
        "big-data-names": list(blobs),
        "big-data-sizes": {name: len(data) for name, data in blobs.items()},
        "big-data-digests": {name: sha256_digest(data) for name, data in blobs.items()},
        "created": image.created or _UNKNOWN_TIME,
    }


def image_files(image: StorageImage) -> dict[str, bytes]:
    """Return the files in an image's directory, by name."""
    return {_file_name(name): data for name, data in _blobs(image).items()}


def _blobs(image: StorageImage) -> Mapping[str, bytes]:
    return {
        image.image_id: image.config,
        f"manifest-{sha256_digest(image.manifest)}": image.manifest,
        "manifest": image.manifest,
    }


def _file_name(key: str) -> str:
    if set(key) <= _PLAIN:
        return key
    return "=" + base64.b64encode(key.encode()).decode()


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
