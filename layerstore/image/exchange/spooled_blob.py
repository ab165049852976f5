"""A blob on its way into a scratch file, that others read from its beginning while it comes.

So a layer that comes over a network is unpacked while it comes, others come beside it, and
what its compressed form is good for can be found out afterwards. The file loses its name at
once: nothing is left of it when its process dies.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from layerstore.errors import LayerstoreError
from layerstore.image.exchange.exchange import READ_BYTES, VerifiedBlob
from layerstore.linux.files import open_private, write_all
from layerstore.store.failures import storage_errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from layerstore.formats import oci
    from layerstore.image.exchange.exchange import BlobReader


class BlobStoppedError(LayerstoreError):
    """Nobody fills the file any more, and it is not whole."""


class SpooledBlob:
    """See the module.

    Args:
        path: The name that the file has for a moment; nothing of this name may exist.
    """

    def __init__(self, path: str) -> None:
        with storage_errors("write a scratch file"):
            self._fd = open_private(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            os.unlink(path)
        self._size = 0
        self._is_whole = False
        self._is_stopped = False
        self._error: BaseException | None = None
        self._grown = threading.Condition()

    def fill(self, open_blob: Callable[[], BlobReader], descriptor: oci.Descriptor) -> None:
        """Read a blob to its end; readers get what came so far, and the error if one comes."""
        try:
            with VerifiedBlob(open_blob(), descriptor) as blob:
                while not self._is_stopped and (piece := blob.read(READ_BYTES)):
                    with storage_errors("write a scratch file"):
                        write_all(self._fd, piece)
                    self._tell(len(piece))
                if self._is_stopped:
                    return
                blob.finish()
        except BaseException as err:
            self._fail(err)
            raise
        with self._grown:
            self._is_whole = True
            self._grown.notify_all()

    @property
    def is_whole(self) -> bool:
        """Whether all of it came, and is what its descriptor says."""
        return self._is_whole

    def stop(self) -> None:
        """Let who fills the file stop before its end, and who reads it not wait for that.

        What is whole can be read as before.
        """
        self._is_stopped = True
        self._fail(BlobStoppedError("the rest of a blob is not waited for"))

    def _tell(self, count: int) -> None:
        with self._grown:
            self._size += count
            self._grown.notify_all()

    def _fail(self, err: BaseException) -> None:
        with self._grown:
            self._error = self._error or err
            self._grown.notify_all()

    def open(self) -> SpoolReader:
        """Return the blob from its beginning; several readers do not disturb each other."""
        return SpoolReader(self)

    def read_at(self, size: int, offset: int) -> bytes:
        """Return 1 to ``size`` bytes, waiting for the first; none at the end.

        Raises:
            Exception: What filling the file raised.
            BlobStoppedError: It was stopped.
        """
        with self._grown:
            while offset >= self._size and not self._is_whole and self._error is None:
                self._grown.wait()
            if self._error is not None and not self._is_whole:
                raise self._error
            count = min(size, self._size - offset)
        with storage_errors("read a scratch file"):
            return os.pread(self._fd, count, offset) if count > 0 else b""

    def close(self) -> None:
        """Forget everything; harmless when repeated."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class SpoolReader:
    """Reads a spooled blob once."""

    def __init__(self, blob: SpooledBlob) -> None:
        self._blob = blob
        self._at = 0

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""
        piece = self._blob.read_at(size, self._at)
        self._at += len(piece)
        return piece

    def close(self) -> None:
        """Do nothing: the file is the blob's."""
