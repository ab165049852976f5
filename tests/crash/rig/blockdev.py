"""Small ext4 file systems on loop devices: recorded, replayed, shut down, full.

Needs root, loop devices, mkfs.ext4 and, for recording, FUSE; :func:`missing` names what
a host lacks. Everything made here is undone by leaving its context.
"""

from __future__ import annotations

import collections
import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.crash.rig.disk import FAILED, RECORD, WRITE

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

SECTOR = 512
_SUPERBLOCK_END = 4096
_TOP = Path(__file__).parents[3]
FUSE_WRITE_KIB = 128
"""What FUSE writes at once. A longer request to a loop device becomes several writes, and the
loop driver takes one that came short, because a later of them failed, for a whole one
(drivers/block/loop.c, lo_complete_rq): the kernel would lose the error that a rig made."""

_WAIT_S = 60
_WAIT_UNUSED_S = 120


def missing(*, fuse: bool) -> str | None:
    """Return what this host lacks for disks of our own, or None."""
    if os.geteuid() != 0:
        return "loop devices and mounts need root"
    for tool in ("losetup", "mkfs.ext4", "mount", "umount"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    if not os.path.exists("/dev/loop-control"):
        return "there is no /dev/loop-control"
    if fuse and not os.path.exists("/dev/fuse"):
        return "there is no /dev/fuse"
    return None


def run(*argv: str | Path) -> str:
    """Run a tool that must succeed; return what it printed."""
    done = subprocess.run([*map(str, argv)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout.strip()


def make_ext4(path: Path, *, size: int, inodes: int = 4096, tree: Path | None = None) -> None:
    """Make an ext4 in a new or existing file or device, with nothing left for the background.

    Args:
        tree: A directory to fill it with.
    """
    if not path.exists():
        with open(path, "wb") as file:
            file.truncate(size)
    run(
        *("mkfs.ext4", "-q", "-F", "-b", "4096", "-N", str(inodes), "-J", "size=4"),
        *("-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"),
        *(["-d", tree] if tree else []),
        path,
    )


@contextlib.contextmanager
def mounted(image: Path, place: Path, *options: str) -> Iterator[Path]:
    """Mount an image over a loop device of its own."""
    place.mkdir(exist_ok=True)
    device = image.is_block_device()
    flags = ["noatime", *options, *([] if device else ["loop"])]
    run("mount", "-t", "ext4", "-o", ",".join(flags), image, place)
    try:
        yield place
    finally:
        unmount(place)
        if not device:
            _wait_detached(image)


def _wait_detached(image: Path) -> None:
    """Wait until an image's loop device is gone: the next mount would find it as it is.

    As with :func:`wait_unused`, a build beside us may have a copy of the mount, and a file
    system that was shut down stays so until its last mount ends.
    """
    deadline = time.monotonic() + _WAIT_UNUSED_S
    while run("losetup", "-j", image):
        assert time.monotonic() < deadline, f"{image} stays in use"
        time.sleep(0.02)


def unmount(place: Path) -> None:
    """Unmount, waiting while a process that just died is still letting go."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        done = subprocess.run(["umount", str(place)], capture_output=True, text=True, check=False)
        if done.returncode == 0 or "not mounted" in done.stderr:
            return
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.05)


def wait_unused(device: Path) -> None:
    """Wait until no mount namespace has a device mounted any more.

    A build beside us that begins while it is mounted has a copy of that mount until it ends.
    """
    deadline = time.monotonic() + _WAIT_UNUSED_S
    while True:
        try:
            os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
        except OSError:
            assert time.monotonic() < deadline, f"{device} stays in use"
            time.sleep(0.02)
        else:
            return


class Disk:
    """A recorded disk: an ext4 on a loop device over the logging FUSE file.

    Args:
        box: A directory for its files; ``place`` in it is where the ext4 is mounted.
    """

    def __init__(self, box: Path, *, size: int) -> None:
        box.mkdir(parents=True)
        self.box, self.size = box, size
        self.place = box / "place"
        self.log = box / "log"
        self.base = box / "base"
        self._fuse = box / "fuse"
        self._device = ""
        self._server: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def recording(self) -> Iterator[Path]:
        """Mount the disk, empty; what happens inside is logged. The disk is gone afterwards."""
        self._fuse.mkdir()
        make_ext4(self.box / "data", size=self.size)
        run("cp", "--sparse=always", self.box / "data", self.base)
        self._server = subprocess.Popen(
            [
                *(sys.executable, "-W", "ignore", "-m", "tests.crash.rig.disk"),
                *(str(self._fuse), str(self.size), str(self.box / "data"), str(self.log)),
            ],
            cwd=_TOP,
        )
        try:
            self._wait_for(lambda: os.path.ismount(self._fuse))
            self._device = run("losetup", "--find", "--show", self._fuse / "disk")
            limit = Path("/sys/block", Path(self._device).name, "queue/max_sectors_kb")
            limit.write_text(str(FUSE_WRITE_KIB))
            with mounted(Path(self._device), self.place):
                yield self.place
        finally:
            self._end()

    @property
    def device(self) -> Path:
        """The block device, while the disk is there."""
        return Path(self._device)

    def fail(self, what: str, number: int) -> None:
        """Let a request fail with EIO; see :mod:`tests.crash.rig.disk`."""
        with open(self._fuse / "fail", "w") as file:
            file.write(f"{what} {number}")

    def mend(self) -> None:
        """Let no request fail any more."""
        self.fail("none", 0)

    def forget(self) -> None:
        """Begin the log anew."""
        os.truncate(self.log, 0)

    def counts(self) -> collections.Counter[int]:
        """Return how many requests of each kind the log has."""
        return collections.Counter(kind for kind, _, _ in records_of(self.log.read_bytes()))

    def position(self) -> int:
        """Return how many bytes the log has: a moment in the disk's life."""
        return self.log.stat().st_size if self.log.exists() else 0

    def _wait_for(self, ready: object) -> None:
        deadline = time.monotonic() + _WAIT_S
        while not ready():  # type: ignore[operator]
            assert self._server is not None
            assert self._server.poll() is None, "the recorder died"
            assert time.monotonic() < deadline, "the recorder does not mount"
            time.sleep(0.01)

    def _end(self) -> None:
        if self._device:
            subprocess.run(["losetup", "-d", self._device], check=False)
            self._device = ""
        deadline = time.monotonic() + _WAIT_S
        while os.path.ismount(self._fuse) and time.monotonic() < deadline:
            subprocess.run(["fusermount", "-u", str(self._fuse)], capture_output=True, check=False)
            time.sleep(0.02)
        if self._server is not None:
            try:
                self._server.wait(_WAIT_S)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()


class Write(NamedTuple):
    """A write of the log: where on the disk, its bytes, and where in the log it ends."""

    offset: int
    data: bytes
    end: int


class Epoch(NamedTuple):
    """The writes between two flushes, and the log's size when the second one came.

    Any subset of them may have reached the platter when power was cut in the meantime.
    """

    writes: list[Write]
    end: int


def records_of(data: bytes) -> Iterator[tuple[int, int, Write]]:
    """Yield a log's records: kind, where the record ends, and of a write what it wrote."""
    at = 0
    while at + RECORD.size <= len(data):
        kind, offset, length = RECORD.unpack_from(data, at)
        begin = at + RECORD.size
        at = begin + (length if kind == WRITE else 0)
        yield kind, at, Write(offset, data[begin:at], at)


def epochs_of(log: Path) -> list[Epoch]:
    """Read the log of a disk that did not fail."""
    data = log.read_bytes() if log.exists() else b""
    found: list[Epoch] = []
    writes: list[Write] = []
    end = 0
    for kind, end, write in records_of(data):
        assert kind != FAILED
        if kind == WRITE:
            writes.append(write)
        else:
            found.append(Epoch(writes, end))
            writes = []
    found.append(Epoch(writes, end + 1))
    return found


SUBSETS = ("none", "half", "torn", "all")


def subset(writes: Sequence[Write], kind: str, source: random.Random) -> list[tuple[int, bytes]]:
    """Choose what of an epoch reached the platter.

    ``torn`` is half of the writes, each cut at a random sector; sectors themselves are
    whole, as disks promise. ext4's superblock (two sectors, rewritten in place) is not torn:
    a disk that does that loses the whole file system, whatever lies on it.
    """
    if kind == "none":
        return []
    chosen = [w for w in writes if kind == "all" or source.random() < 0.5]
    if kind != "torn":
        return [(w.offset, w.data) for w in chosen]
    torn = []
    for write in chosen:
        sectors = source.randint(0, len(write.data) // SECTOR)
        if write.offset < _SUPERBLOCK_END:
            sectors = len(write.data) // SECTOR
        torn.append((write.offset, write.data[: sectors * SECTOR]))
    return torn


class Replay:
    """Rebuilds a disk flush by flush, and lends images of it as a power cut leaves them."""

    def __init__(self, disk: Disk) -> None:
        self._image = disk.box / "replay"
        self._cut = disk.box / "cut"
        run("cp", "--sparse=always", disk.base, self._image)
        self._fd = os.open(self._image, os.O_RDWR)

    def close(self) -> None:
        os.close(self._fd)
        self._image.unlink()

    def flush(self, epoch: Epoch) -> None:
        """Make an epoch's writes durable."""
        for write in epoch.writes:
            os.pwrite(self._fd, write.data, write.offset)

    @contextlib.contextmanager
    def cut(self, extra: Sequence[tuple[int, bytes]]) -> Iterator[Path]:
        """Lend an image of everything flushed and ``extra``."""
        run("cp", "--sparse=always", self._image, self._cut)
        with open(self._cut, "r+b") as file:
            for offset, data in extra:
                file.seek(offset)
                file.write(data)
        try:
            yield self._cut
        finally:
            self._cut.unlink()
