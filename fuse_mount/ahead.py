"""Decoding ahead of a sequential reader, beside the one thread that answers.

The kernel asks for a file in order, a window at a time, and waits for each. While one window is
read out and copied, the chunks of the next are decoded by a second thread: most of that work
(reading, zstd, hashing) does not hold the interpreter. Nothing changes in what is answered:
chunks come from the same verifying reader, and its errors are told when the chunk is asked for.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.digest import ChunkId
    from layerstore.vfs.view import ChunkReader

EXPECTED_MAX = 256
"""Chunks decoded and not asked for yet: 64 MiB at most, 16 on average. The oldest go first."""

FILES_MAX = 64
"""Files whose readers are followed."""

_Expected = OrderedDict["ChunkId", "Future[bytes]"]


class AheadReader:
    """A chunk reader that can be told what will be asked for next.

    Args:
        reader: Where chunks come from; safe for two threads.
    """

    def __init__(self, reader: ChunkReader) -> None:
        self._reader = reader
        self._expected: _Expected = OrderedDict()
        self._queue: SimpleQueue[tuple[ChunkId, Future[bytes]]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def read_chunk(self, chunk_id: ChunkId) -> bytes:
        """Return the verified bytes of a chunk, waiting for them if they are under way."""
        future = self._expected.pop(chunk_id, None)
        if future is None or future.cancel():  # not begun: nobody is faster than we are
            return self._reader.read_chunk(chunk_id)
        return future.result()

    def expect(self, chunk_ids: Sequence[ChunkId]) -> None:
        """Begin to decode chunks in the background."""
        if not chunk_ids:
            return
        for chunk_id in chunk_ids:
            if chunk_id not in self._expected:
                future = self._expected[chunk_id] = Future()
                self._queue.put((chunk_id, future))
        while len(self._expected) > EXPECTED_MAX:
            self._expected.popitem(last=False)[1].cancel()
        if self._thread is None:
            # Only now: a thread keeps the privileges that its maker had.
            self._thread = threading.Thread(target=self._decode, daemon=True)
            self._thread.start()

    def _decode(self) -> None:
        while True:
            chunk_id, future = self._queue.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._reader.read_chunk(chunk_id))
            except BaseException as error:  # noqa: BLE001 -- told to whoever asks for the chunk
                future.set_exception(error)


class Followed:
    """Notices which files are read in order."""

    def __init__(self) -> None:
        self._ends: OrderedDict[int, int] = OrderedDict()

    def is_sequential(self, node: int, offset: int, size: int) -> bool:
        """Note a read; return whether it goes on where the one before it on this node ended."""
        before = self._ends.pop(node, 0)
        self._ends[node] = offset + size
        if len(self._ends) > FILES_MAX:
            self._ends.popitem(last=False)
        return before == offset
