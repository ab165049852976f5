"""What only views by the kernel have: objects, shared pages, no process, other namespaces."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fuse_mount import kernel_lowers, lowers, mounts, recovering
from layerstore.errors import IntegrityError, UnsupportedError
from layerstore.linux import mounts as syscalls
from layerstore.store.collect.eviction import evict
from layerstore.store.config import create_store
from layerstore.store.objects.objects import present_objects
from layerstore.store.paths import StorePaths
from layerstore.store.sharing import share_store
from layerstore.store.store import Store
from tests.support.cli import Cli
from tests.support.debian_base import debian_base_tar
from tests.support.memory import forget, resident_pages
from tests.support.store import noise
from tests.support.trees import acl_blob, compare_trees
from tests.support.views import (
    image_of,
    is_mounted,
    loop_devices_below,
    needs_fuse,
    needs_root,
    undo_all_mounts,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.store.catalog.rows import ImageRecord

pytestmark = needs_root

SHARED_BYTES = 3 << 20


class Host:
    """A store, and directories to mount on."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.store = base / "store"

    def image(self, name: str, files: dict[str, bytes]) -> ImageRecord:
        tree = self.base / f"tree-{name}"
        tree.mkdir()
        for path, content in files.items():
            (tree / path).write_bytes(content)
        return image_of(self.store, tree, f"{name}:1")

    def mount(self, image: ImageRecord, name: str, backend: str = "kernel", rw: bool = False):
        target = self.base / f"view-{name}"
        target.mkdir(exist_ok=True)
        mounts.mount(str(self.store), image, str(target), backend=backend, rw=rw)
        return target

    def states(self) -> list[tuple[str, str]]:
        return [(item.state, item.reason) for item in mounts.mounts(str(self.store))]

    def objects(self) -> int:
        return len(present_objects(StorePaths(str(self.store))))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    if host.store.exists():
        undo_all_mounts(host.store)


def test_gc_keeps_for_a_while_what_a_view_needed(host: Host) -> None:
    cli = Cli(host.store)
    image = host.image("a", {"f": b"content", "g": b"more"})
    view = host.mount(image, "a")
    week_s = 8 * 86400
    (sidecar,) = (host.store / "views" / "meta").glob("*.objects")
    long_ago = time.time() - 2 * week_s
    os.utime(sidecar, (long_ago, long_ago))
    cli.ok("gc", "--keep-unpacked-within", "0s")
    assert host.objects() == 2
    mounts.unmount(str(host.store), str(view))  # a use, too
    report = cli.ok("gc", "--json").json()
    assert (report["unpacked_files"], report["unpacked_recent"]) == (0, 2)
    assert "2 unpacked files" in cli.ok("gc", "--dry-run").out
    cli.ok("gc", "--max-unpacked", "1g")
    assert host.objects() == 2
    planned = cli.ok("gc", "--dry-run", "--max-unpacked", "1k", "--json").json()
    assert planned["unpacked_files"] == host.objects() == 2
    cli.ok("gc", "--all")
    assert host.objects() == 0
    host.mount(image, "a")
    mounts.unmount(str(host.store), str(view))
    os.utime(sidecar, (long_ago, long_ago))
    cli.ok("gc")
    assert host.objects() == 0


def drop_pages(host: Host) -> None:
    """Take all objects out of memory."""
    for _, path in _objects(host):
        forget(Path(path))


def _objects(host: Host):
    from layerstore.store.objects.objects import object_files

    return object_files(StorePaths(str(host.store)))


def test_different_images_share_the_pages_of_a_file(host: Host) -> None:
    shared = noise(1, SHARED_BYTES)
    a = host.image("a", {"libshared.so": shared, "own": b"of a"})
    b = host.image("b", {"other-name.so": shared, "own": b"of b"})
    one, other = host.mount(a, "a"), host.mount(b, "b", rw=True)
    drop_pages(host)
    assert resident_pages(other / "other-name.so") == 0
    assert (one / "libshared.so").read_bytes() == shared
    pages = SHARED_BYTES // mmap.PAGESIZE
    assert resident_pages(one / "libshared.so") == pages
    assert resident_pages(other / "other-name.so") == pages


