"""Files of somebody's tree, read while nobody promises that they hold still."""

from __future__ import annotations

import io
import os
import stat

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
        now, then = os.fstat(self.fileno()), self._expected
        if (now.st_dev, now.st_ino) != (then.st_dev, then.st_ino) or not stat.S_ISREG(now.st_mode):
            raise SourceChangedError(self._path, "it is another file")
        if now.st_size != then.st_size:
            raise SourceChangedError(self._path, f"{then.st_size} bytes became {now.st_size}")
        # ctime cannot be set back, so even a write with a restored mtime is seen.
        if (now.st_mtime_ns, now.st_ctime_ns) != (then.st_mtime_ns, then.st_ctime_ns):
            raise SourceChangedError(self._path, "it was written to")
