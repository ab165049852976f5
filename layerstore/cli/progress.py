"""Progress bars for people who watch a terminal; silence for everyone else."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from layerstore.cli.output import printable
from layerstore.progress import Progress, Silent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress as Bars
    from rich.progress import TaskID


class TerminalProgress:
    """Draws the current phase as a bar, or as a counter when its length is unknown.

    Calls may come from several threads: the bars lock themselves.
    """

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def start(self, label: str, total: int | None) -> None:
        """Begin a phase; the one before it ends."""
        self.finish()
        self._task = self._bars.add_task(printable(label), total=total)

    def advance(self, amount: int) -> None:
        """Move the current phase on."""
        if self._task is not None:
            self._bars.advance(self._task, amount)

    def finish(self) -> None:
        """Take the current phase away."""
        task, self._task = self._task, None
        if task is not None:
            self._bars.remove_task(task)


@contextlib.contextmanager
def terminal_progress(*, quiet: bool = False) -> Iterator[Progress]:
    """Give a progress that draws on stderr if somebody watches it there."""
    if quiet or not sys.stderr.isatty():
        yield Silent()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TransferSpeedColumn,
    )

    bars = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bars:
        yield TerminalProgress(bars)
