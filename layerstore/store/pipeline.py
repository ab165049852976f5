"""Compression beside the caller: one worker thread turns blocks into packs.

The caller's thread hashes and groups; the worker compresses, verifies and writes
(zstd, BLAKE3 and the kernel all release the GIL). The queue is bounded, so at most
``QUEUE_BLOCKS`` blocks wait. An error in the worker is raised in the caller's next
call; the pack being written is discarded then.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, NamedTuple

from layerstore.formats.pack import BLOCK_MAX_BYTES, ItemKind
from layerstore.store.codec import compress_block
from layerstore.store.pack_writer import PackWriter, SealedPack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from layerstore.formats.pack import Item

QUEUE_BLOCKS = 12

VERIFY_EVERY = 4
"""Of content blocks one in this many is decoded again before it is written; of metadata, all."""


class BlockJob(NamedTuple):
    """A block to compress: its items and their bytes in order, which nobody changes any more."""

    kind: ItemKind
    items: Sequence[Item]
    parts: Sequence[bytes | memoryview]


class Pipeline:
    """Blocks in, sealed packs out. Not for several calling threads."""

    def __init__(self, staging_path: Callable[[], str]) -> None:
        """Prepare; the thread starts with the first block.

        Args:
            staging_path: Gives a new temporary path for each pack.
        """
        self._staging_path = staging_path
        self._jobs: queue.Queue[BlockJob | threading.Event | None] = queue.Queue(QUEUE_BLOCKS)
        self._sealed: list[SealedPack] = []
        self._writer: PackWriter | None = None
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._content_blocks = 0
        # One for all blocks: the kernel zeroes every page of a fresh one.
        self._joined = bytearray(BLOCK_MAX_BYTES)

    def submit(self, job: BlockJob) -> None:
        """Queue a block, waiting while the queue is full.

        Raises:
            LayerstoreError: The worker failed at this or an earlier block.
        """
        self._raise_error()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="layerstore-pack", daemon=True)
            self._thread.start()
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
            done = threading.Event()
            self._jobs.put(done)
            done.wait()
        return self.take_sealed()

    def close(self) -> None:
        """End the worker and discard what was not taken."""
        if self._thread is not None:
            self._jobs.put(None)
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
                if isinstance(job, threading.Event):
                    job.set()

    def _do(self, job: BlockJob | threading.Event) -> None:
        if isinstance(job, threading.Event):
            self._seal()
            return
        if self._writer is None:
            self._writer = PackWriter(self._staging_path())
        raw = job.parts[0] if len(job.parts) == 1 else self._join(job.parts)
        frame = compress_block(raw, verify=self._must_verify(job.kind))
        self._writer.add_frame(job.kind, job.items, frame, len(raw))
        if self._writer.full:
            self._seal()

    def _join(self, parts: Sequence[bytes | memoryview]) -> memoryview:
        """Return the parts back to back; valid until the next call."""
        joined = memoryview(self._joined)
        size = 0
        for part in parts:
            end = size + len(part)
            joined[size:end] = part
            size = end
        return joined[:size]

    def _must_verify(self, kind: ItemKind) -> bool:
        if kind is not ItemKind.DATA:
            return True
        self._content_blocks += 1
        return self._content_blocks % VERIFY_EVERY == 1

    def _seal(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            try:
                self._sealed.append(writer.seal())
            except BaseException:
                writer.discard()
                raise
