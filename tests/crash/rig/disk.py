"""A disk in one file of a FUSE file system that logs every write and flush it is given.

A loop device over ``disk`` turns a flush of the block layer into FSYNC here and every
request into WRITE, so the log is the order in which a real disk would have seen them.
Run as ``python -m tests.crash.rig.disk MOUNTPOINT SIZE DATA LOG``; it serves until it is
unmounted. It never touches its own mount: a process that waits for itself ends in an
uninterruptible sleep, which only ``abort`` of the connection in fusectl ends.

Writing ``write N`` or ``flush N`` to the file ``fail`` makes the N-th such request from
then on fail with EIO, once; ``writes N`` and ``flushes N`` make all from the N-th on fail, and
``none 0`` mends the disk. What failed is in the log, not on the disk.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
from typing import Any

RECORD = struct.Struct("<BQI")
"""Of the log: kind, offset, length; a write's bytes follow."""

WRITE, FLUSH, FAILED = 1, 2, 3


def serve(mountpoint: str, size: int, data: str, log: str) -> None:
    """Serve the disk until it is unmounted."""
    os.environ.setdefault("FUSE_LIBRARY_PATH", "libfuse.so.2")
    import fuse

    class Disk(fuse.Operations):  # type: ignore[misc]
        def __init__(self) -> None:
            self.data = os.open(data, os.O_RDWR | os.O_CREAT, 0o600)
            os.ftruncate(self.data, size)
            self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            self.failing = ""
            self.left = 0

        def getattr(self, path: str, fh: Any = None) -> dict[str, int]:
            if path == "/":
                return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2}
            if path in {"/disk", "/fail"}:
                length = size if path == "/disk" else 0
                return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": length}
            raise fuse.FuseOSError(errno.ENOENT)

        def readdir(self, path: str, fh: Any) -> list[str]:
            return [".", "..", "disk", "fail"]

        def truncate(self, path: str, length: int, fh: Any = None) -> None:
            return None

        def read(self, path: str, length: int, offset: int, fh: Any) -> bytes:
            return os.pread(self.data, length, offset)

        def write(self, path: str, content: bytes, offset: int, fh: Any) -> int:
            if path == "/fail":
                words = content.decode().split()
                self.failing, self.left = words[0], int(words[1])
                return len(content)
            self._maybe_fail("write")
            os.write(self.log, RECORD.pack(WRITE, offset, len(content)) + content)
            os.pwrite(self.data, content, offset)
            return len(content)

        def fsync(self, path: str, datasync: int, fh: Any) -> int:
            self._maybe_fail("flush")
            os.write(self.log, RECORD.pack(FLUSH, 0, 0))
            return 0

        def _maybe_fail(self, kind: str) -> None:
            if not self.failing.startswith(kind):
                return
            self.left -= 1
            if self.left <= 0:
                if self.failing == kind:
                    self.failing = ""
                os.write(self.log, RECORD.pack(FAILED, 0, 0))
                raise fuse.FuseOSError(errno.EIO)

        def statfs(self, path: str) -> dict[str, int]:
            return {"f_bsize": 4096, "f_blocks": size // 4096}

    fuse.FUSE(
        Disk(), mountpoint, foreground=True, nothreads=True, big_writes=True, fsname="recorder"
    )


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])
