"""Have-lists: which chunks a store has, so that somebody else need not send them.

Ids are cut to 16 bytes: enough that no two are ever the same by chance, and whoever makes two
by force only makes a bundle that its receiver refuses. Normative: docs/format/bundle.md,
"Have-lists".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from blake3 import blake3

from layerstore.digest import ID_BYTES
from layerstore.errors import FormatError, LimitExceededError, UnsupportedVersionError

if TYPE_CHECKING:
    from collections.abc import Iterable

MAGIC: Final = b"\x89LSHAVE\n"
VERSION: Final = 1
SHORT_BYTES: Final = 16
IDS_MAX: Final = 16 * 1024 * 1024

_HEAD: Final = struct.Struct("<8sIIQ")
LIST_MAX_BYTES: Final = _HEAD.size + IDS_MAX * SHORT_BYTES + ID_BYTES


def encode_have_list(chunk_ids: Iterable[bytes]) -> bytes:
    """Return the bytes of a list.

    Raises:
        LimitExceededError: More ids than a list may have.
    """
    ids = sorted({chunk_id[:SHORT_BYTES] for chunk_id in chunk_ids})
    if len(ids) > IDS_MAX:
        raise LimitExceededError(
            f"{len(ids)} chunks are more than the {IDS_MAX} that a list may have",
            hint="name the images whose content is to be listed",
        )
    body = b"".join([_HEAD.pack(MAGIC, VERSION, 0, len(ids)), *ids])
    return body + blake3(body).digest()


def decode_have_list(data: bytes) -> frozenset[bytes]:
    """Return the cut ids of a list.

    Raises:
        FormatError: It is no list, or damaged.
        UnsupportedVersionError: It is newer.
    """
    if len(data) < _HEAD.size + ID_BYTES or not data.startswith(MAGIC):
        raise FormatError(
            "this is not a list of what a store has", hint="make one with 'layerstore have'"
        )
    body, checksum = data[:-ID_BYTES], data[-ID_BYTES:]
    if blake3(body).digest() != checksum:
        raise FormatError("the list of what a store has does not match its checksum")
    _, version, flags, count = _HEAD.unpack_from(body)
    if version != VERSION or flags:
        raise UnsupportedVersionError(
            f"the list has version {version}, this layerstore reads {VERSION}"
        )
    ids = [body[at : at + SHORT_BYTES] for at in range(_HEAD.size, len(body), SHORT_BYTES)]
    found = frozenset(ids)
    if len(body) != _HEAD.size + count * SHORT_BYTES or len(found) != count or ids != sorted(ids):
        raise FormatError("the list of what a store has is not sorted or not of its size")
    return found
