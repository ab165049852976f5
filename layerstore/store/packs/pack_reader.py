"""Reading packs: bytes leave only after length, checksum and hash agree.

A :class:`PackReader` serves many threads: descriptors are shared and read with
pread, decoded blocks are kept in a small cache. It knows positions, not the
catalog: finding a chunk is :mod:`layerstore.store.store`'s business.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from blake3 import blake3

from layerstore.digest import blake3_id
from layerstore.errors import FormatError
from layerstore.formats.pack import (
    HEADER,
    TRAILER,
    decode_footer,
    decode_header,
    decode_shapes,
    decode_trailer,
)
from layerstore.linux.files import ShortFileError, read_at
from layerstore.store.failures import PACK_DAMAGE, CorruptPackError, storage_error
from layerstore.store.packs.codec import decompress_block
from layerstore.store.records import layer_item_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from layerstore.digest import ChunkId, PackId
    from layerstore.formats.pack import Block, Shape, Trailer
    from layerstore.store.catalog.rows import ChunkPlace
    from layerstore.store.paths import StorePaths

CACHE_BYTES = 24 * 1024 * 1024
"""Decoded blocks kept: files that were grouped together are often read together."""

OPEN_FILES_MAX = 64

_NO_FILE = {errno.ELOOP: "a symlink", errno.ENXIO: "a socket"}
"""What open(2) says of things that are no files."""


class OpenPack:
    """A descriptor that closes when the last reader lets go of this object."""

    __slots__ = ("fd",)

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)

    def close(self) -> None:
        """Close it now; harmless when done before."""
        fd, self.fd = getattr(self, "fd", -1), -1
        if fd >= 0:
            # Nothing was written, and nobody can handle what a destructor raises.
            with contextlib.suppress(OSError):
                os.close(fd)

    def __del__(self) -> None:
        self.close()


def open_pack(paths: StorePaths, pack_id: PackId) -> OpenPack:
    """Open a pack that must be a regular file.

    Raises:
        OSError: It is not there, or a symlink.
        FormatError: It is something else than a file.
    """
    file = OpenPack(paths.pack(pack_id))
    if not stat.S_ISREG(os.fstat(file.fd).st_mode):
        raise FormatError("pack is not a file")
    return file


class PackReader:
    """Decoded, verified blocks and chunks of packs, from positions."""

    def __init__(self, paths: StorePaths) -> None:
        self._paths = paths
        self._mutex = threading.Lock()
        self._files: OrderedDict[PackId, OpenPack] = OrderedDict()
        self._blocks: OrderedDict[tuple[PackId, int], bytes] = OrderedDict()
        self._cached_bytes = 0

    def close(self) -> None:
        """Drop descriptors and cached blocks."""
        with self._mutex:
            self._files.clear()
            self._blocks.clear()
            self._cached_bytes = 0

    def chunk(
        self, chunk_id: ChunkId, place: ChunkPlace, prefix: Callable[[], bytes] | None = None
    ) -> bytes:
        """Return the bytes of a chunk, or of a layer item, after hashing them.

        Args:
            chunk_id: What the bytes must hash to.
            place: Where it lies.
            prefix: Gives the bytes of the block's bases, if it has any; see :meth:`block`.

        Raises:
            FileNotFoundError: The pack is not there: gc may have moved the chunk.
            CorruptPackError: The pack's bytes are not what was stored.
        """
        raw = self.block(
            place.pack_id, place.block_offset, place.stored_length, place.raw_length, prefix
        )
        data = raw[place.offset : place.offset + place.length]
        if blake3_id(data) != chunk_id and layer_item_id(data) != chunk_id:
            self.forget(place.pack_id)
            raise CorruptPackError(
                f"chunk {chunk_id.hex()[:16]} does not match its id",
                pack=place.pack_id.hex(),
                offset=place.block_offset,
            )
        return data

    def block(
        self,
        pack_id: PackId,
        offset: int,
        stored_length: int,
        raw_length: int,
        prefix: Callable[[], bytes] | None = None,
    ) -> bytes:
        """Return the plain bytes of one block, from the cache or decoded now.

        Args:
            pack_id: The pack.
            offset: Of the frame.
            stored_length: Of the frame.
            raw_length: Of the plain bytes.
            prefix: For a difference: asked for the joined bytes of its bases when they
                are needed.

        Raises:
            FileNotFoundError: The pack is not there.
            CorruptPackError: The pack's bytes are not what was stored.
            IntegrityError: So says ``prefix``.
        """
        key = (pack_id, offset)
        with self._mutex:
            cached = self._blocks.get(key)
            if cached is not None:
                self._blocks.move_to_end(key)
                return cached
        frame = self.frame(pack_id, offset, stored_length)
        try:
            raw = decompress_block(frame, raw_length, prefix() if prefix is not None else b"")
        except FormatError as err:
            raise CorruptPackError(str(err), pack=pack_id.hex(), offset=offset) from err
        with self._mutex:
            if key not in self._blocks:
                self._blocks[key] = raw
                self._cached_bytes += len(raw)
            while self._cached_bytes > CACHE_BYTES:
                self._cached_bytes -= len(self._blocks.popitem(last=False)[1])
        return raw

    def frame(self, pack_id: PackId, offset: int, stored_length: int) -> bytes:
        """Return the stored bytes of one block.

        Raises:
            FileNotFoundError: The pack is not there.
            CorruptPackError: It is too short, or the medium does not give them.
        """
        file = self._open(pack_id)
        with _reading(pack_id, offset):
            return read_at(file.fd, stored_length, offset)

    def forget(self, pack_id: PackId) -> None:
        """Drop what is cached of a pack: it is damaged, or was unlinked."""
        with self._mutex:
            self._files.pop(pack_id, None)
            for key in [key for key in self._blocks if key[0] == pack_id]:
                self._cached_bytes -= len(self._blocks.pop(key))

    def _open(self, pack_id: PackId) -> OpenPack:
        with self._mutex:
            file = self._files.get(pack_id)
            if file is not None:
                self._files.move_to_end(pack_id)
                return file
        with _reading(pack_id, 0):
            file = open_pack(self._paths, pack_id)
        with self._mutex:
            self._files[pack_id] = file
            while len(self._files) > OPEN_FILES_MAX:
                self._files.popitem(last=False)
        return file

    def footer(self, pack_id: PackId) -> list[Block]:
        """Return the blocks a pack lists, its header, footer and sizes checked.

        Raises:
            FileNotFoundError: The pack is not there.
            CorruptPackError: Header, footer or trailer are damaged or cannot be read.
        """
        file = self._open(pack_id)
        with _reading(pack_id, 0):
            return read_footer(file.fd)

    def shapes(self, pack_id: PackId) -> list[Shape]:
        """Return how much the blocks are that a pack lists, checked as in :meth:`footer`.

        Raises:
            FileNotFoundError: The pack is not there.
            CorruptPackError: Header, footer or trailer are damaged or cannot be read.
        """
        with _reading(pack_id, 0), contextlib.closing(open_pack(self._paths, pack_id)) as file:
            return decode_shapes(*_tables(file.fd))

    def size(self, pack_id: PackId) -> int:
        """Return the bytes of a pack file.

        Raises:
            FileNotFoundError: The pack is not there.
        """
        file = self._open(pack_id)
        with _reading(pack_id, 0):
            return os.fstat(file.fd).st_size

    def effort(self, pack_id: PackId) -> int:
        """Return how hard the writer of a pack tried to make it small.

        Raises:
            FileNotFoundError: The pack is not there.
            CorruptPackError: Its header is damaged or cannot be read.
        """
        file = self._open(pack_id)
        with _reading(pack_id, 0):
            return decode_header(read_at(file.fd, HEADER.size, 0)).effort


@contextlib.contextmanager
def _reading(pack_id: PackId, offset: int) -> Iterator[None]:
    """Turn what opening or reading a pack fails with into the store's errors, but for its absence.

    Raises:
        CorruptPackError: The pack is damaged.
        StorageError: Something else failed, which says nothing about the pack.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except FormatError as err:
        raise CorruptPackError(err.message, pack=pack_id.hex(), offset=offset) from err
    except ShortFileError as err:
        raise CorruptPackError("pack is cut short", pack=pack_id.hex(), offset=offset) from err
    except OSError as err:
        if err.errno not in PACK_DAMAGE:
            raise storage_error(err, "read a pack") from err
        what = _NO_FILE.get(err.errno) or f"not readable: {os.strerror(err.errno)}"
        raise CorruptPackError(f"pack is {what}", pack=pack_id.hex(), offset=offset) from err


