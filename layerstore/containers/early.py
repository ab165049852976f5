"""A runtime that starts while its container's config is still being made.

A Go program takes some milliseconds until it looks for its config. So runc is started first, on
a bundle whose ``config.json`` is a FIFO; meanwhile the root is mounted and the config made. Then
the FIFO gets it, and a file of the same content the FIFO's name: whether runc has opened the
one by then, or opens the other, it reads all of it. We keep a writing end of the FIFO, so that
an early reader waits for content and finds no end of file, until it has taken what is there.

Only for runc, which opens its config once and reads to the end of the value.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # signal makes enumerations of it, 2 ms
import contextlib
import os
import stat

from layerstore.containers import monitor_start
from layerstore.light_typing import TYPE_CHECKING
from layerstore.linux.files import open_private, write_all

if TYPE_CHECKING:
    from typing import Any

    from layerstore.runtime.runtimes import Runtime


class EarlyRuntime:
    """A runtime that waits for its config, if it is one that can."""

    def __init__(self, runtime: Runtime, spec: dict[str, Any]) -> None:
        """Start it.

        Args:
            runtime: Which.
            spec: What the monitor is told, and :func:`monitor_start.start_runtime`.
        """
        self._spec = spec
        self._path = f"{spec['bundle']}/config.json"
        self._fifo = -1
        self._started: dict[str, Any] | None = None
        if os.path.basename(os.path.realpath(runtime.path)) != "runc":
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        os.mkfifo(self._path, 0o600)
        self._fifo = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._started = monitor_start.start_runtime(spec)

    def configure(self, config: bytes) -> dict[str, Any]:
        """Give it its config; return what :func:`monitor_start.start_runtime` does of it."""
        # A FIFO takes 64 KiB without a reader, and less of users with many pipes (pipe(7));
        # configs have 12 KiB, and more with long lists. As long as it has no file to read, a
        # runtime that got a part is one that waits.
        if self._started is not None and os.write(self._fifo, config) < len(config):
            self.call_off()
        staging = f"{self._path}.tmp"
        write_private(staging, config)
        os.rename(staging, self._path)
        if self._started is None:
            return monitor_start.start_runtime(self._spec)
        self._started["config"] = self._fifo
        return self._started

    def call_off(self) -> None:
        """End one that waits still: nothing is made yet that would have to be removed."""
        if self._started is None:
            return
        os.kill(self._started["pid"], signal.SIGKILL)
        os.waitpid(self._started["pid"], 0)
        for name in ("stdin", "stdout", "stderr", "console"):
            if self._started[name] >= 0:
                os.close(self._started[name])
        os.close(self._fifo)
        self._started = None


def let_go(run_dir: str) -> None:
    """Let a runtime that waits for its config fail: who was to write it was killed.

    One that finds no writer waits for one as it opens the FIFO. It finds us now, and an end; one
    that comes later finds no file.
    """
    path = f"{run_dir}/config.json"
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                os.unlink(path)
        finally:
            os.close(fd)


def write_private(path: str, data: bytes) -> None:
    """Write a file of a container's directory in memory."""
    fd = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        write_all(fd, data)
    finally:
        os.close(fd)
