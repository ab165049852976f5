"""What is known of an image that the kernel mounts: how it must hash, and the objects it names.

A metadata image leads to its objects, a pack image has them; of the latter it is also known
which pack file was verified for it. Format: docs/format/erofs.md, "Sidecar" and "Sidecars of
pack images".
"""

from __future__ import annotations

import struct
from itertools import chain

from blake3 import blake3

from layerstore.digest import ID_BYTES, ObjectId
from layerstore.errors import FormatError
from layerstore.light_typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

MAGIC = b"LSVIEWS\0"
VERSION = 2
"""Of the sidecar and of how images are written: another one makes the image anew."""

PACK_MAGIC = b"LSVPACK\0"

_HEAD = struct.Struct("<8sIIQ32sQ")
_SEEN = struct.Struct("<QQqq")


class Sidecar(NamedTuple):
    """A sidecar's content.

    Attributes:
        image_size: Bytes of the metadata image.
        image_hash: BLAKE3 of all of them.
        objects: What its files redirect to; in order, if it was read.
    """

    image_size: int
    image_hash: bytes
    objects: AbstractSet[ObjectId]


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
    return _decode(data, MAGIC, 0)[0]


def _decode(data: bytes, expected: bytes, between: int) -> tuple[Sidecar, bytes]:
    """Return what a sidecar says, and the ``between`` bytes that precede its ids."""
    start = _HEAD.size + between
    if len(data) < start + ID_BYTES:
        raise FormatError(f"the sidecar has only {len(data)} bytes")
    body, checksum = data[:-ID_BYTES], data[-ID_BYTES:]
    if blake3(body).digest() != checksum:
        raise FormatError("the sidecar does not match its checksum")
    magic, version, flags, image_size, image_hash, count = _HEAD.unpack_from(body)
    if magic != expected or version != VERSION or flags:
        raise FormatError(f"the sidecar has version {version}, not {VERSION}")
    if len(body) != start + count * ID_BYTES:
        raise FormatError(f"the sidecar does not hold {count} ids")
    # Without a function for each id: an image of a distribution has tens of thousands.
    ids = chain.from_iterable(struct.iter_unpack(f"{ID_BYTES}s", body[start:]))
    # In their order, of which a sidecar that has some more is made without sorting all anew.
    sidecar = Sidecar(image_size, image_hash, dict.fromkeys(ids).keys())
    return sidecar, body[_HEAD.size : start]


class SeenFile(NamedTuple):
    """By what a file is known that was verified: it changes when the file is written or replaced.

    Attributes:
        inode: Its number.
        size: Bytes.
        mtime_ns: When its content was last changed.
        ctime_ns: When anything of it was last changed; nobody can set that.
    """

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


class PackSidecar(NamedTuple):
    """The sidecar of a pack image.

    Attributes:
        image: Size and hash of the image, and the objects that it has.
        seen: The pack file whose bytes hash to the pack's id.
    """

    image: Sidecar
    seen: SeenFile


def encode_pack_sidecar(sidecar: PackSidecar) -> bytes:
    """Return the bytes of a pack image's sidecar."""
    ids = sorted(sidecar.image.objects)
    size, digest, _ = sidecar.image
    head = _HEAD.pack(PACK_MAGIC, VERSION, 0, size, digest, len(ids))
    body = b"".join([head, _SEEN.pack(*sidecar.seen), *ids])
    return body + blake3(body).digest()


def decode_pack_sidecar(data: bytes) -> PackSidecar:
    """Return what a pack image's sidecar says.

    Raises:
        FormatError: It is damaged, or of another version.
    """
    image, rest = _decode(data, PACK_MAGIC, _SEEN.size)
    return PackSidecar(image, SeenFile(*_SEEN.unpack(rest)))
