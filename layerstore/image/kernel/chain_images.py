"""What an overlay has to lie over to show a chain of layers: the parts, uppermost first.

A build goes through many chains that differ by a layer. Each layer is shown by what costs least:

- what a step of this build has written is there already, as its upper directory;
- a small layer is an EROFS image of its own with its content
  (:mod:`layerstore.image.kernel.layer_image`);
- everything below the uppermost large layer is one metadata image, whose files lie in the object
  tier or are made when they are first opened (:mod:`fuse_mount.object_maker`). It is the image
  that kernel views have, lies where theirs do, and stays for later builds.

Upper directories and images of layers lie in the build's own directory and go with it. Eviction
from the tier is held off for as long as this is open; a killed build lets go as the kernel
closes its files. Why: docs/decisions/0200.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from layerstore.digest import chain_id, hex_of
from layerstore.errors import IntegrityError, StorageError, UnsupportedError
from layerstore.formats.erofs import retime
from layerstore.formats.tree import Changeset, Kind
from layerstore.image.kernel.kept_images import ENTRIES_MIN, KeptImages, image_key
from layerstore.image.kernel.layer_image import (
    LayerImage,
    implied_directories,
    times_apart,
    write_layer_image,
)
from layerstore.image.kernel.metadata_files import open_verified
from layerstore.image.kernel.metadata_image import made_metadata_image
from layerstore.linux.files import open_private, replace_private
from layerstore.store.failures import storage_errors
from layerstore.store.names.usage import note_chain_use
from layerstore.store.objects.objects import object_id
from layerstore.store.objects.tier import kept_objects, missing_objects

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from layerstore.digest import DiffId, ObjectId
    from layerstore.formats.tree import Entry
    from layerstore.store.objects.objects import Extents
    from layerstore.store.store import Store

SMALL_MAX_BYTES: Final = 16 * 1024 * 1024
"""Of content a layer may have so much to become an image of its own: 20 ms to read and write. Of a
larger one steps look at a part, which is made as they do."""

SMALL_MAX_ENTRIES: Final = 20_000

LEFT_MAX_ENTRIES: Final = 50_000
"""Of layers for whose metadata image a build may be kept from ending: half a second at most."""

PARTS_MAX: Final = 100
"""An overlay looks for a name in each of them; and overlayfs takes no more than 500."""

NO_IMAGES: Final = (UnsupportedError, StorageError, IntegrityError)
"""Why a chain is not shown by the kernel; FUSE shows it, or tells what is wrong file by file."""


_LayerKey = tuple["tuple[DiffId, ...]", "tuple[tuple[bytes, Entry], ...]"]
"""What decides how a layer's image looks: the layer, and the directories that it does not name."""


class Part(NamedTuple):
    """One directory of an overlay.

    Attributes:
        name: Fit for a file name, the same for the same part.
        directory: An upper directory; "" for what is an image.
        image: An open EROFS image; -1 for a directory.
        is_base: Its files lead into the object tier; there is nothing below it.
    """

    name: str
    directory: str = ""
    image: int = -1
    is_base: bool = False


class _Written(NamedTuple):
    """An image of a layer that another one may be like.

    Attributes:
        implied: Directories that the layer does not name.
        path: Of the image.
        directories: Where their inodes lie in it.
    """

    layer: Changeset
    implied: Mapping[bytes, Entry]
    path: str
    directories: Mapping[bytes, int]


class _Unkept(NamedTuple):
    """An image that later builds may need.

    Attributes:
        key: What is kept of it is called so.
        path: Of the image.
        directories: Where their inodes lie in it.
    """

    key: str
    path: str
    directories: dict[bytes, int]


