"""Files of ours that the kernel mounts: written whole, and verified on the descriptor mounted.

The kernel parses such a file while it is mounted, so nobody else may be able to change it, and
what was verified must be what is mounted. Crash behaviour: a file appears whole or not at all,
but is not forced to disk (:func:`layerstore.linux.files.replace_private`): these are caches, and
their sidecars say whether they are whole.
"""

from __future__ import annotations

import contextlib
import os
import stat

from blake3 import blake3

from layerstore.light_typing import TYPE_CHECKING
from layerstore.linux.files import read_at

if TYPE_CHECKING:
    from layerstore.formats.sidecar import Sidecar

_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_READ_BYTES = 1 << 20


def is_ours_alone(status: os.stat_result) -> bool:
    """Whether a file is a regular one that nobody but this user can write."""
    return (
        stat.S_ISREG(status.st_mode)
        and status.st_uid == os.geteuid()
        and not status.st_mode & _OTHERS
    )


def is_image_of(fd: int, sidecar: Sidecar) -> bool:
    """Whether a file is the image of a sidecar, and nobody else can change it afterwards."""
    status = os.fstat(fd)
    # It has no name any more if another command has made it, too, and put it in its place.
    if not is_ours_alone(status) or status.st_nlink > 1 or status.st_size != sidecar.image_size:
        return False
    with contextlib.suppress(OSError):
        return hash_of(fd, status.st_size) == sidecar.image_hash
    return False


def hash_of(fd: int, size: int) -> bytes:
    """Return the BLAKE3 of the first ``size`` bytes of a file.

    Raises:
        OSError: It cannot be read, or is shorter.
    """
    digest = blake3()
    for offset in range(0, size, _READ_BYTES):
        digest.update(read_at(fd, min(_READ_BYTES, size - offset), offset))
    return digest.digest()
