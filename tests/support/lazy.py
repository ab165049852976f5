"""Lazy views whose remote lies, hangs or waits: servers begin as forks that see another remote."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fuse_mount import lazy_server, lazy_source, lowers, mounts, server, starting
from fuse_mount.lazy_lowers import LazySource, fetched
from layerstore.image.lazy import fetching
from layerstore.image.transfer.remotes import open_remote
from layerstore.store.store import Store
from tests.support.views import image_of, undo_all_mounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from layerstore.digest import ChunkId
    from layerstore.store.remotes.remote import Remote


class Wrapped:
    """A remote that behaves as another in all but what is overridden."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self.location = remote.location

    def __getattr__(self, name: str):
        return getattr(self._remote, name)

    def chunks(self, chunk_ids: Sequence[ChunkId]) -> Iterator[tuple[ChunkId, bytes]]:
        yield from self._remote.chunks(chunk_ids)


def wrap_remotes(
    monkeypatch, wrap: Callable[[Remote], Remote], *, patience_s: float = 30.0
) -> list[int]:
    """Let servers that start from now on see their remote through ``wrap``; return their pids.

    ``wrap`` runs in each process of a server: once in the keeper, then in each that serves.
    """
    pids: list[int] = []
    read_report = starting._read_report

    def spawn(
        directory: str, log: int, numbers: dict[int, int], _words: Sequence[str], module: str
    ) -> None:
        pid = os.fork()
        if pid == 0:
            if os.fork():
                os._exit(0)
            with contextlib.suppress(BaseException):
                _take_descriptors(log, numbers)
                _see_through(wrap, patience_s)
                chosen = lazy_server if module == lazy_server.__name__ else server
                chosen.main([directory])
            os._exit(99)
        os.waitpid(pid, 0)

    def note_pid(answer: bytes, log: str) -> int:
        pids.append(read_report(answer, log))
        return pids[-1]

    monkeypatch.setattr(starting, "_spawn", spawn)
    monkeypatch.setattr(starting, "_read_report", note_pid)
    return pids


def _take_descriptors(log: int, numbers: dict[int, int]) -> None:
    """Be what a server finds when it begins: its descriptors, and a session of its own."""
    os.setsid()
    moved = {number: fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for number, fd in numbers.items()}
    for number in (1, 2):
        os.dup2(log, number)
    os.closerange(3, 100)  # locks of whoever starts it among them
    for number, fd in moved.items():
        os.dup2(fd, number)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)


def _see_through(wrap: Callable[[Remote], Remote], patience_s: float) -> None:
    fetching.Fetcher.__init__.__kwdefaults__["patience_s"] = patience_s

    def connect(spec):
        return wrap(open_remote(str(spec["remote"])))

    lazy_source.connect = connect
    lazy_server.connect = connect


class LazyPlace:
    """A tree, the remote store that holds it as ``odd:1``, and a local store without anything."""

    def __init__(self, base: Path, tree: Path) -> None:
        self.base = base
        self.tree = tree
        self.remote = base / "remote"
        self.store = base / "store"
        self.image_id = image_of(self.remote, tree).image_id
        Store.open(self.store, create=True).close()

    def source(self, **given: str) -> LazySource:
        return LazySource(str(self.remote), self.image_id, **given)

    def mount(
        self, target: Path, *, backend: str, rw: bool = False, **given: str
    ) -> mounts.MountRecord:
        target.mkdir(exist_ok=True)
        return mounts.mount(
            str(self.store), self.source(**given), str(target), rw=rw, backend=backend
        )

    def unmount(self, target: Path, *, lazy: bool = False) -> None:
        """Unmount, and wait until the server has passed on what it fetched."""
        record = mounts.unmount(str(self.store), str(target), lazy=lazy)
        wait_until(lambda: not os.path.exists(record.lower))

    def fetched(self, target: Path) -> dict[str, int]:
        return fetched(self.record(target).lower)

    def log(self, target: Path) -> str:
        return Path(f"{self.record(target).lower}/log").read_text()

    def record(self, target: Path) -> mounts.MountRecord:
        (found,) = [
            item.record
            for item in mounts.mounts(str(self.store))
            if item.record.target == str(target)
        ]
        return found

    def state(self, target: Path) -> tuple[str, str]:
        (found,) = [
            item for item in mounts.mounts(str(self.store)) if item.record.target == str(target)
        ]
        return found.state, found.reason

    def undo(self) -> None:
        undo_all_mounts(self.store)
        # os.walk() minds no directory that goes meanwhile.
        place = lowers.lowers_directory(str(self.store))
        wait_until(lambda: not any("alive" in names for _, _, names in os.walk(place)))


def wait_until(happened: Callable[[], bool], *, seconds: float = 60.0) -> None:
    """Wait for what another process is about to do."""
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)
