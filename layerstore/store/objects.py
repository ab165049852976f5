"""The object tier: file contents unpacked as plain files, for views by the kernel.

An object is one file's whole content under a name that follows from its chunks. Every
image that holds the same content redirects to the same object, so the kernel keeps its
pages once. Objects are made from verified chunks and are a cache: gc evicts those that no
view needs. Making views holds ``locks/objects`` shared, eviction holds it exclusively;
``locks/unpack`` keeps two commands from unpacking the same file twice.

Crash behaviour: files are written below ``tmp/`` under a lease, brought to disk a batch at
a time by one syncfs(2), and only then given their names. What has a name is whole. While a
batch goes to disk the next one is decoded; a failure of either ends both.

Normative: docs/format/store.md, "Objects".
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from blake3 import blake3

from layerstore.chunking.cutter import SourceEndedError, cut_stream
from layerstore.digest import ID_BYTES, ChunkId, ObjectId
from layerstore.errors import UnsupportedError
from layerstore.linux.files import (
    PRIVATE_DIR,
    SHARED_DIR,
    is_shared,
    make_private_dir,
    open_private,
    write_all,
)
from layerstore.linux.files import directory as opened
from layerstore.linux.locks import FileLock
from layerstore.linux.removal import remove_tree
from layerstore.linux.spreading import make_apart, spread_children
from layerstore.progress import Silent
from layerstore.store.batch_reader import BatchReader
from layerstore.store.config import require_writable
from layerstore.store.failures import StoreFullError, storage_errors
from layerstore.store.leases import Lease
from layerstore.store.object_tier import missing_objects
from layerstore.units import format_size

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future, ThreadPoolExecutor
    from io import FileIO

    from layerstore.chunking.cutter import CutParameters
    from layerstore.formats.tree import Extent
    from layerstore.progress import Progress
    from layerstore.store.catalog_rows import ChunkPlace
    from layerstore.store.paths import StorePaths
    from layerstore.store.store import Store

CONTEXT: Final = "layerstore object 1"
"""Keeps ids of lists of extents apart from ids of chunks. Changing it is a format break."""

BATCH_BYTES: Final = 128 * 1024 * 1024
BATCH_FILES: Final = 16_384
"""What one syncfs brings to disk. Twice as much is unpacked again after a crash at most."""

_FORCERS: Final = 8
"""Threads that wait for the disk: as many files may be written by one commit of its journal."""

WRITERS: Final = 2
"""Threads that unpack: decoding and hashing of one overlap with the system calls of another."""

_RUNS_A_BATCH: Final = 8
"""Parts of a batch that go to the threads: adjoining blocks stay with one thread."""

_FILES_A_DIRECTORY: Final = 64
"""While they have no names. ext4 looks through a block of a directory for every new name: flat,
a batch costs a third more in creating and renaming, and the threads wait for each other."""

_EXTENT = struct.Struct("<QB32s")
_NO_ID: Final = bytes(ID_BYTES)
_TOO_LARGE = frozenset({errno.EFBIG, errno.EINVAL})

Extents = tuple["Extent", ...]


def object_id(extents: Extents) -> ObjectId:
    """Return the name of a file's content.

    It is the chunk's id for content of one chunk, and else a hash of the list of extents,
    derived for that purpose alone: no content can be made whose chunk id is such a hash.
    """
    if len(extents) == 1 and extents[0][1] is not None:
        return ObjectId(extents[0][1])
    encoded = b"".join(
        _EXTENT.pack(length, chunk_id is not None, chunk_id or _NO_ID)
        for length, chunk_id in extents
    )
    return ObjectId(blake3(encoded, derive_key_context=CONTEXT).digest())


def present_objects(paths: StorePaths) -> set[ObjectId]:
    """Return the ids of all objects that are there."""
    return {found for found, _ in object_files(paths)}


def object_files(paths: StorePaths) -> Iterator[tuple[ObjectId, str]]:
    """Yield every object with its path, in no particular order; passes over what is none."""
    for prefix in _names(paths.objects):
        directory = f"{paths.objects}/{prefix}"
        if len(prefix) != 2 or os.path.islink(directory):
            continue  # a link leads to what is not ours: nothing behind it is read or evicted
        for name in _names(directory):
            found = object_of_path(f"{prefix}/{name}")
            if found is not None:
                yield found, f"{directory}/{name}"


def object_of_path(path: str) -> ObjectId | None:
    """Return the object that a path below the tier's directory is, None if it is none."""
    if len(path) != 3 + 2 * ID_BYTES or path[2] != "/" or path[:2] != path[3:5]:
        return None
    try:
        return ObjectId(bytes.fromhex(path[3:]))
    except ValueError:
        return None


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def unpack(store: Store, wanted: Mapping[ObjectId, Extents], progress: Progress) -> int:
    """Make objects that are missing; return how many bytes of content were written.

    Success means that all are there, durable, and made of bytes that match their chunk
    ids. The caller is in :func:`layerstore.store.object_tier.kept_objects`, and something that
    keeps the chunks.

    Raises:
        IntegrityError: A chunk is damaged or missing.
        StoreFullError: There is no room.
        UnsupportedError: A file is larger than the store's file system can hold.
    """
    require_writable(store.config)
    with storage_errors("lock the objects"):
        lock = FileLock(store.paths.unpack_lock)
    with lock:
        missing = {name: wanted[name] for name in missing_objects(store.paths, wanted)}
        if not missing:
            return 0
        lease = Lease(store.catalog, "unpack objects")
        try:
            place = _Place(
                store.paths.objects, store.paths.temporary(lease.lease_id, "objects-"), durable=True
            )
            return _Unpacking(store, missing, place, progress).run()
        finally:
            lease.close()


