"""The store: chunks, layers and images in one directory, behind one commit point.

:class:`Store` reads; :class:`layerstore.store.writing.session.WriteSession` writes. A
store may be shared by threads and opened by many processes. Nothing leaves it
that does not match its id. Normative: docs/format/store.md.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec

from layerstore.errors import FormatError, NotFoundError
from layerstore.formats.reference import (
    ReferenceSyntaxError,
    names_that_go,
    parse_stored_name,
    parse_tag_name,
)
from layerstore.store import blobs
from layerstore.store.catalog.rows import cache_seal
from layerstore.store.config import create_store, require_writable
from layerstore.store.failures import ImageNotFoundError
from layerstore.store.names import names, origins
from layerstore.store.names.pins import pins, refuse_pinned
from layerstore.store.names.tags import delete_image, pin_all, tag_all, unpin_all, untag_all
from layerstore.store.names.usage import note_image_use
from layerstore.store.paths import StorePaths
from layerstore.store.reading import StoreReader
from layerstore.store.records import CacheRecord, LayerRecord, decode_layer
from layerstore.store.reserve import give_up
from layerstore.store.writing.session import WriteSession

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from layerstore.digest import ChunkId, DiffId, ImageId
    from layerstore.formats.origins import Origins
    from layerstore.progress import Progress
    from layerstore.store.catalog.catalog import Catalog
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.config import StoreConfig
    from layerstore.store.rebuild.rebuild import RebuildReport


class Store(StoreReader):
    """An open store. Close it, or use it in a ``with`` block."""

    def __init__(self, paths: StorePaths, config: StoreConfig, catalog: Catalog) -> None:
        """Use :meth:`open`."""
        super().__init__(paths, config, catalog)
        self.root = Path(paths.root)

    @classmethod
    def open(
        cls, root: Path | str, *, create: bool = False, config: StoreConfig | None = None
    ) -> Self:
        """Open the store at ``root``, making it first if ``create`` and there is none.

        Args:
            root: Its directory.
            create: Make it.
            config: In the place of what config.toml says, which is damaged.

        Raises:
            StoreNotFoundError: There is none (and ``create`` is false).
            UnsupportedVersionError: It was made by a newer layerstore.
            CatalogDamagedError: Its catalog is missing or damaged; the hint says what to do.
            FormatError: Parts of it are missing.
        """
        paths = StorePaths(os.path.realpath(root))
        if create and not os.path.exists(paths.config):
            create_store(paths)
        return super().open(root, config=config)

    def with_catalog(self, catalog: Catalog) -> Store:
        """Return this store seen through another catalog, a pinned one say."""
        return Store(self.paths, self.config, catalog)

    def begin(self, purpose: str) -> WriteSession:
        """Begin writing; the session holds a lease until it is closed.

        Args:
            purpose: What for, in a few words people will read: ``build web:1``.

        Raises:
            ReadOnlyStoreError: The store may not be written.
        """
        require_writable(self.config)
        return WriteSession(self, purpose)

    # -- chunks and blobs; reading is :class:`StoreReader`'s

    def has_chunk(self, chunk_id: ChunkId) -> bool:
        """Return whether a committed pack holds a chunk."""
        return self.catalog.has_chunk(chunk_id)

    def get_blob(self, digest: str) -> bytes:
        """Return a manifest or config; its bytes match ``digest``.

        Raises:
            BlobNotFoundError: Not in the store.
            CorruptBlobError: Damaged.
        """
        return blobs.get_blob(self.paths, digest)

    def has_blob(self, digest: str) -> bool:
        """Return whether a manifest or config is there."""
        return blobs.has_blob(self.paths, digest)

    # -- layers and images

    def has_layer(self, diff_id: DiffId) -> bool:
        """Return whether a layer is published."""
        return self.catalog.layer(diff_id) is not None

    def layers(self) -> Iterator[LayerRecord]:
        """Yield every published layer, sorted by diff id."""
        for diff_id, encoded in self.catalog.layers():
            yield decode_layer(encoded, expected=diff_id)

    def image(self, image_id: ImageId) -> ImageRecord:
        """Return an image by its full id.

        Raises:
            ImageNotFoundError: Not in the store.
        """
        record = self.catalog.image(image_id)
        if record is None:
            raise ImageNotFoundError(f"the store holds no image {image_id}")
        return record

    def images(self) -> list[ImageRecord]:
        """Return every image, newest first."""
        return self.catalog.images()

    def origins(self, image: ImageRecord) -> Origins:
        """Return what is remembered of how an image came.

        Raises:
            BlobNotFoundError: Its manifest is missing.
            IntegrityError: Its manifest is damaged.
        """
        return origins.origins_of(self.paths, image.manifest_digest)

    def resolve(self, reference: str) -> ImageRecord:
        """Return the image that a name, an id or the beginning of an id means.

        Raises:
            ImageNotFoundError: None.
            AmbiguousIdError: Several.
        """
        return names.resolve(self.catalog, reference)

    def tags(self) -> dict[str, ImageId]:
        """Return every name with its image, sorted by name."""
        return self.catalog.tags()

    def tag(self, name: str, image_id: ImageId) -> str:
        """Give an image a name, durably, taking it from the image that had it.

        Returns:
            The name as the store keeps it.

        Raises:
            ImageNotFoundError: Not in the store.
        """
        return self._name(parse_tag_name(name), image_id)

    def name_document(self, name: str, image_id: ImageId) -> str:
        """Give an image the name of a repository and of a manifest that it is known to have.

        Like :meth:`tag`, for what a registry calls an image and nobody chose.
        """
        return self._name(parse_stored_name(name), image_id)

    def _name(self, full: str, image_id: ImageId) -> str:
        require_writable(self.config)
        with self.catalog.write() as connection:
            self.image(image_id)
            tag_all(connection, self.paths.names_log, [full], image_id)
        note_image_use(self.paths, image_id)
        return full

    def untag(self, name: str, *, force: bool = False) -> ImageId:
        """Forget a name, durably; the image stays until gc if nothing else needs it.

        With the last tag of a repository its names with digests go.

        Args:
            name: The name.
            force: Forget it, and its pin, although it is pinned.

        Returns:
            The image it named.

        Raises:
            ImageNotFoundError: No such name.
            PinnedError: It is pinned.
        """
        full = parse_stored_name(name)
        require_writable(self.config)
        give_up(self.paths)
        with self.catalog.write() as connection:
            image_id = self.catalog.tag(full)
            if image_id is None:
                raise ImageNotFoundError(
                    f"no image is named {full!r}", hint="'layerstore images' lists what there is"
                )
            if not force:
                refuse_pinned(self.catalog, [full])
            going = names_that_go([full], self._names_of(image_id))
            unpin_all(connection, self.paths.names_log, going)
            untag_all(connection, self.paths.names_log, going)
        return image_id

    def _names_of(self, image_id: ImageId) -> list[str]:
        return [name for name, image in self.catalog.tags().items() if image == image_id]

    def remove_image(
        self, image_id: ImageId, *, force: bool = False, names: Collection[str] | None = None
    ) -> bool:
        """Forget an image and all its names, durably; its bytes stay until gc.

        Args:
            image_id: The image.
            force: Forget it, and the pins, although it or a name of it is pinned.
            names: Its names, as somebody saw them: one that it got since keeps it. None for all.

        Returns:
            False when the image stays: for another name, or because a running session
            holds it. Then its names are gone, and it goes with the next gc after that session.

        Raises:
            ImageNotFoundError: Not in the store.
            PinnedError: It is pinned.
        """
        require_writable(self.config)
        give_up(self.paths)
        with self.catalog.write() as connection:
            self.image(image_id)
            named = self._names_of(image_id)
            going = [name for name in named if names is None or name in names]
            going = names_that_go(going, named)
            is_last = len(going) == len(named)
            targets = [*going, image_id] if is_last else going
            if not force:
                refuse_pinned(self.catalog, targets)
            unpin_all(connection, self.paths.names_log, targets)
            untag_all(connection, self.paths.names_log, going)
            return is_last and delete_image(connection, image_id)

    def pins(self) -> frozenset[str]:
        """Return the normalized names and the image ids that are pinned."""
        return pins(self.catalog)

    def pin(self, reference: str) -> str:
        """Pin a name, or an image by its id, durably: no rule of gc removes it then.

        Returns:
            What is pinned: the name as the store keeps it, or the image's id.

        Raises:
            ImageNotFoundError: Neither a name nor an image.
        """
        require_writable(self.config)
        with self.catalog.write() as connection:
            target = self._pin_target(reference)
            if target not in self.pins():
                pin_all(connection, self.paths.names_log, [target])
        return target

    def unpin(self, reference: str) -> str:
        """Take a pin away, durably.

        Returns:
            What was pinned.

        Raises:
            ImageNotFoundError: Neither a name nor an image.
            NotFoundError: It is not pinned.
        """
        require_writable(self.config)
        with self.catalog.write() as connection:
            target = self._pin_target(reference)
            if not unpin_all(connection, self.paths.names_log, [target]):
                raise NotFoundError(
                    f"{target} is not pinned", hint="'layerstore images -v' shows what is"
                )
        return target

    def _pin_target(self, reference: str) -> str:
        """Return the name that ``reference`` is, or else the id of the image it means."""
        image = self.resolve(reference)
        with contextlib.suppress(ReferenceSyntaxError):
            full = parse_stored_name(reference)
            if self.catalog.tag(full) is not None:
                return full
        return image.image_id

    # -- build cache

    def cache_get(self, key: str) -> CacheRecord | None:
        """Return a remembered build step, or None; one whose layer is missing is a miss."""
        row = self.catalog.one(
            "SELECT key, diff_id, value, created, seal FROM build_cache WHERE key = ?", (key,)
        )
        record = _cache_record(row) if row is not None else None
        if record is None:
            return None
        if record.diff_id is not None and not self._layer_is_whole(record.diff_id):
            return None
        return record

    def _layer_is_whole(self, diff_id: DiffId) -> bool:
        """Return whether a layer's record and the chunks of its tree can be found."""
        encoded = self.catalog.layer(diff_id)
        if encoded is None:
            return False
        try:
            record = decode_layer(encoded)
        except FormatError:
            return False
        return all(self.catalog.has_chunk(chunk_id) for _, chunk_id in record.tree)

    def cache_records(self) -> list[CacheRecord]:
        """Return every remembered build step, oldest first."""
        rows = self.catalog.query(
            "SELECT key, diff_id, value, created, seal FROM build_cache ORDER BY created, key"
        )
        return [record for row in rows if (record := _cache_record(row)) is not None]

    def cache_drop(self, keys: Sequence[str]) -> None:
        """Forget build steps; their layers stay until gc."""
        with self.catalog.write() as connection:
            connection.executemany("DELETE FROM build_cache WHERE key = ?", [(k,) for k in keys])

    def rebuild_catalog(self, progress: Progress | None = None) -> RebuildReport:
        """Make the catalog again from packs, blobs and names.log.

        A store whose catalog is missing cannot be opened: call
        :func:`layerstore.store.rebuild.rebuild.rebuild_catalog` with its root then.
        """
        from layerstore.store.rebuild.rebuild import rebuild_catalog  # lazily: seldom needed

        report = rebuild_catalog(self.paths.root, progress)
        self.catalog.reopen_if_replaced()
        return report


def _cache_record(row: tuple[object, ...]) -> CacheRecord | None:
    """Return the build step of a row, or None for a damaged one: that is a miss."""
    try:
        record = msgspec.convert(dict(zip(_CACHE_FIELDS, row, strict=False)), CacheRecord)
    except msgspec.ValidationError:
        return None
    return record if row[-1] == cache_seal(record) else None


_CACHE_FIELDS = ("key", "diff_id", "value", "created")
