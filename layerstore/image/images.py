"""Images: making one out of layers and a config, and telling what one is.

An image is a config (its digest is the image's id), a manifest that lists the
uncompressed layers, and the layers in the store. Making one is durable and
visible, names included, when :func:`create_image` returns, and not at all when
it raises.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from layerstore.digest import DiffId, ImageId, sha256_digest
from layerstore.errors import IntegrityError
from layerstore.formats import oci
from layerstore.formats.oci_config import (
    History,
    ImageConfig,
    container_config_to_json,
    decode_config,
    encode_config,
)
from layerstore.formats.origins import (
    NO_ORIGINS,
    Origins,
    decode_origins,
    encode_origins,
    is_of_origins,
)
from layerstore.formats.reference import is_digest_name, is_index_name
from layerstore.store.catalog.rows import ImageRecord
from layerstore.store.names.origins import with_known_origins

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from layerstore.store.store import Store
    from layerstore.store.writing.session import WriteSession

_MACHINES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "loongarch64": ("loong64", ""),
}


ATTESTATION_KEY = "layerstore.attestation/"
"""Annotations of a stored manifest that begin so hold attestations: the rest of the key is the
predicate's type, the value its JSON text. Manifests that leave the store do not have them."""


class ImageParts(NamedTuple):
    """What an image is made of, whether a store lists it or not.

    Attributes:
        config: Encoded; its digest is the image's id.
        layers: Lowest first, each published.
        annotations: Of the manifest.
        predicates: What is attested of it: JSON texts by predicate type.
        origins: What is remembered of how it came.
    """

    config: bytes
    layers: tuple[DiffId, ...]
    annotations: Mapping[str, str] = {}
    predicates: Mapping[str, str] = {}
    origins: Origins = NO_ORIGINS

    @property
    def image_id(self) -> ImageId:
        """The image's id."""
        return ImageId(sha256_digest(self.config))


class HistoryRow(NamedTuple):
    """One step of an image's making, as ``docker history`` lists it.

    Attributes:
        image_id: Of the image itself on its newest step, None on the others: what
            they would be called was never stored.
        diff_id: The layer the step left, None for none.
        size: Logical bytes of regular files in that layer.
    """

    image_id: ImageId | None
    created: str
    created_by: str
    comment: str
    diff_id: DiffId | None
    size: int


def host_platform() -> tuple[str, str]:
    """Return architecture and variant of this machine in OCI's words: ``("amd64", "")``.

    Source: OCI image spec, image-index.md, "Platform Variants"; Go's GOARCH.
    """
    machine = os.uname().machine
    return _MACHINES.get(machine, (machine, ""))


def create_image(
    session: WriteSession,
    config: ImageConfig,
    layers: Sequence[DiffId],
    history: Sequence[History],
    *,
    names: Sequence[str] = (),
    created: str,
) -> ImageRecord:
    """Store an image over published layers; durable and visible when this returns.

    Args:
        session: Holds the lease that keeps the layers from gc.
        config: Everything but layers, history and time, which the next arguments give.
        layers: Lowest first, each published.
        history: Oldest step first; as many steps without ``empty_layer`` as layers.
        names: Familiar names (:func:`layerstore.formats.reference.parse_tag_name`).
        created: RFC 3339.

    Raises:
        NotFoundError: A layer is not in the store.
    """
    parts = image_parts(config, layers, history, created=created)
    return publish_parts(session, parts, names=names)


def image_parts(
    config: ImageConfig, layers: Sequence[DiffId], history: Sequence[History], *, created: str
) -> ImageParts:
    """Return an image over layers, which no store lists yet; see :func:`create_image`."""
    encoded = encode_config(
        msgspec.structs.replace(
            config, diff_ids=tuple(layers), history=tuple(history), created=created
        )
    )
    return ImageParts(encoded, tuple(layers))


def publish_parts(
    session: WriteSession,
    parts: ImageParts,
    *,
    names: Sequence[str] = (),
    documents: Sequence[bytes] = (),
) -> ImageRecord:
    """Store an image; see :func:`create_image`. Of one image the manifest stored last counts.

    Args:
        session: Holds the layers, and what ``parts`` remembers of originals.
        parts: The image.
        names: Familiar names, with a tag or the digest of a document.
        documents: What ``parts.origins`` names and the store may not have yet.
    """
    manifest = stored_manifest(session.store, parts)
    return session.publish_image(
        parts.config, manifest, parts.layers, names=names, documents=documents
    )


def stored_manifest(store: Store, parts: ImageParts) -> bytes:
    """Return the manifest that an image has in a store, with its attestations.

    Raises:
        NotFoundError: A layer is not in the store.
    """
    kept = {ATTESTATION_KEY + kind: text for kind, text in parts.predicates.items()}
    known = encode_origins(parts.origins)
    annotations = {**parts.annotations, **kept, **known}
    manifest = own_manifest(store, parts.config, parts.layers, annotations)
    return with_known_origins(store.catalog, parts.image_id, manifest)


