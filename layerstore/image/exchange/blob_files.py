"""Blobs of a layout on their way to disk, and how layers are compressed into them.

A blob is hashed while it is written, forced to disk, and gets its digest as its name
last; one that is not finished leaves nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import TYPE_CHECKING, Literal, Protocol

from layerstore.digest import Digest
from layerstore.linux.files import write_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO, Self

Compression = Literal["gzip", "zstd", "none"]

# isal's levels end at 3: 291 MB/s a core where zlib's 6 makes 23 and saves a tenth more.
_GZIP_LEVEL = 3
_ZSTD_LEVEL = 3
ISAL_BLOCK_BYTES = 1 << 20
"""isal's output depends on how its input is cut: it is given pieces of this size, always."""


class BlobFile:
    """A blob being written; it gets the name of its digest when it is published."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._temporary: str | None = f"{directory}/.{os.getpid()}.part"
        # Not a file of the store: the umask of the person who saves decides who may read it.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self._temporary, flags, 0o666)
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, part: bytes) -> None:
        """Append ``part``."""
        self._hash.update(part)
        self.size += len(part)
        write_all(self._fd, part)

    @property
    def digest(self) -> Digest:
        """Of what was written so far."""
        return Digest(f"sha256:{self._hash.hexdigest()}")

    def publish(self) -> Digest:
        """Force the blob to disk, name it by its digest, and return that."""
        assert self._temporary is not None
        os.fsync(self._fd)
        fd, self._fd = self._fd, -1
        os.close(fd)
        os.rename(self._temporary, f"{self._directory}/{self._hash.hexdigest()}")
        self._temporary = None
        return self.digest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        if self._temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)


class Compressor(Protocol):
    """What compresses a stream piece by piece."""

    def compress(self, data: bytes, /) -> bytes:
        """Return what is ready of the compressed stream."""

    def flush(self) -> bytes:
        """Return the rest."""


class _Plain:
    """No compression, in the shape of one."""

    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


class _InBlocks:
    """Gives a compressor pieces of one size, so that equal content has equal output."""

    def __init__(self, compressor: Compressor) -> None:
        self._compressor = compressor
        self._waiting = bytearray()

    def compress(self, data: bytes, /) -> bytes:
        self._waiting += data
        made = []
        while len(self._waiting) >= ISAL_BLOCK_BYTES:
            made.append(self._compressor.compress(bytes(self._waiting[:ISAL_BLOCK_BYTES])))
            del self._waiting[:ISAL_BLOCK_BYTES]
        return b"".join(made)

    def flush(self) -> bytes:
        last = self._compressor.compress(bytes(self._waiting)) if self._waiting else b""
        return last + self._compressor.flush()


def isal_compressor(level: int, window_bits: int) -> Compressor:
    """Return a deflate stream of isal: raw for a window of -15, a gzip member for 31."""
    from isal import isal_zlib

    return _InBlocks(isal_zlib.compressobj(level, isal_zlib.DEFLATED, window_bits))


def compressed(pieces: Iterable[bytes], compression: Compression) -> Iterator[bytes]:
    """Yield a stream compressed; equal streams give equal bytes, however they are cut."""
    compressor = compressor_of(compression)
    for piece in pieces:
        if made := compressor.compress(piece):
            yield made
    if rest := compressor.flush():
        yield rest


class CompressedStream:
    """What plain bytes are written to that shall be compressed in a file."""

    def __init__(self, out: BinaryIO, compression: Compression) -> None:
        self._out = out
        self._compressor = compressor_of(compression)

    def write(self, part: bytes) -> int:
        """Compress ``part`` into the file."""
        if made := self._compressor.compress(part):
            self._out.write(made)
        return len(part)

    def writelines(self, parts: Iterable[bytes]) -> None:
        """Compress parts one after the other."""
        for part in parts:
            self.write(part)

    def finish(self) -> None:
        """End the compressed stream; the file is the caller's."""
        self._out.write(self._compressor.flush())


def compressor_of(compression: Compression) -> Compressor:
    """Return a new stream of this compression; equal input gives equal bytes."""
    match compression:
        case "none":
            return _Plain()
        case "zstd":
            import zstandard

            # Its default writes no checksum, without which most bit flips pass unseen.
            return zstandard.ZstdCompressor(_ZSTD_LEVEL, write_checksum=True).compressobj()
        case "gzip":
            # isal writes no time and no name, so equal layers stay equal.
            return isal_compressor(_GZIP_LEVEL, 31)