def unpack_one(store: Store, name: ObjectId, extents: Extents, directory: str) -> None:
    """Make one object in a directory of the caller's own, named and verified as in the tier.

    It is not brought to disk: :func:`keep` does so for those that are to join the tier.

    Raises:
        IntegrityError: A chunk is damaged or missing.
        StorageError: It cannot be written.
        UnsupportedError: The file is larger than the file system can hold.
    """
    unpacking = _Unpacking(store, {name: extents}, _Place(directory, "", durable=False), Silent())
    text = name.hex()
    with storage_errors("unpack files"):
        make_private_dir(f"{directory}/{text[:2]}", durable=False)
        with opened(f"{directory}/{text[:2]}") as place:
            unpacking.write_one(f"{text}.part", place, extents)
            os.rename(f"{text}.part", text, src_dir_fd=place, dst_dir_fd=place)


def keep(paths: StorePaths, directory: str, names: Collection[ObjectId]) -> None:
    """Let objects that :func:`unpack_one` has made join the tier, as second names of the files.

    Success means that they are durable. They are forced to disk side by side, so that the file
    system's journal writes many at once. The caller is in
    :func:`layerstore.store.object_tier.kept_objects`.

    Raises:
        StorageError: They cannot be written.
    """
    sources = {name: f"{directory}/{name[:1].hex()}/{name.hex()}" for name in names}
    from concurrent.futures import ThreadPoolExecutor  # builds hardly ever come here

    with storage_errors("bring unpacked files to disk"):
        with ThreadPoolExecutor(_FORCERS, "layerstore-keep") as forcers:
            for _ in forcers.map(_force, sources.values()):
                pass
        for name, source in sources.items():
            make_private_dir(os.path.dirname(paths.object(name)), durable=False)
            with contextlib.suppress(FileExistsError):
                os.link(source, paths.object(name))


