"""Build caches in a registry: a manifest under a tag, whose layers are the cache's.

The documents are those of a cache in a directory. Layers that the repository has already, from
the cache that had this tag before, are neither compressed nor sent again. The manifest is
written last, so whoever reads sees the cache of before or the one of after.

Reading believes nothing: documents and blobs are compared with their digests, and the caller
compares the diff ID of what comes.

Format: docs/format/build-cache.md, "Exported caches".
"""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from layerstore.build.streams import ReadableStream
from layerstore.errors import IntegrityError, NotFoundError
from layerstore.formats import build_cache, oci
from layerstore.formats.build_cache import CachedStep, CacheLayer
from layerstore.image.exchange.blob_files import Compression, compressed
from layerstore.image.exchange.exchange import Document, VerifiedBlob, read_blob
from layerstore.image.exchange.registry_places import RegistryDestination, RegistrySource
from layerstore.image.exchange.sending import MEDIA_TYPES
from layerstore.image.trees.export_layer import verified_tar
from layerstore.store.records import CacheRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from layerstore.digest import DiffId, Digest
    from layerstore.image.exchange.exchange import ImageSource
    from layerstore.registry.repository import Repository
    from layerstore.store.store import Store


class _Cache(NamedTuple):
    """A cache, decoded."""

    steps: dict[str, CachedStep]
    layers: dict[DiffId, oci.Descriptor]


class RepositorySource:
    """Reads steps and layers of a cache in a repository.

    Args:
        repository: Where it is.
        tag: What it is called there.
        permit: Told where signatures are and the manifest's digest, before anything else is
            read; raises if the cache may not be used.
    """

    def __init__(
        self,
        repository: Repository,
        tag: str,
        permit: Callable[[ImageSource, Digest], None] = lambda *_: None,
    ) -> None:
        self.location = f"{repository.name}:{tag}"
        self._source = RegistrySource(repository)
        self._tag = tag
        self._permit = permit
        self._cache: _Cache | None = None

    def find(self, key: str) -> CacheRecord | None:
        """Return what the cache claims of a step.

        Raises:
            NotFoundError: There is no cache.
            RegistryError: The registry does not give it.
            IntegrityError: It is damaged.
            UnsafeContentError: It may not be used.
        """
        step = self._read().steps.get(key)
        return None if step is None else CacheRecord(key, step.layer, b"", step.created)

    @contextlib.contextmanager
    def open_layer(self, diff_id: DiffId) -> Iterator[BinaryIO]:
        """Give a stream of a layer's tar, compressed; the caller compares the diff ID.

        Raises:
            RegistryError: The registry does not give it.
            IntegrityError: It is another blob than the cache says.
        """
        descriptor = self._read().layers[diff_id]
        with VerifiedBlob(self._source.open_blob(descriptor), descriptor) as blob:
            with io.BufferedReader(ReadableStream(blob.read)) as stream:
                yield stream
            blob.finish()

    def close(self) -> None:
        """Keep nothing open: there is nothing."""

    def _read(self) -> _Cache:
        if self._cache is None:
            document = self._source.document(self._tag)
            self._permit(self._source, document.digest)
            self._cache = _load(self._source, document)
        return self._cache


def write_repository(
    store: Store,
    repository: Repository,
    tag: str,
    steps: Sequence[CachedStep],
    compression: Compression = "zstd",
) -> None:
    """Make a cache of steps in a repository; the one that had the tag is replaced.

    Args:
        store: Has the steps' layers.
        repository: Where to.
        tag: What the cache is called there.
        steps: What the cache says.
        compression: Of new layers.

    Raises:
        RegistryError: The registry does not take it.
        IntegrityError: Stored layers are damaged; the cache is as it was.
    """
    before: dict[DiffId, oci.Descriptor] = {}
    with contextlib.suppress(NotFoundError, IntegrityError):  # none, damaged, or another's
        source = RegistrySource(repository)
        before = _load(source, source.document(tag)).layers
    destination = RegistryDestination(repository)
    layers = []
    for diff_id in sorted({step.layer for step in steps if step.layer is not None}):
        known = before.get(diff_id)
        if known is None or not destination.has_blob(known):
            pieces = compressed(verified_tar(store, diff_id), compression)
            known = destination.put_blob(pieces, MEDIA_TYPES[compression])
        layers.append(CacheLayer(diff_id, known))
    config = build_cache.encode_config(steps, layers)
    destination.put_blob([config], build_cache.CONFIG_TYPE)
    manifest = build_cache.encode_manifest(config, layers)
    destination.put_document(Document(manifest, oci.MANIFEST_TYPE), tag)


def _load(source: RegistrySource, document: Document) -> _Cache:
    config, blobs = build_cache.decode_manifest(document.raw)
    return _Cache(*build_cache.decode_config(read_blob(source, config), blobs))
