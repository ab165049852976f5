"""Where images come from that are not here: one interface, and another store behind it.

A :class:`Remote` names images, describes layers and gives chunks by id, many at a time. It is
not believed: who asks compares what comes with the id it asked for
(:mod:`layerstore.image.lazy.fetching`). An image in a registry is another one
(:mod:`layerstore.image.transfer.remote`); nothing outside of an
implementation assumes that a remote lies on this host.

:class:`StoreRemote` reads a store. While it is in use a record in that store's ``views/``
keeps the layers from its collector, as views of its own do; the record is locked by its
writer, so a collector knows one whose writer died. A store that may not be written keeps
nothing: what its owner collects is missing here, and says so when it is read.

Crash behaviour: see :mod:`layerstore.store.remotes.remote_users`.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple, Protocol

from layerstore.errors import IntegrityError
from layerstore.store.failures import ImageNotFoundError
from layerstore.store.remotes.remote_users import RemoteUser, forget_dead_users
from layerstore.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from layerstore.digest import ChunkId, DiffId, ImageId
    from layerstore.store.catalog.rows import ChunkPlace
    from layerstore.store.records import LayerRecord


class RemoteImage(NamedTuple):
    """An image as a remote has it.

    Attributes:
        config: The bytes whose SHA-256 is the id.
        layers: Lowest first.
    """

    image_id: ImageId
    config: bytes
    layers: tuple[DiffId, ...]


class Remote(Protocol):
    """A place that has images. Methods may be called by several threads, and may fail or hang."""

    @property
    def location(self) -> str:
        """What ``image.transfer.remotes.open_remote`` takes, for records and messages."""
        ...

    def image(self, reference: str) -> RemoteImage:
        """Return the image that a name or an id means.

        Raises:
            NotFoundError: There is none.
        """
        ...

    def layer(self, diff_id: DiffId) -> LayerRecord:
        """Return what describes a layer.

        Raises:
            NotFoundError: There is none.
        """
        ...

    def chunks(self, chunk_ids: Sequence[ChunkId]) -> Iterator[tuple[ChunkId, bytes]]:
        """Yield those of the chunks that it has, in any order.

        Raises:
            LayerstoreError: It cannot say.
        """
        ...

    def keep(self, image: RemoteImage) -> None:
        """Ask it to keep an image's content until it is closed.

        Raises:
            LayerstoreError: It cannot promise that; reading works nevertheless.
        """
        ...

    def close(self) -> None:
        """Let go of it; harmless when repeated."""
        ...


class StoreRemote:
    """Another store of this host, or one on a file system that it mounts."""

    def __init__(self, root: str) -> None:
        """Open it.

        Raises:
            StoreNotFoundError: There is none.
            LayerstoreError: It is damaged, or newer than this version.
        """
        self.location = os.path.abspath(root)
        self._store = Store.open(self.location)
        self._user: RemoteUser | None = None

    def image(self, reference: str) -> RemoteImage:
        """Return the image of a name or an id."""
        record = self._store.resolve(reference)
        config = self._store.get_blob(record.image_id)
        return RemoteImage(record.image_id, config, record.layers)

    def layer(self, diff_id: DiffId) -> LayerRecord:
        """Return a layer's record."""
        return self._store.layer(diff_id)

    def chunks(self, chunk_ids: Sequence[ChunkId]) -> Iterator[tuple[ChunkId, bytes]]:
        """Yield chunks in the order in which they lie in packs; a damaged one is passed over."""
        places = self._store.catalog.places(chunk_ids)
        for chunk_id in sorted(places, key=lambda name: _position(places[name])):
            with contextlib.suppress(IntegrityError, LookupError):
                yield chunk_id, self._store.read_chunk(chunk_id)

    def keep(self, image: RemoteImage) -> None:
        """Write the record that keeps the layers, and see that they are there still."""
        if self._user is not None:
            return
        forget_dead_users(self._store.paths)
        self._user = RemoteUser(self._store.paths, image.image_id, image.layers)
        if self._store.catalog.image_after_writers(image.image_id) is None:
            raise ImageNotFoundError(f"image {image.image_id} was removed from {self.location}")

    def close(self) -> None:
        """Take the record away and let go of files."""
        user, self._user = self._user, None
        if user is not None:
            user.close()
        self._store.close()


def _position(place: ChunkPlace) -> tuple[bytes, int, int]:
    return place.pack_id, place.block_offset, place.offset


def checked_image(image: RemoteImage, location: str) -> RemoteImage:
    """Return an image whose config has its id and lists its layers.

    Raises:
        IntegrityError: The remote gave another config than the id's.
    """
    from layerstore.digest import sha256_digest
    from layerstore.store.names.tags import image_facts

    if sha256_digest(image.config) != image.image_id:
        raise IntegrityError(
            f"{location} gave a config that is not that of image {image.image_id}",
            hint="the remote is damaged or lies: run 'layerstore check' there",
        )
    if image_facts(image.config).diff_ids != image.layers:
        raise IntegrityError(
            f"{location} lists other layers for image {image.image_id} than its config does",
            hint="the remote is damaged or lies: run 'layerstore check' there",
        )
    return image
