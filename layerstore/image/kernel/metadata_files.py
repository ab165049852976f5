"""Metadata images that were made before: found, verified, and whether all is there they lead to.

On the fast path: an image that was shown lately is shown again by what is here, which imports
nothing that reads a store. Making them: :mod:`layerstore.image.kernel.metadata_image`.
"""

from __future__ import annotations

import os

from layerstore.digest import chain_id, hex_of
from layerstore.errors import FormatError
from layerstore.formats.sidecar import Sidecar, decode_sidecar
from layerstore.light_typing import TYPE_CHECKING
from layerstore.linux.files import open_private, read_file
from layerstore.store.objects.mountable import is_image_of
from layerstore.store.objects.tier import SIDECAR_MAX_BYTES, missing_objects
from layerstore.store.objects.whole_images import WholeImages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.digest import DiffId
    from layerstore.store.paths import StorePaths


def open_whole(paths: StorePaths, layers: Sequence[DiffId]) -> int | None:
    """Return the open image of a chain that a view needs nothing made for; None if it does.

    The caller closes it, and is in :func:`layerstore.store.objects.tier.kept_objects`. That file
    was verified: mount it and not the path.
    """
    found = open_verified(paths, hex_of(chain_id(layers)))
    if found is None:
        return None
    fd, sidecar = found
    try:
        known = WholeImages(paths)
        if not missing_objects(paths, known.unsure(sidecar.image_hash, sidecar.objects)):
            known.remember(sidecar.image_hash)
            return fd
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def open_verified(paths: StorePaths, chain: str) -> tuple[int, Sidecar] | None:
    """Return the open image of a chain and its sidecar, or None if it is to be made anew.

    The caller closes it. Its objects may be missing.

    Args:
        paths: The store's.
        chain: Hexadecimal part of its chain ID.
    """
    try:
        sidecar = decode_sidecar(
            read_file(paths.metadata_sidecar(chain), max_bytes=SIDECAR_MAX_BYTES)
        )
        fd = open_private(paths.metadata_image(chain), os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, FormatError):
        return None
    if is_image_of(fd, sidecar):
        return fd, sidecar
    os.close(fd)
    return None
