"""Compression beside the caller: one worker thread turns blocks into packs.

The caller's thread hashes and groups; the worker compresses, verifies and writes
(zstd, BLAKE3 and the kernel all release the GIL). The queue is bounded, so at most
``QUEUE_BLOCKS`` blocks wait. An error in the worker is raised in the caller's next
call; the pack being written is discarded then.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import IntegrityError, NotFoundError
from layerstore.formats.pack import BLOCK_MAX_BYTES, ItemKind
from layerstore.handover import Handover
from layerstore.store.packs.codec import compress_block, compress_difference
from layerstore.store.packs.pack_writer import ALONE, Against, PackWriter, SealedPack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from layerstore.digest import ChunkId
    from layerstore.formats.pack import Item

QUEUE_BLOCKS = 12

SURELY_SMALL = 1 / 6
"""A difference below this part of the plain bytes is kept without trying the block alone."""

WORTH_A_BASE = 0.8
"""A difference must be smaller than this part of the block alone: it makes readers decode
more and ties the block's fate to others."""


class BlockJob(NamedTuple):
    """A block to compress.

    Attributes:
        items: What lies in it.
        parts: Their bytes in order, which nobody changes any more.
        against: What to try a difference against.
    """

    kind: ItemKind
    items: Sequence[Item]
    parts: Sequence[bytes | memoryview]
    against: Against = ALONE


class _Flush(NamedTuple):
    """A wish for the pack to be sealed; ``done`` hears when it is."""

    done: SimpleQueue[None]


class Pipeline:
    """Blocks in, sealed packs out. Not for several calling threads."""

    def __init__(
        self, staging_path: Callable[[], str], read_chunk: Callable[[ChunkId], bytes]
    ) -> None:
        """Prepare; the thread starts with the first block.

        Args:
            staging_path: Gives a new temporary path for each pack.
            read_chunk: Reads bases of differences, verified.
        """
        self._staging_path = staging_path
        self._read_chunk = read_chunk
        self._jobs: Handover[BlockJob | _Flush] = Handover(QUEUE_BLOCKS)
        self._sealed: list[SealedPack] = []
        self._writer: PackWriter | None = None
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        # One for all blocks: the kernel zeroes every page of a fresh one.
        self._joined = bytearray(BLOCK_MAX_BYTES)

    def submit(self, job: BlockJob) -> None:
        """Queue a block, waiting while the queue is full.

        Raises:
            LayerstoreError: The worker failed at this or an earlier block.
        """
        self._raise_error()
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="layerstore-pack", daemon=True)
            thread.start()  # fails where memory or processes run out; then there is none to end
            self._thread = thread
        self._jobs.put(job)

    def take_sealed(self) -> list[SealedPack]:
        """Return packs finished since the last call, without waiting."""
        self._raise_error()
        taken: list[SealedPack] = []
        while self._sealed:
            taken.append(self._sealed.pop(0))
        return taken

    def flush(self) -> list[SealedPack]:
        """Finish every queued block, seal the pack, and return all packs not taken yet."""
        if self._thread is not None:
            flush = _Flush(SimpleQueue())
            self._jobs.put(flush)
            flush.done.get()
        return self.take_sealed()

    def close(self) -> None:
        """End the worker and discard what was not taken."""
        if self._thread is not None:
            self._jobs.end()
            self._thread.join()
            self._thread = None
        if self._writer is not None:
            self._writer.discard()
            self._writer = None
        for pack in self._sealed:
            if pack.staged is not None:
                pack.staged.discard()
        self._sealed.clear()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                if self._error is None:
                    self._do(job)
            except BaseException as err:  # noqa: BLE001 -- handed to the calling thread
                self._error = err
                if self._writer is not None:
                    self._writer.discard()
                    self._writer = None
            finally:
                if isinstance(job, _Flush):
                    job.done.put(None)

    def _do(self, job: BlockJob | _Flush) -> None:
        if isinstance(job, _Flush):
            self._seal()
            return
        if self._writer is None:
            self._writer = PackWriter(self._staging_path())
        raw = job.parts[0] if len(job.parts) == 1 else self._join(job.parts)
        frame, against = self._compressed(raw, job)
        self._writer.add_frame(job.kind, job.items, frame, len(raw), against)
        if self._writer.full:
            self._seal()

    def _compressed(self, raw: bytes | memoryview, job: BlockJob) -> tuple[bytes, Against]:
        """Return the smaller of the block's frames, and what it is a difference against."""
        difference = self._difference(raw, job.against.bases)
        if difference is not None and len(difference) < len(raw) * SURELY_SMALL:
            return difference, job.against
        alone = compress_block(raw)
        if difference is not None and len(difference) < len(alone) * WORTH_A_BASE:
            return difference, job.against
        return alone, ALONE

    def _difference(self, raw: bytes | memoryview, bases: Sequence[ChunkId]) -> bytes | None:
        """Return a frame against ``bases``; None without any, or if one cannot be read."""
        if not bases:
            return None
        try:
            prefix = b"".join([self._read_chunk(base) for base in bases])
        except (IntegrityError, NotFoundError):
            return None  # damage elsewhere, or gc took it: new content stands alone
        return compress_difference(raw, prefix)

    def _join(self, parts: Sequence[bytes | memoryview]) -> memoryview:
        """Return the parts back to back; valid until the next call."""
        joined = memoryview(self._joined)
        size = 0
        for part in parts:
            end = size + len(part)
            joined[size:end] = part
            size = end
        return joined[:size]

    def _seal(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            try:
                self._sealed.append(writer.seal())
            except BaseException:
                writer.discard()
                raise
