"""Bytes that are written once and read back in order: few in memory, many in a file.

The file loses its name as soon as it exists, so nothing is left of it when its process dies.
It is scratch: never forced to disk. Raises plain :class:`OSError`. Not thread-safe.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Self

from layerstore.linux.files import open_private, read_at, write_all

if TYPE_CHECKING:
    from collections.abc import Callable

SPOOL_BYTES: Final = 4 << 20
"""Held in memory at most; what exceeds it is written to the file at once."""


class Spool:
    """See the module; use it in a ``with`` block.

    Args:
        path: Returns the name that the file has for a moment, if one is needed; nothing of
            this name may exist.
    """

    def __init__(self, path: Callable[[], str]) -> None:
        self._path = path
        self._buffer = bytearray()
        self._fd = -1
        self._in_file = 0

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._in_file + len(self._buffer)

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._buffer += data
        if len(self._buffer) >= SPOOL_BYTES:
            self._spill()

    def _spill(self) -> None:
        if self._fd < 0:
            path = self._path()
            self._fd = open_private(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            os.unlink(path)
        write_all(self._fd, self._buffer)
        self._in_file += len(self._buffer)
        self._buffer = bytearray()

    def reader(self, head: bytes = b"") -> Callable[[int], bytes]:
        """Return a function that returns the next 1 to n bytes, none at the end.

        What is written afterwards may or may not be seen; several readers do not disturb
        each other.

        Args:
            head: Read first, as if it had been written before everything else.
        """
        at = -len(head)

        def read(count: int) -> bytes:
            nonlocal at
            if at < 0:
                piece = head[at:][:count]
            elif at < self._in_file:
                piece = read_at(self._fd, min(count, self._in_file - at), at)
            else:
                start = at - self._in_file
                piece = bytes(memoryview(self._buffer)[start : start + count])
            at += len(piece)
            return piece

        return read

    def close(self) -> None:
        """Forget everything; harmless when repeated."""
        self._buffer = bytearray()
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
