"""A view that lives as long as a command in the foreground: shown, attended, taken away.

The view and what serves it are the same as ever; the command only waits beside them, passes on
what the server logs, and unmounts at the end. Killed without mercy, it leaves an ordinary view.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from fuse_mount.mounts import unmount
from fuse_mount.records import read_record
from fuse_mount.states import MOUNTED, state_of
from layerstore.errors import MountError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fuse_mount.records import MountRecord

ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
"""What ends it: Ctrl-C, a service manager, a closed terminal."""

LOOK_S = 1.0
"""How often it looks whether the view is still there."""

_LOG_PIECE_BYTES = 64 * 1024


def attend(store_root: str, record: MountRecord, tell: Callable[[str], object]) -> None:
    """Wait for a signal of :data:`ENDING`, then unmount; return as well when somebody else did.

    A busy view is told about and stays; the next signal detaches it.

    Args:
        store_root: The store.
        record: The view, which this process has mounted.
        tell: Given lines for people: that signals are heeded from now on, the server's log, and
            who keeps the view busy.

    Raises:
        MountError: The view broke in the meantime; what was left of it is cleaned up.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        tell(f"shown at {record.target} by {record.backend} until Ctrl-C")
        _attend(store_root, record, tell)
    finally:
        while signal.sigtimedwait(ENDING, 0) is not None:
            pass  # asked for again while it was done: not to be obeyed a second time
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _attend(store_root: str, record: MountRecord, tell: Callable[[str], object]) -> None:
    log = _Log(f"{record.lower}/log", tell)
    busy = False
    while True:
        received = signal.sigtimedwait(ENDING, LOOK_S)
        log.follow()
        if received is not None:
            try:
                unmount(store_root, record.view_id, lazy=busy)
            except MountError as err:
                if busy:
                    raise
                busy = True
                tell(f"{err.message}; once more detaches it")
                continue
            return
        now = read_record(store_root, record.view_id)
        if now is None or now.created != record.created:
            return  # unmounted, and perhaps shown again, by somebody else
        state, reason = state_of(now)
        if state != MOUNTED:
            unmount(store_root, record.view_id, lazy=True)
            raise MountError(
                f"the view at {record.target} broke: {reason}",
                hint=f"show it again: layerstore mount --foreground {record.image} {record.target}",
            )


class _Log:
    """What a server adds to its log, line by line."""

    def __init__(self, path: str, tell: Callable[[str], object]) -> None:
        self._path = path
        self._tell = tell
        self._offset = 0

    def follow(self) -> None:
        """Pass on whole lines that were added; the kernel's views have no log."""
        try:
            with open(self._path, "rb") as file:
                if os.fstat(file.fileno()).st_size < self._offset:
                    self._offset = 0  # it was begun anew
                file.seek(self._offset)
                added, newline, _ = file.read(_LOG_PIECE_BYTES).rpartition(b"\n")
        except OSError:
            return
        self._offset += len(added) + len(newline)
        for line in added.decode("utf-8", "replace").splitlines():
            self._tell(line)
