"""What gzip makes of layers, remembered: nearly all that counting compressed layers costs.

A layer's tar is always the same, so its size holds while zlib is the same, which may compress
otherwise in its next version. Format: docs/format/measured.md.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

import msgspec

from layerstore.digest import DiffId, Digest
from layerstore.formats.sealed import Seal
from layerstore.measure.remembered import recall, remember

if TYPE_CHECKING:
    from collections.abc import Mapping

    from layerstore.store.store import Store

VERSION: Final = 1

SEAL: Final = Seal(
    b"LSGZIP\0" + bytes((VERSION,)),
    "layerstore 2026-11-28 remembered sizes of compressed layers v1",
    max_bytes=16 * 1024 * 1024,
)
_FILE: Final = "gzip"


class _Record(msgspec.Struct, frozen=True, array_like=True):
    """The body.

    Attributes:
        zlib: The version that made them.
        level: At which they were made.
        sizes: Bytes of layers when compressed, by diff id.
    """

    zlib: str
    level: int
    sizes: dict[str, int]


_DECODER = msgspec.msgpack.Decoder(_Record)


def recall_gzip_sizes(store: Store, level: int) -> dict[DiffId, int]:
    """Return what is known of layers: bytes that this zlib makes of their tars at a level."""
    body = recall(store, _FILE, SEAL)
    if body is None:
        return {}
    try:
        record = _DECODER.decode(body)
    except msgspec.MsgspecError:
        return {}
    if (record.zlib, record.level) != (zlib.ZLIB_RUNTIME_VERSION, level):
        return {}
    return {DiffId(Digest(name)): size for name, size in record.sizes.items()}


def remember_gzip_sizes(store: Store, level: int, made: Mapping[DiffId, int]) -> None:
    """Keep what was made, beside what is known of other layers that the store still has."""
    if not made:
        return
    there = {diff_id for diff_id, _ in store.catalog.layers()}
    sizes = {**recall_gzip_sizes(store, level), **made}
    kept: dict[str, int] = {name: size for name, size in sorted(sizes.items()) if name in there}
    record = _Record(zlib.ZLIB_RUNTIME_VERSION, level, kept)
    remember(store, _FILE, SEAL, msgspec.msgpack.encode(record))
