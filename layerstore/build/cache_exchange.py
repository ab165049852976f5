"""Build caches of elsewhere: taking steps that hit from them, and giving them the build's own.

A :class:`CacheSource` claims that a step gives a layer. A hit fetches that layer and
compares its diff ID before the step counts; whatever is wrong is told, and is a miss. So a
damaged cache costs time and nothing else. A cache that lies about *which* layer a step gives
cannot be found out without running the step: whoever imports a cache trusts its writer
like the writer of a base image (docs/how-to/build.md).

Sources are a directory, another store, and a registry.
"""

from __future__ import annotations

import contextlib
import os
import threading
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol, Self, cast

from layerstore.errors import IntegrityError, LayerstoreError
from layerstore.store.records import CacheRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from layerstore.build.solver import Cache
    from layerstore.build.ui import BuildUi
    from layerstore.digest import DiffId, Digest
    from layerstore.formats.build_cache import CachedStep
    from layerstore.image.exchange.blob_files import Compression
    from layerstore.image.exchange.exchange import ImageSource
    from layerstore.registry.repository import Repository
    from layerstore.store.store import Store
    from layerstore.store.writing.session import WriteSession

    Connect = Callable[[str], Repository]
    """Gives the repository of a name; nothing is asked of its registry yet."""

    Gate = Callable[[str, ImageSource, Digest], None]
    """Raises if a cache may not be used: its name in a registry, where its signatures are
    looked for, the digest of its manifest."""


class CacheKind(Enum):
    """What holds a cache."""

    DIRECTORY = "local"
    STORE = "store"
    REGISTRY = "registry"


class CacheImport(NamedTuple):
    """A ``--cache-from``.

    Attributes:
        tag: Which cache of a directory or a repository.
        connect: Gives the repository of a registry's cache.
        gate: Asked before anything of a registry's cache is read.
    """

    kind: CacheKind
    location: str
    tag: str = "latest"
    connect: Connect | None = None
    gate: Gate = lambda *_: None


class CacheExport(NamedTuple):
    """A ``--cache-to``.

    Attributes:
        everything: All steps of the build, not only those whose layers the image has.
        compression: Of layers in a directory.
        may_fail: Only told when it does.
        connect: Gives the repository of a registry's cache.
    """

    kind: CacheKind
    location: str
    tag: str = "latest"
    everything: bool = False
    compression: Compression = "zstd"
    may_fail: bool = False
    connect: Connect | None = None


class CacheSource(Protocol):
    """A cache to read from; not believed but for its claims."""

    @property
    def location(self) -> str:
        """Where it is, for messages."""
        ...

    def find(self, key: str) -> CacheRecord | None:
        """Return what it claims of a step.

        Raises:
            LayerstoreError: It cannot be read.
        """
        ...

    def open_layer(self, diff_id: DiffId) -> AbstractContextManager[BinaryIO]:
        """Give a stream of a layer's tar, compressed or not; the caller compares the diff ID.

        Raises:
            LayerstoreError: It cannot be read.
        """
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class StoreSource:
    """The build cache of another store."""

    def __init__(self, location: str) -> None:
        self.location = location
        self._store: Store | None = None

    def find(self, key: str) -> CacheRecord | None:
        """Return the step as the store remembers it."""
        return self._opened().cache_get(key)

    @contextlib.contextmanager
    def open_layer(self, diff_id: DiffId) -> Iterator[BinaryIO]:
        """Give the layer's tar."""
        from layerstore.image.trees.export_layer import LayerStream

        store = self._opened()
        yield cast("BinaryIO", LayerStream(store, store.layer(diff_id)))

    def close(self) -> None:
        """Close the store."""
        if self._store is not None:
            self._store.close()

    def _opened(self) -> Store:
        if self._store is None:
            from layerstore.store.store import Store

            self._store = Store.open(self.location)
        return self._store


