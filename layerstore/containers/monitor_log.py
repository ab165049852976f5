"""The log that a monitor writes; like that, of modules written in C only."""

from __future__ import annotations

import posix
import time

_RECORDS_AT_ONCE = 256
"""Short lines are a tenth of their records: between so many a file may be turned over."""


class Log:
    """The container's output, in the format of Kubernetes' container runtime interface.

    A line is ``TIME STREAM F TEXT``, or P instead of F while the line goes on. Files are
    turned over when they are full: ``log``, ``log.1``, and so on, as many as are wanted.
    """

    def __init__(self, path: str, max_bytes: int, files: int) -> None:
        self._path = path
        self._max = max_bytes
        self._files = files
        self._fd = -1
        self._size = 0
        self._is_open = False

    def write(self, stream: bytes, data: bytes) -> None:
        """Append output of a stream; a disk that is full loses it, not the container."""
        if not self._is_open:
            self._is_open = True
            self._open()
        if self._fd < 0:
            return
        now = time.time_ns()
        stamp = b"%s.%09dZ %s " % (
            time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9)).encode(),
            now % 10**9,
            stream,
        )
        lines = data.split(b"\n")
        rest = lines.pop()
        records = [b"%sF %s\n" % (stamp, line) for line in lines]
        if rest:
            records.append(b"%sP %s\n" % (stamp, rest))
        for first in range(0, len(records), _RECORDS_AT_ONCE):
            self._append(b"".join(records[first : first + _RECORDS_AT_ONCE]))

    def _append(self, text: bytes) -> None:
        try:
            while text:
                text = text[posix.write(self._fd, text) :]
            self._size = posix.lseek(self._fd, 0, 1)
        except OSError:
            return
        if self._max and self._size > self._max:
            self._turn()

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            posix.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND | posix.O_CLOEXEC
        if not self._path:
            return
        try:
            self._fd = posix.open(self._path, flags | posix.O_NOFOLLOW, 0o600)
            self._size = posix.lseek(self._fd, 0, 2)
        except OSError:
            self._fd = -1

    def _turn(self) -> None:
        self.close()
        try:
            for number in range(self._files - 1, 0, -1):
                older = f"{self._path}.{number}"
                newer = f"{self._path}.{number - 1}" if number > 1 else self._path
                try:
                    posix.rename(newer, older)
                except FileNotFoundError:
                    pass
            if self._files == 1:
                posix.unlink(self._path)
        except OSError:
            pass
        self._open()