def image_record(store: Store, parts: ImageParts) -> ImageRecord:
    """Return what the catalog says of an image once it is stored.

    Raises:
        NotFoundError: A layer is not in the store.
    """
    return ImageRecord(
        parts.image_id,
        sha256_digest(stored_manifest(store, parts)),
        decode_config(parts.config).created,
        parts.layers,
        sum(store.layer(diff_id).content_size for diff_id in parts.layers),
    )


def load_parts(store: Store, image: ImageRecord) -> ImageParts:
    """Return what a stored image is made of, with its attestations.

    Raises:
        IntegrityError: Its config or manifest is damaged.
    """
    load_config(store, image.image_id)  # for what it verifies
    manifest = store.get_blob(image.manifest_digest)
    return parts_of(store.get_blob(image.image_id), image.layers, manifest)


def parts_of(config: bytes, layers: Sequence[DiffId], manifest: bytes) -> ImageParts:
    """Return what an image is made of whose stored manifest is given.

    Raises:
        FormatError: The manifest is damaged.
    """
    annotations = {}
    predicates = {}
    for key, value in oci.decode_manifest(manifest).annotations.items():
        if key.startswith(ATTESTATION_KEY):
            predicates[key.removeprefix(ATTESTATION_KEY)] = value
        elif not is_of_origins(key):
            annotations[key] = value
    return ImageParts(config, tuple(layers), annotations, predicates, decode_origins(manifest))


def own_manifest(
    store: Store,
    config: bytes,
    layers: Sequence[DiffId],
    annotations: Mapping[str, str] | None = None,
) -> bytes:
    """Return the manifest that images made here have: it lists the uncompressed layers.

    Raises:
        NotFoundError: A layer is not in the store.
    """
    manifest = oci.Manifest(
        config=oci.describe(config, oci.CONFIG_TYPE),
        layers=tuple(
            oci.Descriptor(
                media_type=oci.LAYER_TAR_TYPE, digest=diff_id, size=store.layer(diff_id).tar_size
            )
            for diff_id in layers
        ),
        annotations=dict(annotations or {}),
    )
    return oci.encode_manifest(manifest)


def load_config(store: Store, image_id: ImageId) -> ImageConfig:
    """Return an image's config, verified against the image's id.

    Raises:
        NotFoundError: No such image.
        IntegrityError: The config is damaged, or its layers are not the catalog's.
    """
    record = store.image(image_id)
    config = decode_config(store.get_blob(image_id))
    if config.diff_ids != record.layers:
        raise IntegrityError(
            f"the layers that the catalog lists for {image_id} are not those of its config",
            hint="run 'layerstore check' to see what else is wrong",
        )
    return config


def history(store: Store, image: ImageRecord) -> list[HistoryRow]:
    """Return the steps that made an image, newest first."""
    config = load_config(store, image.image_id)
    remaining = list(reversed(image.layers))
    rows: list[HistoryRow] = []
    for step in reversed(steps_of(config)):
        diff_id = None if step.empty_layer or not remaining else remaining.pop(0)
        rows.append(
            HistoryRow(
                image_id=None if rows else image.image_id,
                created=step.created,
                created_by=step.created_by,
                comment=step.comment,
                diff_id=diff_id,
                size=store.layer(diff_id).content_size if diff_id else 0,
            )
        )
    return rows


def inspect(store: Store, image: ImageRecord) -> dict[str, object]:
    """Return what ``docker image inspect`` would say of an image."""
    config = load_config(store, image.image_id)
    names = sorted(name for name, image_id in store.tags().items() if image_id == image.image_id)
    plain: dict[str, object] = {
        "Id": image.image_id,
        "RepoTags": [name for name in names if not is_digest_name(name)],
        "RepoDigests": [name for name in names if is_digest_name(name) and not is_index_name(name)],
        "Parent": "",
        "Comment": config.history[-1].comment if config.history else "",
        "Created": config.created,
        "Author": config.author,
        "Config": container_config_to_json(config.config),
        "Architecture": config.architecture,
        "Os": config.os,
        "Size": image.size,
        "RootFS": {"Type": "layers", "Layers": list(image.layers)},
        "ManifestDigest": image.manifest_digest,
    }
    if config.variant:
        plain["Variant"] = config.variant
    parts = load_parts(store, image)
    if parts.predicates:
        plain["Attestations"] = sorted(parts.predicates)
    if parts.origins.documents:
        plain["Origins"] = sorted(parts.origins.documents)
    return plain


def steps_of(config: ImageConfig) -> list[History]:
    """Return the history, with steps without words where it does not fit the layers.

    The spec makes history optional and nothing enforces its count, so a wrong one
    must not hide a layer.
    """
    with_layers = sum(1 for step in config.history if not step.empty_layer)
    if with_layers == len(config.diff_ids):
        return list(config.history)
    missing = max(0, len(config.diff_ids) - with_layers)
    return [History(comment="not in the image's history")] * missing + list(config.history)


def platform_of(config: ImageConfig) -> oci.Platform:
    """Return the platform that a config is for, as an index says it."""
    return oci.Platform(
        architecture=config.architecture,
        os=config.os,
        variant=config.variant,
        os_version=config.os_version,
        os_features=config.os_features,
    )
