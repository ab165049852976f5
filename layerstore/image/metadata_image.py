"""Metadata images: made once for a chain of layers, and verified before each mount.

An image lies in ``views/meta/CHAIN.erofs``, and beside it a sidecar with its hash and the
objects it leads to. Both are a cache. The kernel parses what is mounted while it is
mounted, so only a file is used that belongs to this user, that nobody else can write, and
that hashes to what its sidecar says; another one is replaced.

Normative: docs/format/erofs.md.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from typing import TYPE_CHECKING

from blake3 import blake3

from layerstore.digest import chain_id, hex_of
from layerstore.errors import FormatError, LayerstoreError, UnsupportedError
from layerstore.formats.erofs import write_image
from layerstore.formats.sidecar import Sidecar, decode_sidecar, encode_sidecar
from layerstore.image.kernel_tree import kernel_tree
from layerstore.image.stack import load_root
from layerstore.linux.files import make_private_dir, open_private, read_at, read_file, write_all
from layerstore.store.failures import storage_errors
from layerstore.store.objects import SIDECAR_MAX_BYTES, present_objects, unpack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.digest import DiffId
    from layerstore.image.kernel_tree import KernelTree
    from layerstore.progress import Progress
    from layerstore.store.paths import StorePaths
    from layerstore.store.store import Store

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def prepare_view(store: Store, layers: Sequence[DiffId], progress: Progress) -> int:
    """Make whatever a view of a chain of layers needs: its image and all its objects.

    Returns the open image, which the caller closes. That file was verified: mount it and
    not the path.

    The caller is in :func:`layerstore.store.objects.kept_objects`, and a record keeps the layers.

    Raises:
        UnsupportedError: The kernel cannot show such an image; the message says why.
        IntegrityError: A layer or a chunk is damaged.
        StorageError: The store cannot be written, or is full.
    """
    chain = hex_of(chain_id(layers))
    tree: KernelTree | None = None
    found = _open_verified(store.paths, chain)
    if found is None:
        tree = kernel_tree(load_root(store, layers))
        found = _make(store.paths, chain, tree)
    fd, sidecar = found
    try:
        if not sidecar.objects <= present_objects(store.paths):
            tree = tree or kernel_tree(load_root(store, layers))
            unpack(store, tree.objects, progress)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open_verified(paths: StorePaths, chain: str) -> tuple[int, Sidecar] | None:
    """Return the open image of a chain and its sidecar, or None if it is to be made anew."""
    try:
        sidecar = decode_sidecar(
            read_file(paths.metadata_sidecar(chain), max_bytes=SIDECAR_MAX_BYTES)
        )
        fd = open_private(paths.metadata_image(chain), os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, FormatError):
        return None
    if _is_trusted(fd, sidecar):
        return fd, sidecar
    os.close(fd)
    return None


def _is_trusted(fd: int, sidecar: Sidecar) -> bool:
    """Whether a file is the image of a sidecar, and nobody else can change it afterwards."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size != sidecar.image_size:
        return False
    if status.st_uid != os.geteuid() or status.st_mode & _OTHERS or status.st_nlink != 1:
        return False
    digest = blake3()
    with contextlib.suppress(OSError):
        for offset in range(0, status.st_size, 1 << 20):
            digest.update(read_at(fd, min(1 << 20, status.st_size - offset), offset))
    return digest.digest() == sidecar.image_hash


def _make(paths: StorePaths, chain: str, tree: KernelTree) -> tuple[int, Sidecar]:
    """Write the image of a chain; return it open, with its sidecar.

    The sidecar comes last: without it nothing is mounted, and what it says of an image
    that a power cut tore is not true any more.
    """
    out = io.BytesIO()
    try:
        write_image(tree.inodes, out, uuid=bytes.fromhex(chain[:32]))
    except FormatError as err:
        raise UnsupportedError(
            f"the kernel cannot show this image: {err.message}",
            hint="mount it with --backend fuse",
        ) from err
    image = out.getbuffer()
    sidecar = Sidecar(len(image), blake3(image).digest(), frozenset(tree.objects))
    with storage_errors("write a metadata image"):
        make_private_dir(paths.metadata, durable=False)
        _replace(paths.metadata_image(chain), image)
        fd = open_private(paths.metadata_image(chain), os.O_RDONLY | os.O_NONBLOCK)
        try:
            _replace(paths.metadata_sidecar(chain), encode_sidecar(*sidecar))
        except BaseException:
            os.close(fd)
            raise
    if not _is_trusted(fd, sidecar):  # another one was put in its place
        os.close(fd)
        raise LayerstoreError(f"somebody else replaced {paths.metadata_image(chain)}")
    return fd, sidecar


def _replace(path: str, data: bytes | memoryview) -> None:
    """Write a private file whole or not at all; not forced to disk, for it is a cache."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    fd = open_private(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        # Of the owner alone even in a store that a group shares: the kernel parses it.
        os.fchmod(fd, 0o600)
        write_all(fd, data)
    finally:
        os.close(fd)
    os.rename(temporary, path)
