"""Fetching chunks from a remote that is slow, lies, hangs or goes away.

Nothing leaves :class:`Fetcher` that does not hash to the id it was asked by. A chunk that
several ask for is fetched once, as long as one of them has not put it where the others look
first. Who asks waits no longer than ``patience_s``; a
remote that let somebody wait so long is given a second from then on, until it answers again.
Reads of views and what is fetched ahead of them have threads of their own, so that the
latter never stand in the way of the former.
"""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Final, NamedTuple

from blake3 import blake3

from layerstore.errors import IntegrityError, LayerstoreError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from layerstore.digest import ChunkId
    from layerstore.store.remotes.remote import Remote

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


class _Coming:
    """A chunk that is asked for or held.

    Attributes:
        future: Gets its bytes, or why there are none.
        holders: How many are within :meth:`Fetcher.held` for it.
    """

    def __init__(self) -> None:
        self.future: Future[bytes] = Future()
        self.holders = 0


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
        self._coming: dict[ChunkId, _Coming] = {}
        self._silent = False
        self._readers = ThreadPoolExecutor(READERS, "layerstore-fetch")
        self._ahead = ThreadPoolExecutor(AHEAD, "layerstore-ahead")
        self._fetched = start

    @property
    def fetched(self) -> Fetched:
        """What came so far."""
        return self._fetched

    @contextlib.contextmanager
    def held(
        self,
        chunk_ids: Iterable[ChunkId],
        *,
        ahead: bool = False,
        local: Callable[[ChunkId], bytes | None] = lambda _: None,
    ) -> Iterator[dict[ChunkId, bytes]]:
        """Give chunks, each verified, and until the block ends to all others who want them.

        Args:
            chunk_ids: Which; what is on its way or held already is waited for.
            ahead: Nobody waits for them yet.
            local: Asked once more before one is fetched: whoever held it may have put it there.

        Raises:
            RemoteUnavailableError: The remote failed or did not answer in time.
            RemoteContentError: It lacks one, or gave other bytes for it.
        """
        new: dict[ChunkId, _Coming] = {}
        waiting: dict[ChunkId, _Coming] = {}
        with self._lock:
            for name in dict.fromkeys(chunk_ids):
                if name not in self._coming:
                    self._coming[name] = new[name] = _Coming()
                waiting[name] = self._coming[name]
                waiting[name].holders += 1
            patience_s = SHORT_PATIENCE_S if self._silent else self._patience_s
        try:
            self._ask(new, local, ahead=ahead)
            until = time.monotonic() + min(patience_s, self._patience_s)
            yield {name: self._wait(coming.future, until) for name, coming in waiting.items()}
        finally:
            with self._lock:
                for name, coming in waiting.items():
                    coming.holders -= 1
                    self._forget(name, coming)

    def _ask(
        self,
        new: dict[ChunkId, _Coming],
        local: Callable[[ChunkId], bytes | None],
        *,
        ahead: bool,
    ) -> None:
        """Have what nobody else asked for fetched; what is local by now is not."""
        absent = dict(new)
        try:
            for name, coming in new.items():
                data = local(name)
                if data is not None:
                    del absent[name]
                    coming.future.set_result(data)
        finally:  # whatever that raised: others wait for these
            if absent:
                (self._ahead if ahead else self._readers).submit(self._run, absent)

    def _forget(self, chunk_id: ChunkId, coming: _Coming) -> None:
        """Ask anew from now on, unless somebody holds the chunk; the caller has the lock."""
        future = coming.future
        if not future.done() or self._coming.get(chunk_id) is not coming:
            return
        if not coming.holders or future.exception() is not None:
            del self._coming[chunk_id]

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

    def _run(self, asked: dict[ChunkId, _Coming]) -> None:
        """Ask the remote for chunks and settle the future of each, whatever it does."""
        open_ids = set(asked)
        try:
            for chunk_id, data in self._remote.chunks(list(asked)):
                if chunk_id in open_ids:
                    open_ids.discard(chunk_id)
                    self._settle(chunk_id, asked[chunk_id], data)
            problem: LayerstoreError = RemoteContentError(
                f"{self._remote.location} does not have it, or has it damaged",
                hint="run 'layerstore check' on the remote",
            )
        except Exception as err:  # noqa: BLE001 -- whatever it is, its readers have to hear of it
            problem = RemoteUnavailableError(
                f"{self._remote.location} failed: {type(err).__name__}: {err}"
            )
        for chunk_id in open_ids:
            self._finish(chunk_id, asked[chunk_id], problem)

    def _settle(self, chunk_id: ChunkId, coming: _Coming, data: bytes) -> None:
        if blake3(data).digest() != chunk_id:
            problem = RemoteContentError(
                f"{self._remote.location} gave other bytes than those of chunk {chunk_id.hex()}",
                hint="the remote is damaged or lies: run 'layerstore check' there",
            )
            self._finish(chunk_id, coming, problem)
            return
        self._finish(chunk_id, coming, data)

    def _finish(self, chunk_id: ChunkId, coming: _Coming, result: bytes | LayerstoreError) -> None:
        with self._lock:
            self._silent = False
            if isinstance(result, bytes):
                self._count(len(result))
                coming.future.set_result(result)
            else:
                self._count(0, failures=1)
                coming.future.set_exception(result)
            self._forget(chunk_id, coming)

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
