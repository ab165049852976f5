"""Views by our own FUSE server whose server dies: readers wait, and see no error."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fuse_mount import mounts, starting
from fuse_mount.device import Session, Slot
from fuse_mount.nodes import SingleNodes
from fuse_mount.starting import SLOT_BYTES
from layerstore.image.trees.stack import load_root
from layerstore.linux import mounts as syscalls
from layerstore.store.store import Store
from layerstore.vfs.view import ImageView
from tests.support.namespaces import private_mount_table
from tests.support.views import (
    image_of,
    keeper_pids,
    kill,
    links_of_files,
    needs_fuse,
    needs_root,
    server_pids,
    undo_all_mounts,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from layerstore.store.catalog.rows import ImageRecord

pytestmark = [*needs_root, *needs_fuse]

FILES = 60
KILLS = 6


class Shown:
    """A store with one image, mounted."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.store = str(base / "store")
        chance = random.Random(4)
        self.tree = base / "tree"
        (self.tree / "d").mkdir(parents=True)
        for number in range(FILES):
            content = chance.randbytes(chance.randrange(1, 400_000))
            (self.tree / "d" / f"{number:02}").write_bytes(content)
        self.image: ImageRecord = image_of(base / "store", self.tree)
        self.view = base / "view"
        self.view.mkdir()

    def mount(self, *, rw: bool = False) -> None:
        mounts.mount(self.store, self.image, str(self.view), rw=rw, backend="fuse")

    def server(self) -> int:
        (pid,) = wait_for(lambda: server_pids(self.store))
        return pid

    def kill_server(self) -> int:
        pid = self.server()
        kill(pid)
        return pid

    def log(self) -> str:
        return "".join(path.read_text() for path in self.instances("log"))

    def instances(self, name: str) -> list[Path]:
        found = Path(self.store).glob(f"views/lowers/*/*/{name}")
        return [path for path in found if not path.parent.is_symlink()]

    def forget_pages(self) -> None:
        for path in (self.view / "d").iterdir():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def wait_for(ask: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (found := ask()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found
    return found


@pytest.fixture
def shown(tmp_path: Path) -> Iterator[Shown]:
    with private_mount_table():
        shown = Shown(tmp_path)
        yield shown
        undo_all_mounts(tmp_path / "store")
        wait_for(lambda: not server_pids(shown.store) and not keeper_pids(shown.store))


@pytest.mark.parametrize("rw", [False, True])
def test_readers_of_a_view_whose_server_is_killed_again_and_again(shown: Shown, rw: bool) -> None:
    shown.mount(rw=rw)
    right = {path.name: path.read_bytes() for path in (shown.tree / "d").iterdir()}
    wrong: list[str] = []
    done = threading.Event()
    read_files = 0

    def read() -> None:
        nonlocal read_files
        while not done.is_set():
            try:
                names = sorted(os.listdir(shown.view / "d"))
                if names != sorted(right):
                    wrong.append(f"{len(names)} names")
                for name in names:
                    if (shown.view / "d" / name).read_bytes() != right[name]:
                        wrong.append(name)
                    read_files += 1
                shown.forget_pages()
            except OSError as err:
                wrong.append(str(err))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        killed = set()
        for _ in range(KILLS):
            killed.add(shown.kill_server())
            before = read_files
            wait_for(lambda before=before: read_files > before + FILES // 2)
        assert len(killed) == KILLS
    finally:
        done.set()
        for reader in readers:
            reader.join(60)
    assert not any(reader.is_alive() for reader in readers)
    assert wrong == []
    assert shown.log().count("starting another") == KILLS
    (listed,) = mounts.mounts(shown.store)
    assert listed.state == mounts.MOUNTED
    mounts.unmount(shown.store, str(shown.view))
    wait_for(lambda: not keeper_pids(shown.store))
    assert list(Path(shown.store, "views").glob("*.json")) == []


def test_views_of_one_image_join_the_server_that_took_over(shown: Shown) -> None:
    shown.mount()
    shown.kill_server()
    other = shown.base / "other"
    other.mkdir()
    mounts.mount(shown.store, shown.image, str(other), backend="fuse")
    assert (other / "d" / "07").read_bytes() == (shown.tree / "d" / "07").read_bytes()
    assert shown.server()


def test_unmounted_while_no_server_lives(shown: Shown) -> None:
    shown.mount()
    os.kill(shown.server(), signal.SIGKILL)
    mounts.unmount(shown.store, str(shown.view))
    wait_for(lambda: not keeper_pids(shown.store))
    wait_for(lambda: list(Path(shown.store, "views").glob("*.json")) == [])


def test_servers_that_cannot_live_are_given_up(shown: Shown) -> None:
    shown.mount()
    for spec in shown.instances("spec.json"):
        spec.unlink()
    shown.kill_server()
    wait_for(lambda: not keeper_pids(shown.store))
    assert "10 servers in a row died at once" in shown.log()
    with pytest.raises(OSError, match="not connected") as caught:
        (shown.view / "d" / "01").read_bytes()
    assert caught.value.errno == errno.ENOTCONN
    (listed,) = mounts.mounts(shown.store)
    assert listed.state == mounts.STALE
    assert "server is gone" in listed.reason
    mounts.unmount(shown.store, str(shown.view))


def test_a_server_goes_on_without_its_keeper(shown: Shown) -> None:
    shown.mount()
    (keeper,) = keeper_pids(shown.store)
    kill(keeper)
    assert (shown.view / "d" / "03").read_bytes() == (shown.tree / "d" / "03").read_bytes()
    (listed,) = mounts.mounts(shown.store)
    assert listed.state == mounts.MOUNTED
    shown.kill_server()
    (listed,) = mounts.mounts(shown.store)
    assert listed.state == mounts.STALE


def test_the_server_keeps_no_privileges_and_nothing_of_its_starter(shown: Shown) -> None:
    code = (
        "import os, sys; from fuse_mount import mounts; from layerstore.store.store import Store\n"
        "with Store.open(sys.argv[1]) as store: image = store.resolve('odd:1')\n"
        "a, b = os.pipe(); os.set_inheritable(b, True)\n"
        "mounts.mount(sys.argv[1], image, sys.argv[2], backend='fuse')"
    )
    command = [sys.executable, "-c", code, shown.store, str(shown.view)]
    subprocess.run(command, check=True, env={**os.environ, "SECRET_OF_CALLER": "x"})
    (keeper,) = keeper_pids(shown.store)
    for attempt in range(2):  # the first server and the one that follows it
        server = shown.server()
        wait_for(lambda: (shown.view / "d" / "01").read_bytes())
        with open(f"/proc/{server}/status") as file:
            status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == 0
        assert status["NoNewPrivs"] == "1"
        for pid in (keeper, server):
            links = links_of_files(pid)
            assert not any(link.startswith("pipe:") for link in links), links
            with open(f"/proc/{pid}/environ", "rb") as file:
                assert b"SECRET_OF_CALLER" not in file.read()
        with open(f"/proc/{keeper}/statm") as file:
            assert int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") < 8 << 20
        if not attempt:
            shown.kill_server()
            shown.forget_pages()


def test_a_request_that_the_dead_server_held_is_answered_by_the_next(shown: Shown) -> None:
    """Against the kernel itself: one process takes the request and dies, another follows."""
    place = shown.base / "place"
    place.mkdir()
    memory = os.memfd_create("slot")
    os.ftruncate(memory, SLOT_BYTES)
    log = os.open(os.devnull, os.O_WRONLY)
    device = starting._mount(str(place), log)
    try:
        with Store.open(shown.store) as store:
            root = load_root(store, shown.image.layers)

        def serve(requests: int | None) -> int:
            """Serve so many requests in a child that then takes one more and dies with it."""
            pid = os.fork()
            if pid:
                return pid
            try:
                with Store.open(shown.store) as store:
                    session = Session(device, SingleNodes(ImageView(store, root)), Slot(memory))
                    session.resume()
                    if requests is None:
                        session.run()
                        os._exit(0)
                    for _ in range(requests):
                        session._serve(os.readv(device, [session._buffer]))
                    os.readv(device, [session._buffer])
            finally:
                os._exit(9)

        child = serve(1)  # INIT
        reader = subprocess.Popen(["cat", str(place / "d" / "05")], stdout=subprocess.PIPE)
        for _ in range(3):
            # Each answers what its predecessor took along, and takes the next one along itself.
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
            assert reader.poll() is None
            child = serve(0)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        child = serve(None)
        assert reader.communicate(timeout=60)[0] == (shown.tree / "d" / "05").read_bytes()
        assert reader.returncode == 0
    finally:
        syscalls.unmount(str(place), lazy=True)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        for fd in (device, memory, log):
            os.close(fd)


def test_what_users_may_ask_for_ends_no_server(shown: Shown) -> None:
    shown.mount()
    server = shown.server()
    path, right = shown.view / "d" / "09", (shown.tree / "d" / "09").read_bytes()
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    memory = mmap.mmap(-1, 1 << 20)
    assert os.readv(fd, [memory]) == len(right)
    assert memory[: len(right)] == right
    os.close(fd)
    with path.open("rb") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            assert mapped[:] == right
        fcntl.flock(file, fcntl.LOCK_SH)
        fcntl.lockf(file, fcntl.LOCK_SH)
        os.fsync(file.fileno())
        with pytest.raises(OSError, match="Inappropriate ioctl"):
            fcntl.ioctl(file, 0x1234_5678, bytearray(8))
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.posix_fallocate(file.fileno(), 0, 1)
        assert select.select([file], [], [], 10)[0]
    for refused in (
        lambda: path.write_bytes(b"x"),
        lambda: os.setxattr(path, "user.x", b"x"),
        lambda: os.removexattr(path, "user.x"),
        lambda: os.rename(path, shown.view / "y"),
        lambda: os.link(path, shown.view / "z"),
        lambda: os.mknod(shown.view / "node"),
        lambda: os.truncate(path, 0),
        lambda: os.utime(path),
    ):
        with pytest.raises(OSError, match="Read-only file system"):
            refused()
    with pytest.raises(OSError, match="File name too long"):
        os.stat(shown.view / ("n" * 256))
    assert os.statvfs(shown.view).f_files == FILES + 2
    assert shown.server() == server
    assert "starting another" not in shown.log()
