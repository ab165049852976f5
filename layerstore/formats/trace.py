"""Traces of lazy views: which chunks were read, in order, so that they can be fetched ahead.

A text file: ``layerstore trace 1`` on the first line, then a chunk id in hexadecimal on each.
A trace is advice. It may be cut anywhere: a last line without its end is passed over, as a
killed writer leaves it. Ids that an image does not have are nobody's harm.
"""

from __future__ import annotations

from typing import Final

from layerstore.digest import ID_BYTES, ChunkId
from layerstore.errors import FormatError

HEADER: Final = b"layerstore trace 1\n"

TRACE_MAX_BYTES: Final = 256 * 1024 * 1024
"""Traces are read up to this size: four million reads."""


def encode_read(chunk_id: ChunkId) -> bytes:
    """Return the line of one chunk."""
    return b"%b\n" % chunk_id.hex().encode()


def decode_trace(data: bytes) -> list[ChunkId]:
    """Return the chunks of a trace in order, each once.

    Raises:
        FormatError: It is no trace; the message names the line.
    """
    if not data.startswith(HEADER):
        raise FormatError("it does not begin with the line 'layerstore trace 1'")
    lines = data[len(HEADER) :].split(b"\n")
    found: dict[ChunkId, None] = {}
    for number, line in enumerate(lines[:-1], 2):  # what follows the last end of line is torn
        try:
            chunk_id = bytes.fromhex(line.decode("ascii"))
        except ValueError as err:
            raise FormatError(f"line {number} is no chunk id: {line[:80]!r}") from err
        if len(chunk_id) != ID_BYTES:
            raise FormatError(f"line {number} is no chunk id: {line[:80]!r}")
        found[ChunkId(chunk_id)] = None
    return list(found)
