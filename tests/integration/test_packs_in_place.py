"""What only views over packs have: content read where it lies, packs shared, moved, damaged."""

from __future__ import annotations

import errno
import json
import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fuse_mount import kernel_lowers, lowers, mounts, recovering
from layerstore.errors import IntegrityError, UnsupportedError
from layerstore.formats.tree import Changeset, Entry, Kind
from layerstore.linux import mounts as syscalls
from layerstore.store.check.check import check
from layerstore.store.check.findings import Problem
from layerstore.store.collect.eviction import KeepUnpacked, evict
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.config import create_store
from layerstore.store.failures import StoreFullError
from layerstore.store.names.usage import Reference
from layerstore.store.objects import pack_images, pack_trial, unpacking
from layerstore.store.objects.objects import present_objects
from layerstore.store.paths import StorePaths
from layerstore.store.sharing import share_store
from layerstore.store.store import Store
from tests.support.memory import resident_pages
from tests.support.store import noise, put_image, text
from tests.support.views import (
    is_mounted,
    needs_packs,
    needs_root,
    publish_changeset,
    publish_image,
    undo_all_mounts,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.store.catalog.rows import ImageRecord

pytestmark = [*needs_root, needs_packs]

PACKS = "kernel-packs"
LARGE = noise(1, 1_500_000)
FILES = {b"small": b"small", b"empty": b"", b"large": LARGE, b"text": text(2, 200_000)}


class Host:
    """A store, and directories to mount on."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.root = str(base / "store")
        self.paths = StorePaths(self.root)

    def image(self, name: str, *layers: dict[bytes, bytes]) -> ImageRecord:
        with (
            Store.open(self.root, create=True) as store,
            store.begin("test") as session,
        ):
            return put_image(session, *layers, names=[f"{name}:1"])

    def mount(
        self, image: ImageRecord, name: str, *, backend: str = PACKS, rw: bool = False
    ) -> Path:
        target = self.base / f"view-{name}"
        target.mkdir(exist_ok=True)
        mounts.mount(self.root, image, str(target), backend=backend, rw=rw)
        return target

    def unmount(self, view: Path) -> None:
        mounts.unmount(self.root, str(view))

    def objects(self) -> int:
        return len(present_objects(self.paths))

    def pack_mounts(self) -> int:
        found = Path(self.paths.pack_mounts)
        return len(list(found.glob("*/*"))) if found.exists() else 0

    def packs(self) -> list[Path]:
        return sorted(Path(self.paths.packs).glob("*/*.pack"))

    def backends(self) -> list[str]:
        return [item.record.backend for item in mounts.mounts(self.root)]

    def damage(self, content: bytes) -> None:
        """Flip a byte of what incompressible content became, in whatever pack."""
        for path in self.packs():
            data = bytearray(path.read_bytes())
            at = data.find(content)
            if at >= 0:
                data[at] ^= 1
                with path.open("r+b") as file:
                    file.write(data)
                return
        raise AssertionError("the content lies in no pack")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    if os.path.exists(host.root):
        undo_all_mounts(Path(host.root))
        lowers.clean_unused(host.root)


def content(view: Path, files: dict[bytes, bytes]) -> None:
    for name, data in files.items():
        assert (view / os.fsdecode(name)).read_bytes() == data, name


def test_nothing_is_unpacked(host: Host) -> None:
    image = host.image("a", FILES)
    view = host.mount(image, "a")
    content(view, FILES)
    assert host.objects() == 0
    assert host.backends() == [PACKS]
    host.unmount(view)
    assert host.pack_mounts() == 0
    assert os.listdir(lowers.lowers_directory(host.root)) == []


def test_different_images_share_the_pages_of_a_file(host: Host) -> None:
    shared = {b"libshared.so": LARGE, b"short": text(3, 50_000)}
    a = host.image("a", shared, {b"own": b"of a"})
    b = host.image("b", shared, {b"own": b"of b"})
    one, other = host.mount(a, "a"), host.mount(b, "b", rw=True)
    assert host.pack_mounts() == 3
    for name, data in shared.items():
        pages = -(-len(data) // mmap.PAGESIZE)
        assert resident_pages(other / os.fsdecode(name)) == 0
        assert (one / os.fsdecode(name)).read_bytes() == data
        assert resident_pages(other / os.fsdecode(name)) == pages
    host.unmount(one)
    assert host.pack_mounts() == 2
    content(other, shared)


def test_a_writable_view_is_complete_in_itself(host: Host) -> None:
    image = host.image("a", FILES)
    view = host.mount(image, "a", rw=True)
    (view / "large").chmod(0o600)
    with (view / "text").open("ab") as file:
        file.write(b"more")
    (view / "small").unlink()
    content(view, {b"large": LARGE, b"text": FILES[b"text"] + b"more"})
    record = mounts.unmount(host.root, str(view), keep_upper=True)
    assert Path(f"{record.upper}/upper/large").read_bytes() == LARGE
    content(host.mount(image, "again"), FILES)


def test_what_a_pack_cannot_give_is_unpacked(host: Host) -> None:
    """A file over two packs, one with a hole, and one of pieces that do not follow each other."""
    halves = noise(5, 3_000_000), noise(6, 3_000_000)
    with Store.open(host.root, create=True) as store, store.begin("test") as session:
        first = put_image(session, {b"half": halves[0]})
        second = put_image(session, {b"half": halves[1]})
    with Store.open(host.root) as store, store.begin("test") as session:
        refs = [tuple(session.put_bytes(half)) for half in halves]
        lists = {
            b"both": (refs[0] + refs[1], halves[0] + halves[1]),
            b"hole": ((*refs[0], (8192, None)), halves[0] + bytes(8192)),
            b"turned": (refs[0][::-1], b""),
        }
        entries = tuple(
            Entry(name, Kind.FILE, 0o644, size=sum(n for n, _ in extents), extents=extents)
            for name, (extents, _) in sorted(lists.items())
        )
        layer = publish_changeset(session, Changeset(entries))
        image = publish_image(session, [*first.layers, layer], "odd:1")
        with_all = b"".join(store.read_chunk(chunk) for _, chunk in lists[b"turned"][0])
    view = host.mount(image, "a")
    content(view, {b"half": halves[0], b"both": lists[b"both"][1], b"hole": lists[b"hole"][1]})
    assert (view / "turned").read_bytes() == with_all
    assert 2 <= host.objects() <= 3  # pieces may follow each other by chance
    assert os.stat(view / "hole").st_size == len(halves[0]) + 8192
    assert evict(host.paths).objects == ()
    content(view, {b"hole": lists[b"hole"][1]})
    assert second
    host.unmount(view)
    evict(host.paths)
    assert host.objects() == 0


def test_a_further_image_of_a_pack(host: Host) -> None:
    """An image that needs other files of a pack gets them beside what is mounted."""
    host.image("base", FILES)
    with Store.open(host.root) as store, store.begin("test") as session:
        chunks = tuple(session.put_bytes(LARGE))
        assert len(chunks) > 3
        entries = (
            Entry(
                b"part", Kind.FILE, 0o644, size=sum(n for n, _ in chunks[:3]), extents=chunks[:3]
            ),
        )
        part = publish_image(session, [publish_changeset(session, Changeset(entries))], "part:1")
        base = store.resolve("base:1")
    one = host.mount(base, "base")
    other = host.mount(part, "part")
    assert (other / "part").read_bytes() == LARGE[: entries[0].size]
    assert host.objects() == 0
    assert host.pack_mounts() == 2
    third = host.mount(base, "third", rw=True)
    content(third, FILES)
    host.unmount(one)
    host.unmount(third)
    assert (other / "part").read_bytes() == LARGE[: entries[0].size]
    assert host.pack_mounts() == 1


@pytest.mark.parametrize("limit", [400, 30])
def test_a_hundred_packs(host: Host, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    files = [{b"f%d" % number: b"content %d" % number} for number in range(100)]
    image = host.image("many", *files)
    assert len(host.packs()) == 100
    monkeypatch.setattr(pack_images, "LAYERS_MAX", limit)
    view = host.mount(image, "many", rw=True)
    content(view, {name: data for layer in files for name, data in layer.items()})
    assert host.pack_mounts() == min(100, limit - pack_images.IMAGES_MAX + 1)
    assert host.objects() == 100 - host.pack_mounts()
    host.unmount(view)
    assert host.pack_mounts() == 0


class TestDamage:
    def test_a_damaged_pack_is_not_mounted(self, host: Host) -> None:
        image = host.image("a", FILES)
        host.damage(LARGE[-1040:-1000])
        with pytest.raises(IntegrityError):
            host.mount(image, "a")
        assert host.pack_mounts() == 0
        assert mounts.mounts(host.root) == []
        view = host.mount(image, "a", backend="auto")  # FUSE shows what is whole
        assert (view / "small").read_bytes() == b"small"

    def test_damage_that_comes_later_is_an_error_in_the_file(self, host: Host) -> None:
        image = host.image("a", FILES)
        host.unmount(host.mount(image, "a"))
        view = host.mount(image, "a")
        host.damage(LARGE[-1040:-1000])
        with pytest.raises(OSError) as caught:
            (view / "large").read_bytes()
        assert caught.value.errno in (errno.EUCLEAN, errno.EIO)
        with Store.open(host.root) as store:
            report = check(store, read_data=True)
        told = [f for f in report.findings if f.problem is Problem.MOUNTED_PACK_DAMAGED]
        assert [str(view) in finding.message for finding in told] == [True]
        host.unmount(view)
        with Store.open(host.root) as store:
            report = check(store, read_data=True)
        assert Problem.MOUNTED_PACK_DAMAGED not in {f.problem for f in report.findings}
        with pytest.raises(IntegrityError):  # the file is not the one that was verified
            host.mount(image, "a")

    def test_a_copied_pack_is_verified_again(self, host: Host) -> None:
        image = host.image("a", FILES)
        host.unmount(host.mount(image, "a"))
        for path in host.packs():
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(data)
            path.chmod(0o600)
        view = host.mount(image, "a")
        content(view, FILES)
        assert host.objects() == 0

    @pytest.mark.parametrize("suffix", [".erofs", ".objects"])
    def test_a_changed_image_is_made_anew(self, host: Host, suffix: str) -> None:
        image = host.image("a", FILES)
        host.unmount(host.mount(image, "a"))
        for path in Path(host.paths.pack_images).glob(f"*{suffix}"):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        content(host.mount(image, "a"), FILES)
        assert host.objects() == 0

    def test_an_image_that_others_may_write_is_not_used(self, host: Host) -> None:
        image = host.image("a", FILES)
        host.unmount(host.mount(image, "a"))
        for path in Path(host.paths.pack_images).glob("*.erofs"):
            path.chmod(0o666)
        content(host.mount(image, "a"), FILES)
        for path in Path(host.paths.pack_images).glob("*.erofs"):
            assert path.stat().st_mode & 0o777 == 0o600

    def test_a_frame_that_lies_is_left_out(self, host: Host, monkeypatch) -> None:
        """A pack whose hash is right may still hold other bytes than its footer says."""
        image = host.image("a", FILES)
        real = pack_images.decompress_block

        def lying(frame: bytes, length: int) -> bytes:
            data = real(frame, length)
            return data.replace(b"small", b"other") if b"small" in data else data

        monkeypatch.setattr(pack_images, "decompress_block", lying)
        content(host.mount(image, "a"), FILES)
        assert host.objects() >= 1


def test_gc_may_take_a_mounted_pack(host: Host) -> None:
    """Its file stays readable for the views that have it; what is mounted next is elsewhere."""
    host.image("b", {b"drop": noise(9, 4_000_000), b"keep": LARGE})
    image = host.image("a", {b"keep": LARGE, b"text": text(4, 100_000)})
    one = host.mount(image, "a")
    assert host.pack_mounts() == 2
    before = host.packs()
    with Store.open(host.root) as store:
        store.untag("b:1")
        execute(plan_gc(store))
    assert set(before) - set(host.packs())
    content(one, {b"keep": LARGE, b"text": text(4, 100_000)})
    content(host.mount(image, "joined", rw=True), {b"keep": LARGE})
    mounts.unmount(host.root, str(one))
    mounts.unmount(host.root, str(host.base / "view-joined"))
    content(host.mount(image, "again"), {b"keep": LARGE, b"text": text(4, 100_000)})
    assert host.objects() == 0
    evict(host.paths)
    packs = {path.stem for path in host.packs()}
    images = {path.name.partition(".")[0] for path in Path(host.paths.pack_images).iterdir()}
    assert images <= packs


def test_images_that_are_not_mounted_are_evicted(host: Host) -> None:
    a, b = host.image("a", FILES), host.image("b", {b"other": b"other"})
    one, other = host.mount(a, "a"), host.mount(b, "b")
    host.unmount(other)
    assert len(list(Path(host.paths.pack_images).iterdir())) == 4
    evict(host.paths)
    assert len(list(Path(host.paths.pack_images).iterdir())) == 2
    content(host.mount(a, "again", rw=True), FILES)
    content(one, FILES)


def test_rules_keep_images_that_were_used_lately(host: Host) -> None:
    """With their packs, and for as long as rules say; the next view makes nothing anew then."""
    image = host.image("a", FILES)
    host.unmount(host.mount(image, "a"))
    host.unmount(host.mount(image, "a"))
    made = {path: path.stat().st_ino for path in Path(host.paths.pack_images).iterdir()}
    keep = KeepUnpacked(frozenset(), 3600, None, Reference(time.time(), ""))
    evict(host.paths, keep)
    content(host.mount(image, "a"), FILES)
    assert {path: path.stat().st_ino for path in made} == made
    host.unmount(host.base / "view-a")
    evict(host.paths, keep._replace(reference=Reference(time.time() + 7200, "")))
    assert os.listdir(host.paths.pack_images) == []


def test_auto_takes_packs_where_there_is_no_room(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = host.image("a", FILES)
    real = unpacking._require_room

    def little(directory: str, sizes) -> None:
        if sum(sizes) > 100_000:
            raise StoreFullError("there is room for 100 kB")
        real(directory, sizes)

    monkeypatch.setattr(unpacking, "_require_room", little)
    told = []
    target = host.base / "view"
    target.mkdir()
    mounts.mount(
        host.root,
        image,
        str(target),
        backend="auto",
        tell=lambda became, err: told.append((became, err.message)),
    )
    assert told == [(PACKS, "there is room for 100 kB")]
    content(target, FILES)
    assert host.backends() == [PACKS]


def test_a_kernel_that_cannot_is_told_by_trying(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = host.image("a", FILES)
    real = pack_trial.compress_block
    monkeypatch.setattr(pack_trial, "compress_block", lambda raw: real(raw)[:-9] + bytes(9))
    problem = pack_trial.pack_problem(host.paths.tmp)
    assert problem is not None
    assert "trial pack" in problem
    with pytest.raises(UnsupportedError, match="does not read packs in place"):
        host.mount(image, "a")
    assert mounts.mounts(host.root) == []
    assert os.listdir(host.paths.tmp) == []


def test_packs_of_a_shared_store_are_not_mounted(host: Host) -> None:
    """Members of its group could change them while the kernel decodes them."""
    create_store(host.paths)
    share_store(host.paths, 12_345)
    view = host.mount(host.image("a", FILES), "a")
    content(view, FILES)
    assert host.pack_mounts() == 0
    assert host.objects() == 3


def test_after_a_restart_of_the_host_nothing_is_left(host: Host) -> None:
    image = host.image("a", FILES)
    view = host.mount(image, "a", rw=True)
    (item,) = mounts.mounts(host.root)
    (pack,) = Path(host.paths.pack_mounts).glob("*/*")
    for place in (view, f"{item.record.lower}/root", f"{item.record.lower}/meta", pack / "root"):
        syscalls.unmount(str(place))
    for path in (
        f"{host.root}/views/{item.record.view_id}.json",
        f"{item.record.lower}/kernel.json",
        f"{pack}/kernel.json",
    ):
        value = json.loads(Path(path).read_text())
        Path(path).write_text(json.dumps({**value, "boot_id": "another"}))
    content(host.mount(image, "again"), FILES)
    recovering.clean_stale(host.root)
    assert [item.state for item in mounts.mounts(host.root)] == [mounts.MOUNTED]
    assert host.pack_mounts() == 1
    host.unmount(host.base / "view-again")
    assert host.pack_mounts() == 0
    assert os.listdir(lowers.lowers_directory(host.root)) == []


def test_further_views_read_nothing_of_the_store(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = host.image("a", FILES)
    host.mount(image, "a")
    monkeypatch.setattr(kernel_lowers, "start_in_place", None)
    for number in range(4):
        content(host.mount(image, f"further-{number}", rw=number % 2 == 0), FILES)


@pytest.mark.parametrize("call", ["create_erofs", "mount_erofs", "mount_overlay", "bind"])
def test_killed_at_any_moment(host: Host, call: str) -> None:
    image = host.image("a", FILES)
    code = (
        "import os, sys\n"
        "from fuse_mount import mounts\n"
        "from layerstore.linux import mounts as syscalls\n"
        "from layerstore.store.objects import pack_trial\n"
        "from layerstore.store.store import Store\n"
        "pack_trial.pack_problem = lambda place: None\n"
        "real = getattr(syscalls, sys.argv[3])\n"
        "def die(*arguments, **words):\n"
        "    real(*arguments, **words)\n"
        "    os.kill(os.getpid(), 9)\n"
        "setattr(syscalls, sys.argv[3], die)\n"
        "with Store.open(sys.argv[1]) as store: image = store.resolve('a:1')\n"
        "mounts.mount(sys.argv[1], image, sys.argv[2], backend='kernel-packs')\n"
    )
    target = host.base / "view-a"
    target.mkdir()
    command = [sys.executable, "-c", code, host.root, str(target), call]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    if call == "bind":
        host.unmount(target)
    else:
        recovering.clean_stale(host.root)
    assert mounts.mounts(host.root) == []
    assert not is_mounted(target)
    assert host.pack_mounts() == 0
    assert os.listdir(lowers.lowers_directory(host.root)) == []
    content(host.mount(image, "a"), FILES)
