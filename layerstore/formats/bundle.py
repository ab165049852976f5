"""Bundles: what images need and a receiver lacks, as one stream. Bytes to values and back.

A bundle is a header and records; each record says its length and the BLAKE3 of its payload
before that, and the last one vouches for all the heads before it. So a reader knows at
every byte how much may follow, and a bundle that was cut or put together from two is
refused at its end. Pure: what reads and writes streams is :mod:`layerstore.image.transfer`.
Normative: docs/format/bundle.md.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import msgspec
from blake3 import blake3

from layerstore.digest import ID_BYTES, parse_digest
from layerstore.errors import FormatError, LimitExceededError, UnsupportedVersionError
from layerstore.formats.framed import decode_framed, encode_framed

if TYPE_CHECKING:
    from collections.abc import Callable

MAGIC: Final = b"\x89LSBNDL\n"
VERSION: Final = 1

HEADER: Final = struct.Struct("<8sIIQ")
"""Magic, version, flags, reserved."""

RECORD: Final = struct.Struct("<4sIQ32s")
"""Kind, reserved, bytes of the payload, BLAKE3 of the payload."""

DESCRIPTION_KIND: Final = b"DESC"
PACK_KIND: Final = b"PACK"
END_KIND: Final = b"END\0"

DESCRIPTION_MAX_BYTES: Final = 64 * 1024 * 1024
"""Of a description, plain: some images with 512 layers each, whose records have up to 1 MiB."""

PACK_MAX_BYTES: Final = 256 * 1024 * 1024
"""Of one pack: writers close theirs at 96 MiB, plus a footer."""

IMAGES_MAX: Final = 10_000
"""Images of one bundle, and those that it builds on."""

LAYERS_MAX: Final = 262_144
"""Layer records of one bundle: as many of the smallest as a description holds."""

NAMES_MAX: Final = 1_048_576
"""Names, documents and layers of bases that a bundle lists: of one letter each, a description of 64
MiB would be two gigabytes of objects."""

_WHAT: Final = "the bundle's description"


_Listed = msgspec.Meta(max_length=NAMES_MAX)


class BundledImage(msgspec.Struct, frozen=True):
    """An image of a bundle.

    Attributes:
        names: Familiar names that the receiver gives it.
        config: Its bytes; their SHA-256 is the image's id.
        manifest: What the sender's store keeps for it (docs/format/store.md).
        documents: Manifests and indexes that it came under, byte for byte.
    """

    names: Annotated[tuple[str, ...], _Listed]
    config: bytes
    manifest: bytes
    documents: Annotated[tuple[bytes, ...], _Listed] = ()


class BaseImage(msgspec.Struct, frozen=True):
    """An image whose layers the receiver must have.

    Attributes:
        image_id: Only for messages, as the names are.
        layers: Diff IDs.
    """

    image_id: str
    layers: Annotated[tuple[str, ...], _Listed]
    names: Annotated[tuple[str, ...], _Listed] = ()


class Description(msgspec.Struct, frozen=True):
    """The first record: everything but content.

    Attributes:
        images: In the order in which they are to be added.
        layers: Encoded layer records, of those layers that the receiver is not known to have.
        bases: Images whose content the receiver must have.
        plain_bytes: Of all content in the bundle; a reader need not take more.
    """

    images: tuple[BundledImage, ...]
    layers: tuple[bytes, ...]
    bases: tuple[BaseImage, ...]
    plain_bytes: int


class RecordHead(NamedTuple):
    """What precedes a payload."""

    kind: bytes
    length: int
    checksum: bytes


_Some = Annotated[tuple[msgspec.Raw, ...], msgspec.Meta(max_length=IMAGES_MAX)]


class _Sent(msgspec.Struct, frozen=True):
    """A description whose images and bases are bytes yet, to be looked at one by one."""

    images: _Some
    layers: Annotated[tuple[bytes, ...], msgspec.Meta(max_length=LAYERS_MAX)]
    bases: _Some
    plain_bytes: int


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Sent)
_IMAGE_DECODER = msgspec.msgpack.Decoder(BundledImage)
_BASE_DECODER = msgspec.msgpack.Decoder(BaseImage)


def encode_header() -> bytes:
    """Return the first bytes of a bundle."""
    return HEADER.pack(MAGIC, VERSION, 0, 0)


def check_header(data: bytes) -> None:
    """Refuse what does not begin like a bundle of this version.

    Raises:
        FormatError: It is none.
        UnsupportedVersionError: It is newer.
    """
    if len(data) != HEADER.size or not data.startswith(MAGIC):
        raise FormatError("this is not a layerstore bundle")
    _, version, flags, reserved = HEADER.unpack(data)
    if version != VERSION or flags:
        raise UnsupportedVersionError(
            f"the bundle has version {version} and flags {flags:#x}, this layerstore reads "
            f"version {VERSION}",
            hint="load it with a newer layerstore, or let this version write it",
        )
    if reserved:
        raise FormatError("the bundle's header has reserved bytes that are not 0")


def encode_record(kind: bytes, length: int, checksum: bytes) -> bytes:
    """Return the head of a record."""
    return RECORD.pack(kind, 0, length, checksum)


def decode_record(data: bytes) -> RecordHead:
    """Return what a record's head says; its length is within the limit of its kind.

    Raises:
        FormatError: It is cut short, or of an unknown kind.
        LimitExceededError: Its payload is larger than its kind may be.
    """
    if len(data) != RECORD.size:
        raise FormatError("the bundle ends within the head of a record: it was cut short")
    kind, reserved, length, checksum = RECORD.unpack(data)
    most = _LIMITS.get(kind)
    if most is None or reserved:
        raise FormatError(f"the bundle has a record of an unknown kind, {kind!r}")
    if length > most:
        raise LimitExceededError(
            f"the bundle has a record of {length} bytes, more than the limit of {most}"
        )
    return RecordHead(kind, length, checksum)


_LIMITS: Final = {
    DESCRIPTION_KIND: DESCRIPTION_MAX_BYTES,
    PACK_KIND: PACK_MAX_BYTES,
    END_KIND: ID_BYTES,
}


def encode_description(description: Description) -> bytes:
    """Return the payload of a description.

    Raises:
        LimitExceededError: It is larger than a reader takes.
    """
    return encode_framed(_ENCODER.encode(description), DESCRIPTION_MAX_BYTES, _WHAT)


def decode_description(payload: bytes) -> Description:
    """Return what a description says, its digests well-formed and its numbers possible.

    Raises:
        FormatError: It is damaged.
        LimitExceededError: It is larger than the limit, or lists too much.
    """
    try:
        plain = decode_framed(payload, DESCRIPTION_MAX_BYTES, _WHAT)
        return _checked(_decoded(_DECODER.decode(plain)))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as err:
        raise FormatError(f"{_WHAT} is damaged: {err}") from err


def _decoded(sent: _Sent) -> Description:
    """Return a description with its images and bases, which together list what the limit allows."""
    listed = 0
    images: list[BundledImage] = []
    bases: list[BaseImage] = []
    for raw in sent.images:
        image = _IMAGE_DECODER.decode(raw)
        listed += len(image.names) + len(image.documents)
        _refuse_long_lists(listed)
        images.append(image)
    for raw in sent.bases:
        base = _BASE_DECODER.decode(raw)
        listed += len(base.names) + len(base.layers)
        _refuse_long_lists(listed)
        bases.append(base)
    return Description(tuple(images), sent.layers, tuple(bases), sent.plain_bytes)


def _refuse_long_lists(listed: int) -> None:
    if listed > NAMES_MAX:
        raise LimitExceededError(
            "the bundle lists more names, documents and layers of bases than the limit of "
            f"{NAMES_MAX}"
        )


def _checked(description: Description) -> Description:
    count = len(description.images) + len(description.bases)
    if count > IMAGES_MAX:
        raise LimitExceededError(f"the bundle names {count} images, the limit is {IMAGES_MAX}")
    if description.plain_bytes < 0:
        raise FormatError("the bundle's description has a negative size")
    for base in description.bases:
        for digest in (base.image_id, *base.layers):
            parse_digest(digest)
    return description


class HeadSum:
    """The checksum of a header and of all record heads, which the last record holds."""

    def __init__(self) -> None:
        self._hash = blake3()

    def add(self, head: bytes) -> bytes:
        """Take the next head and return it."""
        self._hash.update(head)
        return head

    def digest(self) -> bytes:
        """Return the sum of what was added so far."""
        return self._hash.digest()


def read_exactly(read: Callable[[int], bytes], size: int) -> bytes:
    """Return up to ``size`` bytes of a stream, fewer only at its end."""
    parts = []
    while size and (part := read(min(size, 1 << 20))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
