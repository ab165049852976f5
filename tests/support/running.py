"""Containers that ``layerstore run`` starts in tests: a private store, and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

from layerstore.cli.settings import run_base
from layerstore.containers.records import all_containers
from layerstore.containers.states import started_at
from layerstore.store.store import Store
from tests.support.build import add_base
from tests.support.cli import Cli

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WAIT_SECONDS = 60.0


class Containers(Cli):
    """Runs ``layerstore`` over a store with the image ``box``, and looks at what is left."""

    @property
    def run_base(self) -> str:
        return run_base(str(self.store), os.environ, is_root=True)

    def state(self, name: str) -> dict[str, Any]:
        (found,) = json.loads(self.ok("container", "inspect", name).out)
        return found["State"]

    def popen(self, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command(*words), env=self.interrupted_environment(), **options)

    def leftovers(self) -> list[str]:
        """Return what should be gone once no container is: mounts, groups, files."""
        left = list(os.listdir(self.store / "uppers"))
        left += [name for name in os.listdir(self.store / "views") if name.endswith(".json")]
        with contextlib.suppress(FileNotFoundError):
            left += [name for name in os.listdir(self.run_base) if name != "runtime"]
            left += os.listdir(f"{self.run_base}/runtime")
        with open("/proc/self/mountinfo") as file:
            left += [line for line in file if str(self.store) in line]
        names = [n for n in os.listdir(self.store / "containers") if n != "names"]
        return left + names + cgroups_of(names)

    def clear(self) -> None:
        """Remove every container, whatever became of it."""
        for container in list(all_containers(str(self.store), [])):
            self("container", "rm", "--force", "--volumes", container.container_id)
        self("umount", "--all", "--lazy")


def cgroups_of(ids: list[str]) -> list[str]:
    found = []
    for hierarchy in os.listdir("/sys/fs/cgroup"):
        for name in ids:
            path = f"/sys/fs/cgroup/{hierarchy}/layerstore-{name}"
            if os.path.exists(path):
                found.append(path)
    return found


@contextlib.contextmanager
def containers_in(directory: Path, kind: type[Containers] = Containers) -> Iterator[Containers]:
    """Give a store with a busybox image, and take every container away at the end."""
    with Store.open(directory / "store", create=True) as store:
        add_base(store)
    containers = kind(directory / "store")
    try:
        yield containers
    finally:
        containers.clear()
        with contextlib.suppress(OSError):
            os.rmdir(f"{containers.run_base}/runtime")
            os.rmdir(containers.run_base)


def check_signals_arrive(box: Containers) -> None:
    """Hold ``run`` to it that a signal it gets is its container's, and the status too."""
    script = "trap 'echo got it; exit 6' USR1; echo ready; while :; do sleep 0.05; done"
    running = box.popen("run", "--rm", "box", "sh", "-c", script, stdout=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stdout.readline() == b"ready\n"
    running.send_signal(signal.SIGUSR1)
    assert running.communicate(timeout=60)[0] == b"got it\n"
    assert running.returncode == 6


def wait_until(true: Callable[[], object], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Wait for something that other processes bring about."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, f"never: {what}"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    return started_at(pid) >= 0


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], command, env)
        self.seen = b""

    def type(self, data: bytes) -> None:
        os.write(self._fd, data)

    def expect(self, wanted: bytes) -> None:
        until = time.monotonic() + WAIT_SECONDS
        while wanted not in self.seen:
            left = until - time.monotonic()
            assert left > 0, f"{wanted!r} never came: {self.seen!r}"
            if select.select([self._fd], [], [], left)[0]:
                self.seen += self._read()

    def resize(self, rows: int, columns: int) -> None:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def end(self) -> int:
        """Return the exit code."""
        try:
            while data := self._read():
                self.seen += data
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        finally:
            os.close(self._fd)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def _read(self) -> bytes:
        try:
            return os.read(self._fd, 65536)
        except OSError:  # EIO: nobody has the other end any more
            return b""
