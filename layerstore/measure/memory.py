"""``savings --memory``: what running views hold in the page cache, and what sharing saves.

The kernel is asked file by file (:mod:`layerstore.linux.page_cache`); asking reads nothing in.
A view by the kernel keeps its files' pages with the objects of the store, or with the mounts of
packs, once for all images that hold them; a FUSE mount keeps them with its own inodes, for all
views of that image. A page counts for every image that holds its file, whoever read it: the
kernel does not remember. Dentries and inodes are not counted.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

import msgspec

from fuse_mount.kernel_lowers import packs_of
from fuse_mount.lowers import KERNELS
from fuse_mount.mounts import STALE, mounts
from layerstore.digest import PackId, chain_id, hex_of
from layerstore.errors import FormatError, UnsupportedError
from layerstore.formats.sidecar import decode_pack_sidecar, decode_sidecar
from layerstore.linux.files import read_file
from layerstore.linux.page_cache import cached_bytes, mapped_bytes
from layerstore.measure.table import Table, columns
from layerstore.store.objects.tier import SIDECAR_MAX_BYTES
from layerstore.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from fuse_mount.records import MountRecord, UnreadableRecordError
    from layerstore.digest import DiffId, ObjectId
    from layerstore.store.store import Store


class ImageMemory(msgspec.Struct, frozen=True):
    """One image as shown by one backend.

    Attributes:
        views: Running views of it.
        cached: Bytes of its files, and of its metadata image, that are in memory.
        shared: Bytes of them that are in memory for other images of this table, too.
        written: Bytes in memory of files in its views' upper directories: theirs alone.
        servers: Bytes in memory of its FUSE servers, shared pages in proportion (PSS).
    """

    image_id: str
    name: str
    backend: str
    views: int
    cached: int
    shared: int
    written: int
    servers: int


class Memory(msgspec.Struct, frozen=True):
    """All running views.

    Attributes:
        used: Bytes in memory here, everything once.
        per_image: Bytes if every image kept pages of its own, as file systems of an image each
            do.
        per_view: Bytes if every view kept pages of its own, as virtual machines do.
        notes: What could not be counted.
    """

    images: tuple[ImageMemory, ...]
    used: int
    per_image: int
    per_view: int
    notes: tuple[str, ...]


def take_memory(store: Store, chosen: Collection[str] = ()) -> Memory:
    """Return what the running views of a store hold in memory now.

    Args:
        store: The store.
        chosen: Ids of images; views of others do not count. Empty for all.

    Raises:
        UnsupportedError: The kernel tells only root.
    """
    if os.geteuid() != 0:
        raise UnsupportedError(
            "the kernel tells only root what of others' files is in memory",
            hint="run it as root: sudo layerstore savings --memory",
        )
    shown: dict[tuple[str, str], list[MountRecord]] = {}
    unreadable: list[UnreadableRecordError] = []
    for item in mounts(str(store.root), unreadable):
        record = item.record
        if item.state != STALE and (not chosen or record.image_id in chosen):
            shown.setdefault((record.image_id, record.backend), []).append(record)
    measured = _Measured(store)
    measured.notes += [f"a view is not counted: {err.message}" for err in unreadable]
    pages = {key: measured.pages_of(records) for key, records in shown.items()}
    images = tuple(
        _image_memory(records, pages[key], [pages[other] for other in pages if other != key])
        for key, records in sorted(shown.items(), key=lambda item: _name(item[1]))
    )
    once = {name: size for each in pages.values() for name, size in each.items()}
    private = sum(image.written + image.servers for image in images)
    return Memory(
        images,
        sum(once.values()) + private,
        sum(image.cached for image in images) + private,
        sum(image.cached * image.views for image in images) + private,
        tuple(measured.notes),
    )


class _Measured:
    """Asks the kernel about every file once."""

    def __init__(self, store: Store) -> None:
        self._paths = store.paths
        self._sizes: dict[str, int] = {}
        self.notes: list[str] = []

    def pages_of(self, records: list[MountRecord]) -> dict[object, int]:
        """Return the bytes in memory of each file that views of one image and backend show."""
        if records[0].backend in KERNELS:
            pages = self._of_objects(records[0])
            for lower in {record.lower for record in records}:
                pages.update(self._of_packs(lower, records[0].layers))
            return pages
        pages = {}
        for lower in {record.lower for record in records}:
            root = next(
                record.target if record.kind == "fuse" else f"{lower}/root"
                for record in records
                if record.lower == lower
            )
            pages.update(self._of_tree(root))
        return pages

    def _of_objects(self, record: MountRecord) -> dict[object, int]:
        chain = hex_of(chain_id(record.layers))
        try:
            objects = self._objects_of(chain)
        except (OSError, FormatError) as err:
            self.notes.append(f"the files of {record.target} are not counted: {err}")
            return {}
        paths = [self._paths.metadata_image(chain)]
        paths += [self._paths.object(name) for name in objects]
        return {path: size for path in paths if (size := self._own_pages(path))}

    def _of_packs(self, lower: str, layers: Sequence[DiffId]) -> dict[object, int]:
        """Return the same of what an instance reads in packs: files, images, and packs themselves.

        Frames that the kernel keeps decoded for files inside of them belong to no file, and
        cannot be asked about.
        """
        names = packs_of(lower)
        if not names:
            return {}
        pages: dict[object, int] = {}
        try:
            wanted = self._objects_of(hex_of(chain_id(layers)))
            for name in names:
                image = os.path.dirname(name)
                path = self._paths.pack_sidecar(image)
                sidecar = decode_pack_sidecar(read_file(path, max_bytes=SIDECAR_MAX_BYTES))
                pack = self._paths.pack(PackId(bytes.fromhex(image.partition(".")[0])))
                root = f"{self._paths.pack_mounts}/{name}/root"
                texts = (found.hex() for found in sidecar.image.objects & wanted)
                paths = [pack, self._paths.pack_image(image)]
                paths += [f"{root}/{text[:2]}/{text}" for text in texts]
                pages.update({path: size for path in paths if (size := self._own_pages(path))})
        except (OSError, FormatError) as err:
            self.notes.append(f"what {lower} reads in packs is not counted: {err}")
        return pages

    def _objects_of(self, chain: str) -> AbstractSet[ObjectId]:
        path = self._paths.metadata_sidecar(chain)
        return decode_sidecar(read_file(path, max_bytes=SIDECAR_MAX_BYTES)).objects

    def _own_pages(self, path: str) -> int:
        if path not in self._sizes:
            self._sizes[path] = file_pages(path, cached_bytes)
        return self._sizes[path]

    def _of_tree(self, root: str) -> dict[object, int]:
        """Walk a FUSE mount: its pages belong to inodes that have no other name."""
        try:
            device = os.stat(root).st_dev
            if device == os.stat(os.path.dirname(root)).st_dev:
                raise OSError("it is mounted in another namespace")
            return {
                (device, inode): size
                for inode, path in _files_below(root, device)
                if (size := file_pages(path, mapped_bytes))
            }
        except OSError as err:
            self.notes.append(f"what is shown at {root} is not counted: {err}")
            return {}


def file_pages(path: str, ask: Callable[[int, int], int]) -> int:
    """Return a file's bytes in memory; 0 for one that went or cannot be asked about."""
    with contextlib.suppress(OSError):
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(path, flags)
        try:
            status = os.fstat(fd)
            return ask(fd, status.st_size) if stat.S_ISREG(status.st_mode) else 0
        finally:
            os.close(fd)
    return 0


