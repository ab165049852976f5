"""The files of an archive of images, read where they lie in a tar.

The tar is read once from end to end, strictly, to learn where its files are. A plain tar that
is a regular file is then read in place; what came compressed or through a pipe lies unpacked
in one scratch file meanwhile. Nothing is ever made under a name that the archive gives, so
links and odd paths lead nowhere but to other members.
"""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING, NamedTuple, Self

from layerstore.digest import Digest
from layerstore.errors import FormatError, NotFoundError
from layerstore.formats.decompress import compression_of, decompressed
from layerstore.formats.tar_limits import Limits
from layerstore.formats.tar_reader import TarReader
from layerstore.formats.tree import Kind
from layerstore.linux.files import open_private, write_all
from layerstore.store.failures import storage_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

ENTRIES_MAX = 20_000
"""Members of an archive of images: three a layer and 512 layers an image leave room for a dozen."""

_LINKS_MAX = 8
_READ_BYTES = 1 << 20


class _Place(NamedTuple):
    """Where a file's content is; ``is_whole`` is false for sparse ones."""

    offset: int
    size: int
    is_whole: bool


class ArchiveFile:
    """See the module; use it in a ``with`` block.

    Raises:
        FormatError: Not a tar, or one that readers would understand differently.
        UnsafeContentError: A member's path leads out of the archive.
        LimitExceededError: More members or bytes than an archive of images has.
    """

    def __init__(self, stream: BinaryIO, scratch: Callable[[], str]) -> None:
        """Read an archive.

        Args:
            stream: Plain, or compressed by gzip, zstd, xz or bzip2; need not seek.
            scratch: Returns the name that a scratch file has for a moment, if one is needed.
        """
        self._files: dict[bytes, _Place] = {}
        self._links: dict[bytes, bytes] = {}
        self._digests: dict[_Place, Digest] = {}
        self._fd = os.dup(stream.fileno()) if _is_plain_file(stream) else -1
        try:
            if self._fd < 0:
                with storage_errors("write a scratch file"):
                    path = scratch()
                    self._fd = open_private(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
                    os.unlink(path)
                spans = self._spooled(decompressed(stream.read, Limits()))
            else:
                spans = decompressed(stream.read, Limits())
            self._read(TarReader(spans, Limits(entries=ENTRIES_MAX)))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; harmless when repeated."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _spooled(self, spans: Iterator[bytes]) -> Iterator[bytes]:
        for span in spans:
            with storage_errors("write a scratch file"):
                write_all(self._fd, span)
            yield span

    def _read(self, reader: TarReader) -> None:
        while (member := reader.next_member()) is not None:
            path = member.path
            match member.kind:
                case Kind.FILE:
                    self._refuse_second(path)
                    place = _Place(reader.offset, member.stored, member.regions is None)
                    self._files[path] = place
                    left = member.stored
                    while left:
                        left -= len(reader.read(min(left, _READ_BYTES)))
                case Kind.HARDLINK:
                    self._refuse_second(path)
                    self._links[path] = member.target
                case Kind.SYMLINK:
                    self._refuse_second(path)
                    self._links[path] = os.path.join(os.path.dirname(path), member.target)
                case _:
                    pass  # a directory says nothing; what else there may be is never read

    def _refuse_second(self, path: bytes) -> None:
        if path in self._files or path in self._links:
            raise FormatError(f"the archive holds {os.fsdecode(path)!r} twice")

    # -- what is there

    def __contains__(self, name: bytes) -> bool:
        """Return whether there is a file of this name, links followed inside of the archive."""
        try:
            self._place(name)
        except (FormatError, NotFoundError):
            return False
        return True

    def size(self, name: bytes) -> int:
        """Return the bytes of a file.

        Raises:
            NotFoundError: There is none of that name.
            FormatError: A link leads out of the archive, or in a circle.
        """
        return self._place(name).size

    def open(self, name: bytes) -> Slice:
        """Return a file's bytes; as :meth:`size`."""
        place = self._place(name)
        return Slice(self._fd, place.offset, place.size)

    def digest(self, name: bytes) -> Digest:
        """Return the SHA-256 of a file; as :meth:`size`.

        Each is read once: a few bytes of an archive may name it half a million times.
        """
        place = self._place(name)
        if place not in self._digests:
            made = hashlib.sha256()
            file = Slice(self._fd, place.offset, place.size)
            while piece := file.read(_READ_BYTES):
                made.update(piece)
            self._digests[place] = Digest(f"sha256:{made.hexdigest()}")
        return self._digests[place]

    def _place(self, name: bytes) -> _Place:
        path = name
        for _ in range(_LINKS_MAX):
            path = os.path.normpath(path)
            if path.startswith((b"../", b"/")) or path == b"..":
                raise FormatError(f"{_shown(name)} leads out of the archive")
            place = self._files.get(path)
            if place is not None:
                if not place.is_whole:
                    raise FormatError(f"{_shown(name)} is a sparse file, which no image has")
                return place
            target = self._links.get(path)
            if target is None:
                raise NotFoundError(f"the archive has no {_shown(name)}")
            path = target
        raise FormatError(f"{_shown(name)} leads through more than {_LINKS_MAX} links")


class Slice:
    """A part of a file, read once from its beginning; several do not disturb each other."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self._fd = fd
        self._at = offset
        self._end = offset + size

    def read(self, size: int = -1, /) -> bytes:
        """Return 1 to ``size`` bytes, or all that are left."""
        left = self._end - self._at
        piece = os.pread(self._fd, left if size < 0 else min(size, left), self._at)
        self._at += len(piece)
        return piece

    def close(self) -> None:
        """Do nothing: the file is the archive's."""


def _is_plain_file(stream: BinaryIO) -> bool:
    """Return whether a stream is a regular file at its beginning, and no compressed one."""
    try:
        fd = stream.fileno()
    except OSError:
        return False
    if not stat.S_ISREG(os.fstat(fd).st_mode) or stream.tell():
        return False
    return compression_of(os.pread(fd, 64, 0)) == "none"


def _shown(name: bytes) -> str:
    return repr(os.fsdecode(name[:200]))