class ChainImages:
    """Makes the parts of chains. Not for several threads at once.

    Args:
        store: Holds the layers; the caller keeps them from the collector.
        directory: The caller's own, which is there, for images.
        changeset: Returns the entries of a layer.
    """

    def __init__(
        self, store: Store, directory: str, changeset: Callable[[DiffId], Changeset]
    ) -> None:
        self._store = store
        self._directory = directory
        self._changeset = changeset
        self._stack = contextlib.ExitStack()
        self._keeps = False
        self._images: dict[str, Part] = {}
        self._uppers: dict[str, Part] = {}
        self._bases: dict[str, tuple[DiffId, ...]] = {}
        self._layers: dict[_LayerKey, Part] = {}
        self._written: list[_Written] = []
        self._kept = KeptImages(store.paths, directory)
        self._unkept: list[_Unkept] = []
        self._missing: set[ObjectId] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all images and let eviction have the objects; harmless when repeated."""
        self._images.clear()
        self._layers.clear()
        self._written.clear()
        self._unkept.clear()
        self._uppers.clear()
        self._keeps = False
        self._stack.close()

    def add_upper(self, layers: Sequence[DiffId], directory: str) -> None:
        """Learn of a directory that shows the uppermost of these layers over the others.

        Args:
            layers: A chain, lowest first.
            directory: An overlay's upper directory that nobody changes any more.
        """
        chain = hex_of(chain_id(layers))
        self._uppers[chain] = Part(f"upper-{chain}", directory)

    def drop_upper(self, layers: Sequence[DiffId]) -> str:
        """Forget a directory of :meth:`add_upper`, and return it."""
        return self._uppers.pop(hex_of(chain_id(layers))).directory

    def uppers(self, layers: Sequence[DiffId]) -> tuple[list[Part], tuple[DiffId, ...]]:
        """Return the upper directories that a chain ends with, and the layers below them."""
        parts: list[Part] = []
        for count in range(len(layers), 0, -1):
            part = self._uppers.get(hex_of(chain_id(layers[:count])))
            if part is None:
                return parts, tuple(layers[:count])
            parts.append(part)
        return parts, ()

    def parts(self, layers: Sequence[DiffId], *, lasting: bool = True) -> list[Part]:
        """Return what shows a chain, uppermost first; it stays until :meth:`close`.

        Args:
            layers: Lowest first.
            lasting: They may be needed by later builds: a metadata image is made if none is there.

        Raises:
            UnsupportedError: The kernel cannot show them so.
            IntegrityError: A layer or a chunk is damaged.
            StorageError: An image cannot be written.
        """
        parts = []
        for count in range(len(layers), 0, -1):
            chain = hex_of(chain_id(layers[:count]))
            part = self._uppers.get(chain) or self._images.get(chain)
            if part is None:
                part = self._made(tuple(layers[:count]), chain, lasting=lasting)
                self._images[chain] = part
            parts.append(part)
            if part.is_base:
                break
            if len(parts) > PARTS_MAX:
                raise UnsupportedError(f"more than {PARTS_MAX} layers lie over each other")
        return parts or [self._made((), hex_of(chain_id(())), lasting=False)]

    def leave_base(self, layers: Sequence[DiffId]) -> None:
        """Make the metadata image that later builds over a chain begin with, if it is not there.

        They lack the upper directories of this one: the image goes up to the last larger layer.

        Args:
            layers: Lowest first.

        Raises:
            UnsupportedError: The kernel cannot show such an image.
            StorageError: It cannot be written.
        """
        count = len(layers)
        while count and self._is_small(layers[count - 1]):
            count -= 1
        base = layers[:count]
        chain = hex_of(chain_id(base))
        if not base or chain in self._bases:
            return
        changesets = [self._changeset(diff_id) for diff_id in base]
        if sum(len(each.entries) for each in changesets) > LEFT_MAX_ENTRIES:
            return
        found = open_verified(self._store.paths, chain)
        image, _ = found or made_metadata_image(self._store.paths, base, changesets)
        os.close(image)
        note_chain_use(self._store.paths, chain)

    def leave_images(self) -> None:
        """Keep for later builds the images of layers that take long to make."""
        unkept, self._unkept = self._unkept, []
        for key, path, directories in unkept:
            with contextlib.suppress(OSError):
                self._kept.keep(key, LayerImage(_read(path), directories))

    def missing(self) -> bool:
        """Whether files of metadata images may lead to objects that are not in the tier."""
        return bool(self._missing)

    def objects(self) -> dict[ObjectId, Extents]:
        """Return what files of all metadata images are made of."""
        layers = {diff_id for layers in self._bases.values() for diff_id in layers}
        return {
            object_id(entry.extents): entry.extents
            for diff_id in layers
            for entry in self._changeset(diff_id).entries
            if entry.kind is Kind.FILE and entry.size
        }

    def _made(self, layers: tuple[DiffId, ...], chain: str, *, lasting: bool) -> Part:
        if layers and not self._is_small(layers[-1]):
            return self._base(layers, chain, lasting=lasting)
        layer = self._changeset(layers[-1]) if layers else Changeset((), (), ())
        below = [self._changeset(diff_id) for diff_id in layers[:-1]]
        implied = implied_directories(layer, below)
        # One layer over several others is often the same image.
        key = (layers[-1:], tuple(sorted(implied.items())))
        part = self._layers.get(key)
        if part is None:
            kept = image_key(layers[-1], implied) if len(layer.entries) >= ENTRIES_MIN else ""
            part = self._layers[key] = Part(chain, image=self._image(chain, layer, implied, kept))
        return part

    def _is_small(self, diff_id: DiffId) -> bool:
        record = self._store.layer(diff_id)
        return record.content_size <= SMALL_MAX_BYTES and record.entry_count <= SMALL_MAX_ENTRIES

    def _image(
        self, chain: str, layer: Changeset, implied: Mapping[bytes, Entry], kept: str
    ) -> int:
        """Return a layer's image, open; ``kept`` is what it is called where images are kept."""
        path = f"{self._directory}/{chain}.erofs"
        uuid = bytes.fromhex(chain[:32])
        data = self._like_another(layer, implied, uuid)
        if data is None:
            image = self._kept.recall(kept) if kept else None
            if image is not None:
                retime(image.data, uuid, ())
            else:
                image = write_layer_image(self._store, layer, implied, uuid)
                if kept:
                    self._unkept.append(_Unkept(kept, path, image.directories))
            data = image.data
            self._written.append(_Written(layer, implied, path, image.directories))
        with storage_errors("write a layer's image"):
            replace_private(path, data)
            opened = open_private(path, os.O_RDONLY)
        self._stack.callback(os.close, opened)
        return opened

    def _like_another(
        self, layer: Changeset, implied: Mapping[bytes, Entry], uuid: bytes
    ) -> bytearray | None:
        """Return an image made of one that has other times, None if there is none."""
        for known in self._written:
            times = times_apart(known.layer, known.implied, layer, implied)
            if times is not None:
                with storage_errors("read a layer's image"):
                    image = _read(known.path)
                at = known.directories
                retime(image, uuid, [(at[path], mtime_ns) for path, mtime_ns in times.items()])
                return image
        return None

    def _base(self, layers: tuple[DiffId, ...], chain: str, *, lasting: bool) -> Part:
        if not self._keeps:
            self._stack.enter_context(kept_objects(self._store.paths))
            self._keeps = True
        found = open_verified(self._store.paths, chain)
        if found is None and not lasting:
            raise UnsupportedError("nothing was unpacked for it")
        image, sidecar = found or made_metadata_image(
            self._store.paths, layers, [self._changeset(diff_id) for diff_id in layers]
        )
        self._stack.callback(os.close, image)
        note_chain_use(self._store.paths, chain)
        self._bases[chain] = layers
        self._missing |= missing_objects(self._store.paths, sidecar.objects)
        return Part(chain, image=image, is_base=True)


def _read(path: str) -> bytearray:
    with open(path, "rb") as file:
        return bytearray(file.read())
