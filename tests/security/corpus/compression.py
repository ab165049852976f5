"""Class F: compressed archives. Nothing of them is given to a program of the host."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zlib
from typing import TYPE_CHECKING

import zstandard
from isal import isal_zlib

from layerstore.formats import oci
from layerstore.formats.decompress import decompressed
from layerstore.formats.tar_limits import Limits
from layerstore.image.layouts.loading import load_directory
from layerstore.progress import Silent
from tests.security.corpus.entrances import (
    EVERY_PLATFORM,
    added,
    as_layer,
    fresh,
    imported,
    layout_of,
    loaded,
    stream,
)
from tests.security.corpus.model import Case, Way, case
from tests.support.store import noise
from tests.support.tars import END, Trickle, base256, member

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.security.corpus.model import Act, Place

MIB = 1 << 20
TAR = member(b"a", noise(1, 3000)) + END
ZSTD = zstandard.ZstdCompressor(write_checksum=True).compress(TAR)
GZIP = gzip.compress(TAR, mtime=0)
_XZ_BLOCK = slice(12, 24)
"""The first block's header behind that of the stream: 8 bytes, and their CRC."""
_XZ_DICTIONARY_AT = 4
_XZ_512_MIB = 34


def xz_of_512_mib() -> bytes:
    """A stream that asks for a dictionary of 512 MiB; an encoder would need more to make it."""
    packed = bytearray(lzma.compress(b"x"))
    block = packed[_XZ_BLOCK]
    block[_XZ_DICTIONARY_AT] = _XZ_512_MIB
    block[8:] = zlib.crc32(block[:8]).to_bytes(4, "little")
    packed[_XZ_BLOCK] = block
    return bytes(packed)


def zstd_frame(content: bytes, *, size: int | None = None, window_log: int = 0) -> bytes:
    """A frame of one raw block, its header written by hand."""
    if size is None:
        head = b"\x00" + bytes([(window_log - 10) << 3])
    else:
        head = b"\xc0" + bytes([(max(window_log, 10) - 10) << 3]) + size.to_bytes(8, "little")
    return b"\x28\xb5\x2f\xfd" + head + (len(content) << 3 | 1).to_bytes(3, "little") + content


def skippable(content: bytes, length: int | None = None) -> bytes:
    stated = len(content) if length is None else length
    return b"\x50\x2a\x4d\x18" + stated.to_bytes(4, "little") + content


def flipped(packed: bytes, at: int) -> bytes:
    damaged = bytearray(packed)
    damaged[at] ^= 1
    return bytes(damaged)


def _layer(packed: bytes, plain: bytes | None, limits: Limits) -> Act:
    def act(place: Place) -> None:
        with place.store() as store:
            as_layer(store, io.BytesIO(packed), limits, plain)

    return act


def _trickled(packed: bytes, plain: bytes | None, limits: Limits) -> Act:
    """Decompress what comes in pieces of one byte."""

    def act(_place: Place) -> None:
        found = b"".join(decompressed(Trickle(packed, 1).read, limits))
        assert plain is None or found == plain

    return act


def packed(entry: str, name: str, verdict: str, data: bytes, *, plain: bytes | None = TAR,
           limits: Limits | None = None, says: str = "",
           add: str | None = None) -> Case:  # fmt: skip
    """Return a case of a compressed archive; ``plain`` is what an accepted one holds."""
    chosen = limits or Limits()
    expected = plain if verdict == "S" else None
    ways = [
        Way("layer", verdict, _layer(data, expected, chosen), says),
        Way("import", verdict, imported(data, chosen), says),
        Way("ADD", add or verdict, added(data, chosen), "" if add else says),
    ]
    # An OCI layer is a tar, or one compressed by gzip or zstd: of nothing else there is a type.
    unknown = data.startswith((b"\xfd7zXZ", b"BZh"))
    refused = unknown and verdict != "R"
    ways.append(
        Way("load", "R" if refused else verdict, loaded(data, chosen, plain=plain or TAR),
            "media type" if refused else says)
    )  # fmt: skip
    if len(data) < MIB and entry != "F09":  # the outer stream of which is sound
        ways.append(Way("byte by byte", verdict, _trickled(data, expected, chosen), says))
    return Case(entry, name, tuple(ways))


def _frames(compress: object, step: int) -> bytes:
    pieces = (TAR[at : at + step] for at in range(0, len(TAR), step))
    return b"".join(compress(piece) for piece in pieces)  # type: ignore[operator]


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


