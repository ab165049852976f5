"""Fetching chunks from a remote that is slow, lies, hangs or goes away.

Nothing leaves :class:`Fetcher` that does not hash to the id it was asked by. A chunk that
several ask for at once is fetched once. Who asks waits no longer than ``patience_s``; a
remote that let somebody wait so long is given a second from then on, until it answers again.
Reads of views and what is fetched ahead of them have threads of their own, so that the
latter never stand in the way of the former.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Final, NamedTuple

from blake3 import blake3

from layerstore.errors import IntegrityError, LayerstoreError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from layerstore.digest import ChunkId
    from layerstore.store.remote import Remote

PATIENCE_S: Final = 30.0
"""How long a read waits for the remote before it fails."""

SHORT_PATIENCE_S: Final = 1.0
"""How long it waits while the remote is not answering anybody."""

READERS: Final = 4
"""Threads that fetch what somebody waits for."""

AHEAD: Final = 2
"""Threads that fetch ahead."""


class RemoteUnavailableError(StorageError):
    """The remote did not answer, or failed."""


class RemoteContentError(IntegrityError):
    """The remote does not have what its own image needs, or gave other bytes."""


class Fetched(NamedTuple):
    """What came so far.

    Attributes:
        chunks: Chunks that came and were right.
        size: Their plain bytes.
        failures: Chunks that did not come, or came wrong; each time counts.
    """

    chunks: int
    size: int
    failures: int


NOTHING: Final = Fetched(0, 0, 0)


class Fetcher:
    """Fetches from one remote, for as many threads as like.

    Args:
        remote: Not believed.
        patience_s: Seconds that one call waits at most.
        start: What came to those for whom this one goes on.
        on_change: Told what came so far, before who waits for it gets it.
    """

    def __init__(
        self,
        remote: Remote,
        *,
        patience_s: float = PATIENCE_S,
        start: Fetched = NOTHING,
        on_change: Callable[[Fetched], object] = lambda _: None,
    ) -> None:
        self._remote = remote
        self._on_change = on_change
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._pending: dict[ChunkId, Future[bytes]] = {}
        self._silent = False
        self._readers = ThreadPoolExecutor(READERS, "layerstore-fetch")
        self._ahead = ThreadPoolExecutor(AHEAD, "layerstore-ahead")
        self._fetched = start

    @property
    def fetched(self) -> Fetched:
        """What came so far."""
        return self._fetched

    def fetch(self, chunk_ids: Iterable[ChunkId], *, ahead: bool = False) -> dict[ChunkId, bytes]:
        """Return chunks, each verified.

        Args:
            chunk_ids: Which; what is on its way already is waited for.
            ahead: Nobody waits for them yet.

        Raises:
            RemoteUnavailableError: The remote failed or did not answer in time.
            RemoteContentError: It lacks one, or gave other bytes for it.
        """
        wanted = dict.fromkeys(chunk_ids)
        with self._lock:
            new = {name: Future[bytes]() for name in wanted if name not in self._pending}
            self._pending.update(new)
            waiting = {name: self._pending[name] for name in wanted}
            patience_s = SHORT_PATIENCE_S if self._silent else self._patience_s
        if new:
            (self._ahead if ahead else self._readers).submit(self._run, new)
        until = time.monotonic() + min(patience_s, self._patience_s)
        return {name: self._wait(future, until) for name, future in waiting.items()}

    def _wait(self, future: Future[bytes], until: float) -> bytes:
        try:
            return future.result(max(0.0, until - time.monotonic()))
        except FutureTimeoutError:
            with self._lock:
                self._silent = True
                self._count(0, failures=1)
            raise RemoteUnavailableError(
                f"{self._remote.location} did not answer in time",
                hint="see whether the remote works; what is here already can be read",
            ) from None

    def _run(self, futures: dict[ChunkId, Future[bytes]]) -> None:
        """Ask the remote for chunks and settle the future of each, whatever it does."""
        open_ids = set(futures)
        try:
            for chunk_id, data in self._remote.chunks(list(futures)):
                if chunk_id in open_ids:
                    open_ids.discard(chunk_id)
                    self._settle(chunk_id, futures[chunk_id], data)
            problem: LayerstoreError = RemoteContentError(
                f"{self._remote.location} does not have it, or has it damaged",
                hint="run 'layerstore check' on the remote",
            )
        except Exception as err:  # noqa: BLE001 -- whatever it is, its readers have to hear of it
            problem = RemoteUnavailableError(
                f"{self._remote.location} failed: {type(err).__name__}: {err}"
            )
        for chunk_id in open_ids:
            self._finish(chunk_id, futures[chunk_id], problem)

    def _settle(self, chunk_id: ChunkId, future: Future[bytes], data: bytes) -> None:
        if blake3(data).digest() != chunk_id:
            problem = RemoteContentError(
                f"{self._remote.location} gave other bytes than those of chunk {chunk_id.hex()}",
                hint="the remote is damaged or lies: run 'layerstore check' there",
            )
            self._finish(chunk_id, future, problem)
            return
        self._finish(chunk_id, future, data)

    def _finish(
        self, chunk_id: ChunkId, future: Future[bytes], result: bytes | LayerstoreError
    ) -> None:
        with self._lock:
            self._pending.pop(chunk_id, None)
            self._silent = False
            if isinstance(result, bytes):
                self._count(len(result))
            else:
                self._count(0, failures=1)
        if isinstance(result, bytes):
            future.set_result(result)
        else:
            future.set_exception(result)

    def _count(self, size: int, *, failures: int = 0) -> None:
        before = self._fetched
        self._fetched = Fetched(
            before.chunks + (not failures), before.size + size, before.failures + failures
        )
        self._on_change(self._fetched)


def fetch_all(remote: Remote, chunk_ids: Sequence[ChunkId]) -> dict[ChunkId, bytes]:
    """Return chunks from a remote by this thread alone, each verified; for what is described first.

    Raises:
        RemoteContentError: It lacks one, or gave other bytes for it.
        LayerstoreError: It failed.
    """
    wanted = set(chunk_ids)
    found = {
        chunk_id: data
        for chunk_id, data in remote.chunks(list(wanted))
        if chunk_id in wanted and blake3(data).digest() == chunk_id
    }
    if lacking := wanted - found.keys():
        raise RemoteContentError(
            f"{remote.location} does not have chunk {min(lacking).hex()} of a layer's tree, "
            "or gave other bytes for it",
            hint="the remote is damaged or lies: run 'layerstore check' there",
        )
    return found
