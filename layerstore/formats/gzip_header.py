"""Where the header of a gzip member ends. Pure.

Source: RFC 1952, 2.3 "Member format".
"""

from __future__ import annotations

from typing import Final

from layerstore.errors import FormatError

FIXED_BYTES: Final = 10
TRAILER_BYTES: Final = 8
_FHCRC, _FEXTRA, _FNAME, _FCOMMENT = 2, 4, 8, 16
_DEFLATE = 8


def header_end(data: bytes) -> int | None:
    """Return where a member's header ends, or None when more bytes are needed to tell.

    Raises:
        FormatError: Unknown method or flags.
    """
    if len(data) < FIXED_BYTES:
        return None
    if data[2] != _DEFLATE or data[3] & 0xE0:
        raise FormatError("gzip member of unknown method or flags")
    flags, at = data[3], FIXED_BYTES
    if flags & _FEXTRA:
        if len(data) < at + 2:
            return None
        at += 2 + int.from_bytes(data[at : at + 2], "little")
    for flag in (_FNAME, _FCOMMENT):
        if flags & flag:
            at = data.find(b"\0", at) + 1
            if not at:
                return None
    return at + (2 if flags & _FHCRC else 0)
