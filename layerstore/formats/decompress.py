"""Decompression of untrusted layers: gzip, zstd, xz, bzip2, or nothing at all.

The format is found by its first bytes. Output comes in spans of at most about 1 MiB,
however hard the input was compressed, so memory stays bounded; what comes out is
counted against ``expanded_bytes`` and ``ratio`` of the limits. Checksums are always
verified. Nothing is ever given to a program of the host.

Raises only FormatError and LimitExceededError, and what the source raises.

Sources: RFC 1952 (gzip), RFC 8878 (zstd), the xz file format 1.2.
"""

from __future__ import annotations

import bz2
import lzma
from typing import TYPE_CHECKING, Final, Protocol

from layerstore.errors import FormatError, LimitExceededError
from layerstore.formats.decompress_zstd import SKIPPABLE_MAGICS, ZSTD_MAGIC, zstd_spans
from layerstore.formats.gzip_header import FIXED_BYTES, TRAILER_BYTES, header_end
from layerstore.formats.tar_limits import Limits, exceeded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SPAN_BYTES: Final = 1 << 20
_INPUT_BYTES: Final = 1 << 18

_GZIP_MAGIC = b"\x1f\x8b"
_XZ_MAGIC = b"\xfd7zXZ\0"
_BZIP2_MAGIC = b"BZh"
_BZIP2_BLOCK = (b"1AY&SY", b"\x17rE8P\x90")
"""After "BZh" and a digit: the magic of the first block, or of the end of an empty stream."""
_REFUSED: Final = {
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "a zip archive",
    b"PK\x05\x06": "a zip archive",
    b"\x1f\x9d": "compress",
}
_MAGIC_BYTES = 10


class Input:
    """Compressed bytes, counted, with what was read too much put back."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._kept = b""
        self.count = 0

    def some(self) -> bytes:
        """Return the next bytes, none at the end."""
        if self._kept:
            kept, self._kept = self._kept, b""
            return kept
        piece = self._read(_INPUT_BYTES)
        self.count += len(piece)
        return piece

    def put_back(self, unused: bytes) -> None:
        """Give back bytes that the next read shall return first."""
        self._kept = unused + self._kept if self._kept else unused

    def at_least(self, count: int) -> bytes:
        """Return ``count`` bytes or more, fewer only at the end."""
        piece = self.some()
        while len(piece) < count:
            more = self.some()
            if not more:
                break
            piece += more
        return piece


class _Decoder(Protocol):
    """What the decompressors of gzip, bz2 and lzma have in common."""

    @property
    def eof(self) -> bool:
        """Whether the stream's end was reached."""

    @property
    def unused_data(self) -> bytes:
        """What came after the stream's end."""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """Return at most ``max_length`` bytes more."""


def compression_of(start: bytes) -> str:
    """Return the name of the compression that data beginning so has.

    Raises:
        FormatError: A compression we refuse to read.
    """
    if start.startswith(_GZIP_MAGIC):
        return "gzip"
    if start.startswith((ZSTD_MAGIC, *SKIPPABLE_MAGICS)):
        return "zstd"
    if start.startswith(_XZ_MAGIC):
        return "xz"
    # The magic alone could begin the name of a tar's first member.
    if start.startswith(_BZIP2_MAGIC) and start[4:10] in _BZIP2_BLOCK:
        return "bzip2"
    for magic, name in _REFUSED.items():
        if start.startswith(magic):
            raise FormatError(f"{name} is not supported, expected tar, gzip, zstd, xz or bzip2")
    return "none"


def decompressed(read: Callable[[int], bytes], limits: Limits) -> Iterator[bytes]:
    """Yield the plain bytes of a stream in spans of at most about 1 MiB.

    Args:
        read: Returns 1 to n bytes, or none at the end.
        limits: ``expanded_bytes``, ``ratio`` and those of the formats apply.

    Raises:
        FormatError: Damaged, truncated, or followed by garbage.
        LimitExceededError: Names the limit.
    """
    source = Input(read)
    start = source.at_least(_MAGIC_BYTES)
    compression = compression_of(start)
    source.put_back(start)
    match compression:
        case "gzip":
            spans = _gzip(source, limits)
        case "zstd":
            spans = zstd_spans(source, limits)
        case "xz":
            spans = _streams(source, lambda: _xz_decoder(limits), _XZ_MAGIC, "xz")
        case "bzip2":
            spans = _streams(source, bz2.BZ2Decompressor, _BZIP2_MAGIC, "bzip2")
        case _:
            spans = iter(source.some, b"")
    return _counted(spans, source, limits, ratio=compression != "none")


