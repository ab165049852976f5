"""Whether this host can show lazy views by the kernel, found out by doing it in memory.

An overlay looks for content in a data layer over FUSE, is answered with "no such file", and
has to find it in the next layer; and the FUSE connection has to give unanswered requests
again. In a child with mounts of its own; nothing is left behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile

from fuse_mount.lazy_lowers import data_layers
from fuse_mount.object_layer import ObjectLayer, mount_device
from layerstore.digest import ChunkId, ObjectId
from layerstore.linux import mounts
from layerstore.linux.data_layers import FOLLOWING
from layerstore.linux.probe import enter_namespaces, in_child

_CONTENT = b"content that comes when it is looked for"
_NAME = ObjectId(bytes(32))
_PATH = f"{_NAME[:1].hex()}/{_NAME.hex()}"


def lazy_problem() -> str | None:
    """Return why the kernel cannot show lazy views here, or None."""
    with tempfile.TemporaryDirectory(prefix="layerstore-probe-") as directory:
        return in_child(lambda: _try(directory))


class _Staging:
    """Content that is there once somebody has looked for it."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def size(self, _object_id: ObjectId) -> int:
        return len(_CONTENT)

    def stage(self, _object_id: ObjectId) -> bool:
        path = f"{self._directory}/staged/{_PATH}"
        os.mkdir(os.path.dirname(path))
        with open(path, "wb") as file:
            file.write(_CONTENT)
        return True

    def stage_if_whole(self, _object_id: ObjectId) -> bool:
        return False

    def bring(self, _object_id: ObjectId, _offset: int, _size: int) -> None:
        """Do nothing: there are no long objects."""

    def read_chunk(self, chunk_id: ChunkId) -> bytes:
        raise LookupError(chunk_id)


def _try(directory: str) -> None:
    enter_namespaces()
    mounts.mount("tmpfs", directory, "tmpfs")
    for name in ("meta", "objects", "lazy", "staged", "root"):
        os.mkdir(f"{directory}/{name}")
    with open(f"{directory}/meta/file", "wb") as file:
        file.truncate(len(_CONTENT))
    os.setxattr(f"{directory}/meta/file", "trusted.overlay.metacopy", b"")
    os.setxattr(f"{directory}/meta/file", "trusted.overlay.redirect", f"/{_PATH}".encode())
    device = mount_device(f"{directory}/lazy")
    server = _serve(directory, device)
    try:
        data = data_layers(directory, directory)
        overlay = mounts.Overlay((f"{directory}/meta",), options=FOLLOWING, data=data)
        mounts.mount_overlay(overlay, f"{directory}/root", mounts.MS_RDONLY)
        with open(f"{directory}/root/file", "rb") as file:
            if file.read() != _CONTENT:
                raise OSError("overlayfs does not look into the next data layer")
        ObjectLayer(device, _Staging(directory), {}, lambda *_: None).resend()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(server, signal.SIGKILL)


def _serve(directory: str, device: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        objects = {_NAME: ((len(_CONTENT), ChunkId(_NAME)),)}
        ObjectLayer(device, _Staging(directory), objects, lambda *_: None).serve()
    finally:
        os._exit(0)
