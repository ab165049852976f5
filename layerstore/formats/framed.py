"""Documents of ours as one zstd frame, to and from their plain bytes, within a limit."""

from __future__ import annotations

from typing import Final

import zstandard

from layerstore.errors import FormatError, LimitExceededError
from layerstore.formats.decompress_zstd import refuse_lack_of_memory

_LEVEL: Final = 19


def encode_framed(plain: bytes, most: int, what: str, *, level: int = _LEVEL) -> bytes:
    """Return the frame of a document.

    Args:
        plain: The document.
        most: Bytes of it that readers take.
        what: It is, for the error.
        level: Of zstd.

    Raises:
        LimitExceededError: The document is larger than ``most``, which readers take.
    """
    if len(plain) > most:
        raise LimitExceededError(
            f"{what} has {len(plain)} bytes, over the limit of {most}",
            hint="send fewer images at once",
        )
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, write_content_size=True, write_checksum=True, write_dict_id=False
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(plain)


def claimed_bytes(frame: bytes, what: str) -> int:
    """Return how many plain bytes a frame says it has, which need not be true.

    Raises:
        FormatError: It is no frame.
    """
    try:
        return int(zstandard.get_frame_parameters(frame).content_size)
    except zstandard.ZstdError as err:
        raise FormatError(f"{what} is damaged: {err}") from err


def decode_framed(frame: bytes, most: int, what: str) -> bytes:
    """Return a document, whose claimed size is checked before it is allocated.

    Raises:
        FormatError: Not one whole frame.
        LimitExceededError: It claims more than ``most`` bytes, or nothing.
    """
    try:
        header = zstandard.get_frame_parameters(frame)
        if not 0 < header.content_size <= most or header.dict_id:
            raise LimitExceededError(
                f"{what} claims {header.content_size} bytes, the limit is {most}"
            )
        decompressor = zstandard.ZstdDecompressor(max_window_size=most)
        plain = decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as err:
        refuse_lack_of_memory(err)
        raise FormatError(f"{what} is damaged: {err}") from err
    if len(plain) != header.content_size:
        raise FormatError(f"{what} has another size than it claims")
    return plain
