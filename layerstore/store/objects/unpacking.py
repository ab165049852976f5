"""Making objects: verified chunks written as plain files, which get their names once on disk.

``locks/unpack`` keeps two commands from unpacking the same file twice. What objects are and how
they are named: :mod:`layerstore.store.objects.objects`.

Crash behaviour: files are written below ``tmp/`` under a lease, brought to disk a batch at
a time by one syncfs(2), and only then given their names. What has a name is whole. While a
batch goes to disk the next one is decoded, and behind the last one the caller does something
else; a failure of either ends both.

Normative: docs/format/store.md, "Objects".
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from layerstore.errors import UnsupportedError
from layerstore.handover import Beside
from layerstore.linux.files import (
    PRIVATE_DIR,
    SHARED_DIR,
    is_shared,
    make_private_dir,
    open_private,
    sync_file_system,
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
from layerstore.store.locks.leases import unlisted_lease
from layerstore.store.objects.tier import missing_objects
from layerstore.store.objects.whole_images import WholeImages
from layerstore.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from concurrent.futures import ThreadPoolExecutor
    from typing import TypeAlias

    from layerstore.digest import ChunkId, ObjectId
    from layerstore.formats.sidecar import Sidecar
    from layerstore.progress import Progress
    from layerstore.store.catalog.rows import ChunkPlace
    from layerstore.store.objects.objects import Extents
    from layerstore.store.paths import StorePaths
    from layerstore.store.reading import StoreReader

    _Write: TypeAlias = Callable[[Sequence[ObjectId], int], None]
    """Writes a batch below an open directory."""

BATCH_BYTES: Final = 128 * 1024 * 1024
BATCH_FILES: Final = 16_384
"""What one syncfs brings to disk. Twice as much is unpacked again after a crash at most."""

_FORCERS: Final = 8
"""Threads that wait for the disk: as many files may be written by one commit of its journal."""

WRITERS: Final = 2
"""Threads that unpack: decoding and hashing of one overlap with the system calls of another."""

_RUNS_A_BATCH: Final = 8
"""Parts of a batch that go to the threads: adjoining blocks stay with one thread."""

_ALONE_BYTES: Final = 32 * 1024 * 1024
_ALONE_FILES: Final = 4096
"""Up to so much is written without threads and without a bar: what an application adds to its base
is there before the library is imported that runs them, or the one that draws."""

_FILES_A_DIRECTORY: Final = 64
"""While they have no names. ext4 looks through a block of a directory for every new name: flat,
a batch costs a third more in creating and renaming, and the threads wait for each other."""

_SPARE_PART: Final = 10
"""Of a file system, what unpacking ahead leaves free: its files are there already, and smaller."""

_TOO_LARGE = frozenset({errno.EFBIG, errno.EINVAL})


def unpack(store: StoreReader, wanted: Mapping[ObjectId, Extents], progress: Progress) -> int:
    """Make objects that are missing; return how many bytes of content were written.

    Success means that all are there, durable, and made of bytes that match their chunk
    ids. The caller is in :func:`layerstore.store.objects.tier.kept_objects`, and something that
    keeps the chunks.

    Raises:
        IntegrityError: A chunk is damaged or missing.
        StoreFullError: There is no room.
        UnsupportedError: A file is larger than the store's file system can hold.
    """
    with unpacking(store, wanted, progress) as begun:
        return begun.written


class Begun(NamedTuple):
    """What :func:`unpacking` found and did.

    Attributes:
        written: Bytes of content.
        missing: Which of the base's objects are not there.
        whole: The block adds hashes of metadata images that lead to nothing but what is there then:
            the base's objects and the wanted ones.
    """

    written: int
    missing: set[ObjectId]
    whole: list[bytes]


@contextlib.contextmanager
def unpacking(
    store: StoreReader,
    wanted: Mapping[ObjectId, Extents],
    progress: Progress,
    base: Sidecar | None = None,
) -> Iterator[Begun]:
    """Make objects that are missing, as :func:`unpack`, and use the time while the disk works.

    The block begins when everything is written and may wait for the disk. What was said of success
    is true once it was left; if that fails, nothing of the last batch is named. In it nobody of
    this process may unpack anything else.

    Args:
        store: The store.
        wanted: As of :func:`unpack`.
        progress: The same.
        base: Of an image whose objects are looked for as well, unless they are known to be there:
            that costs little beside the wanted ones.
    """
    require_writable(store.config)
    with storage_errors("lock the objects"):
        lock = FileLock(store.paths.unpack_lock)
    with lock:
        known = WholeImages(store.paths)
        unsure: AbstractSet[ObjectId] = frozenset()
        if base is not None:
            unsure = known.unsure(base.image_hash, base.objects)
        missing = missing_objects(store.paths, unsure | wanted.keys())
        lacking = {name: wanted[name] for name in missing & wanted.keys()}
        begun = Begun(sum(map(_data_bytes, lacking.values())), missing - wanted.keys(), [])
        if lacking:
            with _leased(store, lacking, progress, known):
                yield begun
            _remember(known, base, begun)
            return
    yield begun
    _remember(known, base, begun)


def _remember(known: WholeImages, base: Sidecar | None, begun: Begun) -> None:
    if not begun.missing:
        known.remember(*begun.whole, *([base.image_hash] if base else []))


def unpack_beside(
    store: StoreReader, wanted: Mapping[ObjectId, Extents], staging: str, known: WholeImages
) -> None:
    """Make objects that are missing, as :func:`unpack`, and keep nobody waiting who makes them too.

    Without ``locks/unpack``: what another unpacks meanwhile is written twice, and the first stays.

    Args:
        store: The store.
        wanted: As of :func:`unpack`.
        staging: What names of directories for files without names begin with; all are gone when
            it returns.
        known: Of the tier.

    Raises:
        IntegrityError: A chunk is damaged or missing.
        StoreFullError: There is no room to spare.
        UnsupportedError: A file is larger than the store's file system can hold.
    """
    require_writable(store.config)
    missing = missing_objects(store.paths, wanted)
    lacking = {name: wanted[name] for name in missing}
    if lacking:
        require_spare_room(store.paths, [_data_bytes(extents) for extents in lacking.values()])
        place = _Place(store.paths.objects, staging, durable=True, alone=False, known=known)
        with _Unpacking(store, lacking, place, Silent()).begun():
            pass


def require_spare_room(paths: StorePaths, sizes: Collection[int] = ()) -> None:
    """Refuse what nobody waits for where it would leave less than a tenth of the file system.

    Args:
        paths: Of the store.
        sizes: Bytes of the files that are to be written.

    Raises:
        StoreFullError: It would.
    """
    with storage_errors("ask how large the file system is"):
        status = os.statvfs(paths.root)
    _require_room(paths.root, sizes, status.f_blocks * status.f_frsize // _SPARE_PART)


@contextlib.contextmanager
def _leased(
    store: StoreReader,
    lacking: Mapping[ObjectId, Extents],
    progress: Progress,
    known: WholeImages,
) -> Iterator[None]:
    with unlisted_lease(store.catalog) as lease_id:
        staging = store.paths.temporary(lease_id, "objects-")
        place = _Place(store.paths.objects, staging, durable=True, known=known)
        with _Unpacking(store, lacking, place, progress).begun():
            yield


def unpack_one(store: StoreReader, name: ObjectId, extents: Extents, directory: str) -> None:
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
    :func:`layerstore.store.objects.tier.kept_objects`.

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


def read_objects(store: StoreReader, wanted: Mapping[ObjectId, Extents]) -> dict[ObjectId, bytes]:
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
        alone: Whether nobody else makes the same ones meanwhile.
        known: Of the object tier, if they go there.
    """

    directory: str
    staging: str
    durable: bool
    alone: bool = True
    known: WholeImages | None = None