def _counted(
    spans: Iterator[bytes], source: Input, limits: Limits, *, ratio: bool
) -> Iterator[bytes]:
    total = 0
    for span in spans:
        total += len(span)
        if total > limits.expanded_bytes:
            raise exceeded("expanded_bytes", total, limits.expanded_bytes, "bytes of archive")
        if ratio and total > limits.ratio_after_bytes and total > limits.ratio * source.count:
            raise exceeded(
                "ratio", total // max(source.count, 1), limits.ratio, "compression ratio"
            )
        yield span


# -- xz and bzip2 ------------------------------------------------------------------


def _xz_decoder(limits: Limits) -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=limits.window_bytes)


def _streams(
    source: Input, make: Callable[[], _Decoder], magic: bytes, what: str
) -> Iterator[bytes]:
    """Yield the spans of concatenated streams; zeros may follow the last one."""
    while True:
        start = source.at_least(len(magic))
        if not start or _only_zeros(start, source, what, magic):
            return
        decoder = make()
        yield from _one_stream(decoder, start, source, what)
        source.put_back(decoder.unused_data)


def _only_zeros(start: bytes, source: Input, what: str, magic: bytes) -> bool:
    """Tell whether only zeros are left, reading them; False at another stream's start."""
    if start.startswith(magic):
        return False
    while start:
        if start.strip(b"\0"):
            raise FormatError(f"garbage after the {what} stream, at byte {source.count}")
        start = source.some()
    return True


def _one_stream(decoder: _Decoder, data: bytes, source: Input, what: str) -> Iterator[bytes]:
    try:
        while True:
            span = decoder.decompress(data, SPAN_BYTES)
            if span:
                yield span
            if decoder.eof:
                return
            data = b""
            if len(span) < SPAN_BYTES:
                data = source.some()
                if not data:
                    raise FormatError(f"the {what} stream is truncated")
    except (lzma.LZMAError, OSError, ValueError) as err:
        if "limit" in str(err).lower():
            raise LimitExceededError(f"{what} stream needs more memory: {err}") from err
        raise FormatError(f"damaged {what} stream: {err}") from err


# -- gzip --------------------------------------------------------------------------


def _gzip(source: Input, limits: Limits) -> Iterator[bytes]:
    """Yield the spans of gzip members; zeros may follow the last one."""
    while True:
        start = source.at_least(FIXED_BYTES)
        if not start or _only_zeros(start, source, "gzip", _GZIP_MAGIC):
            return
        source.put_back(start)
        _gzip_header(source, limits)
        yield from _gzip_member(source)


def _gzip_header(source: Input, limits: Limits) -> None:
    """Skip one member's header."""
    limit = limits.gzip_header_bytes
    data = source.at_least(FIXED_BYTES)
    while True:
        end = header_end(data)
        if end is not None and end <= len(data):
            break
        if len(data) > limit:
            raise exceeded("gzip_header_bytes", len(data), limit, "bytes of gzip header")
        more = source.some()
        if not more:
            raise FormatError("the gzip stream is truncated")
        data += more
    if end > limit:
        raise exceeded("gzip_header_bytes", end, limit, "bytes of gzip header")
    source.put_back(data[end:])


def _isal_error() -> type[Exception]:
    from isal import igzip_lib

    # Its type stub declares the class as an instance.
    error: type[Exception] = igzip_lib.IsalError  # type: ignore[assignment]
    return error


def _gzip_member(source: Input) -> Iterator[bytes]:
    from isal import isal_zlib

    decoder = isal_zlib.decompressobj(wbits=-15)
    checksum = size = 0
    data = source.some()
    while True:
        try:
            span = decoder.decompress(data, SPAN_BYTES)
        except (_isal_error(), ValueError) as err:
            raise FormatError(f"damaged gzip stream: {err}") from err
        if span:
            checksum = isal_zlib.crc32(span, checksum)
            size += len(span)
            yield span
        if decoder.eof:
            break
        data = decoder.unconsumed_tail
        if not data and len(span) < SPAN_BYTES:
            data = source.some()
            if not data:
                raise FormatError("the gzip stream is truncated")
    source.put_back(decoder.unused_data)
    trailer = source.at_least(TRAILER_BYTES)
    if len(trailer) < TRAILER_BYTES:
        raise FormatError("the gzip stream is truncated")
    if int.from_bytes(trailer[:4], "little") != checksum:
        raise FormatError("the gzip stream's checksum is wrong")
    if int.from_bytes(trailer[4:8], "little") != size & 0xFFFF_FFFF:
        raise FormatError("the gzip stream's size is wrong")
    source.put_back(trailer[TRAILER_BYTES:])
