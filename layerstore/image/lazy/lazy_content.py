"""Content of an image that comes when it is asked for, and stays as files.

A lazy view's files are objects as those of other kernel views ([store.md], "Objects").
What is not in the object tier is made here, below the view's own directory:

    staged/ab/<id>   whole: every chunk was verified; not yet forced to disk
    partial/<id>     a sparse file that has some of its chunks where they belong

Nothing says which parts of a partial file are filled: a chunk is there if the bytes at its
place hash to its id. So neither a kill nor a power cut can make a hole pass for content.
Staged files get their names in the object tier, many at a time, once they were brought to
disk: what has a name there is whole, as ever.

Crash behaviour: both directories are a cache of one view. They may vanish at any time but
while its server runs, and whoever finds them after a kill may use what verifies.
"""

from __future__ import annotations

import contextlib
import os
import threading
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple

from blake3 import blake3

from layerstore.errors import FormatError, LayerstoreError
from layerstore.linux.files import (
    is_shared,
    make_private_dir,
    open_private,
    read_at,
    sync_file_system,
)
from layerstore.store.failures import storage_errors
from layerstore.store.objects.tier import kept_objects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from layerstore.digest import ChunkId, ObjectId
    from layerstore.image.lazy.fetching import Fetcher
    from layerstore.store.objects.objects import Extents
    from layerstore.store.store import Store

SETTLE_BYTES: Final = 64 * 1024 * 1024
SETTLE_FILES: Final = 2048
"""Staged content after which it is brought to disk and joins the object tier."""

FORCED_ALONE: Final = 32
"""Staged files up to which each is forced to disk by itself."""

AHEAD_BYTES: Final = 4 * 1024 * 1024
"""Plain bytes that fetching ahead asks the remote for at once."""

SEQUENTIAL_BYTES: Final = 1024 * 1024
"""How far ahead of a sequential reader of a long object is fetched."""

READERS_MAX: Final = 256
"""Objects of which it is known where they were read last."""

PARTIAL = "partial"
STAGED = "staged"


class _Place(NamedTuple):
    """Where a chunk lies in an object."""

    object_id: ObjectId
    offset: int
    length: int


class _Filling:
    """What one process has filled of an object.

    Attributes:
        offsets: Where each chunk belongs, and its length there.
        lacking: The chunks that it has not written.
    """

    def __init__(self, extents: Extents) -> None:
        self._extents = extents
        self._ends = tuple(accumulate(length for length, _ in extents))
        self.offsets: dict[ChunkId, list[tuple[int, int]]] = {}
        for end, (length, chunk_id) in zip(self._ends, extents, strict=True):
            if chunk_id is not None:
                self.offsets.setdefault(chunk_id, []).append((end - length, length))
        self.lacking = set(self.offsets)

    def lacking_between(self, start: int, end: int) -> list[ChunkId]:
        """Return the chunks that a piece of the object needs and that are lacking, each once."""
        found: dict[ChunkId, None] = {}
        for at in range(bisect_right(self._ends, start), len(self._ends)):
            length, chunk_id = self._extents[at]
            if self._ends[at] - length >= end:
                break
            if chunk_id is not None and chunk_id in self.lacking:
                found[chunk_id] = None
        return list(found)


