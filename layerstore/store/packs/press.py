"""Compressing blocks as small as they get, in several threads, in the order they came.

Who has time for high levels uses this (:mod:`layerstore.store.rewriting.optimize`) and who pays for
every byte (:mod:`layerstore.store.remotes.parcels`); ingest has its own pipeline. Belongs to one
thread, whose workers only read.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import IntegrityError, NotFoundError
from layerstore.store.packs.codec import compress_block, compress_difference
from layerstore.store.packs.pack_writer import ALONE, Against
from layerstore.store.packs.pipeline import SURELY_SMALL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from layerstore.digest import ChunkId
    from layerstore.formats.pack import Item, ItemKind

TRIAL_LEVEL = 5
"""At which it is found out whether a difference pays: a hundredth of the price."""

BASE_COST_BYTES = 100
"""What naming a base costs: its id in the footer and its row in the catalog. A difference
must be smaller than the block alone by that: this is for size."""

WORKERS_MAX = 8
"""Threads that compress unless told otherwise: a difference at level 19 takes 150 MB of memory."""

WAITING_BLOCKS_PER_WORKER = 3
"""Blocks that wait for a worker, so that memory stays bounded."""


class PressedBlock(NamedTuple):
    """A block with its frame, and what that is a difference against."""

    kind: ItemKind
    items: Sequence[Item]
    frame: bytes
    raw_length: int
    against: Against


class _Waiting(NamedTuple):
    """A block on its way through a worker."""

    kind: ItemKind
    items: Sequence[Item]
    raw_length: int
    frame: Future[tuple[bytes, Against]]


class Press:
    """Blocks in, frames out. Close it."""

    def __init__(
        self, read_chunk: Callable[[ChunkId], bytes], level: int, workers: int | None = None
    ) -> None:
        """Prepare; threads start with the first block.

        Args:
            read_chunk: Reads bases, verified.
            level: Of zstd.
            workers: Threads; None for one a processor, up to ``WORKERS_MAX``.
        """
        count = workers or min(len(os.sched_getaffinity(0)), WORKERS_MAX)
        self._read_chunk = read_chunk
        self._level = level
        self._pool = ThreadPoolExecutor(count, "layerstore-press")
        self._waiting: deque[_Waiting] = deque()
        self._waiting_max = count * WAITING_BLOCKS_PER_WORKER

    def submit(
        self, kind: ItemKind, items: Sequence[Item], raw: bytes, against: Against
    ) -> Iterator[PressedBlock]:
        """Take a block; return those that are done while too many wait."""
        frame = self._pool.submit(self._compressed, raw, against)
        self._waiting.append(_Waiting(kind, items, len(raw), frame))
        return self._finished(self._waiting_max)

    def finish(self) -> Iterator[PressedBlock]:
        """Return all blocks that are not returned yet."""
        return self._finished(0)

    def _finished(self, leave: int) -> Iterator[PressedBlock]:
        while len(self._waiting) > leave:
            block = self._waiting.popleft()
            frame, against = block.frame.result()
            yield PressedBlock(block.kind, block.items, frame, block.raw_length, against)

    def close(self) -> None:
        """End the threads; what was not returned is dropped."""
        self._pool.shutdown(cancel_futures=True)

    def _compressed(self, raw: bytes, against: Against) -> tuple[bytes, Against]:
        """Return the frame that pays, and what it is a difference against (in a worker)."""
        prefix = self._prefix(against)
        if prefix:
            trial = len(compress_difference(raw, prefix, level=TRIAL_LEVEL))
            small = trial < len(raw) * SURELY_SMALL
            alone = 0 if small else len(compress_block(raw, verify=False, level=TRIAL_LEVEL))
            if small or trial + BASE_COST_BYTES * len(against.bases) < alone:
                return compress_difference(raw, prefix, level=self._level), against
        return compress_block(raw, level=self._level), ALONE

    def _prefix(self, against: Against) -> bytes:
        """Return what to try a difference against; nothing if it cannot be read."""
        try:
            return b"".join([self._read_chunk(base) for base in against.bases])
        except (IntegrityError, NotFoundError):
            return b""
