"""Blocks to frames and back: zstd, one frame a block, with checksum and content size.

A block that stands alone obeys what a kernel EROFS could map later: at most 1 MiB of
plain bytes, window at most 1 MiB, no dictionary. A difference is a frame against a
*prefix*, the plain bytes of its bases, as a raw-content dictionary (what
``zstd --patch-from`` does). Thread-safe: contexts are per thread. Normative:
docs/format/pack.md, "Frames".
"""

from __future__ import annotations

import threading

import zstandard

from layerstore.errors import FormatError
from layerstore.formats.decompress_zstd import refuse_lack_of_memory
from layerstore.formats.pack import BLOCK_MAX_BYTES, PREFIX_MAX_BYTES

COMPRESSION_LEVEL = 3
"""Ingest speed is the goal; ``optimize`` recompresses harder without a format break."""

COMPRESSION_TABLES = {"hash_log": 16, "chain_log": 15}
"""Half of what zstd takes at this level: less CPU for 0.7 % more bytes (docs/decisions/0098)."""

WINDOW_LOG = 20
WINDOW_MAX_BYTES = 1 << WINDOW_LOG
DIFFERENCE_LEVEL = 5
"""At ingest: for the large tables that a prefix needs it is faster than 3, and smaller."""

DELTA_WINDOW_LOG = 23
"""A window over prefix and block: without it zstd sees only the end of the prefix."""

# zstd keeps 8 << min(hash log, chain log) bytes of a dictionary: its tables for level 3
# would forget all but the last 512 KiB of a prefix (measured: docs/decisions/0110).
_TABLE_LOG_MIN = 17
_TABLE_LOG_MAX = 21
_LEVEL_WITH_OWN_TABLES = 10
"""From here on zstd's own tables are large enough for any prefix."""

_contexts = threading.local()


def _compressor(level: int) -> zstandard.ZstdCompressor:
    by_level: dict[int, zstandard.ZstdCompressor] | None
    by_level = getattr(_contexts, "compressors", None)
    if by_level is None:
        by_level = _contexts.compressors = {}
    if level not in by_level:
        tables = COMPRESSION_TABLES if level == COMPRESSION_LEVEL else {}
        parameters = _parameters(level, **tables)
        by_level[level] = zstandard.ZstdCompressor(compression_params=parameters)
    return by_level[level]


def _parameters(
    level: int, window_log: int = WINDOW_LOG, **tables: int
) -> zstandard.ZstdCompressionParameters:
    return zstandard.ZstdCompressionParameters.from_level(
        level,
        window_log=window_log,
        write_checksum=True,
        write_content_size=True,
        write_dict_id=False,
        **tables,
    )


def _decompressor() -> zstandard.ZstdDecompressor:
    found: zstandard.ZstdDecompressor | None = getattr(_contexts, "decompressor", None)
    if found is None:
        found = zstandard.ZstdDecompressor(max_window_size=WINDOW_MAX_BYTES)
        _contexts.decompressor = found
    return found


def _dictionary(prefix: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(prefix, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def compress_block(
    raw: bytes | memoryview, *, verify: bool = True, level: int = COMPRESSION_LEVEL
) -> bytes:
    """Return the frame of a block, with ``verify`` after decoding it again and comparing.

    Encoders have had bugs that produce frames nobody can read. Who may skip this,
    and how often: docs/decisions/0003.

    Raises:
        FormatError: The frame does not decode to ``raw``.
    """
    frame = _compress(_compressor(level), raw)
    if verify:
        _compare(raw, decompress_block(frame, len(raw)))
    return frame


def compress_difference(
    raw: bytes | memoryview, prefix: bytes, *, level: int = DIFFERENCE_LEVEL
) -> bytes:
    """Return the frame of a block as a difference against ``prefix``; always verified.

    Raises:
        FormatError: The frame does not decode to ``raw``.
    """
    if not 0 < len(prefix) <= PREFIX_MAX_BYTES:
        raise AssertionError(f"a prefix has 1 to {PREFIX_MAX_BYTES} bytes, not {len(prefix)}")
    tables: dict[str, int] = {}
    if level < _LEVEL_WITH_OWN_TABLES:
        log = min(max(len(prefix).bit_length() - 1, _TABLE_LOG_MIN), _TABLE_LOG_MAX)
        tables = {"hash_log": log, "chain_log": log}
    compressor = zstandard.ZstdCompressor(
        compression_params=_parameters(level, DELTA_WINDOW_LOG, **tables),
        dict_data=_dictionary(prefix),
    )
    frame = _compress(compressor, raw)
    _compare(raw, decompress_block(frame, len(raw), prefix))
    return frame


def _compress(compressor: zstandard.ZstdCompressor, raw: bytes | memoryview) -> bytes:
    try:
        return compressor.compress(raw)
    except zstandard.ZstdError as err:
        refuse_lack_of_memory(err)
        raise


def _compare(raw: bytes | memoryview, decoded: bytes) -> None:
    # Python compares bytes with a view item by item: 500 times slower than this.
    if len(decoded) != len(raw) or not decoded.startswith(raw):
        raise FormatError("the zstd encoder produced a frame that decodes to other bytes")


def decompress_block(frame: bytes, raw_length: int, prefix: bytes = b"") -> bytes:
    """Return the plain bytes of exactly one frame, a difference against ``prefix`` if given.

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
        raw = _decompressor_for(prefix).decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as err:
        refuse_lack_of_memory(err)
        raise FormatError(f"frame is damaged: {err}") from err
    if len(raw) != raw_length:
        raise FormatError(f"frame decodes to {len(raw)} bytes, expected {raw_length}")
    return raw


def _decompressor_for(prefix: bytes) -> zstandard.ZstdDecompressor:
    if not prefix:
        return _decompressor()
    return zstandard.ZstdDecompressor(
        dict_data=_dictionary(prefix), max_window_size=1 << DELTA_WINDOW_LOG
    )
