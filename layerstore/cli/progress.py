"""Progress bars for people who watch a terminal; silence for everyone else."""

from __future__ import annotations

import _thread
import contextlib
import sys
from typing import TYPE_CHECKING

from layerstore.cli.output import printable
from layerstore.progress import Progress, Silent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_BAR_CELLS = 18
"""With a label, sizes, speed and the time that is left beside it, a line fits 80 columns."""


class TerminalProgress:
    """Draws the current phase as a bar, or as a counter when its length is unknown.

    Nothing is imported nor drawn before the first phase begins: most commands that may take
    long do not. Calls may come from several threads: the bars lock themselves.
    """

    def __init__(self) -> None:
        self._bars: Bars | None = None
        self._lock = _thread.allocate_lock()
        self._task: TaskID | None = None

    def start(self, label: str, total: int | None) -> None:
        """Begin a phase; the one before it ends."""
        self.finish()
        with self._lock:
            if self._bars is None:
                self._bars = _bars()
                self._bars.start()
        self._task = self._bars.add_task(printable(label), total=total)

    def advance(self, amount: int) -> None:
        """Move the current phase on."""
        if self._task is not None and self._bars is not None:
            self._bars.advance(self._task, amount)

    def finish(self) -> None:
        """Take the current phase away."""
        task, self._task = self._task, None
        if task is not None and self._bars is not None:
            self._bars.remove_task(task)

    def close(self) -> None:
        """Take the bars away."""
        if self._bars is not None:
            self._bars.stop()


@contextlib.contextmanager
def terminal_progress(*, quiet: bool = False) -> Iterator[Progress]:
    """Give a progress that draws on stderr if somebody watches it there."""
    if quiet or not sys.stderr.isatty():
        yield Silent()
        return
    progress = TerminalProgress()
    try:
        yield progress
    finally:
        progress.close()


def _bars() -> Bars:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(_BAR_CELLS),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
