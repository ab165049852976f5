"""OCI manifests, indexes and descriptors: what ties an image's blobs together.

Everything here is bytes to immutable values and back. Decoding takes documents
from strangers: it refuses whatever two readers could take for different images
(CVE-2021-41190), sizes that are not sizes, and digests that are anything but
hexadecimal, because digests reach paths and URLs. Unknown fields survive a round
trip in ``extra``. Image configs are in :mod:`layerstore.formats.oci_config`.

Source: OCI image spec, descriptor.md, manifest.md, image-index.md; Docker image
manifest version 2, schema 2.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

from msgspec import Struct

from layerstore.digest import Digest, parse_digest, sha256_digest
from layerstore.errors import FormatError, IntegrityError, LimitExceededError, UnsafeContentError
from layerstore.formats import strict_json
from layerstore.formats._fields import MAX_INT64, Fields
from layerstore.formats.oci_config import MAX_LAYERS, ImageConfig

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TAR_TYPE = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
LAYER_ZSTD_TYPE = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX_TYPE = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_TYPE = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_ZSTD_TYPE = "application/vnd.docker.image.rootfs.diff.tar.zstd"
DOCKER_LAYER_TAR_TYPE = "application/vnd.docker.image.rootfs.diff.tar"

REF_NAME = "org.opencontainers.image.ref.name"
"""Annotation that names an image in an OCI layout (OCI image spec, annotations.md)."""
CONTAINERD_NAME = "io.containerd.image.name"
"""Annotation with the whole name; ``ref.name`` holds the tag alone, as docker and BuildKit do."""

MAX_INDEX_ENTRIES = 10_000
"""Manifests one index may list; real ones list a dozen platforms."""

MANIFEST_TYPES = (MANIFEST_TYPE, DOCKER_MANIFEST_TYPE)
INDEX_TYPES = (INDEX_TYPE, DOCKER_INDEX_TYPE)

INDEX_DEPTH = 3
"""Indexes that may lie above a manifest."""

_CONFIG_TYPES = (CONFIG_TYPE, DOCKER_CONFIG_TYPE)
_COMPRESSIONS = {
    LAYER_TAR_TYPE: "none",
    LAYER_GZIP_TYPE: "gzip",
    LAYER_ZSTD_TYPE: "zstd",
    DOCKER_LAYER_TYPE: "gzip",
    DOCKER_LAYER_TAR_TYPE: "none",
    DOCKER_LAYER_ZSTD_TYPE: "zstd",
}
_LAYER_TYPES = tuple(_COMPRESSIONS)


def compression_of_type(media_type: str) -> str:
    """Return how a layer of this media type is compressed: ``none``, ``gzip`` or ``zstd``.

    Raises:
        FormatError: Not the type of a layer.
    """
    try:
        return _COMPRESSIONS[media_type]
    except KeyError:
        raise FormatError(f"{media_type[:100]!r} is not the media type of a layer") from None


class Platform(Struct, frozen=True, kw_only=True):
    """What a manifest of an index runs on."""

    architecture: str
    os: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()
    extra: dict[str, object] = {}

    def __str__(self) -> str:
        """Return ``linux/amd64`` or ``linux/arm/v7``."""
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(Struct, frozen=True, kw_only=True):
    """A typed, sized, digested pointer to a blob; ``size`` in bytes, never 0."""

    media_type: str
    digest: Digest
    size: int
    annotations: dict[str, str] = {}
    platform: Platform | None = None
    extra: dict[str, object] = {}


class Manifest(Struct, frozen=True, kw_only=True):
    """One image for one platform: its config and its layers, lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = MANIFEST_TYPE
    annotations: dict[str, str] = {}
    extra: dict[str, object] = {}


class Index(Struct, frozen=True, kw_only=True):
    """A list of manifests: the platforms of one image, or the images of a layout."""

    manifests: tuple[Descriptor, ...]
    media_type: str = INDEX_TYPE
    annotations: dict[str, str] = {}
    extra: dict[str, object] = {}


def decode_manifest(raw: bytes, *, media_type: str | None = None) -> Manifest:
    """Return the image manifest in a JSON text.

    Args:
        raw: The document as it came.
        media_type: What the descriptor or the server called it; the text must not disagree.

    Raises:
        FormatError: Not a manifest of an image, or one that two readers would read differently.
        LimitExceededError: More layers or bytes than an image may have.
        UnsafeContentError: A descriptor tells where to fetch it from.
    """
    manifest = decode_artifact(raw, media_type=media_type)
    _require_type(manifest.config, "manifest.config", _CONFIG_TYPES)
    for n, descriptor in enumerate(manifest.layers):
        _require_type(descriptor, f"manifest.layers[{n}]", _LAYER_TYPES)
    return manifest


