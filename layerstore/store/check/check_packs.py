"""Checking one pack: its tables against the catalog, and every byte when asked.

Works on an open file and what the catalog said of it; knows no catalog, so that several
packs may be read at once (hashing and decoding release the interpreter's lock).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from blake3 import blake3

from layerstore.errors import FormatError, IntegrityError, NotFoundError, StorageError
from layerstore.formats.pack import HEADER, TRAILER, decode_header
from layerstore.linux.files import ShortFileError, read_at
from layerstore.store.check.findings import Finding, Problem
from layerstore.store.failures import PACK_DAMAGE
from layerstore.store.packs.codec import decompress_block
from layerstore.store.packs.pack_reader import read_footer
from layerstore.store.rewriting.rewrite import item_matches

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from layerstore.formats.pack import Block
    from layerstore.store.catalog.rows import PackRow

READ_BYTES = 1024 * 1024


class Harm(NamedTuple):
    """A finding, and the items that cannot be read because of it."""

    finding: Finding
    items: tuple[bytes, ...] = ()


class PackTask(NamedTuple):
    """A pack whose tables are sound, and what to read of it.

    Attributes:
        here: Items that the catalog places in this pack: only they can be harmed.
        wanted: Blocks without any of these are passed over; None reads everything.
        prefix_of: Gives what a block is a difference against, if it is one.
    """

    path: str
    pack: PackRow
    blocks: list[Block]
    here: frozenset[bytes]
    wanted: Collection[bytes] | None
    prefix_of: Callable[[Block], Callable[[], bytes] | None]


class PackResult(NamedTuple):
    """What was found, and the bytes of the file that were read."""

    harms: list[Harm]
    bytes_read: int


def open_tables(path: str, pack: PackRow) -> list[Block]:
    """Return the blocks that a pack lists, after comparing its size with the catalog's.

    Raises:
        FormatError: It is not a sound pack, or another one.
        OSError: It cannot be opened or read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        size = os.fstat(fd).st_size
        if size != pack.size:
            raise FormatError(f"has {size} bytes, the catalog says {pack.size}")
        if decode_header(read_at(fd, HEADER.size, 0)).effort != pack.effort:
            raise FormatError("pack and catalog tell another effort")
        return read_footer(fd)
    finally:
        os.close(fd)


def tables_bytes(blocks: list[Block], pack: PackRow) -> int:
    """Return how many bytes of a pack file its header, footer and trailer are."""
    end = max((block.offset + block.stored_length for block in blocks), default=TRAILER.size)
    return pack.size - end


def read_pack(task: PackTask) -> PackResult:
    """Read a pack's frames, decode each, compare every item with its id; hash the whole file."""
    try:
        fd = os.open(task.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as err:
        return PackResult(
            [pack_harm(task.path, task.pack, f"cannot be opened: {err}", task.here)], 0
        )
    try:
        return _Reading(task, fd).run()
    except OSError as err:
        return PackResult([pack_harm(task.path, task.pack, str(err), task.here)], 0)
    finally:
        os.close(fd)


def pack_harm(
    path: str,
    pack: PackRow,
    message: str,
    items: Collection[bytes],
    problem: Problem = Problem.PACK_DAMAGED,
) -> Harm:
    """Return the harm of a pack that is unreadable as a whole."""
    if not items:
        problem, message = Problem.DEAD_BYTES_DAMAGED, f"{message}; nothing in it is in use"
    return Harm(Finding(problem, path, pack.pack_id.hex(), message), tuple(items))


class _BaseLostError(Exception):
    """A block may be whole, but what it is a difference against cannot be read."""


class _Reading:
    """One pass over a pack, from its first byte to its last."""

    def __init__(self, task: PackTask, fd: int) -> None:
        self._task = task
        self._fd = fd
        self._hash = blake3()
        self._harms: list[Harm] = []
        self._bytes_read = 0
        self._is_hashed = True

    def run(self) -> PackResult:
        task = self._task
        if task.wanted is not None:
            for block in task.blocks:
                if any(item.item_id in task.wanted for item in block.items):
                    self._frame(block)
            return PackResult(self._harms, self._bytes_read)
        at = 0
        for block in task.blocks:
            self._between(at, block.offset)
            self._frame(block)
            at = block.offset + block.stored_length
        self._between(at, task.pack.size)
        matches = self._hash.digest() == task.pack.pack_id
        if self._is_hashed and not matches and not self._is_explained():
            # Damage outside the frames (padding, reserved bytes), or where none can be decoded.
            finding = Finding(
                Problem.PACK_DAMAGED,
                task.path,
                task.pack.pack_id.hex(),
                "pack does not match its id although every chunk in it that can be read does",
            )
            self._harms.append(Harm(finding))
        return PackResult(self._harms, self._bytes_read)

    def _is_explained(self) -> bool:
        """Return whether damage was found in this pack, as opposed to what it builds upon."""
        return any(harm.finding.problem is not Problem.BASE_DAMAGED for harm in self._harms)

    def _between(self, start: int, end: int) -> None:
        for offset in range(start, end, READ_BYTES):
            self._hash.update(self._read(offset, min(READ_BYTES, end - offset)))

    def _read(self, offset: int, size: int) -> bytes:
        data = read_at(self._fd, size, offset)
        self._bytes_read += size
        return data

    def _frame(self, block: Block) -> None:
        """Read a frame; where the medium does not give it, that harms its block alone."""
        try:
            frame = self._read(block.offset, block.stored_length)
        except OSError as err:
            if err.errno not in PACK_DAMAGE:
                raise
            self._is_hashed = False
            self._damaged(block, f"frame cannot be read: {os.strerror(err.errno)}")
            return
        self._hash.update(frame)
        self._block(block, frame)

    def _damaged(self, block: Block, message: str) -> None:
        used = self._used(block)
        message = f"{message}; it holds {len(used)} chunks that are in use"
        self._harm(Problem.BLOCK_DAMAGED, block, "", message, used)

    def _block(self, block: Block, frame: bytes) -> None:
        try:
            prefix = self._prefix(block)
            raw = decompress_block(frame, block.raw_length, prefix)
        except _BaseLostError as err:
            used = self._used(block)
            if used:  # gc keeps no bases for dead bytes
                self._harm(Problem.BASE_DAMAGED, block, "", str(err), used)
            return
        except (FormatError, ShortFileError) as err:
            self._damaged(block, str(err))
            return
        for item_id in _mismatches(block, raw):
            one = (item_id,) if item_id in self._task.here else ()
            message = "chunk does not match its id"
            self._harm(Problem.CHUNK_DAMAGED, block, item_id.hex(), message, one)

    def _used(self, block: Block) -> tuple[bytes, ...]:
        return tuple(i.item_id for i in block.items if i.item_id in self._task.here)

    def _prefix(self, block: Block) -> bytes:
        read = self._task.prefix_of(block)
        try:
            return read() if read is not None else b""
        except (IntegrityError, NotFoundError, StorageError) as err:
            raise _BaseLostError(f"what it is a difference against is lost: {err.message}") from err

    def _harm(
        self, problem: Problem, block: Block, digest: str, message: str, items: tuple[bytes, ...]
    ) -> None:
        if not items:
            problem = Problem.DEAD_BYTES_DAMAGED
        where = f"{self._task.path} offset {block.offset}"
        self._harms.append(Harm(Finding(problem, where, digest, message), items))


def _mismatches(block: Block, raw: bytes) -> Iterator[bytes]:
    offset = 0
    for item in block.items:
        if not item_matches(block.kind, item, raw[offset : offset + item.length]):
            yield item.item_id
        offset += item.length