class LazyContent:
    """A chunk reader (see :class:`layerstore.vfs.view.ChunkReader`) that fetches what is not here.

    Safe for several threads.

    Args:
        store: The local one: its chunks and objects are used before anything is fetched.
        fetcher: Gives verified chunks of the remote.
        objects: What the files of the image are made of.
        directory: The view's own, on the store's file system.
        on_read: Told of each chunk that somebody read, in order.
    """

    def __init__(
        self,
        store: Store,
        fetcher: Fetcher,
        objects: Mapping[ObjectId, Extents],
        directory: str,
        on_read: Callable[[ChunkId], object] = lambda _: None,
    ) -> None:
        self._store = store
        self._fetcher = fetcher
        self._objects = objects
        self._directory = directory
        self._on_read = on_read
        self._places = _places(objects)
        self._sizes = {
            name: sum(length for length, _ in extents) for name, extents in objects.items()
        }
        self._lock = threading.Lock()
        self._making: dict[ObjectId, threading.Lock] = {}
        self._filling: dict[ObjectId, _Filling] = {}
        self._readers: dict[ObjectId, tuple[int, int]] = {}
        self._settling = threading.Lock()
        self._unsettled: dict[ObjectId, int] = {}
        with storage_errors("make a place for fetched files"):
            for path in (store.paths.objects, f"{directory}/{PARTIAL}", f"{directory}/{STAGED}"):
                make_private_dir(path, durable=False)
        self._mode = 0o660 if is_shared(store.paths.objects) else 0o600
        for object_id in self._found_staged():
            self._unsettled[object_id] = self.size(object_id)

    def size(self, object_id: ObjectId) -> int:
        """Return an object's bytes, holes included."""
        return self._sizes[object_id]

    def read_chunk(self, chunk_id: ChunkId) -> bytes:
        """Return the verified bytes of a chunk, fetching it if it is not here.

        Raises:
            IntegrityError: The remote lacks it or gave other bytes.
            StorageError: The remote does not answer.
        """
        self._on_read(chunk_id)
        data = self._local(chunk_id)
        if data is None:
            with self._fetcher.held((chunk_id,), local=self._local) as held:
                data = held[chunk_id]
                self._fill(chunk_id, data)
        return data

    def bring(self, object_id: ObjectId, offset: int, size: int) -> None:
        """Fetch what a read of an object is about to need in one question.

        A reader that goes on where it stopped is brought more, twice as much each time. What
        fails is left to :meth:`read_chunk` to tell.
        """
        with self._lock:
            expected, more = self._readers.pop(object_id, (0, 0))
            more = min(max(2 * more, size), SEQUENTIAL_BYTES) if offset == expected else 0
            self._readers[object_id] = (offset + size, more)
            if len(self._readers) > READERS_MAX:
                del self._readers[next(iter(self._readers))]
            wanted = self._filling_of(object_id).lacking_between(offset, offset + size + more)
        absent = [chunk_id for chunk_id in wanted if self._local(chunk_id) is None]
        if len(absent) > 1:
            with contextlib.suppress(LayerstoreError):
                self._fetch(absent, ahead=False)

    def stage(self, object_id: ObjectId) -> bool:
        """See to it that an object's file is whole and staged; False where there is no room for it.

        Raises:
            IntegrityError: The remote lacks a chunk or gave other bytes.
            StorageError: The remote does not answer.
        """
        for _, chunk_id in self._objects[object_id]:
            if chunk_id is not None:
                self._on_read(chunk_id)
        return self._stage(object_id, ahead=False)

    def stage_if_whole(self, object_id: ObjectId) -> bool:
        """Stage an object that is whole somewhere here; False if something of it is missing."""
        with self._being_made(object_id):
            return self._is_staged(object_id)

    def fetch_ahead(self, chunk_ids: Iterable[ChunkId], *, stop: Callable[[], bool]) -> None:
        """Fetch what is not here of these chunks, in their order, a few at a time.

        Args:
            chunk_ids: Those that the image does not have are passed over.
            stop: Asked in between whether to end early.

        Raises:
            LayerstoreError: The remote failed; what came before is kept.
        """
        batch: list[ChunkId] = []
        held = 0
        for chunk_id in chunk_ids:
            place = self._places.get(chunk_id)
            if place is None or stop():
                continue
            batch.append(chunk_id)
            held += place.length
            if held >= AHEAD_BYTES:
                self._fetch_batch(batch)
                batch, held = [], 0
        if not stop():
            self._fetch_batch(batch)

    def all_chunks(self) -> Iterator[ChunkId]:
        """Yield every chunk of the image once, file after file."""
        yield from list(self._places)

    def settle(self, *, force: bool = True) -> int:
        """Bring staged files to disk and give them their names in the object tier.

        Args:
            force: Else only if much has gathered.

        Returns:
            How many joined it.

        Raises:
            StorageError: The disk refused.
        """
        with self._settling:
            with self._lock:
                if not force and not self._is_much():
                    return 0
                batch, self._unsettled = self._unsettled, {}
            if not batch:
                return 0
            try:
                self._publish(batch)
            except BaseException:
                with self._lock:
                    self._unsettled |= batch
                raise
            return len(batch)

    # -- what is here

    def _local(self, chunk_id: ChunkId) -> bytes | None:
        """Return a chunk out of files that are here, verified, or None."""
        place = self._places.get(chunk_id)
        if place is not None:
            for path in self._files_of(place.object_id):
                data = _read_piece(path, place)
                if data is not None and blake3(data).digest() == chunk_id:
                    return data
        with contextlib.suppress(LayerstoreError):  # what is damaged here may be whole there
            if self._store.has_chunk(chunk_id):
                return self._store.read_chunk(chunk_id)
        return None

    def _files_of(self, object_id: ObjectId) -> tuple[str, str, str]:
        return (
            self._store.paths.object(object_id),
            self._staged(object_id),
            self._partial(object_id),
        )

    def _staged(self, object_id: ObjectId) -> str:
        name = object_id.hex()
        return f"{self._directory}/{STAGED}/{name[:2]}/{name}"

    def _partial(self, object_id: ObjectId) -> str:
        return f"{self._directory}/{PARTIAL}/{object_id.hex()}"

    def _found_staged(self) -> Iterator[ObjectId]:
        """Yield what an earlier server of this view had staged and nobody has in the tier."""
        for prefix in os.listdir(f"{self._directory}/{STAGED}"):
            for name in os.listdir(f"{self._directory}/{STAGED}/{prefix}"):
                with contextlib.suppress(ValueError):
                    found = bytes.fromhex(name)
                    known = next((own for own in self._objects if own == found), None)
                    if known and not os.path.exists(self._store.paths.object(known)):
                        yield known

    # -- making files

    @contextlib.contextmanager
    def _being_made(self, object_id: ObjectId) -> Iterator[None]:
        """Hold off others who would make the same file."""
        with self._lock:
            lock = self._making.setdefault(object_id, threading.Lock())
        with lock:
            yield

    def _is_staged(self, object_id: ObjectId) -> bool:
        """Whether the object has its staged name; gives it that if the object tier has it."""
        staged = self._staged(object_id)
        if os.path.lexists(staged):
            return True
        self._make_prefix(object_id)
        try:
            os.link(self._store.paths.object(object_id), staged)
        except FileNotFoundError:
            return False
        except OSError:  # too many links, or another file system: it is read where it is
            return False
        return True

    def _make_prefix(self, object_id: ObjectId) -> None:
        make_private_dir(f"{self._directory}/{STAGED}/{object_id[:1].hex()}", durable=False)

    def _stage(self, object_id: ObjectId, *, ahead: bool) -> bool:
        with self._being_made(object_id):
            if self._is_staged(object_id):
                return True
            extents = self._objects[object_id]
            found: dict[ChunkId, bytes] = {}
            lacking: dict[ChunkId, None] = {}
            for _, chunk_id in extents:
                if chunk_id is None or chunk_id in found:
                    continue
                data = self._local(chunk_id)
                if data is None:
                    lacking[chunk_id] = None
                else:
                    found[chunk_id] = data
            with self._fetcher.held(lacking, ahead=ahead, local=self._local) as held:
                try:
                    self._write_whole(object_id, extents, found | held)
                except OSError:
                    return False
        self._settle_some()
        return True

    def _write_whole(
        self, object_id: ObjectId, extents: Extents, found: Mapping[ChunkId, bytes]
    ) -> None:
        path = self._partial(object_id)
        fd = open_private(path, os.O_WRONLY | os.O_CREAT)
        try:
            os.ftruncate(fd, self.size(object_id))
            offset = 0
            for length, chunk_id in extents:
                if chunk_id is not None:
                    _write_at(fd, _of_length(found[chunk_id], length), offset)
                offset += length
            self._finish(object_id, fd, path)
        finally:
            os.close(fd)

    def _fill(self, chunk_id: ChunkId, data: bytes) -> None:
        """Put a chunk where it belongs in its object; without room for it, it is not kept."""
        place = self._places.get(chunk_id)
        if place is None:
            return
        with contextlib.suppress(OSError), self._being_made(place.object_id):
            if os.path.lexists(self._staged(place.object_id)):
                return
            path = self._partial(place.object_id)
            fd = open_private(path, os.O_WRONLY | os.O_CREAT)
            try:
                os.ftruncate(fd, self.size(place.object_id))
                if self._fill_all(place.object_id, fd, chunk_id, data):
                    self._make_prefix(place.object_id)
                    self._finish(place.object_id, fd, path)
            finally:
                os.close(fd)
        self._settle_some()

    def _fill_all(self, object_id: ObjectId, fd: int, chunk_id: ChunkId, data: bytes) -> bool:
        """Write a chunk everywhere in its object; return whether the object is whole now."""
        with self._lock:
            filling = self._filling_of(object_id)
        for offset, length in filling.offsets[chunk_id]:
            _write_at(fd, _of_length(data, length), offset)
        with self._lock:
            filling.lacking.discard(chunk_id)
            return not filling.lacking

    def _filling_of(self, object_id: ObjectId) -> _Filling:
        """Return what this process has filled of an object; the caller holds the lock."""
        filling = self._filling.get(object_id)
        if filling is None:
            filling = self._filling[object_id] = _Filling(self._objects[object_id])
        return filling

    def _finish(self, object_id: ObjectId, fd: int, path: str) -> None:
        """Give a whole file its staged name."""
        os.fchmod(fd, self._mode)
        os.rename(path, self._staged(object_id))
        with self._lock:
            self._filling.pop(object_id, None)
            self._unsettled[object_id] = self.size(object_id)

    def _fetch_batch(self, batch: list[ChunkId]) -> None:
        lacking = [name for name in batch if self._local(name) is None]
        if lacking:
            self._fetch(lacking, ahead=True)

    def _fetch(self, chunk_ids: Iterable[ChunkId], *, ahead: bool) -> None:
        with self._fetcher.held(chunk_ids, ahead=ahead, local=self._local) as held:
            for chunk_id, data in held.items():
                self._fill(chunk_id, data)

    # -- joining the object tier

    def _is_much(self) -> bool:
        return len(self._unsettled) >= SETTLE_FILES or sum(self._unsettled.values()) >= SETTLE_BYTES

    def _settle_some(self) -> None:
        """Bring staged files to disk if much has gathered and nobody does so already."""
        with self._lock:
            if not self._is_much():
                return
        if self._settling.locked():
            return
        threading.Thread(target=self._settle_quietly, daemon=True).start()

    def _settle_quietly(self) -> None:
        with contextlib.suppress(LayerstoreError):  # a cache: it is tried again
            self.settle(force=False)

    def _publish(self, batch: Mapping[ObjectId, int]) -> None:
        paths = self._store.paths
        with kept_objects(paths), storage_errors("bring fetched files to disk"):
            _force([self._staged(object_id) for object_id in batch])
            for object_id in batch:
                make_private_dir(f"{paths.objects}/{object_id[:1].hex()}", durable=False)
                with contextlib.suppress(FileExistsError, FileNotFoundError):
                    os.link(self._staged(object_id), paths.object(object_id))


def _force(paths: Sequence[str]) -> None:
    """Bring files to disk: a few one by one, for syncfs(2) waits for what others wrote, too."""
    if len(paths) > FORCED_ALONE:
        sync_file_system(os.path.dirname(paths[0]))
        return
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            fd = open_private(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def _places(objects: Mapping[ObjectId, Extents]) -> dict[ChunkId, _Place]:
    """Return where each chunk is found first."""
    places: dict[ChunkId, _Place] = {}
    for object_id, extents in objects.items():
        offset = 0
        for length, chunk_id in extents:
            if chunk_id is not None and chunk_id not in places:
                places[chunk_id] = _Place(object_id, offset, length)
            offset += length
    return places


def _read_piece(path: str, place: _Place) -> bytes | None:
    try:
        fd = open_private(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return read_at(fd, place.length, place.offset)
    except OSError:  # too short as well
        return None
    finally:
        os.close(fd)


def _write_at(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count


def _of_length(data: bytes, length: int) -> bytes:
    """Return a chunk that has the length a layer refers to.

    Raises:
        FormatError: It has another.
    """
    if len(data) != length:
        raise FormatError(f"a chunk holds {len(data)} bytes where a layer refers to {length}")
    return data
