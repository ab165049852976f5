"""Files of somebody's tree, read while nobody promises that they hold still."""

from __future__ import annotations

import io
import os
import stat
from operator import attrgetter

from layerstore.errors import StorageError


class SourceChangedError(StorageError):
    """A file is not what it was when its directory was read."""

    def __init__(self, path: bytes, what: str) -> None:
        super().__init__(
            f"{os.fsdecode(path)!r} changed while it was read: {what}",
            hint="run it again when nothing changes the files",
        )


class SourceFile(io.FileIO):
    """A regular file that must stay what ``expected`` says it is.

    Whoever reads it calls :meth:`verify` after the last byte; only then is what was read
    known to be the file that was expected.

    Args:
        descriptor: Open for reading and non-blocking; closed with this object.
        path: For messages.
        expected: Its status when the tree was scanned.
    """

    def __init__(self, descriptor: int, path: bytes, expected: os.stat_result) -> None:
        super().__init__(descriptor, "rb", closefd=True)
        self._path = path
        self._expected = expected

    def verify(self) -> None:
        """Compare the open file with what was seen.

        Raises:
            SourceChangedError: They differ.
        """
        _verify(self.fileno(), self._path, self._expected)


def read_whole(descriptor: int, path: bytes, expected: os.stat_result) -> bytes:
    """Return the content of a regular file that must be what ``expected`` says it is.

    This is :class:`SourceFile` for small files: two system calls and no object.

    Raises:
        SourceChangedError: It is not.
    """
    size = expected.st_size
    content = os.read(descriptor, size)
    while len(content) < size:
        more = os.read(descriptor, size - len(content))
        if not more:
            break
        content += more
    _verify(descriptor, path, expected)
    if len(content) < size:
        raise SourceChangedError(path, "it shrank")
    return content


_IDENTITY = attrgetter("st_ctime_ns", "st_mtime_ns", "st_size", "st_ino", "st_dev", "st_mode")


def _verify(descriptor: int, path: bytes, then: os.stat_result) -> None:
    now = os.fstat(descriptor)
    if _IDENTITY(now) == _IDENTITY(then):
        return
    if (now.st_dev, now.st_ino) != (then.st_dev, then.st_ino) or not stat.S_ISREG(now.st_mode):
        raise SourceChangedError(path, "it is another file")
    if now.st_size != then.st_size:
        raise SourceChangedError(path, f"{then.st_size} bytes became {now.st_size}")
    # ctime cannot be set back, so even a write with a restored mtime is seen.
    if (now.st_mtime_ns, now.st_ctime_ns) != (then.st_mtime_ns, then.st_ctime_ns):
        raise SourceChangedError(path, "it was written to")