def decode_artifact(raw: bytes, *, media_type: str | None = None) -> Manifest:
    """Return a manifest whose config and layers may be of any type, of an image or not.

    Signatures, attestations and other artefacts are kept in such manifests. ``subject`` and
    ``artifactType`` are among the extra fields.

    Args:
        raw: The document as it came.
        media_type: What the descriptor or the server called it; the text must not disagree.

    Raises:
        FormatError: Not a manifest, or one that two readers would read differently.
        LimitExceededError: More layers or bytes than an image may have.
        UnsafeContentError: A descriptor tells where to fetch it from.
    """
    fields = _document(raw, "manifest", media_type, MANIFEST_TYPES, rival="manifests")
    layers = fields.items("layers")
    if layers is None:
        raise FormatError("manifest.layers is missing")
    if len(layers) > MAX_LAYERS:
        raise LimitExceededError(f"image has {len(layers)} layers, more than {MAX_LAYERS}")
    config = fields.part("config", descriptor_of)
    if config is None:
        raise FormatError("manifest.config is missing")
    return Manifest(
        config=config,
        layers=tuple(descriptor_of(v, f"manifest.layers[{n}]") for n, v in enumerate(layers)),
        media_type=fields.text("mediaType", media_type or ""),
        annotations=fields.mapping("annotations"),
        extra=fields.rest(),
    )


def decode_index(raw: bytes, *, media_type: str | None = None) -> Index:
    """Return the index in a JSON text; ``index.json`` of a layout is one.

    Raises:
        FormatError: Not an index, or one that two readers would read differently.
        LimitExceededError: More than ``MAX_INDEX_ENTRIES`` manifests, or a JSON limit.
        UnsafeContentError: A descriptor tells where to fetch it from.
    """
    fields = _document(raw, "index", media_type, INDEX_TYPES, rival="layers")
    manifests = fields.items("manifests")
    if manifests is None:
        raise FormatError("index.manifests is missing")
    if len(manifests) > MAX_INDEX_ENTRIES:
        raise LimitExceededError(
            f"index lists {len(manifests)} manifests, more than {MAX_INDEX_ENTRIES}"
        )
    return Index(
        manifests=tuple(descriptor_of(v, f"index.manifests[{n}]") for n, v in enumerate(manifests)),
        media_type=fields.text("mediaType", media_type or ""),
        annotations=fields.mapping("annotations"),
        extra=fields.rest(),
    )


