"""Images of layers that stay for later builds, compressed: a cache in ``scans/``.

Builds over the same layers of many small files, such as a stage's dependencies, each need their
images (:mod:`layerstore.image.kernel.layer_image`), and to make one inode by inode takes longer
than to unpack it. A record depends on the layer and the directories below it alone, so it is never
stale; it may be lost or damaged at any time, which is a miss, and is never forced to disk.

Not for several threads at once. Format: docs/format/scans.md. Why: docs/decisions/0282.
"""

from __future__ import annotations

import contextlib
import os
import struct
from typing import TYPE_CHECKING, Final

import msgspec
from blake3 import blake3

from layerstore.errors import FormatError, LimitExceededError
from layerstore.formats.framed import decode_framed, encode_framed
from layerstore.formats.sealed import Seal
from layerstore.image.kernel.layer_image import LayerImage
from layerstore.linux.files import is_shared
from layerstore.store.remembering import read_record, write_record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from layerstore.digest import DiffId
    from layerstore.formats.tree import Entry
    from layerstore.store.paths import StorePaths

LAYOUT: Final = 1
"""Raised when :func:`~layerstore.image.kernel.layer_image.write_layer_image` comes to make other
bytes of a layer: images of before are then those of nobody."""

IMAGE_MAX_BYTES: Final = 32 << 20
"""Of an image, plain: layers of which there are images have at most half of it as content."""

RECORD_MAX_BYTES: Final = 4 << 20
KEPT_MAX_BYTES: Final = 8 << 20
"""Of all records: a cache must not cost what deduplication saves."""

ENTRIES_MIN: Final = 256
"""Of a layer: the image of a smaller one is made in a few milliseconds."""

_LEVEL: Final = 1
"""Of zstd: a build may wait for it."""

_SUFFIX: Final = ".image"
_KEY_BYTES: Final = 16
_KEY_CONTEXT: Final = "layerstore 2026-11-27 layer image key v1"
_TABLE: Final = struct.Struct("<I")
SEAL: Final = Seal(
    b"LSLAYER" + bytes((1,)), "layerstore 2026-11-27 layer image v1", max_bytes=RECORD_MAX_BYTES
)
_WHAT: Final = "a layer's image"

_INODE_BYTES: Final = 64
"""Of a directory's inode, in which its times are written anew."""


def image_key(diff_id: DiffId, implied: Mapping[bytes, Entry]) -> str:
    """Return the name of what is kept of a layer's image.

    Args:
        diff_id: The layer.
        implied: Directories that it does not name, as they are in the image.
    """
    decided = [LAYOUT, diff_id, [entry for _, entry in sorted(implied.items())]]
    text = msgspec.msgpack.encode(decided)
    return blake3(text, derive_key_context=_KEY_CONTEXT).hexdigest(_KEY_BYTES)


class KeptImages:
    """See the module.

    Args:
        paths: Of the store. In a shared one nothing is kept: others could write what the kernel
            would mount.
        directory: The caller's own, on the store's file system.
    """

    def __init__(self, paths: StorePaths, directory: str) -> None:
        self._scans = paths.scans
        self._root = paths.root
        self._directory = directory

    def recall(self, key: str) -> LayerImage | None:
        """Return an image that was kept, of whatever UUID; None if there is none that is whole."""
        path = self._path(key)
        if not os.path.lexists(path) or self._is_shared():
            return None
        body = read_record(path, SEAL)
        image = None if body is None else _decoded(body)
        if image is not None:
            with contextlib.suppress(OSError):
                os.utime(path)  # the oldest ones go first
        return image

    def keep(self, key: str, image: LayerImage) -> None:
        """Keep an image if there is room for it; failing to changes nothing."""
        record = None if self._is_shared() else _encoded(image)
        if record is not None:
            self._make_room(len(record))
            write_record(self._path(key), record, staging=f"{self._directory}/{key}{_SUFFIX}")

    def _path(self, key: str) -> str:
        return f"{self._scans}/{key}{_SUFFIX}"

    def _is_shared(self) -> bool:
        try:
            return is_shared(self._root)
        except OSError:
            return True

    def _make_room(self, size: int) -> None:
        """Remove the records that were used longest ago, as far as one more needs it."""
        ages: list[tuple[int, int, str]] = []
        with contextlib.suppress(OSError), os.scandir(self._scans) as listed:
            for each in listed:
                if each.name.endswith(_SUFFIX):
                    status = each.stat(follow_symlinks=False)
                    ages.append((status.st_mtime_ns, status.st_size, each.path))
        left = sum(each for _, each, _ in ages)
        for _, freed, path in sorted(ages):
            if left + size <= KEPT_MAX_BYTES:
                return
            with contextlib.suppress(OSError):
                os.unlink(path)
            left -= freed


def _encoded(image: LayerImage) -> bytes | None:
    """Return the record of an image, None if that would be too long."""
    try:
        frame = encode_framed(bytes(image.data), IMAGE_MAX_BYTES, _WHAT, level=_LEVEL)
    except LimitExceededError:
        return None
    table = msgspec.msgpack.encode(sorted(image.directories.items()))
    return SEAL.closed(b"".join((_TABLE.pack(len(table)), table, frame)))


def _decoded(body: memoryview) -> LayerImage | None:
    """Return the image of a record's body, None if it is none."""
    try:
        (length,) = _TABLE.unpack_from(body)
        end = _TABLE.size + length
        rows = msgspec.msgpack.decode(body[_TABLE.size : end], type=list[tuple[bytes, int]])
        data = bytearray(decode_framed(bytes(body[end:]), IMAGE_MAX_BYTES, _WHAT))
    except (struct.error, msgspec.MsgspecError, FormatError, LimitExceededError):
        return None
    if not all(0 <= offset <= len(data) - _INODE_BYTES for _, offset in rows):
        return None
    return LayerImage(data, dict(rows))
