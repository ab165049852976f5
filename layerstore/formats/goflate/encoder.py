"""Deflate exactly as Go's compress/flate makes it, in the manner of :func:`zlib.compressobj`.

Tools written in Go compress layers so: docker push, BuildKit, containerd, ko, crane. The output
is that of Go 1.19, levels 1 to 9, without flushes in between. Normative:
docs/format/goflate.md. Importing this module needs the extra ``layerstore[go]``.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from layerstore.errors import UnsafeContentError
from layerstore.formats.goflate import matching
from layerstore.formats.goflate.blocks import MADE, STORED_MAX_BYTES, write_stored_header

_PIECE_BYTES: Final = 1 << 18
_OUT_BYTES: Final = 3 * (_PIECE_BYTES + 2 * STORED_MAX_BYTES) + (1 << 12)
"""No token takes more than 15 bits for each of its bytes, and a block's header under 400 bytes."""


class Deflate:
    """One stream of deflate that is being made. Not for several threads at once."""

    def __init__(self, level: int) -> None:
        """Begin a stream at a level from 1 to 9."""
        self._out = np.empty(_OUT_BYTES, np.uint8)
        self._writer = np.zeros(3, np.int64)
        self._is_fast = level == 1
        if self._is_fast:
            self._state = matching.new_fast_state()
            self._window = np.zeros(2 * STORED_MAX_BYTES, np.uint8)
            self._heads = np.zeros(matching.TABLE_SIZE, np.int32)
            self._values = np.zeros(matching.TABLE_SIZE, np.int64)
            self._tokens = np.empty(STORED_MAX_BYTES, np.int64)
        else:
            self._state = matching.new_state()
            self._level = np.array(matching.LEVELS[level], np.int64)
            self._window = np.zeros(2 * matching.WINDOW_BYTES, np.uint8)
            self._heads = np.zeros(matching.HASH_SIZE, np.int32)
            self._before = np.zeros(matching.WINDOW_BYTES, np.int32)
            self._tokens = np.empty(matching.BLOCK_TOKENS, np.int64)

    def compress(self, piece: bytes) -> bytes:
        """Take more of the content; return what can be said of the stream.

        Raises:
            UnsafeContentError: The content was made to cost far more than content does.
        """
        made = [self._compress(part) for part in _parts(piece)]
        return made[0] if len(made) == 1 else b"".join(made)

    def flush(self) -> bytes:
        """Return the rest of the stream, which has ended.

        Raises:
            UnsafeContentError: As for ``compress``.
        """
        if self._is_fast:
            matching.encode_fast(
                self._state, self._window, self._heads, self._values, self._tokens,
                self._writer, self._out,
            )  # fmt: skip
        else:
            matching.deflate(
                True, self._state, self._level, self._window, self._heads, self._before,
                self._tokens, self._writer, self._out,
            )  # fmt: skip
        write_stored_header(0, 1, self._writer, self._out)
        return self._made()

    def _compress(self, part: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> bytes:
        if self._is_fast:
            matching.write_fast(
                part, self._state, self._window, self._heads, self._values, self._tokens,
                self._writer, self._out,
            )  # fmt: skip
        else:
            matching.write(
                part, self._state, self._level, self._window, self._heads, self._before,
                self._tokens, self._writer, self._out,
            )  # fmt: skip
        return self._made()

    def _made(self) -> bytes:
        if matching.is_too_much(self._state):
            raise UnsafeContentError(
                f"a layer's content takes over {matching.WORK_PER_BYTE} comparisons for each byte "
                "to compress"
            )
        made = self._out[: self._writer[MADE]].tobytes()
        self._writer[MADE] = 0
        return made


def _parts(piece: bytes) -> list[np.ndarray[tuple[int], np.dtype[np.uint8]]]:
    whole = np.frombuffer(piece, np.uint8)
    return [whole[at : at + _PIECE_BYTES] for at in range(0, len(whole), _PIECE_BYTES)]
