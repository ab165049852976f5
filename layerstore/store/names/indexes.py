"""Indexes that tags mean: names that say which images such a tag has, and the index document.

The tag itself names the image that it means where one is asked for. Beside it are *index names*,
``REPOSITORY:TAG@DIGEST``: that of the index, again for that image, and one for each manifest that
the index lists. They come and go with the tag, so every image of the index has a name for as long
as the tag means it. The document is one that the first image came under. Normative:
docs/format/origins.md, "Indexes that tags mean".
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from layerstore.digest import Digest
from layerstore.errors import IntegrityError
from layerstore.formats.oci import INDEX_TYPES
from layerstore.formats.origins import decode_origins, replace_origins
from layerstore.formats.reference import parse_tag_name
from layerstore.store.blobs import get_blob, put_blob
from layerstore.store.config import INDEXES, ORIGINS, add_features, load_config, require_writable
from layerstore.store.names.tags import insert_image, tag_each
from layerstore.store.names.usage import note_image_use

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from layerstore.digest import ImageId
    from layerstore.store.store import Store


class NamedIndex(NamedTuple):
    """An index that a tag means.

    Attributes:
        name: The familiar name, with its tag.
        digest: Of the document.
        media_type: Of it.
        first: The image that the name means where one is asked for.
        images: By the digest of the manifest that the index lists.
    """

    name: str
    digest: Digest
    media_type: str
    first: ImageId
    images: Mapping[Digest, ImageId]


def name_index(
    store: Store,
    names: Sequence[str],
    document: bytes,
    media_type: str,
    *,
    first: ImageId,
    images: Mapping[Digest, ImageId],
    below: Sequence[tuple[bytes, str]] = (),
) -> Digest:
    """Let tags mean an index, durably: all of its images are named when this returns, or none.

    Args:
        store: Has the images, and something keeps them.
        names: Familiar names, each with a tag.
        document: The index, byte for byte.
        media_type: Of it.
        first: Of the images, the one that the names mean where one is asked for.
        images: By the digest of the manifest that the index lists.
        below: Indexes that it lists, with their media types.

    Returns:
        The document's digest.

    Raises:
        ImageNotFoundError: An image is not in the store.
        ReferenceSyntaxError: Not a name with a tag.
    """
    tags = [parse_tag_name(name) for name in names]
    require_writable(store.config)
    paths = store.paths
    config = load_config(paths)
    if not (config.origins and config.indexes):
        add_features(paths, ORIGINS, INDEXES)
    staging = paths.temporary("index", os.urandom(4).hex())
    with store.catalog.write() as connection:
        for image_id in images.values():
            store.image(image_id)
        record = store.image(first)
        manifest = get_blob(paths, record.manifest_digest)
        digest = put_blob(paths, document, staging)
        known = decode_origins(manifest)
        kept = {put_blob(paths, raw, staging): kind for raw, kind in below} | {digest: media_type}
        known = known._replace(documents={**known.documents, **kept})
        changed = put_blob(paths, replace_origins(manifest, known), staging)
        insert_image(connection, record._replace(manifest_digest=changed))
        listed = {digest: first, **images}
        named: dict[str, str] = dict.fromkeys(tags, first)
        named |= {f"{tag}@{each}": listed[each] for tag in tags for each in listed}
        tag_each(connection, paths.names_log, named)
    for image_id in {first, *images.values()}:
        note_image_use(paths, image_id)
    return digest


def named_index(store: Store, name: str) -> NamedIndex | None:
    """Return the index that a stored name with a tag means; None if it means an image alone.

    Raises:
        IntegrityError: It means one, of which nothing is known any more.
    """
    tags = store.tags()
    first = tags.get(name)
    listed = {
        Digest(each.partition("@")[2]): image_id
        for each, image_id in tags.items()
        if each.startswith(f"{name}@")
    }
    if first is None or not listed:
        return None
    documents = store.origins(store.image(first)).documents
    for digest in listed.keys() & documents.keys():
        if documents[digest] in INDEX_TYPES:
            images = {each: of for each, of in listed.items() if each != digest}
            return NamedIndex(name, digest, documents[digest], first, images)
    raise IntegrityError(
        f"the index that {name} means is lost, its images are not",
        hint=f"pull or build it again; or layerstore tag {first[:19]} {name} for one image alone",
    )
