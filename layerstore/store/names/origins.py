"""What the store keeps of how its images came: documents and compressed originals.

An image's stored manifest names them (:mod:`layerstore.formats.origins`), so they live exactly
as long as it does, and a catalog that is made again knows them. A store that keeps any has
the feature ``origins``, so that no older layerstore collects them. Normative:
docs/format/origins.md.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from layerstore.digest import Digest, ImageId
from layerstore.errors import IntegrityError, NotFoundError
from layerstore.formats.origins import (
    NO_ORIGINS,
    Origins,
    decode_origins,
    replace_origins,
    with_origins_of,
)
from layerstore.formats.reference import is_index_name
from layerstore.linux.files import read_file
from layerstore.store.blobs import get_blob, put_blob
from layerstore.store.config import (
    CONFIG_MAX_BYTES,
    ORIGINS,
    ConfigDamagedError,
    add_features,
    load_config,
    parse_config,
    require_writable,
)
from layerstore.store.names.tags import insert_image, untag_all
from layerstore.store.paths import StorePaths

if TYPE_CHECKING:
    from collections.abc import Callable

    from layerstore.store.catalog.catalog import Catalog
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store

_REMEMBERED = 4096
"""Manifests whose origins a process remembers: a digest never means another one."""


def origins_of(paths: StorePaths, manifest_digest: str) -> Origins:
    """Return what a stored manifest remembers; nothing, unread, where no manifest does.

    Raises:
        BlobNotFoundError: The manifest is missing.
        IntegrityError: It is damaged.
    """
    if not keeps_origins(paths):
        return NO_ORIGINS
    return _origins(paths.root, manifest_digest)


@functools.lru_cache(_REMEMBERED)
def _origins(root: str, manifest_digest: str) -> Origins:
    return decode_origins(get_blob(StorePaths(root), manifest_digest))


def keeps_origins(paths: StorePaths) -> bool:
    """Return whether the store's manifests may remember anything, as its config says now.

    Where that cannot be read they may: repair looks at such a store.
    """
    try:
        status = os.stat(paths.config)
        return _config_says(paths.config, status.st_mtime_ns, status.st_ino)
    except (OSError, ConfigDamagedError):
        return True


@functools.lru_cache(16)
def _config_says(path: str, _mtime_ns: int, _inode: int) -> bool:
    return parse_config(read_file(path, max_bytes=CONFIG_MAX_BYTES)).origins


def allow_origins(paths: StorePaths) -> None:
    """Let manifests remember origins from now on, durably; harmless when they may already.

    Raises:
        StorageError: The store cannot be written.
    """
    if not load_config(paths).origins:
        add_features(paths, ORIGINS)


def with_known_origins(catalog: Catalog, image_id: str, manifest: bytes) -> bytes:
    """Return an image's new manifest that also remembers what its present one does.

    The caller is in a write transaction, or nothing may rely on the answer.
    """
    present = catalog.image(image_id)
    if present is None or not keeps_origins(catalog.paths):
        return manifest
    try:
        other = get_blob(catalog.paths, present.manifest_digest)
    except (IntegrityError, NotFoundError):
        return manifest  # what it remembered is lost: this one heals the image
    return with_origins_of(manifest, other)


def forget_origins(store: Store, image_id: str, without: Callable[[Origins], Origins]) -> None:
    """Let an image's manifest remember less, durably; what nothing names then goes with gc.

    Names with digests of documents that are forgotten go at once. The indexes that tags of the
    image mean are not forgotten.

    Args:
        store: The store.
        image_id: The image.
        without: Returns what is still to be remembered.

    Raises:
        ImageNotFoundError: No such image.
        IntegrityError: Its manifest is damaged.
    """
    from layerstore.formats.oci import INDEX_TYPES

    require_writable(store.config)
    paths = store.paths
    with store.catalog.write() as connection:
        record = store.image(ImageId(Digest(image_id)))
        manifest = get_blob(paths, record.manifest_digest)
        before = decode_origins(manifest)
        tags = [name for name, of in store.tags().items() if of == image_id]
        # What a tag means stays known, though it cannot leave byte for byte any more.
        indexes = {d: t for d, t in before.documents.items() if t in INDEX_TYPES}
        kept = indexes if any(map(is_index_name, tags)) else {}
        after = without(before)
        after = after._replace(documents={**kept, **after.documents})
        staging = paths.temporary("forget", os.urandom(4).hex())
        digest = put_blob(paths, replace_origins(manifest, after), staging)
        insert_image(connection, record._replace(manifest_digest=digest))
        gone = before.documents.keys() - after.documents.keys()
        untag_all(
            connection,
            paths.names_log,
            [n for n in tags if not is_index_name(n) and n.partition("@")[2] in gone],
        )


def image_of_document(catalog: Catalog, digest: str) -> ImageRecord | None:
    """Return the image that came under a manifest or index, the newest if there are several."""
    paths = catalog.paths
    if not os.path.exists(paths.blob(digest)):
        return None  # most digests that are asked for: nothing was read
    for image in catalog.images():
        try:
            if digest in origins_of(paths, image.manifest_digest).documents:
                return image
        except (IntegrityError, NotFoundError):
            continue  # an image whose manifest is lost is no reason not to find another
    return None
