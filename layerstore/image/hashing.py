"""SHA-256 in a thread of its own, because hashlib lets other threads run meanwhile."""

from __future__ import annotations

import hashlib
import queue
import threading
from typing import TYPE_CHECKING, Final, Self

from layerstore.digest import DiffId, Digest

if TYPE_CHECKING:
    from types import TracebackType

_QUEUED_SPANS: Final = 8
"""Spans that may wait; with spans of 1 MiB they bound the memory to 8 MiB."""

_SMALL_BYTES: Final = 1 << 18
"""Spans are gathered up to this size: waking the thread costs more than hashing 16 KiB."""


class DiffIdHasher:
    """Computes the diff ID of a tar whose bytes are given in order.

    Use it in a ``with`` block: leaving it ends the thread. One thread may call it.
    """

    def __init__(self) -> None:
        self._spans: queue.Queue[bytes | None] = queue.Queue(_QUEUED_SPANS)
        self._digest = hashlib.sha256()
        self._small: list[bytes] = []
        self._small_bytes = 0
        self._thread: threading.Thread | None = None
        self.size = 0

    def update(self, data: bytes) -> None:
        """Take the next bytes of the tar; they must not change afterwards."""
        self.size += len(data)
        self._small.append(data)
        self._small_bytes += len(data)
        if self._small_bytes >= _SMALL_BYTES:
            self._flush()

    def diff_id(self) -> DiffId:
        """Return the diff ID of everything given; nothing may follow."""
        self._flush()
        self._stop()
        return DiffId(Digest("sha256:" + self._digest.hexdigest()))

    def _flush(self) -> None:
        if not self._small:
            return
        span = self._small[0] if len(self._small) == 1 else b"".join(self._small)
        self._small.clear()
        self._small_bytes = 0
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="sha256", daemon=True)
            self._thread.start()
        self._spans.put(span)

    def _run(self) -> None:
        while (span := self._spans.get()) is not None:
            self._digest.update(span)

    def _stop(self) -> None:
        if self._thread is not None:
            self._spans.put(None)
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