class ImportingCache:
    """A store's build cache, and behind it the caches that a build was told to import from.

    Use it in a ``with`` block. A step that hits elsewhere is in the store's own cache
    afterwards, its layer whole and durable. Safe to call from several threads.

    Args:
        store: Where layers come to.
        local: Asked first.
        sources: Asked in this order.
        ui: Hears of what could not be used.
    """

    def __init__(
        self, store: Store, local: Cache, sources: Sequence[CacheSource], ui: BuildUi
    ) -> None:
        self._store = store
        self._local = local
        self._sources = list(sources)
        self._ui = ui
        self._lock = threading.Lock()
        self._stack = contextlib.ExitStack()
        self._session: WriteSession | None = None
        for source in sources:
            self._stack.callback(source.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def get(self, key: str) -> CacheRecord | None:
        """Return a remembered step whose layer is in the store, fetching it first if need be."""
        record = self._local.get(key)
        if record is not None or not self._sources:
            return record
        with self._lock:
            for source in list(self._sources):
                record = self._take(source, key)
                if record is not None:
                    return record
        return None

    def put(self, records: Sequence[CacheRecord]) -> None:
        """Remember steps in the store."""
        self._local.put(records)

    def _take(self, source: CacheSource, key: str) -> CacheRecord | None:
        try:
            record = source.find(key)
        except (LayerstoreError, OSError) as err:
            self._sources.remove(source)
            self._ui.message(f"the build cache {source.location} is not used: {err}")
            return None
        if record is None:
            return None
        try:
            return self._adopt(source, record)
        except (LayerstoreError, OSError) as err:
            self._ui.message(
                f"layer {record.diff_id} of the build cache {source.location} is not used: {err}"
            )
            return None

    def _adopt(self, source: CacheSource, record: CacheRecord) -> CacheRecord | None:
        """Remember a step of elsewhere; its layer is fetched unless it is here and whole."""
        session = self._writing()
        diff_id = record.diff_id
        if diff_id is None or self._store.has_layer(diff_id):
            if diff_id is not None:
                session.hold_layers([diff_id])
            session.cache_put(record)
            known = self._local.get(record.key)
            if known is not None:
                return known
        if diff_id is not None:
            copy_layer(session, source, diff_id)
        session.cache_put(record)
        return self._local.get(record.key)

    def _writing(self) -> WriteSession:
        if self._session is None:
            self._session = self._stack.enter_context(self._store.begin("import of a build cache"))
        return self._session


def copy_layer(session: WriteSession, source: CacheSource, diff_id: DiffId) -> None:
    """Bring a layer into the session's store, where it is durable afterwards.

    Raises:
        IntegrityError: What came is another layer; nothing names it, so gc takes it.
        LayerstoreError: It could not be read, or costs more than a layer may.
    """
    from layerstore.image.layers.ingest_tar import ingest_tar

    with source.open_layer(diff_id) as stream:
        record = ingest_tar(session, stream)
    if record.diff_id != diff_id:
        raise IntegrityError(f"what came is the layer {record.diff_id}")


def open_source(wanted: CacheImport) -> CacheSource:
    """Return the source that a ``--cache-from`` means; nothing is read yet."""
    if wanted.kind is CacheKind.STORE:
        return StoreSource(wanted.location)
    if wanted.kind is CacheKind.REGISTRY:
        from layerstore.build.cache_registry import RepositorySource

        assert wanted.connect is not None
        permit = partial(wanted.gate, f"{wanted.location}:{wanted.tag}")
        return RepositorySource(wanted.connect(wanted.location), wanted.tag, permit)
    from layerstore.build.cache_directory import DirectorySource

    return DirectorySource(wanted.location, wanted.tag)


def export_steps(store: Store, target: CacheExport, steps: Iterable[CachedStep]) -> None:
    """Give steps and their layers to a cache elsewhere; durable when it returns.

    Args:
        store: Has the layers.
        target: Where to.
        steps: Keys may repeat; the last one counts.

    Raises:
        LayerstoreError: It cannot be written, or a layer cannot be read.
    """
    unique = list({step.key: step for step in steps}.values())
    if target.kind is CacheKind.DIRECTORY:
        from layerstore.build.cache_directory import write_directory

        write_directory(
            store, target.location, unique, tag=target.tag, compression=target.compression
        )
        return
    if target.kind is CacheKind.REGISTRY:
        from layerstore.build.cache_registry import write_repository

        assert target.connect is not None
        repository = target.connect(target.location)
        write_repository(store, repository, target.tag, unique, target.compression)
        return
    from layerstore.store.store import Store as StoreClass

    source = _OwnLayers(store)
    with (
        StoreClass.open(target.location, create=True) as other,
        other.begin("import of a build cache") as session,
    ):
        for step in unique:
            if step.layer is not None and not other.has_layer(step.layer):
                copy_layer(session, source, step.layer)
            record = store.cache_get(step.key)
            value = record.value if record is not None else b""
            session.cache_put(CacheRecord(step.key, step.layer, value, step.created))


class _OwnLayers(StoreSource):
    """The store that is at hand already, as a source."""

    def __init__(self, store: Store) -> None:
        super().__init__(os.fspath(store.root))
        self._store = store
