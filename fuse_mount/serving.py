"""What the server processes of views have in common: their report, and how they are kept alive."""

from __future__ import annotations

import contextlib
import json
import os

from fuse_mount.starting import READY_FD


class Report:
    """Tells the starter, once, how it went.

    Args:
        wanted: Whether there is a starter that waits for it.
    """

    def __init__(self, *, wanted: bool = True) -> None:
        self._open = wanted

    def failed(self, message: str, hint: str | None, *, unsupported: bool = False) -> bool:
        """Say why it does not work; return whether that was still to be said."""
        wanted = self._open
        self._send({"error": message, "hint": hint, "unsupported": unsupported})
        return wanted

    def ready(self) -> bool:
        """Say that the mount works; False if nobody is left who wants to know."""
        return self._send({"pid": os.getpid()})

    def close(self) -> None:
        """Leave the telling to another process."""
        if self._open:
            self._open = False
            os.close(READY_FD)

    def _send(self, value: dict[str, object]) -> bool:
        if not self._open:
            return True
        try:
            os.write(READY_FD, json.dumps(value).encode())
        except OSError:
            return False
        finally:
            self.close()
        return True


def survive_memory_pressure() -> None:
    """Ask the kernel to kill others first: every view hangs on its servers."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+b") as file:
        file.write(b"-500")
