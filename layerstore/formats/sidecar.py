"""What is known of a metadata image: how it must hash, and which objects it leads to.

Format: docs/format/erofs.md, "Sidecar".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from blake3 import blake3

from layerstore.digest import ID_BYTES, ObjectId
from layerstore.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable

MAGIC: Final = b"LSVIEWS\0"
VERSION: Final = 1
"""Of the sidecar and of how images are written: another one makes the image anew."""

_HEAD = struct.Struct("<8sIIQ32sQ")


class Sidecar(NamedTuple):
    """A sidecar's content.

    Attributes:
        image_size: Bytes of the metadata image.
        image_hash: BLAKE3 of all of them.
        objects: What its files redirect to.
    """

    image_size: int
    image_hash: bytes
    objects: frozenset[ObjectId]


def encode_sidecar(image_size: int, image_hash: bytes, objects: Iterable[ObjectId]) -> bytes:
    """Return the bytes of a sidecar."""
    ids = sorted(objects)
    head = _HEAD.pack(MAGIC, VERSION, 0, image_size, image_hash, len(ids))
    body = b"".join([head, *ids])
    return body + blake3(body).digest()


def decode_sidecar(data: bytes) -> Sidecar:
    """Return what a sidecar says.

    Raises:
        FormatError: It is damaged, or of another version.
    """
    if len(data) < _HEAD.size + ID_BYTES:
        raise FormatError(f"the sidecar has only {len(data)} bytes")
    body, checksum = data[:-ID_BYTES], data[-ID_BYTES:]
    if blake3(body).digest() != checksum:
        raise FormatError("the sidecar does not match its checksum")
    magic, version, flags, image_size, image_hash, count = _HEAD.unpack_from(body)
    if magic != MAGIC or version != VERSION or flags:
        raise FormatError(f"the sidecar has version {version}, not {VERSION}")
    if len(body) != _HEAD.size + count * ID_BYTES:
        raise FormatError(f"the sidecar does not hold {count} ids")
    ids = (body[at : at + ID_BYTES] for at in range(_HEAD.size, len(body), ID_BYTES))
    return Sidecar(image_size, image_hash, frozenset(map(ObjectId, ids)))