# ADD takes for an archive what begins with one; what it cannot decode that far it copies.
_REFUSED = [
    ("F01", "50 GiB", zstd_frame(TAR, size=50 << 30, window_log=20), "S"),
    ("F01", "one byte more", zstd_frame(TAR, size=len(TAR) + 1, window_log=20), "S"),
    ("F02", "0 bytes", zstd_frame(TAR, size=0, window_log=20), "S"),
    ("F02", "one byte less", zstd_frame(TAR, size=len(TAR) - 1, window_log=20), "S"),
    ("F03", "zstd", flipped(ZSTD, -1), "S"),
    ("F04", "dictionary", b"\x28\xb5\x2f\xfd\x01\x50\x07" + ZSTD[6:], "S"),
    ("F05", "reserved", b"\x28\xb5\x2f\xfd\x00\x50" + (7).to_bytes(3, "little"), "S"),
    ("F05", "too large",
     b"\x28\xb5\x2f\xfd\x00\x50" + (0x20001 << 3 | 1).to_bytes(3, "little"), "S"),
    ("F06", "zstd", ZSTD[:-10], "S"),
    ("F06", "zstd header", ZSTD[:5], "S"),
    ("F06", "gzip", GZIP[:-1], "R"),
    ("F06", "gzip body", GZIP[:200], "R"),
    ("F06", "gzip header", GZIP[:9], "S"),
    ("F06", "xz", lzma.compress(TAR)[:-4], "R"),
    ("F06", "bzip2", bz2.compress(TAR)[:-4], "R"),
    ("F07", "text", GZIP + b"garbage", "R"),
    ("F07", "zstd", ZSTD + b"garbage", "R"),
    ("F07", "xz", lzma.compress(TAR) + b"garbage!", "R"),
    ("F07", "bzip2", bz2.compress(TAR) + b"garbage!", "R"),
    ("F08", "CRC", flipped(GZIP, -5), "R"),
    ("F08", "size", flipped(GZIP, -1), "R"),
    ("F08", "method", b"\x1f\x8b\x07" + GZIP[3:], "S"),
    ("F08", "flags", b"\x1f\x8b\x08\x80" + GZIP[4:], "S"),
    ("F09", "gzip", gzip.compress(GZIP, mtime=0), "S"),
    ("F09", "zstd in gzip", gzip.compress(ZSTD, mtime=0), "S"),
    ("F25", "damaged xz", flipped(lzma.compress(TAR), 100), "S"),
    ("F26", "lz4", b"\x04\x22\x4d\x18" + bytes(600), "S"),
    ("F26", "zip", b"PK\x03\x04" + bytes(600), "S"),
    ("F26", "empty zip", b"PK\x05\x06" + bytes(600), "S"),
    ("F26", "compress", b"\x1f\x9d" + bytes(600), "S"),
]  # fmt: skip

_SAFE = [
    ("F13", "two", _frames(_zstd, 700 * 8)),
    ("F13", "no size", zstandard.ZstdCompressor(write_content_size=False).compress(TAR)),
    ("F13", "raw block", zstd_frame(TAR, window_log=20)),
    ("F14", "one a byte", _frames(lambda piece: zstd_frame(piece, window_log=10), 1)),
    ("F14", "empty", zstd_frame(b"", window_log=20) * 10_000 + ZSTD),
    ("F15", "three", gzip.compress(TAR[:700]) + gzip.compress(b"") + gzip.compress(TAR[700:])),
    ("F15", "one a byte", _frames(gzip.compress, 1)),
    ("F16", "gzip", GZIP + bytes(1000)),
    ("F16", "zstd", ZSTD + bytes(1000)),
    ("F16", "bzip2", bz2.compress(TAR[:700]) + bz2.compress(TAR[700:]) + bytes(10)),
    ("F17", "before and behind", skippable(b"before") + ZSTD + skippable(b"table " * 99)),
    ("F23", "name and comment", b"\x1f\x8b\x08\x1e" + bytes(6) + b"\3\0abcname\0comment\0\0\0"
     + GZIP[10:]),
    ("F25", "xz", lzma.compress(TAR)),
    ("F25", "xz streams", lzma.compress(TAR[:700]) + lzma.compress(TAR[700:])),
    ("F25", "bzip2", bz2.compress(TAR)),
]  # fmt: skip

