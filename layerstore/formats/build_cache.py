"""The documents of an exported build cache: a manifest, and a config that lists steps.

Bytes to immutable values and back. Decoding takes documents from strangers and refuses
what two readers could understand differently. A record only says that somebody claims a
step to give a layer; whether to believe that is for the reader's owner to decide.

Format: docs/format/build-cache.md, "Exported caches". Source of the envelope: OCI image
spec, manifest.md ("Guidelines for artifact usage").
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from layerstore.digest import DiffId, parse_digest
from layerstore.errors import FormatError, LimitExceededError
from layerstore.formats import oci, strict_json
from layerstore.formats._fields import Fields

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIG_TYPE = "application/vnd.layerstore.build-cache.config.v1+json"
VERSION = 1
RECORDS_MAX = 20_000
"""Steps in one cache: their config stays below the size that registries take."""

_KEY = re.compile(r"step:[0-9a-f]{64}")
_TIME = re.compile(r"[0-9]{1,10}\.[0-9]{1,17}")
"""As text: images must come out with the very time, and readers of JSON round numbers."""


class CachedStep(NamedTuple):
    """One claim: this key's step gives this layer, or none.

    Attributes:
        created: Seconds since the epoch when the layer was made.
    """

    key: str
    layer: DiffId | None
    created: float


class CacheLayer(NamedTuple):
    """A layer and the blob that holds its tar, compressed."""

    diff_id: DiffId
    blob: oci.Descriptor


def encode_config(steps: Sequence[CachedStep], layers: Sequence[CacheLayer]) -> bytes:
    """Return the config of a cache, canonical: the same steps give the same bytes.

    Raises:
        LimitExceededError: More steps than a cache may have.
    """
    if len(steps) > RECORDS_MAX:
        raise LimitExceededError(f"{len(steps)} steps are more than one cache holds: {RECORDS_MAX}")
    return strict_json.encode(
        {
            "version": VERSION,
            "diff_ids": [layer.diff_id for layer in layers],
            "steps": [
                {"key": step.key, "layer": step.layer or "", "created": repr(float(step.created))}
                for step in sorted(steps)
            ],
        }
    )


def encode_manifest(config: bytes, layers: Sequence[CacheLayer]) -> bytes:
    """Return the manifest that ties a config and its layers together."""
    manifest = oci.Manifest(
        config=oci.describe(config, CONFIG_TYPE),
        layers=tuple(layer.blob for layer in layers),
        media_type=oci.MANIFEST_TYPE,
        extra={"artifactType": CONFIG_TYPE},
    )
    return oci.encode_manifest(manifest)


def decode_manifest(raw: bytes) -> tuple[oci.Descriptor, tuple[oci.Descriptor, ...]]:
    """Return the descriptors of the config and of the layers' blobs.

    Raises:
        FormatError: Not the manifest of a build cache.
    """
    fields = Fields(strict_json.decode(raw, "cache manifest"), "manifest")
    media_type = fields.text("mediaType")
    if fields.integer("schemaVersion") != 2 or media_type != oci.MANIFEST_TYPE:
        raise FormatError("this is no manifest of a build cache")
    config = fields.part("config", oci.descriptor_of)
    if config is None or config.media_type != CONFIG_TYPE:
        raise FormatError("this manifest belongs to something else than a build cache of ours")
    return config, fields.parts("layers", oci.descriptor_of)


def decode_config(
    raw: bytes, blobs: Sequence[oci.Descriptor]
) -> tuple[dict[str, CachedStep], dict[DiffId, oci.Descriptor]]:
    """Return the steps by key, and the blobs of layers by diff ID.

    Raises:
        FormatError: Not a config of a build cache, or not that of these layers.
    """
    fields = Fields(strict_json.decode(raw, "cache config"), "config")
    version = fields.integer("version")
    if version != VERSION:
        raise FormatError(f"the build cache has version {version}, expected {VERSION}")
    diff_ids = [DiffId(parse_digest(text)) for text in fields.texts("diff_ids") or ()]
    if len(diff_ids) != len(blobs) or len(set(diff_ids)) != len(diff_ids):
        raise FormatError("the build cache lists other layers than its manifest")
    layers = dict(zip(diff_ids, blobs, strict=True))
    items = fields.items("steps") or []
    if len(items) > RECORDS_MAX:
        raise LimitExceededError(f"the build cache has {len(items)} steps, at most {RECORDS_MAX}")
    steps: dict[str, CachedStep] = {}
    for number, item in enumerate(items):
        step = _step(item, f"config.steps[{number}]")
        if step.key in steps or (step.layer is not None and step.layer not in layers):
            raise FormatError(f"config.steps[{number}] repeats a key or names a layer that is not")
        steps[step.key] = step
    return steps, layers


def _step(value: object, where: str) -> CachedStep:
    fields = Fields(value, where)
    key = fields.required_text("key")
    if not _KEY.fullmatch(key):
        raise FormatError(f"{where}.key is {key[:100]!r}, expected step: and 64 digits")
    layer = fields.text("layer")
    created = fields.required_text("created")
    if not _TIME.fullmatch(created):
        raise FormatError(f"{where}.created is {created[:100]!r}, expected seconds since 1970")
    return CachedStep(key, DiffId(parse_digest(layer)) if layer else None, float(created))