def test_acls_are_looked_for_only_in_images_that_have_some(host: Host) -> None:
    tree = host.base / "with-acl"
    tree.mkdir()
    (tree / "f").write_bytes(b"content")
    nobody = 0xFFFF_FFFF
    acl = acl_blob((1, 6, nobody), (2, 4, 7), (4, 0, nobody), (16, 6, nobody), (32, 0, nobody))
    os.setxattr(tree / "f", "system.posix_acl_access", acl)
    view = host.mount(image_of(host.store, tree, "acl:1"), "acl")
    assert os.getxattr(view / "f", "system.posix_acl_access") == acl
    assert metadata_options(host, view) >= {"acl"}
    other = host.mount(host.image("a", {"f": b"content"}), "a", rw=True)
    assert metadata_options(host, other) >= {"noacl"}
    (other / "f").chmod(0o640)  # copied up, and as good as any file then
    os.setxattr(other / "f", "system.posix_acl_access", acl)
    assert os.getxattr(other / "f", "system.posix_acl_access") == acl


def metadata_options(host: Host, view: Path) -> set[str]:
    """Return how the metadata of a view is mounted."""
    (record,) = [
        item.record for item in mounts.mounts(str(host.store)) if item.record.target == str(view)
    ]
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, described = line.partition(" - ")
        if fields.split()[4] == f"{record.lower}/meta":
            return set(described.split()[2].split(","))
    return set()


def test_no_process_and_no_loop_device(host: Host) -> None:
    view = host.mount(host.image("a", {"f": b"content"}), "a", rw=True)
    assert (view / "f").read_bytes() == b"content"
    assert loop_devices_below(host.base) == []
    for directory, _, names in os.walk(lowers.lowers_directory(str(host.store))):
        assert "alive" not in names, directory


@pytest.mark.parametrize("before", [False, True])
def test_backends_are_joined_apart(host: Host, before: bool) -> None:
    for mark in needs_fuse:
        if mark.name == "skipif" and mark.args[0]:
            pytest.skip(mark.kwargs["reason"])
    image = host.image("a", {"f": b"content"})
    order = ["fuse", "kernel"] if before else ["kernel", "fuse"]
    views = [host.mount(image, f"{n}-{name}", name) for n in (1, 2) for name in order]
    assert {(view / "f").read_bytes() for view in views} == {b"content"}
    listed = [item.record for item in mounts.mounts(str(host.store))]
    assert len({record.lower for record in listed}) == 2
    assert len({(record.backend, record.lower) for record in listed}) == 2
    for view in views[:2]:
        mounts.unmount(str(host.store), str(view))
    assert {(view / "f").read_bytes() for view in views[2:]} == {b"content"}


def test_objects_stay_while_a_view_needs_them(host: Host) -> None:
    paths = StorePaths(str(host.store))
    a = host.image("a", {"f": b"same", "g": b"of a"})
    b = host.image("b", {"f": b"same", "h": b"of b"})
    one, other = host.mount(a, "a"), host.mount(b, "b", rw=True)
    assert evict(paths).objects == ()
    mounts.unmount(str(host.store), str(one))
    assert len(evict(paths).objects) == 1
    assert (other / "f").read_bytes() == b"same"
    assert (other / "h").read_bytes() == b"of b"
    mounts.unmount(str(host.store), str(other))
    evict(paths)
    assert host.objects() == 0
    assert (host.mount(a, "a") / "g").read_bytes() == b"of a"


def test_a_view_outlives_the_instance_that_was_taken_from_under_it(host: Host) -> None:
    view = host.mount(host.image("a", {"f": b"content"}), "a")
    (item,) = mounts.mounts(str(host.store))
    for name in ("root", "meta"):
        syscalls.unmount(f"{item.record.lower}/{name}", lazy=True)
    assert host.states() == [(mounts.MOUNTED, "")]
    assert (view / "f").read_bytes() == b"content"
    evict(StorePaths(str(host.store)))
    assert (view / "f").read_bytes() == b"content"
    mounts.unmount(str(host.store), str(view))
    assert not is_mounted(view)
    assert os.listdir(f"{host.store}/views/lowers") == []


def test_an_image_without_content(host: Host) -> None:
    view = host.mount(host.image("a", {"empty": b""}), "a", rw=True)
    assert (view / "empty").read_bytes() == b""
    assert host.objects() == 0


