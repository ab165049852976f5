"""Telling the helper that waits, :mod:`layerstore.cli.warm.helper`, of images that a command made.

Last of all that a command does. Nothing depends on it, and without a helper it costs two looks for
a file.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import sys

from layerstore.cli import warm_client
from layerstore.digest import chain_id, hex_of
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from layerstore.store.catalog.catalog import Catalog

_PATIENCE_S = 2.0
"""The helper looks at who tells it, who must be there as long: a matter of one millisecond, of many
more on a busy host, and of ever if it is stopped."""

_IMAGES_MAX = 64
"""Of one command: who loads a whole archive does not start all of it at once."""


def tell(store_root: str, image_ids: Iterable[str]) -> None:
    """Have images prepared for their first start, if somebody waits who does that.

    Args:
        store_root: The store's absolute path.
        image_ids: Images that are new in it, the last ones most likely to be started.
    """
    ids = list(dict.fromkeys(image_ids))[-_IMAGES_MAX:]
    if not ids:
        return
    with contextlib.suppress(OSError):
        path = _helper()
        if path:
            sys.stdout.flush()  # who waits for the answer has it
            _send(path, marshal.dumps({"fresh": [store_root, ids]}))


def is_worth_telling(catalog: Catalog, image_id: str) -> bool:
    """Whether somebody waits who would prepare an image, and it has not been prepared yet.

    For commands that find an image made already, and are asked in loops: what is there would be
    looked at again each time. Some of its files may have been evicted since; its start makes them.

    Raises:
        LayerstoreError: The catalog is damaged.
    """
    try:
        if not _helper():
            return False
    except OSError:
        return False
    image = catalog.image(image_id)
    return image is not None and not os.path.exists(
        catalog.paths.metadata_image(hex_of(chain_id(image.layers)))
    )


def _helper() -> str:
    """Return where somebody waits who prepares images, "" if nobody does."""
    path = warm_client.socket_path() if os.geteuid() == 0 else ""
    return path if path and os.path.exists(path) else ""


def _send(path: str, message: bytes) -> None:
    import _socket  # most have no helper

    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(_PATIENCE_S)
        connection.connect(path)
        connection.send(message)
        connection.recv(1)
    finally:
        connection.close()
