"""Metadata images: made once for a chain of layers, and verified before each mount.

An image lies in ``views/meta/CHAIN.erofs``, and beside it a sidecar with its hash and the
objects it leads to. Both are a cache. The kernel parses what is mounted while it is
mounted, so only a file is used that belongs to this user, that nobody else can write, and
that hashes to what its sidecar says; another one is replaced.

Normative: docs/format/erofs.md.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

from blake3 import blake3

from layerstore.digest import chain_id, hex_of
from layerstore.errors import FormatError, LayerstoreError, UnsupportedError
from layerstore.formats.erofs import encode_image
from layerstore.formats.sidecar import Sidecar, encode_sidecar
from layerstore.image.kernel.grown_image import NoAdditionError, grow, objects_of, only_adds
from layerstore.image.kernel.kernel_tree import kernel_tree
from layerstore.image.kernel.metadata_files import open_verified
from layerstore.image.layers.layers import load_changeset
from layerstore.image.trees.stack import load_root, stack
from layerstore.linux.files import make_private_dir, open_private, replace_private
from layerstore.linux.locks import FileLock
from layerstore.store.failures import storage_errors
from layerstore.store.objects.mountable import is_image_of
from layerstore.store.objects.tier import missing_objects
from layerstore.store.objects.unpacking import (
    require_spare_room,
    unpack,
    unpack_beside,
    unpacking,
)
from layerstore.store.objects.whole_images import WholeImages

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from layerstore.digest import DiffId, ObjectId
    from layerstore.formats.tree import Changeset
    from layerstore.image.kernel.kernel_tree import KernelTree
    from layerstore.progress import Progress
    from layerstore.store.objects.objects import Extents
    from layerstore.store.objects.pack_images import PackImage
    from layerstore.store.paths import StorePaths
    from layerstore.store.reading import StoreReader


_BASE_TIMES: Final = 4
"""So many times the entries of the layers on it a base has: whose image, copied, saves writing
most of theirs, and who has many entries has many images on it."""


def prepare_view(store: StoreReader, layers: Sequence[DiffId], progress: Progress) -> int:
    """Make whatever a view of a chain of layers needs: its image and all its objects.

    Returns the open image, which the caller closes. That file was verified: mount it and
    not the path.

    The caller is in :func:`layerstore.store.objects.tier.kept_objects`, and a record keeps the
    layers.

    Raises:
        UnsupportedError: The kernel cannot show such an image; the message says why.
        IntegrityError: A layer or a chunk is damaged.
        StorageError: The store cannot be written, or is full.
    """
    made = _image(store, layers, progress)
    try:
        missing = made.missing
        if missing is None:
            missing = missing_objects(store.paths, made.sidecar.objects)
        if missing:
            objects = made.objects
            if not missing <= objects.keys():
                objects = kernel_tree(load_root(store, layers)).objects
            unpack(store, {name: objects[name] for name in missing if name in objects}, progress)
    except BaseException:
        os.close(made.fd)
        raise
    return made.fd


def prepare_view_beside(store: StoreReader, layers: Sequence[DiffId], staging: str) -> None:
    """Make whatever a view of a chain needs, as :func:`prepare_view`, and keep nobody waiting.

    Without ``locks/unpack``, which a process of low priority might hold for long: who makes the
    same meanwhile does so on its own. The caller is in
    :func:`layerstore.store.objects.tier.kept_objects`, and a record keeps the layers.

    Args:
        store: The store.
        layers: The chain, lowest first.
        staging: As of :func:`layerstore.store.objects.unpacking.unpack_beside`.

    Raises:
        UnsupportedError: The kernel cannot show such an image; the message says why.
        IntegrityError: A layer or a chunk is damaged.
        StorageError: The store cannot be written, or there is no room to spare.
    """
    require_spare_room(store.paths)
    known = WholeImages(store.paths)
    unpack_beside(store, _objects_beside(store, layers, known), staging, known)
    # Last: who finds the image without its files reads all layers, to learn what they are made of.
    made = _image(store, layers, None)
    os.close(made.fd)
    known.remember(made.sidecar.image_hash)


def _objects_beside(
    store: StoreReader, layers: Sequence[DiffId], known: WholeImages
) -> Mapping[ObjectId, Extents]:
    """Return what a chain needs that may be missing. Its base has an image then."""
    additions = _additions(store, layers)
    if additions is None:
        return kernel_tree(load_root(store, layers)).objects
    base = layers[: -len(additions)]
    chain = hex_of(chain_id(base))
    # Not by _base, which makes it under the lock.
    found = open_verified(store.paths, chain)
    fd, sidecar = found or _make(store.paths, chain, kernel_tree(load_root(store, base)))
    os.close(fd)
    added = objects_of(additions)
    unsure = known.unsure(sidecar.image_hash, sidecar.objects)
    if missing_objects(store.paths, unsure) <= added.keys():
        return added
    return kernel_tree(load_root(store, layers)).objects


class ViewInPlace(NamedTuple):
    """What a view over packs needs.

    Attributes:
        image: The open metadata image, verified.
        packs: Pack images, open and verified.
        unpacked: List of the objects that lie in the tier, encoded as the sidecar of the
            metadata image.
    """

    image: int
    packs: list[PackImage]
    unpacked: bytes

    def close(self) -> None:
        """Close all files; mounts keep them."""
        os.close(self.image)
        for pack in self.packs:
            pack.close()


def prepare_view_in_place(
    store: StoreReader, layers: Sequence[DiffId], progress: Progress
) -> ViewInPlace:
    """Make whatever a view needs that reads packs: images, and objects that no pack gives.

    The caller is in :func:`layerstore.store.objects.tier.kept_objects`, holds ``locks/pack-images``
    until all is mounted, and a record keeps the layers.

    Raises:
        UnsupportedError: The kernel cannot show such an image; the message says why.
        IntegrityError: A layer or a chunk is damaged.
        StorageError: The store cannot be written, or is full.
    """
    from layerstore.store.objects.pack_images import prepare_packs  # views that unpack do without

    fd, sidecar, objects, _ = _image(store, layers, None)
    try:
        if not sidecar.objects <= objects.keys():
            objects = kernel_tree(load_root(store, layers)).objects
        packs, rest = prepare_packs(store, objects, progress)
    except BaseException:
        os.close(fd)
        raise
    unpacked = encode_sidecar(sidecar.image_size, sidecar.image_hash, rest)
    view = ViewInPlace(fd, packs, unpacked)
    try:
        unpack(store, rest, progress)
    except BaseException:
        view.close()
        raise
    return view


def made_metadata_image(
    paths: StorePaths, layers: Sequence[DiffId], changesets: Sequence[Changeset]
) -> tuple[int, Sidecar]:
    """Make the image of a chain anew; return it open, with its sidecar; the caller closes it.

    Args:
        paths: The store's.
        layers: The chain, lowest first.
        changesets: What these layers hold.

    Raises:
        UnsupportedError: The kernel cannot show such an image; the message says why.
        StorageError: The store cannot be written.
    """
    return _make(paths, hex_of(chain_id(layers)), kernel_tree(stack(changesets)))


class _Image(NamedTuple):
    """The metadata image of a chain.

    Attributes:
        fd: It, open and verified.
        sidecar: What is known of it.
        objects: Those of its objects that are known.
        missing: Those that are not there; None if nobody has looked.
    """

    fd: int
    sidecar: Sidecar
    objects: Mapping[ObjectId, Extents]
    missing: set[ObjectId] | None = None


def _image(store: StoreReader, layers: Sequence[DiffId], progress: Progress | None) -> _Image:
    """Return the image of a chain.

    Args:
        store: The store.
        layers: The chain, lowest first.
        progress: Of unpacking what the chain adds to its base beside that; None to leave it.
    """
    found = open_verified(store.paths, hex_of(chain_id(layers)))
    if found is not None:
        return _Image(*found, {})
    grown = _grown(store, layers, progress)
    if grown is not None:
        return grown
    tree = kernel_tree(load_root(store, layers))
    return _Image(*_make(store.paths, hex_of(chain_id(layers)), tree), tree.objects)


def _base(store: StoreReader, layers: Sequence[DiffId]) -> tuple[int, Sidecar]:
    """Return the open image of a base and its sidecar, made by one of those who want it now."""
    chain = hex_of(chain_id(layers))
    found = open_verified(store.paths, chain)
    if found is not None:
        return found
    with storage_errors("lock the objects"):
        lock = FileLock(store.paths.unpack_lock)
    with lock:
        found = open_verified(store.paths, chain)
        return found or _make(store.paths, chain, kernel_tree(load_root(store, layers)))


def _grown(
    store: StoreReader, layers: Sequence[DiffId], progress: Progress | None
) -> _Image | None:
    """Make the image of a chain of that of its base; None if its layers do more than to add.

    The base's image is made if it is not there: the next image that stands on it needs it.
    While what the layers add goes to disk, the image is made.
    """
    changesets = _additions(store, layers)
    if changesets is None:
        return None
    base, sidecar = _base(store, layers[: -len(changesets)])
    try:
        image = bytearray(sidecar.image_size)
        if os.preadv(base, [image], 0) != len(image):
            return None
    finally:
        os.close(base)
    if progress is None:
        return _grow(store.paths, layers, changesets, image, sidecar)
    added = objects_of(changesets)
    made = None
    try:
        with unpacking(store, added, progress, sidecar) as begun:
            made = _grow(store.paths, layers, changesets, image, sidecar)
            if made is not None:
                begun.whole.append(made.sidecar.image_hash)
    except BaseException:
        if made is not None:
            os.close(made.fd)
        raise
    return made and made._replace(missing=begun.missing)


def _additions(store: StoreReader, layers: Sequence[DiffId]) -> list[Changeset] | None:
    """Return what layers on a chain's base hold; None without any, or if they do more than add."""
    count = _base_of(store, layers)
    if not 0 < count < len(layers):
        return None
    changesets = [load_changeset(store, diff_id) for diff_id in layers[count:]]
    return changesets if all(map(only_adds, changesets)) else None


