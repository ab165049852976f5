"""SHA-256 in a thread of its own, because hashlib lets other threads run meanwhile."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Final, Self

from layerstore.digest import DiffId, Digest
from layerstore.handover import Handover

if TYPE_CHECKING:
    from types import TracebackType

_QUEUED_BATCHES: Final = 4
"""Batches that may wait; with pieces of up to 1 MiB they bound the memory to about 10 MiB."""

_BATCH_BYTES: Final = 1 << 20
"""Pieces are gathered up to this size: waking the thread costs more than hashing 16 KiB."""

_PIECES_MAX: Final = 8
"""A batch of more pieces is joined before it is hashed."""


class DiffIdHasher:
    """Computes the diff ID of a tar whose bytes are given in order.

    Use it in a ``with`` block: leaving it ends the thread. One thread may call it.
    """

    def __init__(self) -> None:
        self._batches: Handover[list[bytes | memoryview]] = Handover(_QUEUED_BATCHES)
        self._digest = hashlib.sha256()
        self._batch: list[bytes | memoryview] = []
        self._batch_bytes = 0
        self._thread: threading.Thread | None = None
        self.size = 0

    def update(self, *pieces: bytes | memoryview) -> None:
        """Take the next bytes of the tar; they must not change afterwards."""
        size = sum(map(len, pieces))
        self.size += size
        self._batch += pieces
        self._batch_bytes += size
        if self._batch_bytes >= _BATCH_BYTES:
            self._flush()

    def diff_id(self) -> DiffId:
        """Return the diff ID of everything given; nothing may follow."""
        self._flush()
        self._stop()
        return DiffId(Digest("sha256:" + self._digest.hexdigest()))

    def _flush(self) -> None:
        if not self._batch:
            return
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="sha256", daemon=True)
            thread.start()  # fails where memory or processes run out; then there is none to end
            self._thread = thread
        self._batches.put(self._batch)
        self._batch = []
        self._batch_bytes = 0

    def _run(self) -> None:
        update = self._digest.update
        while (batch := self._batches.get()) is not None:
            # Each call lets go of the interpreter's lock and must win it back, which costs
            # more than copying small pieces.
            if len(batch) > _PIECES_MAX:
                batch = [b"".join(batch)]
            for piece in batch:
                update(piece)

    def _stop(self) -> None:
        if self._thread is not None:
            self._batches.end()
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()
