"""What a benchmark leaves that was killed, or could not clean up: it is ended and removed.

Programs clean up after themselves, also when they are interrupted. These are the others, and
daemons of theirs that outlived them. Everything that a run of the suite starts carries the place
of that suite in its environment, and has it as its directory for temporary files.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from layerstore.build.run.reaper import remove_cgroups
from layerstore.linux import mounts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LOCK = "suite.lock"
"""In the cache: held by the run that uses it, with the directories that were there before it."""

_MARK = "LAYERSTORE_BENCH_PLACE"
_END_SECONDS = 10.0
_TEMPORARY = re.compile(r"(?:\w[\w-]*-|tmp)[a-z0-9_]{8}")
"""Names as :mod:`tempfile` makes them; inputs that are kept have none."""


@dataclass
class Place:
    """Where benchmarks of one cache put what is temporary.

    Attributes:
        cache: Where some have their working directories, beside inputs that stay.
        temporary: Directory for temporary files. Its name is short, for the names of sockets may
            have 107 bytes only, and the same in each run: the next finds what an earlier one left.
    """

    cache: Path
    temporary: Path = field(init=False)

    def __post_init__(self) -> None:
        name = hashlib.sha256(os.fsencode(self.cache.absolute())).hexdigest()[:8]
        self.temporary = Path(tempfile.gettempdir()) / f"bench-{name}"

    @contextlib.contextmanager
    def held(self) -> Iterator[list[str]]:
        """Have the cache for one run; give in words what an earlier one left, which is gone then.

        Raises:
            ValueError: Another run has it.
        """
        with (self.cache / LOCK).open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as err:
                raise ValueError(
                    f"{self.cache} is in use by another run: wait for it, or give another --cache"
                ) from err
            before = self.beside_inputs()
            lock.seek(0)
            if kept := lock.read():
                with contextlib.suppress(ValueError):
                    before &= {self.cache / name for name in json.loads(kept)}
            found = self.clear(keep=before)
            lock.truncate(0)
            lock.write(json.dumps(sorted(path.name for path in before)))
            lock.flush()
            yield found
            lock.truncate(0)

    def environment(self) -> dict[str, str]:
        """Return what programs must have in their environment; make the directory anew."""
        self.temporary.mkdir(mode=0o700, exist_ok=True)
        return {"TMPDIR": str(self.temporary), _MARK: str(self.temporary)}

    def beside_inputs(self) -> set[Path]:
        """Return the working directories in the cache that are there now."""
        return {
            path
            for path in self.cache.iterdir()
            if path.is_dir() and _TEMPORARY.fullmatch(path.name)
        }

    def clear(self, *, keep: Iterable[Path]) -> list[str]:
        """End all processes, undo all mounts and remove all files that were left.

        Args:
            keep: Working directories in the cache that are somebody else's.

        Returns:
            What was found, in words.
        """
        places = [self.temporary, *sorted(self.beside_inputs() - set(keep))]
        found = [f"process {pid}" for pid in self._end_processes(places)]
        for place in places:
            mounted = [path for path in _mount_points() if f"{path}/".startswith(f"{place}/")]
            for path in reversed(mounted):
                with contextlib.suppress(mounts.MountCallError):
                    mounts.unmount(path, lazy=True)
            found += [f"mount {path}" for path in mounted]
        for left in self.temporary.iterdir() if self.temporary.exists() else ():
            remove_cgroups(left.name)
        for place in places:
            if place != self.temporary:
                found.append(f"directory {place}")
            shutil.rmtree(place, ignore_errors=True)
        return found

    def _end_processes(self, places: list[Path]) -> list[int]:
        """Kill, until there are none: some are started by others meanwhile."""
        ended: dict[int, None] = {}
        deadline = time.monotonic() + _END_SECONDS
        while there := self._processes(places):
            for pid in there:
                ended[pid] = None
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        return list(ended)

    def _processes(self, places: list[Path]) -> list[int]:
        """Return who carries our mark, or has its root directory on a mount of ours.

        The latter are containers, whose environment is their image's.
        """
        mark = os.fsencode(f"{_MARK}={self.temporary}\0")
        names = [os.fsencode(f"{place}/") for place in places]
        own = _read("self/ns/mnt")
        tables: dict[bytes, bool] = {own: False}
        found = []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            pid = int(entry)
            if pid == os.getpid() or not (table := _read(f"{entry}/ns/mnt")):
                continue
            if table not in tables:
                tables[table] = _root_is_below(_read(f"{entry}/mountinfo"), names)
            if tables[table] or mark in _read(f"{entry}/environ"):
                found.append(pid)
        return found


def _read(name: str) -> bytes:
    """Return a file or a link below ``/proc``; nothing of processes that are gone or no one's."""
    path = f"/proc/{name}"
    with contextlib.suppress(OSError):
        if name.endswith("/ns/mnt"):
            return os.fsencode(os.readlink(path))
        return Path(path).read_bytes()
    return b""


def _root_is_below(table: bytes, names: list[bytes]) -> bool:
    """Whether what is mounted at ``/`` names a place: others merely see what is mounted there."""
    roots = [line for line in table.splitlines() if line.split()[4:5] == [b"/"]]
    return any(name in line for line in roots for name in names)


def _mount_points() -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        return [line.split()[4] for line in table]
