"""What fanotify's permission events do for lazy views: why these are not built on them.

    python -m tests.bench.fanotify [--events N] [--json FILE]

Makes an overlay whose file redirects to a sparse file of a data-only layer, in a mount
namespace of its own, and tries: which marks are taken, on whose reads and maps events
come, what a reader gets when the listener is killed while it waits, and what an event
costs. Linux 6.14 for FAN_PRE_ACCESS; needs root. Decision 0127 draws its conclusions.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import mmap
import os
import shutil
import signal
import struct
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from layerstore.linux import mounts, namespaces
from layerstore.linux.data_layers import FOLLOWING
from tests.bench.harness import absolute, say
from tests.bench.result import Result

if TYPE_CHECKING:
    from collections.abc import Callable

# linux/fanotify.h
CLASS_PRE_CONTENT = 0x8
MARK_ADD = 0x1
MARK_MOUNT = 0x10
MARK_FLUSH = 0x80
MARK_FILESYSTEM = 0x100
OPEN_PERM = 0x10000
PRE_ACCESS = 0x100000
ALLOW = 1
EVENT = struct.Struct("=IBBHQii")
ANSWER = struct.Struct("=iI")
SIZE = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)


class Listener:
    """A group that counts events and allows everything."""

    def __init__(self) -> None:
        self.fd = _libc.fanotify_init(CLASS_PRE_CONTENT, os.O_RDONLY)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "fanotify_init")
        self.events: list[int] = []

    def mark(self, flags: int, mask: int, path: Path) -> str:
        """Return "taken", or the name of the error."""
        result = _libc.fanotify_mark(
            self.fd, ctypes.c_uint(MARK_ADD | flags), ctypes.c_uint64(mask), -100,
            os.fsencode(path),
        )  # fmt: skip
        return "taken" if result == 0 else errno.errorcode[ctypes.get_errno()]

    def forget(self) -> None:
        """Take all marks away."""
        for kind in (0, MARK_MOUNT, MARK_FILESYSTEM):
            _libc.fanotify_mark(
                self.fd, ctypes.c_uint(MARK_FLUSH | kind), ctypes.c_uint64(0), -100, None
            )

    def serve(self) -> None:
        """Answer until the process ends."""
        while True:
            buffer = os.read(self.fd, 65536)
            at = 0
            while at < len(buffer):
                length, _, _, _, mask, event_fd, _ = EVENT.unpack_from(buffer, at)
                self.events.append(mask)
                os.write(self.fd, ANSWER.pack(event_fd, ALLOW))
                os.close(event_fd)
                at += length


def make(work: Path) -> tuple[Path, Path]:
    """Return a file of an overlay and the sparse file that it redirects to."""
    for name in ("lower", "data", "root"):
        (work / name).mkdir()
    for path in (work / "data/content", work / "lower/file"):
        with path.open("wb") as file:
            file.truncate(SIZE)
    os.setxattr(work / "lower/file", "trusted.overlay.metacopy", b"")
    os.setxattr(work / "lower/file", "trusted.overlay.redirect", b"/content")
    mounts.bind(str(work / "data"), str(work / "data"))  # a mount to be marked
    overlay = mounts.Overlay((str(work / "lower"),), options=FOLLOWING, data=(f"{work}/data",))
    mounts.mount_overlay(overlay, str(work / "root"), mounts.MS_RDONLY)
    return work / "root/file", work / "data/content"


def in_child(act: Callable[[], object]) -> int:
    """Do it in another process: a listener is not asked about itself. Return its status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def read(path: Path) -> bytes:
    with path.open("rb", buffering=0) as file:
        return file.read(4096)


def touch_map(path: Path) -> None:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[4096] == 0


def which_events(shown: Path, content: Path) -> list[str]:
    """Return which marks are taken and what brings events."""
    trials = [
        ("FAN_PRE_ACCESS, the content's inode", 0, PRE_ACCESS, content),
        ("FAN_PRE_ACCESS, the content's mount", MARK_MOUNT, PRE_ACCESS, content.parent),
        ("FAN_PRE_ACCESS, the overlay", MARK_FILESYSTEM, PRE_ACCESS, shown.parent),
        ("FAN_OPEN_PERM, the overlay", MARK_FILESYSTEM, OPEN_PERM, shown.parent),
    ]
    found = []
    for name, flags, mask, place in trials:
        listener = Listener()
        taken = listener.mark(flags, mask, place)
        threading.Thread(target=listener.serve, daemon=True).start()
        counts = []
        for act in (lambda: read(shown), lambda: touch_map(shown), lambda: read(content)):
            before = len(listener.events)
            in_child(act)
            counts.append(len(listener.events) - before)
        listener.forget()
        found.append(
            f"{name}: mark {taken}; events: read of the overlay {counts[0]}, map of it "
            f"{counts[1]}, read of the content itself {counts[2]}."
        )
    return found


def what_death_does(content: Path) -> str:
    """Return what a reader gets whose listener is killed while it waits."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        listener = Listener()
        listener.mark(0, PRE_ACCESS, content)
        os.write(writing, b"r")
        os.read(listener.fd, 4096)  # takes the event, and never answers
        os.write(writing, b"w")
        signal.pause()
    os.read(reading, 1)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(read(content)))
    reader.start()
    os.read(reading, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    reader.join()
    zeros = got == [bytes(4096)]
    said = "zeros" if zeros else "no content"
    return f"Listener killed while a read of a hole waits: the reader gets {said}."


def what_an_event_costs(content: Path, events: int) -> float:
    """Return how much longer a read takes with an event."""
    taken = {}
    for watched in (False, True):
        listener = Listener()
        if watched:
            listener.mark(0, PRE_ACCESS, content)
        threading.Thread(target=listener.serve, daemon=True).start()
        begun = time.perf_counter()

        def reads() -> None:
            with content.open("rb", buffering=0) as file:
                for _ in range(events):
                    os.pread(file.fileno(), 4096, 0)

        in_child(reads)
        taken[watched] = time.perf_counter() - begun
        listener.forget()
    return (taken[True] - taken[False]) / events


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tests.bench.fanotify", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--events", type=int, default=5000)
    parser.add_argument("--work", type=absolute, help="a directory on ext4, xfs or btrfs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run there")
    given = parser.parse_args()
    if os.geteuid() != 0:
        say("needs root: fanotify takes privileges")
        return 1
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mounts.set_propagation("/", mounts.MS_PRIVATE)
    work = Path(tempfile.mkdtemp(prefix="layerstore-bench-", dir=given.work))
    try:
        shown, content = make(work)
        result = Result(notes=[*which_events(shown, content), what_death_does(content)])
        cost = what_an_event_costs(content, given.events)
        result.add("a read of 4 KiB", "an event of fanotify", "time", "s", [cost])
        say("\n".join(result.notes))
        say(f"an event: {1e6 * cost:.0f} us")
        if given.json:
            result.write(given.json)
    finally:
        for name in ("root", "data"):
            mounts.unmount(str(work / name), lazy=True)
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    main_status = main()
    sys.stdout.flush()
    os._exit(main_status)  # listening threads never end