_LIMITED = [
    ("F01", "1 TiB", zstd_frame(TAR, size=1 << 40, window_log=20), "expanded_bytes"),
    ("F19", "claim", zstd_frame(TAR, size=32 << 40, window_log=20), "expanded_bytes"),
    ("F20", "window", zstd_frame(TAR, window_log=31), "window_bytes"),
    ("F21", "frame", zstd_frame(b"", window_log=29), "window_bytes"),
    ("F22", "claim", skippable(b"", 0xFFFF_FFFF), "skippable_bytes"),
    ("F23", "10 MiB", b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * (10 * MIB), "gzip_header_bytes"),
    ("F25", "xz dictionary of 512 MiB", xz_of_512_mib(), "memory"),
]

_TOC = json.dumps({"version": 1, "entries": [{"name": "../../etc/passwd", "type": "reg"}]}).encode()
_ESTARGZ = member(b"a", b"1") + member(b"stargz.index.json", _TOC) + END


# -- at full size ------------------------------------------------------------------


def _gzip_zeros(size: int, head: bytes) -> Iterator[bytes]:
    """A gzip stream of ``head`` and then zeros."""
    packer = isal_zlib.compressobj(1, isal_zlib.DEFLATED, 31)
    yield packer.compress(head)
    for _ in range(size // MIB):
        yield packer.compress(bytes(MIB))
    yield packer.flush()


def _gzip_files(count: int) -> Iterator[bytes]:
    """A gzip stream of files of 32 MiB of zeros."""
    packer = isal_zlib.compressobj(1, isal_zlib.DEFLATED, 31)
    for number in range(count):
        yield packer.compress(member(b"f%d" % number, b"", size=32 * MIB))
        for _ in range(32):
            yield packer.compress(bytes(MIB))
    yield packer.flush()


def _rle(size: int) -> Iterator[bytes]:
    """A zstd frame of RLE blocks of 128 KiB; a member of that size comes out."""
    head = member(b"a", b"", size=size)
    yield zstd_frame(head, window_log=20)
    block = (128 * 1024 << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    frame = b"\x28\xb5\x2f\xfd\x00\x50" + block * 8191 + (1 << 2 | 3).to_bytes(3, "little") + b"\0"
    for _ in range(size // (128 * 1024 * 8191)):
        yield frame


def _bzip2_zeros() -> Iterator[bytes]:
    yield bz2.compress(member(b"a", b"", size=128 * MIB) + bytes(128 * MIB))


def _typed(media_type: str, content: bytes) -> Act:
    """Load a layer whose media type says another compression than it has."""

    def act(place: Place) -> None:
        root = layout_of(fresh(place), content, TAR, media_type=media_type)
        with place.store() as store:
            list(load_directory(store, root, EVERY_PLATFORM, Silent()))

    return act


_MISTYPED = [
    ("gzip, with zstd", oci.LAYER_GZIP_TYPE, ZSTD),
    ("gzip, plain", oci.LAYER_GZIP_TYPE, TAR),
    ("docker's gzip, plain", oci.DOCKER_LAYER_TYPE, TAR),
    ("zstd, with gzip", oci.LAYER_ZSTD_TYPE, GZIP),
    ("plain, with gzip", oci.LAYER_TAR_TYPE, GZIP),
]

CASES = [
    *(case("F10", name, "R", _typed(media_type, content), entrance="load", says="media type")
      for name, media_type, content in _MISTYPED),
    *(packed(entry, name, "R", data, add=add) for entry, name, data, add in _REFUSED),
    *(packed(entry, name, "S", data) for entry, name, data in _SAFE),
    *(packed(entry, name, "L", data, says=says, add="S" if entry == "F22" else None)
      for entry, name, data, says in _LIMITED),
    packed("F11", "stargz.index.json", "S", gzip.compress(_ESTARGZ, mtime=0), plain=_ESTARGZ),
    packed("F18", "exactly as large as may be", "S", GZIP, limits=Limits(expanded_bytes=len(TAR))),
    packed("F18", "one byte more", "L", GZIP, limits=Limits(expanded_bytes=len(TAR) - 1),
           says="expanded_bytes"),
    stream("F12", "gzip", "S", lambda: _gzip_zeros(1 << 30, member(b"a", b"", size=1 << 30))),
    stream("F18", "one member says so", "L",
           lambda: _gzip_zeros(1 << 30, member(b"a", b"", size=base256((100 << 30) + 1, 12))),
           says="expanded_bytes"),
    stream("F18", "many members, limit lowered to 512 MiB", "L", lambda: _gzip_files(40),
           limits=Limits(expanded_bytes=512 * MIB), says="expanded_bytes"),
    stream("F24", "1 GiB", "L", lambda: _rle(1 << 30), says="ratio"),
    stream("F24", "bzip2", "L", _bzip2_zeros, says="ratio"),
]  # fmt: skip
