"""Runs cases, each in a process of its own with bounds on memory and time.

Who calls :func:`run_batch` must have a single thread: cases are forked from it. The bounds
are 256 MiB of memory at the highest, Python included, and 10 s of CPU. After each case
the canaries are as before, nobody opened one, and the store's ``tmp`` is empty.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import LayerstoreError, LimitExceededError
from tests.security.corpus.model import Case, Place, make_canaries
from tests.security.corpus.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

WALL_SECONDS = 600
"""A case that hangs is ended; the bound on its work is CPU time, which neighbours do not use."""

_REMOVE_SECONDS = 20

ADDRESS_BYTES = 4 << 30
"""So that a case that goes wrong harms no other program."""

MEMORY_FREE_BYTES = 2 << 30

_COMPILING = """
from layerstore.formats.goflate.encoder import Deflate
for level in (1, 6):
    coder = Deflate(level)
    coder.compress(b"content")
    coder.flush()
"""

_FAMILY = LayerstoreError.exit_code


class Outcome(NamedTuple):
    """What came of one entrance; ``letter`` is R, L or S, or X for anything untyped."""

    entrance: str
    letter: str
    message: str


class Result(NamedTuple):
    """What came of a case.

    Attributes:
        faults: What is not as it must be, in words; none if all is well.
    """

    entry: str
    name: str
    outcomes: tuple[Outcome, ...]
    peak_bytes: int
    cpu_seconds: float
    faults: tuple[str, ...]


def compile_ahead() -> None:
    """Have numba compile what makes Go's layers again, which takes 12 s of CPU once a machine.

    No case is to pay for it. In a process of its own: what it loads would count as memory of
    every case that is forked from this one.
    """
    if find_spec("numba") is not None:
        subprocess.run([sys.executable, "-c", _COMPILING], check=True, timeout=WALL_SECONDS)


def run_batch(cases: Iterable[Case]) -> Iterator[Result]:
    """Yield the results of cases that share a store and canaries."""
    with tempfile.TemporaryDirectory(prefix="layerstore-corpus-", dir=_memory()) as directory:
        root = Path(directory)
        place = Place(root / "scratch", root / "store", root / "canaries")
        make_canaries(place.canaries)
        _make_store(place)
        beside = sorted(os.listdir(root))
        watch = Watch(place.canaries)
        before = _state(place.canaries)
        try:
            for case in cases:
                place.scratch.mkdir()
                result = _run(case, place)
                faults = list(result.faults)
                faults += [f"canary {event}" for event in watch.events()]
                if _state(place.canaries) != before:
                    faults.append("a canary changed")
                faults += [f"left in tmp: {name}" for name in os.listdir(place.store_root / "tmp")]
                _remove(place.scratch)
                if sorted(os.listdir(root)) != beside:
                    faults.append(f"beside the store lie {sorted(os.listdir(root))}")
                yield result._replace(faults=tuple(faults))
            yield from _check_store(place)
        finally:
            watch.close()


def _memory() -> str | None:
    """Return where files are memory: what is durable is no business of these tests."""
    path = "/dev/shm"
    usable = os.access(path, os.W_OK) and shutil.disk_usage(path).free > MEMORY_FREE_BYTES
    return path if usable else None


def _make_store(place: Place) -> None:
    pid = os.fork()
    if pid == 0:
        from layerstore.store.store import Store

        Store.open(place.store_root, create=True).close()
        os._exit(0)
    os.waitpid(pid, 0)


def _check_store(place: Place) -> Iterator[Result]:
    """After all cases: everything in the store reads back, and gc frees all nobody names."""

    def check_store(_place: Place) -> None:
        from layerstore.store.check.check import check
        from layerstore.store.store import Store

        with Store.open(place.store_root) as store:
            report = check(store, read_data=True)
            assert report.ok, report.findings

    from tests.security.corpus.model import Way

    whole = Case("", "the store afterwards", (Way("check", "S", check_store),),
                 memory=1 << 30, seconds=60)  # fmt: skip
    place.scratch.mkdir()
    yield _run(whole, place)


def _run(case: Case, place: Place) -> Result:
    """Run one case in a child and judge what it did."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_fd)
        _child(case, place, write_fd)
    os.close(write_fd)
    try:
        report = _read_all(read_fd, time.monotonic() + WALL_SECONDS)
    finally:
        os.close(read_fd)
    if report is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    cpu = usage.ru_utime + usage.ru_stime
    outcomes = [Outcome(*item) for item in json.loads(report or b"[]")]
    faults = list(_faults(case, outcomes))
    if status:
        faults.append(f"the process ended with status {status:#x}")
    peak = usage.ru_maxrss * 1024
    if peak > case.memory:
        faults.append(f"{peak >> 20} MiB of memory, more than {case.memory >> 20}")
    if cpu > case.seconds:
        faults.append(f"{cpu:.1f} s of CPU, more than {case.seconds}")
    return Result(case.entry, case.name, tuple(outcomes), peak, cpu, tuple(faults))


def _child(case: Case, place: Place, report_fd: int) -> None:
    """Go through the entrances, tell what came of each, and end."""
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_CPU, (case.seconds + 5, case.seconds + 5))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
    outcomes = []
    for way in case.ways:
        try:
            way.act(place)
        except LimitExceededError as err:
            outcomes.append((way.entrance, "L", f"{type(err).__name__}: {err}"))
        except LayerstoreError as err:
            letter = "X" if err.exit_code == _FAMILY else "R"
            outcomes.append((way.entrance, letter, f"{type(err).__name__}: {err}"))
        except BaseException:  # noqa: BLE001 -- SystemExit and its like are no verdict either
            outcomes.append((way.entrance, "X", traceback.format_exc(limit=-6)))
        else:
            outcomes.append((way.entrance, "S", ""))
    data = json.dumps(outcomes).encode()
    while data:
        data = data[os.write(report_fd, data) :]
    os._exit(0)


def _read_all(fd: int, deadline: float) -> bytes | None:
    """Return everything until the end of a pipe, None if it does not end in time."""
    parts = []
    while True:
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        part = os.read(fd, 1 << 16)
        if not part:
            return b"".join(parts)
        parts.append(part)


def _faults(case: Case, outcomes: list[Outcome]) -> Iterator[str]:
    for way, outcome in zip(case.ways, outcomes, strict=False):
        if outcome.letter != way.verdict:
            yield f"{way.entrance}: {outcome.letter}, expected {way.verdict}: {outcome.message}"
        elif not re.search(way.says, outcome.message):
            yield f"{way.entrance}: says {outcome.message!r}, expected {way.says!r}"
    for way in case.ways[len(outcomes) :]:
        yield f"{way.entrance}: no answer"


def _state(directory: Path) -> dict[str, tuple[int, ...]]:
    """Return what tells whether a directory or anything in it was changed."""
    state = {}
    # Not one level deeper: listing the canary directory would open it.
    for path in (directory, *directory.iterdir()):
        status = path.lstat()
        state[os.fspath(path)] = (
            status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
            status.st_nlink, status.st_uid,
        )  # fmt: skip
    return state


def _remove(directory: Path) -> None:
    """Remove a case's place, while servers that are just ending take away their own things."""
    deadline = time.monotonic() + _REMOVE_SECONDS
    while directory.exists():
        try:
            shutil.rmtree(directory)
        except OSError:  # what it had seen is gone, or more came meanwhile
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
