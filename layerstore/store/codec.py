"""Blocks to frames and back: zstd, one frame a block, with checksum and content size.

Frames obey what a kernel EROFS could map later: at most 1 MiB of plain bytes,
window at most 1 MiB, no dictionary. Thread-safe: contexts are per thread.
Normative: docs/format/pack.md, "Frames".
"""

from __future__ import annotations

import threading

import zstandard

from layerstore.errors import FormatError
from layerstore.formats.pack import BLOCK_MAX_BYTES

COMPRESSION_LEVEL = 3
"""Ingest speed is the goal; a later pass may recompress harder without a format break."""

WINDOW_LOG = 20
WINDOW_MAX_BYTES = 1 << WINDOW_LOG

_contexts = threading.local()


def _compressor() -> zstandard.ZstdCompressor:
    found: zstandard.ZstdCompressor | None = getattr(_contexts, "compressor", None)
    if found is None:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            COMPRESSION_LEVEL,
            window_log=WINDOW_LOG,
            write_checksum=True,
            write_content_size=True,
            write_dict_id=False,
        )
        found = zstandard.ZstdCompressor(compression_params=parameters)
        _contexts.compressor = found
    return found


def _decompressor() -> zstandard.ZstdDecompressor:
    found: zstandard.ZstdDecompressor | None = getattr(_contexts, "decompressor", None)
    if found is None:
        found = zstandard.ZstdDecompressor(max_window_size=WINDOW_MAX_BYTES)
        _contexts.decompressor = found
    return found


def compress_block(raw: bytes | memoryview, *, verify: bool = True) -> bytes:
    """Return the frame of a block, with ``verify`` after decoding it again and comparing.

    Encoders have had bugs that produce frames nobody can read. Who may skip this,
    and how often: docs/decisions/0003.

    Raises:
        FormatError: The frame does not decode to ``raw``.
    """
    frame = _compressor().compress(raw)
    # Python compares bytes with a view item by item: 500 times slower than bytes with bytes.
    if verify and decompress_block(frame, len(raw)) != bytes(raw):
        raise FormatError("the zstd encoder produced a frame that decodes to other bytes")
    return frame


def decompress_block(frame: bytes, raw_length: int) -> bytes:
    """Return the plain bytes of exactly one frame.

    The frame's header is checked before a byte is allocated: a flipped header may
    claim any size, and a claimed size of 0 would decode to nothing without an error.

    Raises:
        FormatError: Not one whole frame of ``raw_length`` bytes, or its checksum is wrong.
    """
    if raw_length > BLOCK_MAX_BYTES:
        raise FormatError(f"block claims {raw_length} bytes, more than {BLOCK_MAX_BYTES}")
    try:
        header = zstandard.get_frame_parameters(frame)
        if (
            header.content_size != raw_length
            or header.window_size > WINDOW_MAX_BYTES
            or header.dict_id
            or not header.has_checksum
        ):
            raise FormatError("frame header does not fit its block")
        raw = _decompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as err:
        raise FormatError(f"frame is damaged: {err}") from err
    if len(raw) != raw_length:
        raise FormatError(f"frame decodes to {len(raw)} bytes, expected {raw_length}")
    return raw