def _files_below(root: str, device: int) -> Iterator[tuple[int, str]]:
    """Yield inode number and a path of every regular file of one file system, links once."""
    seen: set[int] = set()
    pending = [root]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if status.st_dev != device:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    pending.append(entry.path)
                elif stat.S_ISREG(status.st_mode) and status.st_ino not in seen:
                    seen.add(status.st_ino)
                    yield status.st_ino, entry.path


def _image_memory(
    records: list[MountRecord], pages: dict[object, int], others: list[dict[object, int]]
) -> ImageMemory:
    lowers = {record.lower for record in records if record.backend not in KERNELS}
    return ImageMemory(
        records[0].image_id,
        _name(records),
        records[0].backend,
        len(records),
        sum(pages.values()),
        sum(size for name, size in pages.items() if any(name in other for other in others)),
        sum(_upper_pages(record.upper) for record in records if record.upper is not None),
        sum(_server_bytes(lowers)) if lowers else 0,
    )


def _name(records: list[MountRecord]) -> str:
    return next((record.image for record in records if record.image), "") or hex_of(
        records[0].image_id
    )


def _upper_pages(upper: str) -> int:
    with contextlib.suppress(OSError):
        device = os.stat(upper).st_dev
        return sum(file_pages(path, cached_bytes) for _, path in _files_below(upper, device))
    return 0


def _server_bytes(lowers: Collection[str]) -> Iterator[int]:
    """Yield what each process takes that serves an instance: its arguments name the directory."""
    wanted = {os.fsencode(lower) for lower in lowers}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, ValueError):
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            if wanted & set(words):
                yield _proportional_bytes(pid)


def _proportional_bytes(pid: str) -> int:
    with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def memory_table(memory: Memory) -> Table:
    """Return the table for people."""
    rows = tuple(
        (
            image.name,
            image.backend,
            str(image.views),
            format_size(image.cached),
            format_size(image.shared),
            format_size(image.written),
            format_size(image.servers),
        )
        for image in memory.images
    )
    notes = (
        f"in memory here, everything once: {format_size(memory.used)}",
        f"if every image kept pages of its own: {format_size(memory.per_image)}",
        f"if every view did, as virtual machines do: {format_size(memory.per_view)}",
        *memory.notes,
    )
    names = ["VIEWS", "IN MEMORY", "SHARED", "WRITTEN", "SERVERS"]
    return Table("", columns(["IMAGE", "BACKEND"], names), rows, None, notes)
