"""``savings --memory``: its numbers are mincore's, sharing is counted once, looking reads nothing.

Capabilities: root, a kernel that shows images; fuse for FUSE views.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fuse_mount import mounts
from layerstore.errors import UnsupportedError
from layerstore.linux.page_cache import cached_bytes, mapped_bytes
from layerstore.measure.memory import Memory, take_memory
from layerstore.store.objects.objects import object_files
from layerstore.store.paths import StorePaths
from layerstore.store.store import Store
from tests.support.cli import Cli
from tests.support.memory import forget, resident_pages
from tests.support.store import noise
from tests.support.views import image_of, needs_fuse, needs_root, undo_all_mounts

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = needs_root

SHARED_BYTES = 3 << 20
OWN_BYTES = 1 << 20


class Host:
    """Two images that hold one large file each, and one together."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.store = base / "store"
        self.root = str(self.store)
        self.images = {}
        shared = noise(1, SHARED_BYTES)
        for number, name in enumerate("ab"):
            tree = base / f"tree-{name}"
            tree.mkdir()
            (tree / f"shared-{name}").write_bytes(shared)
            (tree / f"own-{name}").write_bytes(noise(10 + number, OWN_BYTES))
            self.images[name] = image_of(self.store, tree, f"{name}:1")

    def mount(self, name: str, directory: str, *, backend: str = "kernel", rw: bool = False):
        target = self.base / directory
        target.mkdir()
        image = self.images[name]
        mounts.mount(self.root, image, str(target), backend=backend, rw=rw, name=f"{name}:1")
        return target

    def drop(self) -> None:
        """Take everything that views by the kernel read out of memory."""
        paths = StorePaths(self.root)
        for _, path in object_files(paths):
            forget(Path(path))
        for name in os.listdir(paths.metadata):  # as far as nothing holds it
            fd = os.open(f"{paths.metadata}/{name}", os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)

    def memory(self, *chosen: str) -> Memory:
        with Store.open(self.store) as store:
            return take_memory(store, {self.images[name].image_id for name in chosen})


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    undo_all_mounts(host.store)


def resident(*files: Path) -> int:
    return sum(resident_pages(file) for file in files) * mmap.PAGESIZE


def test_both_ways_of_asking_agree(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(noise(5, 1_000_001))
    forget(path)
    with path.open("rb") as file:
        assert mapped_bytes(file.fileno(), 1_000_001) == 0
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead
        os.pread(file.fileno(), 10, 500_000)
        some = mapped_bytes(file.fileno(), 1_000_001)
        assert mmap.PAGESIZE <= some < 1_000_001
        assert cached_bytes(file.fileno(), 1_000_001) == some == resident(path)
        file.read()
        assert cached_bytes(file.fileno(), 1_000_001) == resident(path) == 1_003_520


def test_a_file_that_two_images_hold_is_in_memory_once(host: Host) -> None:
    a, b = host.mount("a", "a"), host.mount("b", "b", rw=True)
    host.mount("a", "again")
    host.drop()
    (a / "shared-a").read_bytes()
    (b / "own-b").read_bytes()
    files = (a / "shared-a", a / "own-a", b / "own-b")
    assert resident(b / "shared-b") == SHARED_BYTES
    seen = host.memory()
    one, other = seen.images
    assert (one.name, one.views, other.name, other.views) == ("a:1", 2, "b:1", 1)
    metadata = sum(map(resident, (host.store / "views" / "meta").glob("*.erofs")))
    assert seen.used == resident(*files) + metadata == SHARED_BYTES + OWN_BYTES + metadata
    assert one.shared == other.shared == SHARED_BYTES
    assert one.cached + other.cached == 2 * SHARED_BYTES + OWN_BYTES + metadata
    assert seen.per_image == one.cached + other.cached
    assert seen.per_view == 2 * one.cached + other.cached
    only = host.memory("a")
    assert [image.name for image in only.images] == ["a:1"]
    assert (only.used, only.images[0].shared) == (one.cached, 0)


def test_looking_brings_nothing_into_memory(host: Host) -> None:
    host.mount("a", "a")
    host.drop()
    first = host.memory()
    assert first.used < SHARED_BYTES
    assert host.memory().used == first.used


def test_what_views_wrote_is_theirs(host: Host) -> None:
    view = host.mount("a", "a", rw=True)
    host.drop()
    (view / "new").write_bytes(noise(3, 400_000))
    (image,) = host.memory().images
    assert image.written == resident(view / "new") == 401_408


@pytest.mark.fuse
@needs_fuse[1]
def test_views_through_fuse_and_their_server(host: Host) -> None:
    views = [host.mount("a", "a", backend="fuse"), host.mount("a", "rw", backend="fuse", rw=True)]
    assert host.memory().images[0].cached == 0
    (views[1] / "shared-a").read_bytes()
    (image,) = host.memory().images
    assert (image.backend, image.views) == ("fuse", 2)
    assert image.cached == resident(views[0] / "shared-a") == SHARED_BYTES
    assert image.servers > 1 << 20
    assert host.memory().images[0].cached == SHARED_BYTES


def test_the_command(host: Host) -> None:
    cli = Cli(host.store)
    assert cli.ok("savings", "--memory").out == "no views are running\n"
    view = host.mount("a", "a")
    (view / "shared-a").read_bytes()
    taken = cli.ok("savings", "--memory", "--json").json()
    assert taken["used"] >= SHARED_BYTES
    assert [image["name"] for image in taken["images"]] == ["a:1"]
    header, row, *notes = cli.ok("savings", "--memory", "a:1").lines
    assert header.split()[:3] == ["IMAGE", "BACKEND", "VIEWS"]
    assert row.split()[:3] == ["a:1", "kernel", "1"]
    assert notes[0].startswith("in memory here, everything once: ")
    assert "leave out" in cli.fails(2, "savings", "--memory", "--copies", "3")
    assert "no image" in cli.fails(3, "savings", "--memory", "absent")


def test_a_list_that_cannot_be_read_is_told(host: Host) -> None:
    host.mount("a", "a")
    for path in (host.store / "views" / "meta").glob("*.objects"):
        path.write_bytes(b"damaged")
    seen = host.memory()
    assert "are not counted" in seen.notes[0]


def test_only_root_is_told(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UnsupportedError, match="only root"):
        host.memory()


def test_views_in_another_namespace_count(host: Host) -> None:
    """By the kernel they are counted, wherever they are seen."""
    code = (
        "import sys\n"
        "from fuse_mount import mounts\n"
        "from layerstore.linux import namespaces, mounts as syscalls\n"
        "from layerstore.store.store import Store\n"
        "namespaces.unshare(namespaces.CLONE_NEWNS)\n"
        "syscalls.set_propagation('/', syscalls.MS_PRIVATE)\n"
        "with Store.open(sys.argv[1]) as store: image = store.resolve('a:1')\n"
        "mounts.mount(sys.argv[1], image, sys.argv[2], backend='kernel')\n"
        "open(sys.argv[2] + '/shared-a', 'rb').read()\n"
        "print('read', flush=True)\n"
        "sys.stdin.read()\n"
    )
    target = host.base / "elsewhere"
    target.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", code, host.root, str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"read\n"
        (image,) = host.memory().images
        assert image.cached >= SHARED_BYTES
        process.communicate()
