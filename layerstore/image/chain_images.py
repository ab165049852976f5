"""Metadata images of the chains that a build goes through, over one that is there already.

A build begins with an image. If the kernel has shown that one before, its metadata image and
its objects are there, and every later chain costs a delta (:mod:`layerstore.image.kernel_delta`)
and the objects of new files, which are the build's own: nothing is brought to disk. If not,
nothing is made: unpacking a whole image for a command or two costs more than it saves
(docs/decisions/0134).

Deltas and objects lie in the build's own directory and go with it. Eviction from the tier is
held off for as long as this is open; a killed build lets go as the kernel closes its files.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from layerstore.digest import chain_id, hex_of
from layerstore.errors import IntegrityError, StorageError, UnsupportedError
from layerstore.image.kernel_delta import delta_tree, write_delta
from layerstore.image.kernel_tree import kernel_tree
from layerstore.image.metadata_image import open_metadata_image
from layerstore.linux.files import make_private_dir, open_private, replace_private
from layerstore.store.failures import storage_errors
from layerstore.store.objects import kept_objects, present_objects, unpack_privately
from layerstore.store.usage import note_chain_use

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from layerstore.digest import DiffId, ObjectId
    from layerstore.image.stack import Node
    from layerstore.store.objects import Extents
    from layerstore.store.store import Store

UNPACK_MAX_BYTES: Final = 128 * 1024 * 1024
"""Of new content one chain may have so much unpacked: half a second. A step that installed more
is as well read through FUSE by the next one, which looks at a part of it."""

_NO_IMAGES = (UnsupportedError, StorageError, IntegrityError)
"""Why a chain is not shown by the kernel; FUSE shows it, or tells what is wrong file by file."""


class _Base(NamedTuple):
    layers: tuple[DiffId, ...]
    image: int
    root: Node


class ChainImages:
    """Makes images for chains of layers where that is cheap. Not for several threads at once.

    Args:
        store: Holds the layers; the caller keeps them from the collector.
        directory: The caller's own, which is there, for deltas and objects.
        load: Returns a tree of its own over layers.
    """

    def __init__(
        self, store: Store, directory: str, load: Callable[[Sequence[DiffId]], Node]
    ) -> None:
        self._store = store
        self._directory = directory
        self._load = load
        self._stack = contextlib.ExitStack()
        self._present: set[ObjectId] | None = None
        self._base: _Base | None = None
        self._images: dict[str, tuple[int, ...]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all images and let eviction have the objects; harmless when repeated."""
        self._images.clear()
        self._base = None
        self._present = None
        self._stack.close()

    @property
    def objects(self) -> str:
        """The directory of the build's own objects, beside those of the tier."""
        return f"{self._directory}/objects"

    def prepare(self, layers: Sequence[DiffId]) -> bool:
        """Make the images that show a chain, and its objects; return whether they are there.

        It may start threads.
        """
        chain = hex_of(chain_id(layers))
        if chain not in self._images:
            with contextlib.suppress(*_NO_IMAGES):
                found = self._make(tuple(layers), chain)
                if found is not None:
                    self._images[chain] = found
        return chain in self._images

    def images(self, layers: Sequence[DiffId]) -> tuple[int, ...]:
        """Return the open images of a prepared chain, uppermost first; nothing for another."""
        return self._images.get(hex_of(chain_id(layers)), ())

    def _make(self, layers: tuple[DiffId, ...], chain: str) -> tuple[int, ...] | None:
        base = self._find_base(layers)
        if base is None:
            return None
        if base.layers == layers:
            return (base.image,)
        tree = delta_tree(base.root, self._load(layers))
        if not self._unpack(tree.objects):
            return None
        path = f"{self._directory}/{chain}.erofs"
        with storage_errors("write a metadata image"):
            image_bytes = write_delta(tree, bytes.fromhex(chain[:32]))
            replace_private(path, image_bytes, owner_alone=True)
            image = open_private(path, os.O_RDONLY)
        self._stack.callback(os.close, image)
        return image, base.image

    def _find_base(self, layers: tuple[DiffId, ...]) -> _Base | None:
        """Return the longest beginning of a chain that the kernel has shown before."""
        if self._base is not None and layers[: len(self._base.layers)] == self._base.layers:
            return self._base
        paths = self._store.paths
        for count in range(len(layers), 0, -1):
            beginning = layers[:count]
            if not os.path.exists(paths.metadata_sidecar(hex_of(chain_id(beginning)))):
                continue
            base = self._open_base(beginning)
            if base is not None:
                self._base = base
                return base
        return None

    def _open_base(self, layers: tuple[DiffId, ...]) -> _Base | None:
        if self._present is None:
            self._stack.enter_context(kept_objects(self._store.paths))
            self._present = present_objects(self._store.paths)
        found = open_metadata_image(self._store, layers)
        if found is None:
            return None
        image, sidecar = found
        self._stack.callback(os.close, image)
        root = self._load(layers)
        with storage_errors("unpack files"):
            make_private_dir(self.objects, durable=False)  # an overlay names it, empty or not
        missing = sidecar.objects - self._present
        if missing:
            wanted = kernel_tree(root).objects
            if not self._unpack({name: wanted[name] for name in missing if name in wanted}):
                return None
        note_chain_use(self._store.paths, hex_of(chain_id(layers)))
        return _Base(layers, image, root)

    def _unpack(self, wanted: Mapping[ObjectId, Extents]) -> bool:
        """Make objects that are missing, unless that is much; return whether all are there."""
        assert self._present is not None
        missing = {name: wanted[name] for name in wanted.keys() - self._present}
        size = sum(length for extents in missing.values() for length, chunk in extents if chunk)
        if size > UNPACK_MAX_BYTES:
            return False
        if missing:
            unpack_privately(self._store, missing, self.objects)
            self._present |= missing.keys()
        return True
