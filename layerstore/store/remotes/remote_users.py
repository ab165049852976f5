"""Records by which lazy views of other stores keep what they show in this one.

``views/remote-<id>.json``, like the record of a view: its layers are roots for gc. Its writer
holds it locked for as long as it lives and may be anywhere that sees this directory.

Crash behaviour: a record is locked before it has its name, so none is ever taken for dead
while its writer lives. One that is not locked counts for nothing; gc and the next user of
this store remove it. Normative: docs/format/store.md, "Records of views".
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from typing import TYPE_CHECKING

from layerstore.linux.files import open_private, remove_if_present, write_all
from layerstore.linux.locks import is_held
from layerstore.store.failures import storage_errors
from layerstore.store.paths import REMOTE_PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.digest import DiffId, ImageId
    from layerstore.store.paths import StorePaths


class RemoteUser:
    """One record of this process. Who makes one looks the image up again afterwards.

    A child that is forked shares it: it lives until both are gone or it is closed.
    """

    def __init__(self, paths: StorePaths, image_id: ImageId, layers: Sequence[DiffId]) -> None:
        """Write it.

        Raises:
            StorageError: The store cannot be written.
        """
        self._path = f"{paths.views}/{REMOTE_PREFIX}{os.urandom(8).hex()}.json"
        value = {"kind": "remote", "image_id": image_id, "layers": list(layers)}
        with storage_errors("keep an image for a view of another store"):
            self._fd = _write_locked(self._path, json.dumps(value).encode())

    def close(self) -> None:
        """Take it away; harmless when repeated."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):  # gc removes it, once nobody has it locked
                os.unlink(self._path)
            os.close(fd)


def is_dead_user(path: str) -> bool:
    """Whether a record is that of a remote user whose writer is gone."""
    return os.path.basename(path).startswith(REMOTE_PREFIX) and not is_held(path)


def forget_dead_users(paths: StorePaths) -> list[str]:
    """Remove the records whose writers are gone; return their paths.

    Raises:
        StorageError: One could not be removed.
    """
    with storage_errors("remove records of dead views"):
        names = sorted(os.listdir(paths.views))
        dead = [path for path in (f"{paths.views}/{name}" for name in names) if is_dead_user(path)]
        for path in dead:
            remove_if_present(path)
    return dead


def _write_locked(path: str, data: bytes) -> int:
    """Write a file that is locked from before it has its name; return the locked descriptor."""
    temporary = f"{os.path.dirname(path)}/.{os.path.basename(path)}.{os.getpid()}.tmp"
    fd = open_private(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        write_all(fd, data)
        os.rename(temporary, path)
    except BaseException:
        os.close(fd)
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return fd
