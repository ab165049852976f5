"""Decompression of untrusted zstd streams, frame by frame and block by block.

The frame structure is walked here, so that no frame decides how much memory or output
one call of the library costs: headers are checked before anything is decompressed, and
blocks, each at most 128 KiB of output, are fed in small groups.

Source: RFC 8878, sections 3.1.1 and 3.1.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import zstandard

from layerstore.errors import FormatError
from layerstore.formats.tar_limits import Limits, exceeded

if TYPE_CHECKING:
    from collections.abc import Iterator

ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
SKIPPABLE_MAGICS: Final = tuple(bytes((low, 0x2A, 0x4D, 0x18)) for low in range(0x50, 0x60))

_SIZE_UNKNOWN = (1 << 64) - 1
_BLOCKS_PER_CALL = 8
_RLE, _RESERVED = 1, 3
_CHECKSUM_FLAG = 4
_SIZE_BYTES = {0: 0, 1: 2, 2: 4, 3: 8}
_SINGLE_SEGMENT = 0x20
_DICTIONARY_BYTES = (0, 1, 2, 4)


class ByteSource(Protocol):
    """Where compressed bytes come from."""

    def some(self) -> bytes:
        """Return the next bytes, none at the end."""


class _Frames:
    """Takes exact numbers of bytes from a source."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._data = b""
        self._at = 0

    def peek(self, count: int) -> bytes:
        """Return up to ``count`` bytes without taking them, fewer only at the end."""
        while len(self._data) - self._at < count:
            more = self._source.some()
            if not more:
                break
            self._data = self._data[self._at :] + more
            self._at = 0
        return self._data[self._at : self._at + count]

    def take(self, count: int) -> bytes:
        """Return exactly ``count`` bytes."""
        taken = self.peek(count)
        if len(taken) < count:
            raise FormatError("the zstd stream is truncated")
        self._at += count
        return taken

    def skip(self, count: int) -> None:
        """Take ``count`` bytes and forget them."""
        while count:
            piece = self.take(min(count, 1 << 18))
            count -= len(piece)


def refuse_lack_of_memory(err: zstandard.ZstdError) -> None:
    """Raise MemoryError where memory is all that zstd lacks: the bytes may be sound."""
    if "not enough memory" in str(err):
        raise MemoryError(str(err)) from err


def zstd_spans(source: ByteSource, limits: Limits) -> Iterator[bytes]:
    """Yield the plain bytes of all frames, skippable ones left out; zeros may follow.

    Raises:
        FormatError: Damaged, truncated, in need of a dictionary, or followed by garbage.
        LimitExceededError: A window, a size, or skippable frames beyond the limits.
    """
    frames = _Frames(source)
    skippable = 0
    while magic := frames.peek(4):
        if magic in SKIPPABLE_MAGICS:
            length = int.from_bytes(frames.take(8)[4:], "little")
            skippable += length + 8
            if skippable > limits.skippable_bytes:
                raise exceeded(
                    "skippable_bytes", skippable, limits.skippable_bytes, "skippable zstd frames"
                )
            frames.skip(length)
        elif magic == ZSTD_MAGIC:
            yield from _frame(frames, limits)
        else:
            _expect_zeros(frames)
            return


def _expect_zeros(frames: _Frames) -> None:
    while rest := frames.peek(1 << 16):
        if rest.strip(b"\0"):
            raise FormatError("garbage after the zstd stream")
        frames.take(len(rest))


def _header_bytes(descriptor: int) -> int:
    """Return the length of a frame header with the magic, from its descriptor byte."""
    single = bool(descriptor & _SINGLE_SEGMENT)
    size_flag = descriptor >> 6
    size_bytes = 1 if single and size_flag == 0 else _SIZE_BYTES[size_flag]
    return 5 + (0 if single else 1) + _DICTIONARY_BYTES[descriptor & 3] + size_bytes


def _frame(frames: _Frames, limits: Limits) -> Iterator[bytes]:
    descriptor = frames.peek(5)[4:]
    if not descriptor:
        raise FormatError("the zstd stream is truncated")
    header = frames.take(_header_bytes(descriptor[0]))
    try:
        parameters = zstandard.get_frame_parameters(header)
    except zstandard.ZstdError as err:
        raise FormatError(f"damaged zstd frame: {err}") from err
    if parameters.dict_id:
        raise FormatError(f"zstd frame needs dictionary {parameters.dict_id}")
    if parameters.window_size > limits.window_bytes:
        raise exceeded("window_bytes", parameters.window_size, limits.window_bytes, "zstd window")
    size = parameters.content_size
    known = size != _SIZE_UNKNOWN
    if known and size > limits.expanded_bytes:
        raise exceeded("expanded_bytes", size, limits.expanded_bytes, "size of a zstd frame")
    total = 0
    for span in _frame_content(frames, header, limits):
        total += len(span)
        if known and total > size:
            break
        yield span
    if known and total != size:
        raise FormatError(f"zstd frame promised {size} bytes, it holds others")


def _frame_content(frames: _Frames, header: bytes, limits: Limits) -> Iterator[bytes]:
    decoder = zstandard.ZstdDecompressor(max_window_size=limits.window_bytes).decompressobj()
    pending = [header]
    last: bool = False
    try:
        while not last:
            last = _take_blocks(frames, pending)
            if last and header[4] & _CHECKSUM_FLAG:
                pending.append(frames.take(4))
            span = decoder.decompress(b"".join(pending))
            pending.clear()
            if span:
                yield span
    except zstandard.ZstdError as err:
        refuse_lack_of_memory(err)
        raise FormatError(f"damaged zstd frame: {err}") from err
    if not decoder.eof:
        raise FormatError("damaged zstd frame: it does not end where its blocks do")


def _take_blocks(frames: _Frames, pending: list[bytes]) -> bool:
    """Take a few blocks; return whether the frame's last was among them."""
    return any(_take_block(frames, pending) for _ in range(_BLOCKS_PER_CALL))


def _take_block(frames: _Frames, pending: list[bytes]) -> bool:
    """Take one block, appending its bytes; return whether it is the frame's last."""
    block_header = frames.take(3)
    value = int.from_bytes(block_header, "little")
    kind, size = (value >> 1) & 3, value >> 3
    if kind == _RESERVED:
        raise FormatError("damaged zstd frame: a block of the reserved type")
    if size > 1 << 17:
        raise FormatError(f"damaged zstd frame: a block of {size} bytes")
    pending.append(block_header)
    pending.append(frames.take(1 if kind == _RLE else size))
    return bool(value & 1)