def _grow(
    paths: StorePaths,
    layers: Sequence[DiffId],
    changesets: Sequence[Changeset],
    image: bytearray,
    base: Sidecar,
) -> _Image | None:
    """Make the image of a chain of that of its base, which is not one any more then."""
    chain = hex_of(chain_id(layers))
    try:
        objects = grow(image, changesets, uuid=bytes.fromhex(chain[:32]))
    except (NoAdditionError, FormatError):
        return None
    both = dict.fromkeys([*base.objects, *sorted(objects)]).keys()
    return _Image(*_write(paths, chain, image, both), objects)


def _base_of(store: StoreReader, layers: Sequence[DiffId]) -> int:
    """Return how many layers of a chain are its base, beside which the others are small."""
    entries = [store.layer(diff_id).entry_count for diff_id in layers]
    count = len(entries)
    while count > 1 and sum(entries[: count - 1]) >= _BASE_TIMES * sum(entries[count - 1 :]):
        count -= 1
    return count


def _make(paths: StorePaths, chain: str, tree: KernelTree) -> tuple[int, Sidecar]:
    """Write the image of a chain; return it open, with its sidecar."""
    try:
        image = encode_image(tree.inodes, uuid=bytes.fromhex(chain[:32]))
    except FormatError as err:
        raise UnsupportedError(
            f"the kernel cannot show this image: {err.message}",
            hint="mount it with --backend fuse",
        ) from err
    return _write(paths, chain, image, tree.objects.keys())


def _write(
    paths: StorePaths, chain: str, image: bytearray, objects: AbstractSet[ObjectId]
) -> tuple[int, Sidecar]:
    """Write the image of a chain; return it open, with its sidecar.

    The sidecar comes last: without it nothing is mounted, and what it says of an image
    that a power cut tore is not true any more.
    """
    sidecar = Sidecar(len(image), blake3(image).digest(), objects)
    with storage_errors("write a metadata image"):
        make_private_dir(paths.metadata, durable=False)
        replace_private(paths.metadata_image(chain), image, owner_alone=True)
        fd = open_private(paths.metadata_image(chain), os.O_RDONLY | os.O_NONBLOCK)
        try:
            encoded = encode_sidecar(*sidecar)
            replace_private(paths.metadata_sidecar(chain), encoded, owner_alone=True)
        except BaseException:
            os.close(fd)
            raise
    if not is_image_of(fd, sidecar):  # another one was put in its place
        os.close(fd)
        raise LayerstoreError(f"somebody else replaced {paths.metadata_image(chain)}")
    return fd, sidecar