def _force(path: str) -> None:
    fd = open_private(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_objects(store: Store, wanted: Mapping[ObjectId, Extents]) -> dict[ObjectId, bytes]:
    """Return the content of objects, verified, all at once: for those that are small together.

    Raises:
        IntegrityError: A chunk is damaged or missing.
    """
    unpacking = _Unpacking(store, wanted, _Place("", "", durable=False), Silent())
    return {name: unpacking.content(wanted[name]) for name in unpacking.ordered()}


class _Place(NamedTuple):
    """Where objects go.

    Attributes:
        directory: Has them below the first byte of their ids.
        staging: What names of directories for files without names begin with.
        durable: Whether files are on disk before they have names.
    """

    directory: str
    staging: str
    durable: bool


class _Unpacking:
    """Unpacks objects in the order in which their chunks lie in packs."""

    def __init__(
        self, store: Store, wanted: Mapping[ObjectId, Extents], place: _Place, progress: Progress
    ) -> None:
        self._wanted = wanted
        self._place = place
        self._progress = progress
        chunks = {chunk_id for extents in wanted.values() for _, chunk_id in extents if chunk_id}
        self._reader = BatchReader(store, chunks)
        self._mode = 0o660 if place.durable and is_shared(place.directory) else 0o600

    def run(self) -> int:
        """Unpack all; return the bytes written."""
        from concurrent.futures import ThreadPoolExecutor

        sizes = {name: _data_bytes(extents) for name, extents in self._wanted.items()}
        total = sum(sizes.values())
        _require_room(self._place.directory, sizes.values())
        self._progress.start("unpacking files", total)
        try:
            with (
                ThreadPoolExecutor(WRITERS, "layerstore-unpack") as writers,
                ThreadPoolExecutor(1, "layerstore-publish") as publisher,
            ):
                self._unpack_all(writers, publisher, _batches(self.ordered(), sizes))
        finally:
            self._progress.finish()
        return total

    def ordered(self) -> list[ObjectId]:
        """Return the wanted objects in the order in which their chunks lie in packs."""
        return sorted(
            self._wanted, key=lambda name: _position(self._wanted[name], self._reader.places)
        )

    def _unpack_all(
        self,
        writers: ThreadPoolExecutor,
        publisher: ThreadPoolExecutor,
        batches: Iterable[Sequence[ObjectId]],
    ) -> None:
        before: Future[None] | None = None
        for number, batch in enumerate(batches):
            staging = f"{self._place.staging}{number}"
            try:
                self._write_batch(writers, batch, staging)
                if before is not None:
                    before.result()
            except BaseException:
                _discard(staging)
                raise
            before = publisher.submit(self._publish, batch, staging)
        if before is not None:
            before.result()

    def _write_batch(
        self, writers: ThreadPoolExecutor, batch: Sequence[ObjectId], staging: str
    ) -> None:
        with storage_errors("unpack files"):
            _make_staging(staging)
            for number in range(0, len(batch), _FILES_A_DIRECTORY):
                make_private_dir(f"{staging}/{os.path.dirname(_staged(number))}", durable=False)
        step = -(-len(batch) // _RUNS_A_BATCH)
        step += -step % _FILES_A_DIRECTORY  # no two threads work in one directory
        starts = range(0, len(batch), step)
        with opened(staging) as place:
            # Runs that were begun end before the directory is closed, whatever fails.
            runs = [
                writers.submit(self._write_run, batch[at : at + step], at, place) for at in starts
            ]
            try:
                for run in runs:
                    self._progress.advance(run.result())
            finally:
                for run in [run for run in runs if not run.cancel()]:
                    run.exception()  # waits for its end

    def _write_run(self, run: Sequence[ObjectId], start: int, place: int) -> int:
        written = 0
        with storage_errors("unpack files"):
            for number, name in enumerate(run, start):
                written += self.write_one(_staged(number), place, self._wanted[name])
        return written

    def write_one(self, name: str, place: int, extents: Extents) -> int:
        """Write one object to a new file in the open directory ``place``; return its bytes."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, self._mode, dir_fd=place)
        try:
            written = 0
            for length, chunk_id in extents:
                if chunk_id is None:
                    _skip(fd, length)
                    continue
                write_all(fd, self._reader.read(chunk_id, length))
                written += length
            if extents[-1][1] is None:
                os.ftruncate(fd, sum(length for length, _ in extents))
            # The umask may have taken from it. Asking costs a tenth of setting it.
            if stat.S_IMODE(os.fstat(fd).st_mode) != self._mode:
                os.fchmod(fd, self._mode)
            return written
        finally:
            os.close(fd)

    def content(self, extents: Extents) -> bytes:
        """Return an object's content."""
        if len(extents) == 1 and extents[0][1] is not None:
            # Not a view, which would keep the whole block that it lies in.
            return bytes(self._reader.read(extents[0][1], extents[0][0]))
        return b"".join(
            bytes(length) if chunk_id is None else self._reader.read(chunk_id, length)
            for length, chunk_id in extents
        )

    def _publish(self, batch: Sequence[ObjectId], staging: str) -> None:
        """Bring a batch to disk, and then give its files their names."""
        objects = self._place.directory
        try:
            with storage_errors("bring unpacked files to disk"):
                if self._place.durable:
                    sync_file_system(staging)
                for prefix in {name[:1].hex() for name in batch}:
                    make_private_dir(f"{objects}/{prefix}", durable=False)
                with opened(staging) as source, opened(objects) as tier:
                    for number, name in enumerate(batch):
                        target = name.hex()
                        os.rename(
                            _staged(number),
                            f"{target[:2]}/{target}",
                            src_dir_fd=source,
                            dst_dir_fd=tier,
                        )
        finally:
            _discard(staging)


def _make_staging(path: str) -> None:
    """Make a directory for a batch, where ext4 gives out inodes at once.

    Why: :mod:`layerstore.linux.spreading`.
    """
    parent = os.path.dirname(path)
    if not spread_children(parent):
        make_private_dir(path, durable=False)
        return
    make_apart(path)
    os.chmod(path, SHARED_DIR if is_shared(parent) else PRIVATE_DIR)


def _staged(number: int) -> str:
    """Return the name that a file of a batch has below its staging directory."""
    return f"{number // _FILES_A_DIRECTORY:x}/{number:x}"


def _discard(staging: str) -> None:
    with contextlib.suppress(OSError):  # gc removes it after us
        remove_tree(staging)


def _require_room(directory: str, sizes: Collection[int]) -> None:
    """Refuse what will not fit before a disk is filled with half of it.

    Raises:
        StoreFullError: It takes more than is free.
    """
    with storage_errors("ask how much is free"):
        status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    needed = sum(size + -size % status.f_bsize for size in sizes)
    if needed > free:
        raise StoreFullError(
            f"unpacking {len(sizes)} files takes {format_size(needed)}, free are "
            f"{format_size(free)}",
            hint="free some, or mount with --backend fuse, which unpacks nothing",
        )


def _skip(fd: int, length: int) -> None:
    """Leave a hole behind what was written."""
    try:
        # Asked for here already: a file system refuses lengths beyond its bounds only now.
        os.ftruncate(fd, os.lseek(fd, length, os.SEEK_CUR))
    except OSError as err:
        if err.errno not in _TOO_LARGE:
            raise
        raise UnsupportedError(
            "the image holds a file larger than the store's file system can have"
        ) from err


def _data_bytes(extents: Extents) -> int:
    return sum(length for length, chunk_id in extents if chunk_id is not None)


def _position(extents: Extents, places: Mapping[ChunkId, ChunkPlace]) -> tuple[int, int, int]:
    """Return where content begins, so that what lies in one block is unpacked together."""
    for _, chunk_id in extents:
        if chunk_id is not None and chunk_id in places:
            place = places[chunk_id]
            return place.pack, place.block, place.offset
    return 0, 0, 0


def _batches(
    names: Iterable[ObjectId], sizes: Mapping[ObjectId, int]
) -> Iterator[Sequence[ObjectId]]:
    batch: list[ObjectId] = []
    held = 0
    for name in names:
        if batch and (held + sizes[name] > BATCH_BYTES or len(batch) == BATCH_FILES):
            yield batch
            batch, held = [], 0
        batch.append(name)
        held += sizes[name]
    if batch:
        yield batch


def sync_file_system(directory: str) -> None:
    """Bring everything that was written to a file system to disk, in one call.

    Source: syncfs(2); since Linux 5.8 it reports what could not be written.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if libc.syncfs(ctypes.c_int(fd)) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), directory)
    finally:
        os.close(fd)


# -- looking at what is there


class ObjectFile(NamedTuple):
    """An object on disk.

    Attributes:
        size: Bytes of its content, holes included.
        disk_size: Bytes that the file system allocated.
    """

    size: int
    disk_size: int


def object_sizes(paths: StorePaths) -> dict[ObjectId, ObjectFile]:
    """Return all objects with what they take."""
    found = {}
    for name, path in object_files(paths):
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(path)
            found[name] = ObjectFile(status.st_size, status.st_blocks * 512)
    return found


def is_sound(path: str, extents: Extents) -> bool:
    """Return whether an object's content is what a list of extents says.

    Raises:
        OSError: It cannot be read.
    """
    with open_object(path) as file:
        return holds(file.fileno(), extents)


def says_its_name(path: str, name: ObjectId, cuts: CutParameters) -> bool:
    """Return whether content leads to an object's name when it is cut as a store cuts.

    That of a sparse file does not, nor that of another store's which cuts elsewhere.

    Raises:
        OSError: It cannot be read.
    """
    with open_object(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            extents = [
                (len(chunk), ChunkId(blake3(chunk).digest()))
                for chunk in cut_stream(lambda count: file.read(count) or b"", size, cuts)
            ]
        except SourceEndedError:  # somebody cuts it short just now
            return False
    return bool(extents) and object_id(tuple(extents)) == name


def open_object(path: str) -> FileIO:
    """Open an object for reading.

    Raises:
        OSError: It cannot be opened.
    """
    return os.fdopen(open_private(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0)


def holds(fd: int, extents: Extents) -> bool:
    """Return whether an open file's content is what a list of extents says.

    Raises:
        OSError: It cannot be read.
    """
    offset = 0
    for length, chunk_id in extents:
        if chunk_id is None:
            right = _is_hole(fd, offset, length)
        else:
            right = blake3(os.pread(fd, length, offset)).digest() == chunk_id
        if not right:
            return False
        offset += length
    return os.fstat(fd).st_size == offset


_READ_BYTES: Final = 1024 * 1024


def _is_hole(fd: int, offset: int, length: int) -> bool:
    """Return whether zeros are read there; passes over what the file system knows as a hole."""
    end = offset + length
    while offset < end:
        try:
            offset = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole up to the end
            return os.fstat(fd).st_size >= end
        if offset >= end:
            return True
        data = os.pread(fd, min(_READ_BYTES, end - offset), offset)
        if not data or any(data):
            return False
        offset += len(data)
    return True