class _Unpacking:
    """Unpacks objects in the order in which their chunks lie in packs."""

    def __init__(
        self,
        store: StoreReader,
        wanted: Mapping[ObjectId, Extents],
        place: _Place,
        progress: Progress,
    ) -> None:
        self._wanted = wanted
        self._place = place
        self._progress = progress
        chunks = {chunk_id for extents in wanted.values() for _, chunk_id in extents if chunk_id}
        self._reader = BatchReader(store, chunks)
        self._mode = 0o660 if place.durable and is_shared(place.directory) else 0o600

    @contextlib.contextmanager
    def begun(self) -> Iterator[None]:
        """Write all; what is done in the block is done while the last batch goes to disk."""
        sizes = {name: _data_bytes(extents) for name, extents in self._wanted.items()}
        total = sum(sizes.values())
        _require_room(self._place.directory, sizes.values())
        with self._writing(total, len(sizes)) as write:
            last = self._unpack_all(write, _batches(self.ordered(), sizes))
        try:
            yield
        finally:
            last.result()

    @contextlib.contextmanager
    def _writing(self, total: int, files: int) -> Iterator[_Write]:
        """Yield what writes a batch, and show how it moves; what is over at once shows nothing."""
        if total <= _ALONE_BYTES and files <= _ALONE_FILES:
            yield self._write_alone
            return
        from concurrent.futures import ThreadPoolExecutor

        self._progress.start("unpacking files", total)
        try:
            with ThreadPoolExecutor(WRITERS, "layerstore-unpack") as writers:
                yield partial(self._write_by, writers)
        finally:
            self._progress.finish()

    def ordered(self) -> list[ObjectId]:
        """Return the wanted objects in the order in which their chunks lie in packs."""
        return sorted(
            self._wanted, key=lambda name: _position(self._wanted[name], self._reader.places)
        )

    def _unpack_all(self, write: _Write, batches: Iterable[Sequence[ObjectId]]) -> Beside:
        """Write batch after batch, each while the one before goes to disk; return the last's."""
        before: Beside | None = None
        for number, batch in enumerate(batches):
            staging = f"{self._place.staging}{number}"
            try:
                self._write_batch(write, batch, staging)
            except BaseException:
                if before is not None:
                    before.wait()
                _discard(staging)
                raise
            try:
                if before is not None:
                    before.result()
            except BaseException:
                _discard(staging)
                raise
            before = Beside(partial(self._publish, batch, staging), "layerstore-publish")
        assert before is not None  # something lacked
        return before

    def _write_batch(self, write: _Write, batch: Sequence[ObjectId], staging: str) -> None:
        with storage_errors("unpack files"):
            _make_staging(staging)
            for number in range(0, len(batch), _FILES_A_DIRECTORY):
                make_private_dir(f"{staging}/{os.path.dirname(_staged(number))}", durable=False)
        with opened(staging) as place:
            write(batch, place)

    def _write_alone(self, batch: Sequence[ObjectId], place: int) -> None:
        self._write_run(batch, 0, place)

    def _write_by(self, writers: ThreadPoolExecutor, batch: Sequence[ObjectId], place: int) -> None:
        step = -(-len(batch) // _RUNS_A_BATCH)
        step += -step % _FILES_A_DIRECTORY  # no two threads work in one directory
        # Runs that were begun end before the directory is closed, whatever fails.
        runs = [
            writers.submit(self._write_run, batch[at : at + step], at, place)
            for at in range(0, len(batch), step)
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
                with opened(staging) as source, opened(objects) as tier:
                    for first, names in _by_directory(batch).items():
                        self._name(first, names, source, tier)
        finally:
            _discard(staging)

    def _name(
        self, first: int, names: Sequence[tuple[int, ObjectId]], source: int, tier: int
    ) -> None:
        """Give files of a batch their names in one directory.

        Args:
            first: The first byte of the objects' ids.
            names: Of each its number in the batch and its id.
            source: The open staging directory.
            tier: The open directory that they go to.
        """
        known = self._place.known
        assert known is not None  # it is the tier
        is_known = known.begin_adding(first, tier)
        for number, name in names:
            target = f"{first:02x}/{name.hex()}"
            # What is shown already keeps its pages in memory.
            if self._place.alone or not os.access(target, os.F_OK, dir_fd=tier):
                os.rename(_staged(number), target, src_dir_fd=source, dst_dir_fd=tier)
        if is_known:
            known.end_adding(first, tier)


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


def _by_directory(batch: Iterable[ObjectId]) -> dict[int, list[tuple[int, ObjectId]]]:
    """Return the numbers and ids of a batch by the first bytes of the ids."""
    found: dict[int, list[tuple[int, ObjectId]]] = {}
    for number, name in enumerate(batch):
        found.setdefault(name[0], []).append((number, name))
    return found


def _discard(staging: str) -> None:
    with contextlib.suppress(OSError):  # gc removes it after us
        remove_tree(staging)


def _require_room(directory: str, sizes: Collection[int], spare: int = 0) -> None:
    """Refuse what will not fit before a disk is filled with half of it.

    Args:
        directory: Where files are to be written.
        sizes: Their bytes.
        spare: Bytes that are to stay free.

    Raises:
        StoreFullError: It takes more than is free.
    """
    with storage_errors("ask how much is free"):
        status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    needed = sum(size + -size % status.f_bsize for size in sizes)
    if needed + spare > free:
        staying = f", and {format_size(spare)} are to stay so" if spare else ""
        raise StoreFullError(
            f"unpacking {len(sizes)} files takes {format_size(needed)}, free are "
            f"{format_size(free)}{staying}",
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
