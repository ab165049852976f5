"""Parcels beside an image in a registry: what describes them, and tables of packs.

An artefact whose subject is the image's manifest: its config is the description, its layers
are pairs of a pack's table and the pack, those that were made for this image first. Pure.
Normative: docs/format/parcels.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import msgspec

from layerstore.digest import parse_digest
from layerstore.errors import FormatError
from layerstore.formats.framed import decode_framed, encode_framed
from layerstore.formats.oci import MANIFEST_TYPE, Descriptor, Manifest, encode_manifest
from layerstore.formats.oci_config import MAX_LAYERS
from layerstore.formats.pack import (
    TRAILER,
    ItemKind,
    decode_footer,
    decode_trailer,
    encode_footer,
    footer_size,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.formats.pack import Block

ARTIFACT_TYPE: Final = "application/vnd.layerstore.parcels.v1"
DESCRIPTION_TYPE: Final = "application/vnd.layerstore.parcels.description.v1+zstd"
TABLE_TYPE: Final = "application/vnd.layerstore.pack.table.v2+zstd"
PACK_TYPE: Final = "application/vnd.layerstore.pack.v2"

DESCRIPTION_MAX_BYTES: Final = 64 * 1024 * 1024
TABLES_MAX_BYTES: Final = 32 * 1024 * 1024
"""Of all tables of an artefact together, plain: some 900,000 items. What a reader makes of them
takes nine times as much, and a table of any size is a few kilobytes of zstd."""

PACKS_MAX: Final = 256
"""Packs of one artefact: a manifest has at most 512 layers."""

_WHAT: Final = "the description of an image's parcels"


_OF_AN_IMAGE: Final = msgspec.Meta(max_length=MAX_LAYERS)
"""Entries of two bytes are objects of fifty: their number is refused before the first is made."""


class KnownEncoding(msgspec.Struct, frozen=True):
    """How a compressed layer of the image's manifest is made (docs/format/origins.md).

    Attributes:
        recipe: JSON text; empty where it is not known.
    """

    digest: str
    diff_id: str
    size: int
    recipe: str = ""


class ParcelDescription(msgspec.Struct, frozen=True):
    """Everything but content.

    Attributes:
        layers: Encoded records of the image's layers.
        encodings: Of the compressed layers in the image's manifest.
    """

    layers: Annotated[tuple[bytes, ...], _OF_AN_IMAGE]
    encodings: Annotated[tuple[KnownEncoding, ...], _OF_AN_IMAGE] = ()


class PackBlob(NamedTuple):
    """A pack in a registry: its table and itself."""

    table: Descriptor
    pack: Descriptor


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(ParcelDescription)


def encode_parcel_description(description: ParcelDescription) -> bytes:
    """Return the blob of a description.

    Raises:
        LimitExceededError: It is larger than a reader takes.
    """
    return encode_framed(_ENCODER.encode(description), DESCRIPTION_MAX_BYTES, _WHAT)


def decode_parcel_description(blob: bytes) -> ParcelDescription:
    """Return what a description says.

    Raises:
        FormatError: It is damaged.
        LimitExceededError: It is larger than the limit.
    """
    try:
        found = _DECODER.decode(decode_framed(blob, DESCRIPTION_MAX_BYTES, _WHAT))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as err:
        raise FormatError(f"{_WHAT} is damaged: {err}") from err
    for encoding in found.encodings:
        parse_digest(encoding.digest)
        parse_digest(encoding.diff_id)
        if encoding.size <= 0:
            raise FormatError(f"{_WHAT} has an impossible size")
    return found


def encode_table(blocks: list[Block], footer_offset: int) -> bytes:
    """Return the table of a pack: its footer and trailer, compressed."""
    return encode_framed(encode_footer(blocks, footer_offset), TABLES_MAX_BYTES, "a pack's table")


def table_bytes(blocks: Sequence[Block]) -> int:
    """Return the plain bytes of the table of a pack with these blocks."""
    items = sum(len(block.items) for block in blocks)
    return footer_size(len(blocks), items, sum(len(block.bases) for block in blocks))


def decode_table(blob: bytes, pack_size: int) -> list[Block]:
    """Return the blocks of a pack of ``pack_size`` bytes, which all lie within it.

    Raises:
        FormatError: It is damaged, or not that of such a pack.
        LimitExceededError: It is larger than the limit.
    """
    plain = decode_framed(blob, TABLES_MAX_BYTES, "a pack's table")
    if len(plain) < TRAILER.size:
        raise FormatError("a pack's table is shorter than a trailer")
    trailer = decode_trailer(plain[-TRAILER.size :], pack_size)
    blocks = decode_footer(plain[: -TRAILER.size], trailer)
    if any(block.kind is ItemKind.LAYER for block in blocks):
        raise FormatError("a pack for others holds layer records, which are not sent in packs")
    return blocks


def encode_artefact(
    subject: Descriptor, description: Descriptor, packs: Sequence[PackBlob]
) -> bytes:
    """Return the manifest of an artefact."""
    plain: dict[str, object] = {
        "mediaType": subject.media_type,
        "digest": subject.digest,
        "size": subject.size,
    }
    return encode_manifest(
        Manifest(
            config=description,
            layers=tuple(blob for pack in packs for blob in pack),
            media_type=MANIFEST_TYPE,
            extra={"artifactType": ARTIFACT_TYPE, "subject": plain},
        )
    )


def packs_of(manifest: Manifest) -> list[PackBlob]:
    """Return the packs of an artefact, in its order.

    Raises:
        FormatError: It is another artefact, or lists something else.
    """
    layers = manifest.layers
    types = [layer.media_type for layer in layers]
    if manifest.config.media_type != DESCRIPTION_TYPE:
        raise FormatError("an artefact under the tag of an image's parcels is something else")
    if types != [TABLE_TYPE, PACK_TYPE] * (len(types) // 2) or len(types) > 2 * PACKS_MAX:
        raise FormatError("an image's parcels are not pairs of a table and a pack")
    return [PackBlob(*pair) for pair in zip(layers[::2], layers[1::2], strict=True)]
