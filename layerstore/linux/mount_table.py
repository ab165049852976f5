"""Whether mounts of a namespace changed since somebody looked, without reading them again."""

from __future__ import annotations

import os
import select


class MountTable:
    """The mounts of the namespace that this process is in now; it may leave that later."""

    def __init__(self) -> None:
        """Look at it."""
        self._fd = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)

    def has_changed(self) -> bool:
        """Tell whether anything was mounted, unmounted or moved since the last look (proc(5))."""
        poll = select.poll()
        poll.register(self._fd, select.POLLPRI)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Look no more."""
        os.close(self._fd)