def is_attestation(descriptor: Descriptor) -> bool:
    """Return whether a manifest of an index is about another one.

    Source: BuildKit, docs/attestations/attestation-storage.md.
    """
    return descriptor.annotations.get("vnd.docker.reference.type") == "attestation-manifest"


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the canonical JSON text of a manifest."""
    plain: dict[str, object] = {
        **manifest.extra,
        "schemaVersion": 2,
        "mediaType": manifest.media_type,
        "config": _descriptor_to_json(manifest.config),
        "layers": [_descriptor_to_json(layer) for layer in manifest.layers],
    }
    if manifest.annotations:
        plain["annotations"] = dict(manifest.annotations)
    return strict_json.encode(plain)


def encode_index(index: Index) -> bytes:
    """Return the canonical JSON text of an index."""
    plain: dict[str, object] = {
        **index.extra,
        "schemaVersion": 2,
        "mediaType": index.media_type,
        "manifests": [_descriptor_to_json(entry) for entry in index.manifests],
    }
    if index.annotations:
        plain["annotations"] = dict(index.annotations)
    return strict_json.encode(plain)


def describe(raw: bytes, media_type: str) -> Descriptor:
    """Return the descriptor of a blob at hand."""
    return Descriptor(media_type=media_type, digest=sha256_digest(raw), size=len(raw))


def verify(raw: bytes, descriptor: Descriptor) -> None:
    """Return if ``raw`` is the blob that a descriptor names.

    Raises:
        IntegrityError: Size or digest differ.
    """
    if len(raw) != descriptor.size:
        raise IntegrityError(
            f"blob {descriptor.digest} has {len(raw)} bytes, its descriptor says {descriptor.size}"
        )
    algorithm = descriptor.digest.partition(":")[0]
    if f"{algorithm}:{hashlib.new(algorithm, raw).hexdigest()}" != descriptor.digest:
        raise IntegrityError(f"blob {descriptor.digest} has other content than its digest says")


def check_pair(manifest: Manifest, config: ImageConfig) -> None:
    """Return if a manifest and a config speak of equally many layers.

    Raises:
        FormatError: They do not; applying either list would build another image.
    """
    if len(manifest.layers) != len(config.diff_ids):
        raise FormatError(
            f"manifest lists {len(manifest.layers)} layers, its config {len(config.diff_ids)}"
        )


def _document(
    raw: bytes, what: str, outer: str | None, allowed: tuple[str, ...], *, rival: str
) -> Fields:
    """Open a manifest or index, settling which of the two it is before anything else."""
    fields = Fields(strict_json.decode(raw, f"image {what}"), what)
    version = fields.integer("schemaVersion")
    if version != 2:
        raise FormatError(f"{what}.schemaVersion is {version}, expected 2")
    inner = fields.text("mediaType")
    if not inner and not outer:
        raise FormatError(f"{what}.mediaType is missing and nothing else says what this is")
    for media_type in (inner, outer):
        if media_type and media_type not in allowed:
            raise FormatError(f"{media_type[:100]!r} is not the media type of an image {what}")
    if inner and outer and inner != outer:
        raise FormatError(f"{what}.mediaType is {inner!r}, its descriptor says {outer!r}")
    if fields.items(rival) is not None or fields.items("fsLayers") is not None:
        raise FormatError(f"{what} also has the fields of another kind of document")
    return fields


def _require_type(descriptor: Descriptor, where: str, allowed: tuple[str, ...]) -> None:
    if descriptor.media_type not in allowed:
        raise FormatError(f"{where}.mediaType is {descriptor.media_type[:100]!r}, not of an image")


def descriptor_of(value: object, where: str) -> Descriptor:
    """Return the descriptor in a decoded JSON value; ``where`` is its path, for messages.

    Raises:
        FormatError: Not a descriptor.
        UnsafeContentError: It tells where to fetch the blob from.
    """
    fields = Fields(value, where)
    media_type = fields.required_text("mediaType")
    digest = parse_digest(fields.required_text("digest"))
    size = fields.integer("size", low=1, high=MAX_INT64)
    if size == 0:
        raise FormatError(f"{where}.size is missing")
    if fields.items("urls"):
        raise UnsafeContentError(f"{where} names urls to fetch it from, which is never done")
    embedded = fields.text("data")
    descriptor = Descriptor(
        media_type=media_type,
        digest=digest,
        size=size,
        annotations=fields.mapping("annotations"),
        platform=fields.part("platform", _platform),
        extra=fields.rest() | ({"data": embedded} if embedded else {}),
    )
    _check_embedded(embedded, descriptor, where)
    return descriptor


def _check_embedded(data: str, descriptor: Descriptor, where: str) -> None:
    if not data:
        return
    try:
        raw = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as err:
        raise FormatError(f"{where}.data is not base64") from err
    try:
        verify(raw, descriptor)
    except IntegrityError as err:
        raise FormatError(f"{where}.data is not what the descriptor says") from err


def _platform(value: object, where: str) -> Platform:
    fields = Fields(value, where)
    return Platform(
        architecture=fields.required_text("architecture"),
        os=fields.required_text("os"),
        variant=fields.text("variant"),
        os_version=fields.text("os.version"),
        os_features=fields.texts("os.features") or (),
        extra=fields.rest(),
    )


def _descriptor_to_json(descriptor: Descriptor) -> dict[str, object]:
    plain: dict[str, object] = {
        **descriptor.extra,
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    }
    if descriptor.annotations:
        plain["annotations"] = dict(descriptor.annotations)
    if descriptor.platform is not None:
        plain["platform"] = _platform_to_json(descriptor.platform)
    return plain


def _platform_to_json(platform: Platform) -> dict[str, object]:
    plain: dict[str, object] = {
        **platform.extra,
        "architecture": platform.architecture,
        "os": platform.os,
    }
    optional = {
        "variant": platform.variant,
        "os.version": platform.os_version,
        "os.features": list(platform.os_features),
    }
    plain.update({key: value for key, value in optional.items() if value})
    return plain