def read_footer(fd: int) -> list[Block]:
    """Return the blocks of an open pack file.

    Raises:
        FormatError: It is not a sound pack.
        OSError: It cannot be read.
    """
    return decode_footer(*_tables(fd))


def footer_length(fd: int) -> int:
    """Return the bytes of the footer of an open pack file, which says so itself.

    Raises:
        FormatError: It is not a sound pack.
        OSError: It cannot be read.
    """
    return _trailer(fd).footer_length


def verify_tables(fd: int) -> None:
    """Check header, trailer and the footer's checksum, without decoding the footer.

    Raises:
        FormatError: It is not a sound pack.
        OSError: It cannot be read.
    """
    footer, trailer = _tables(fd)
    if blake3(footer).digest() != trailer.footer_hash:
        raise FormatError("pack footer does not match its checksum")


def _trailer(fd: int) -> Trailer:
    size = os.fstat(fd).st_size
    if size < HEADER.size + TRAILER.size:
        raise FormatError(f"pack has only {size} bytes")
    decode_header(read_at(fd, HEADER.size, 0))
    return decode_trailer(read_at(fd, TRAILER.size, size - TRAILER.size), size)


def _tables(fd: int) -> tuple[bytes, Trailer]:
    """Return the footer's bytes, unchecked, and the trailer."""
    trailer = _trailer(fd)
    return read_at(fd, trailer.footer_length, trailer.footer_offset), trailer