def test_after_a_restart_of_the_host_nothing_is_left(host: Host) -> None:
    image = host.image("a", {"f": b"content"})
    view = host.mount(image, "a", rw=True)
    (item,) = mounts.mounts(str(host.store))
    for place in (str(view), f"{item.record.lower}/root", f"{item.record.lower}/meta"):
        syscalls.unmount(place)
    for path in (
        f"{host.store}/views/{item.record.view_id}.json",
        f"{item.record.lower}/kernel.json",
    ):
        with open(path) as file:
            value = json.load(file)
        with open(path, "w") as file:
            json.dump({**value, "boot_id": "another"}, file)
    assert host.states() == [(mounts.STALE, "the host was restarted")]
    again = host.mount(image, "again")
    assert (again / "f").read_bytes() == b"content"
    recovering.clean_stale(str(host.store))
    assert host.states() == [(mounts.MOUNTED, "")]
    mounts.unmount(str(host.store), str(again))
    assert os.listdir(f"{host.store}/views/lowers") == []
    assert os.listdir(f"{host.store}/uppers") == []


def test_kernels_without_redirects_in_uppers_get_one_overlay_more(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    from layerstore.linux import data_layers

    monkeypatch.setattr(data_layers, "follows_without_metacopy", lambda _: False)
    view = host.mount(host.image("a", {"f": b"content"}), "a", rw=True)
    assert (view / "f").read_bytes() == b"content"
    (view / "f").chmod(0o600)
    (view / "new").write_bytes(b"new")
    record = mounts.unmount(str(host.store), str(view), keep_upper=True)
    assert Path(f"{record.upper}/upper/f").read_bytes() == b"content"
    shutil.rmtree(record.upper)


def test_a_kept_upper_is_complete_in_itself(host: Host) -> None:
    view = host.mount(host.image("a", {"f": b"content"}), "a", rw=True)
    (view / "f").chmod(0o600)
    record = mounts.unmount(str(host.store), str(view), keep_upper=True)
    assert Path(f"{record.upper}/upper/f").read_bytes() == b"content"
    shutil.rmtree(record.upper)


def test_damage_is_told_before_anything_is_mounted(host: Host) -> None:
    content = noise(2, 3_000_000)
    image = host.image("a", {"a-small": b"small", "big": content})
    for directory, _, names in os.walk(host.store / "packs"):
        for name in names:
            with open(f"{directory}/{name}", "r+b") as file:
                place = file.read().find(content[-1040:-1000])
                if place >= 0:
                    file.seek(place)
                    file.write(b"\0\0")
    with pytest.raises(IntegrityError):
        host.mount(image, "a")
    assert host.states() == []
    view = host.mount(image, "a", backend="auto")  # FUSE shows what is whole
    assert (view / "a-small").read_bytes() == b"small"
    with pytest.raises(OSError, match="Input/output error"):
        (view / "big").read_bytes()


def test_refused_without_privileges(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    image = host.image("a", {"f": b"content"})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UnsupportedError, match="for root") as caught:
        host.mount(image, "a")
    assert "fuse" in str(caught.value.hint)
    assert host.states() == []


def test_what_was_prepared_is_shown_without_reading_the_store(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli = Cli(host.store)
    image = host.image("a", {"f": b"content", "g": b"more"})
    assert cli.ok("prepare", "a:1").lines == ["Prepared: a:1"]
    assert host.objects() == 2
    assert host.states() == []
    monkeypatch.setattr(kernel_lowers, "_prepare", lambda *_: pytest.fail("it is made again"))
    view = host.mount(image, "a")
    assert (view / "f").read_bytes() == b"content"
    mounts.unmount(str(host.store), str(view))


def test_preparing_is_a_use_that_gc_goes_by(host: Host) -> None:
    cli = Cli(host.store)
    host.image("a", {"f": b"content"})
    cli.ok("prepare", "a:1")
    (sidecar,) = (host.store / "views" / "meta").glob("*.objects")
    long_ago = time.time() - 16 * 86400
    os.utime(sidecar, (long_ago, long_ago))
    cli.ok("prepare", "a:1")
    cli.ok("gc")
    assert host.objects() == 1
    cli.ok("gc", "--all")
    assert host.objects() == 0


def test_one_that_cannot_be_prepared_does_not_stop_the_others(host: Host) -> None:
    cli = Cli(host.store)
    host.image("a", {"f": b"content"})
    assert "no image 'b:1'" in cli.fails(3, "prepare", "b:1", "a:1")
    assert host.objects() == 1


def test_a_shared_store_shares_objects_and_no_metadata(host: Host) -> None:
    create_store(StorePaths(str(host.store)))
    share_store(StorePaths(str(host.store)), 12_345)
    view = host.mount(host.image("a", {"f": b"content"}), "a")
    assert (view / "f").read_bytes() == b"content"
    for _, path in _objects(host):
        status = os.stat(path)
        assert (status.st_mode & 0o7777, status.st_gid) == (0o660, 12_345)
    for path in (host.store / "views/meta").glob("*.erofs"):
        assert path.stat().st_mode & 0o7777 == 0o600


class TestNamespaces:
    MOUNT = (
        "import os, sys, time\n"
        "from fuse_mount import mounts\n"
        "from layerstore.linux import namespaces, mounts as syscalls\n"
        "from layerstore.store.store import Store\n"
        "namespaces.unshare(namespaces.CLONE_NEWNS)\n"
        "syscalls.set_propagation('/', syscalls.MS_PRIVATE)\n"
        "with Store.open(sys.argv[1]) as store: image = store.resolve('a:1')\n"
        "mounts.mount(sys.argv[1], image, sys.argv[2], rw=True, backend='kernel')\n"
        "print('mounted', flush=True)\n"
        "time.sleep(600)\n"
    )

    def elsewhere(self, host: Host) -> tuple[subprocess.Popen[bytes], Path]:
        image = host.image("a", {"f": b"content"})
        assert image
        target = host.base / "elsewhere"
        target.mkdir()
        process = subprocess.Popen(
            [sys.executable, "-c", self.MOUNT, str(host.store), str(target)],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        with process.stdout as output:
            assert output.readline() == b"mounted\n"
        return process, target

    def test_a_view_elsewhere_is_left_alone_while_it_lives(self, host: Host) -> None:
        process, target = self.elsewhere(host)
        try:
            ((state, _),) = host.states()
            assert state == mounts.ELSEWHERE
            assert not is_mounted(target)
            recovering.clean_stale(str(host.store))
            assert evict(StorePaths(str(host.store))).objects == ()
            with Store.open(host.store) as store:
                image = store.resolve("a:1")
            here = host.mount(image, "here")  # an instance of its own: that one is not seen
            assert (here / "f").read_bytes() == b"content"
            assert Path(f"/proc/{process.pid}/root{target}/f").read_bytes() == b"content"
        finally:
            process.kill()
            process.wait()

    def test_it_is_stale_when_its_namespace_is_gone(self, host: Host) -> None:
        process, target = self.elsewhere(host)
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 60
        while host.states()[0][0] != mounts.STALE and time.monotonic() < deadline:
            time.sleep(0.01)
        assert host.states() == [(mounts.STALE, "its mount namespace is gone")]
        mounts.unmount(str(host.store), str(target))
        assert host.states() == []
        assert os.listdir(f"{host.store}/views/lowers") == []
        assert os.listdir(f"{host.store}/uppers") == []


@pytest.mark.parametrize("call", ["mount_erofs", "mount_overlay", "bind", "_write_state"])
def test_killed_at_any_moment(host: Host, call: str) -> None:
    """What a killed mounter leaves is found, cleaned, and does not keep a new view away."""
    image = host.image("a", {"f": b"content"})
    code = (
        "import os, sys\n"
        "from fuse_mount import kernel_lowers, mounts\n"
        "from layerstore.linux import mounts as syscalls\n"
        "from layerstore.store.store import Store\n"
        "module = kernel_lowers if sys.argv[3].startswith('_') else syscalls\n"
        "real, calls = getattr(module, sys.argv[3]), []\n"
        "def die(*arguments, **words):\n"
        "    real(*arguments, **words)\n"
        "    os.kill(os.getpid(), 9)\n"
        "setattr(module, sys.argv[3], die)\n"
        "with Store.open(sys.argv[1]) as store: image = store.resolve('a:1')\n"
        "mounts.mount(sys.argv[1], image, sys.argv[2], backend='kernel')\n"
    )
    target = host.base / "view-a"
    target.mkdir()
    command = [sys.executable, "-c", code, str(host.store), str(target), call]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    if call == "bind":  # the mount was made: only its record does not say so yet
        mounts.unmount(str(host.store), str(target))
    else:
        assert [state for state, _ in host.states()] == [mounts.STALE]
        recovering.clean_stale(str(host.store))
    assert host.states() == []
    assert not is_mounted(target)
    assert os.listdir(f"{host.store}/views/lowers") == []
    assert not list((host.store / "views").glob("*.json"))
    assert (host.mount(image, "a") / "f").read_bytes() == b"content"
    assert image


def test_records_of_before_there_was_a_choice_are_fuses(host: Host) -> None:
    view = host.mount(host.image("a", {"f": b"content"}), "a", backend="fuse")
    (item,) = mounts.mounts(str(host.store))
    path = f"{host.store}/views/{item.record.view_id}.json"
    with open(path) as file:
        value = json.load(file)
    del value["backend"], value["namespace_id"]
    with open(path, "w") as file:
        json.dump(value, file)
    (item,) = mounts.mounts(str(host.store))
    assert (item.record.backend, item.state) == ("fuse", mounts.MOUNTED)
    mounts.unmount(str(host.store), str(view))


def test_further_views_read_nothing_of_the_store(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = host.image("a", {"f": b"content"})
    host.mount(image, "a")
    monkeypatch.setattr(kernel_lowers, "start", None)
    for number in range(5):
        view = host.mount(image, f"further-{number}", rw=number % 2 == 0)
        assert (view / "f").read_bytes() == b"content"


@pytest.mark.parametrize("rw", [False, True])
def test_a_real_debian_root(host: Host, rw: bool) -> None:
    """Entry by entry what tar(1) made of the same archive."""
    archive = debian_base_tar()
    expected = host.base / "expected"
    expected.mkdir()
    subprocess.run(
        ["tar", "-x", "-p", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-f",
         os.fspath(archive), "-C", os.fspath(expected)],
        check=True,
    )  # fmt: skip
    command = [sys.executable, "-m", "layerstore", "--store", str(host.store), "import"]
    subprocess.run([*command, "-q", "-t", "debian:1", os.fspath(archive)], check=True)
    with Store.open(host.store) as store:
        image = store.resolve("debian:1")
    view = host.mount(image, "debian", rw=rw)
    assert compare_trees(expected, view) == []
    assert compare_trees(expected, view) == []


def test_views_come_and_go_beside_eviction(host: Host) -> None:
    """Nothing that is shown loses a file, whoever mounts, unmounts and evicts meanwhile."""
    files = {f"f{number}": noise(number, 3000) for number in range(30)}
    for name, part in (("a", 20), ("b", 25), ("c", 30)):
        host.image(name, dict(list(files.items())[:part]))
    (host.base / "expected").write_bytes(b"".join(files.values()))
    code = (
        "import os, sys, time\n"
        "from fuse_mount import mounts\n"
        "from layerstore.store.collect.eviction import evict\n"
        "from layerstore.store.paths import StorePaths\n"
        "from layerstore.store.store import Store\n"
        "root, target, name = sys.argv[1:]\n"
        "expected = open(os.path.dirname(root) + '/expected', 'rb').read()\n"
        "end = time.monotonic() + 4\n"
        "with Store.open(root) as store: image = store.resolve(name) if name else None\n"
        "while time.monotonic() < end:\n"
        "    if image is None:\n"
        "        evict(StorePaths(root))\n"
        "        continue\n"
        "    rw = time.monotonic_ns() % 2 == 0\n"
        "    mounts.mount(root, image, target, rw=rw, backend='kernel')\n"
        "    for number, file in enumerate(sorted(os.listdir(target), key=lambda n: int(n[1:]))):\n"
        "        content = open(f'{target}/{file}', 'rb').read()\n"
        "        assert content == expected[number * 3000 : number * 3000 + 3000], file\n"
        "    mounts.unmount(root, target)\n"
    )
    running = []
    for number, image in enumerate(["a:1", "b:1", "c:1", "a:1", ""]):
        target = host.base / f"racing-{number}"
        target.mkdir()
        command = [sys.executable, "-c", code, str(host.store), str(target), image]
        running.append(subprocess.Popen(command))
    assert [process.wait(200) for process in running] == [0] * 5
    assert host.states() == []
    evict(StorePaths(str(host.store)))
    assert host.objects() == 0
    assert os.listdir(f"{host.store}/tmp") == []
