"""Which manifests of a repository may have parcels that a new image's can build on."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from layerstore.digest import parse_digest
from layerstore.errors import LayerstoreError, NotFoundError
from layerstore.formats import oci
from layerstore.formats.reference import is_digest_name
from layerstore.image.transfer.artefacts import PARCELS_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.digest import Digest
    from layerstore.image.exchange.sending import Sent
    from layerstore.registry.repository import Repository
    from layerstore.store.store import Store


def earlier_manifests(
    store: Store, repository: Repository, before: Digest | None
) -> Iterator[Digest]:
    """Yield manifests of images, most likely first; lists are asked for when it comes to them.

    What the tag meant before, then what the store knows to lie there, newest first, then
    whatever has parcels there.
    """
    if before is not None:
        yield from _images_of(repository, before)
    names: dict[str, list[str]] = {}
    for name, image_id in store.tags().items():
        if is_digest_name(name):
            names.setdefault(image_id, []).append(name)
    for image in store.images():
        if any(_is_of(name, repository) for name in names.get(image.image_id, ())):
            documents = store.origins(image).documents
            yield from (d for d, kind in documents.items() if kind in oci.MANIFEST_TYPES)
    with contextlib.suppress(LayerstoreError):
        for tag in reversed(repository.tags()):
            if tag.endswith(PARCELS_SUFFIX):
                yield parse_digest(tag.removesuffix(PARCELS_SUFFIX).replace("-", ":", 1))


def _is_of(name: str, repository: Repository) -> bool:
    from layerstore.formats.reference import parse_reference

    reference = parse_reference(name)
    return f"{reference.host}/{reference.path}" == repository.name


def _images_of(repository: Repository, digest: Digest) -> Iterator[Digest]:
    """Yield the manifests that a digest means: itself, or those of an index."""
    with contextlib.suppress(LayerstoreError):
        found = repository.manifest(digest)
        if found.media_type in oci.MANIFEST_TYPES:
            yield digest
            return
        for child in oci.decode_index(found.raw, media_type=found.media_type).manifests:
            if child.media_type in oci.MANIFEST_TYPES and child.platform is not None:
                yield child.digest


def pushed_manifest(repository: Repository, sent: Sent, image_id: Digest) -> oci.Descriptor:
    """Return the descriptor of an image's own manifest, which an index may lie above.

    Raises:
        NotFoundError: It is not there any more.
    """
    if sent.descriptor.media_type in oci.MANIFEST_TYPES:
        return sent.descriptor
    for digest in _images_of(repository, sent.descriptor.digest):
        found = repository.manifest(digest)
        plain = oci.decode_artifact(found.raw, media_type=found.media_type)
        if plain.config.digest == image_id:
            return oci.describe(found.raw, found.media_type)
    raise NotFoundError(f"the manifest of image {image_id} is not in {repository.name}")
