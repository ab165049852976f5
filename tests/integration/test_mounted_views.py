"""Views on the host: many at once, kept apart, listed, unmounted, and cleaned after a crash."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fuse_mount import ending, lowers, mounts, records, recovering
from layerstore.errors import (
    ConflictError,
    InputError,
    MountError,
    NotFoundError,
    UnsupportedError,
)
from layerstore.linux import mounts as syscalls
from layerstore.linux.removal import remove_tree
from layerstore.store.store import Store
from tests.support.namespaces import private_mount_table
from tests.support.trees import make_odd_tree
from tests.support.views import (
    BACKENDS,
    SERVED,
    image_of,
    is_mounted,
    keeper_pids,
    kill,
    links_of_files,
    server_pids,
    undo_all_mounts,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.store.catalog.rows import ImageRecord

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting on the host needs root"),
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="there is no /dev/fuse"),
]


class Host:
    """A store with one image, and directories to mount it on."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.backend = "fuse"
        self.store = str(base / "store")
        tree = base / "tree"
        tree.mkdir()
        make_odd_tree(tree)
        (tree / "big").write_bytes(os.urandom(300_000))
        self.image: ImageRecord = image_of(base / "store", tree, "odd:1")

    def target(self, name: str = "view") -> Path:
        target = self.base / name
        target.mkdir(exist_ok=True)
        return target

    def mount(self, name: str = "view", *, rw: bool = False) -> Path:
        target = self.target(name)
        mounts.mount(self.store, self.image, str(target), rw=rw, name="odd:1", backend=self.backend)
        return target

    def states(self) -> list[str]:
        return [item.state for item in mounts.mounts(self.store)]

    def servers(self) -> list[int]:
        """Pids of the living servers of this store."""
        return server_pids(self.store)

    def wait_for_no_server(self) -> None:
        deadline = time.monotonic() + 60
        while self.servers() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert self.servers() == []

    def clean(self) -> None:
        """Clean until nothing is left: a server that ends has its files a moment longer."""
        deadline = time.monotonic() + 60
        while self.leftovers() and time.monotonic() < deadline:
            recovering.clean_stale(self.store)
            time.sleep(0.02)
        assert self.leftovers() == []

    def leftovers(self) -> list[str]:
        """Everything under views and uppers that is no longer wanted once nothing is mounted."""
        caches = {f"{self.store}/views/{name}" for name in ("meta", "packs")}  # gc's to remove
        found = []
        for name in ("views", "uppers"):
            for directory, _, files in os.walk(f"{self.store}/{name}"):
                if directory not in caches:
                    found += [f"{directory}/{file}" for file in files]
        return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Host:
    return Host(tmp_path_factory.mktemp("host"))


@pytest.fixture(params=BACKENDS)
def host(made: Host, request: pytest.FixtureRequest) -> Iterator[Host]:
    made.backend = request.param
    yield made
    undo_all_mounts(made.base / "store")
    made.wait_for_no_server()
    made.clean()
    assert made.leftovers() == []


of_servers = pytest.mark.parametrize("host", SERVED, indirect=True)
of_libfuse = pytest.mark.parametrize("host", SERVED[1:], indirect=True)


def never(*_: object) -> bool:
    raise AssertionError("nobody is to be waited for")


def test_two_writable_views_do_not_see_each_other(host: Host) -> None:
    a, b = host.mount("a", rw=True), host.mount("b", rw=True)
    (a / "mine").write_text("a")
    (b / "mine").write_text("b")
    (a / "files" / "small").write_text("changed in a")
    (b / "files" / "small").unlink()
    assert (a / "mine").read_text() == "a"
    assert (b / "mine").read_text() == "b"
    assert (a / "files" / "small").read_text() == "changed in a"
    assert not (b / "files" / "small").exists()
    c = host.mount("c")
    assert not (c / "mine").exists()
    assert (c / "files" / "small").read_text() != "changed in a"


def test_an_image_that_goes_while_it_is_mounted_is_not_mounted(host: Host) -> None:
    target = host.target("late")

    def gone() -> None:
        # The record is there before the question: a collection from now on sees it.
        assert list(Path(host.store, "views").glob("*.json"))
        raise NotFoundError("gone")

    with pytest.raises(NotFoundError):
        mounts.mount(host.store, host.image, str(target), rw=True, confirm=gone)
    assert not os.path.ismount(target)
    assert host.states() == []


def test_forty_views_share_one_mount_and_one_server(host: Host) -> None:
    targets = [host.mount(f"many{i}", rw=i % 2 == 0) for i in range(40)]
    assert host.states() == [mounts.MOUNTED] * 40
    assert len(host.servers()) == (not host.backend.startswith("kernel"))
    contents = {(target / "big").read_bytes() for target in targets}
    assert len(contents) == 1
    for target in targets:
        mounts.unmount(host.store, str(target))
    assert host.states() == []
    host.wait_for_no_server()
    assert host.leftovers() == []


@of_servers
def test_the_last_view_stops_the_server_and_not_an_earlier_one(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = host.mount("a"), host.mount("b")
    with monkeypatch.context() as patched:
        patched.setattr(ending, "_has_ended", never)
        mounts.unmount(host.store, str(a))
    assert len(host.servers()) == 1
    assert (b / "big").stat().st_size == 300_000
    mounts.unmount(host.store, str(b))
    host.wait_for_no_server()


@of_servers
@pytest.mark.parametrize("rw", [False, True])
def test_nothing_of_a_view_is_left_when_it_is_unmounted(host: Host, rw: bool) -> None:
    with private_mount_table():  # a copy of the mount would keep the server
        for _ in range(5):
            view = host.mount(rw=rw)
            (view / "big").read_bytes()
            mounts.unmount(host.store, str(view))
            assert (host.servers(), keeper_pids(host.store)) == ([], [])
            assert host.leftovers() == []
            assert os.listdir(lowers.lowers_directory(host.store)) == []


@of_servers
def test_the_server_of_a_detached_view_that_somebody_uses_is_not_waited_for(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = host.mount()
    with (view / "big").open("rb") as file, monkeypatch.context() as patched:
        patched.setattr(ending, "_has_ended", never)
        mounts.unmount(host.store, str(view), lazy=True)
        assert len(file.read()) == 300_000
    host.wait_for_no_server()


def test_views_at_one_time_from_many_processes(host: Host) -> None:
    code = (
        "import sys; from fuse_mount import mounts; from layerstore.store.store import Store\n"
        "with Store.open(sys.argv[1]) as store: image = store.resolve('odd:1')\n"
        "mounts.mount(sys.argv[1], image, sys.argv[2], rw=True, backend=sys.argv[3])"
    )
    targets = [host.target(f"racing{i}") for i in range(6)]
    racing = [
        subprocess.Popen([sys.executable, "-c", code, host.store, str(target), host.backend])
        for target in targets
    ]
    assert [process.wait(200) for process in racing] == [0] * 6
    assert len(host.servers()) == (not host.backend.startswith("kernel"))
    assert len(list(Path(host.store, "views").glob("lower-*.json"))) == 1
    assert all((target / "big").exists() for target in targets)


def test_the_writable_layer_goes_with_its_view(host: Host) -> None:
    view = host.mount(rw=True)
    deep = view
    for _ in range(30):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    os.mknod(view / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    (view / "files").chmod(0)
    record = mounts.unmount(host.store, str(view))
    assert record.upper is not None
    assert not os.path.exists(record.upper)


def test_the_writable_layer_can_be_kept(host: Host) -> None:
    view = host.mount(rw=True)
    (view / "kept").write_text("x")
    record = mounts.unmount(host.store, str(view), keep_upper=True)
    assert record.upper is not None
    assert os.listdir(f"{record.upper}/upper") == ["kept"]
    again = host.mount(rw=True)
    assert not (again / "kept").exists()
    mounts.unmount(host.store, str(again))
    remove_tree(record.upper)


def test_unmounting_by_id_and_through_a_symlink(host: Host) -> None:
    view = host.mount()
    (host.base / "alias").unlink(missing_ok=True)
    (host.base / "alias").symlink_to(view)
    mounts.unmount(host.store, str(host.base / "alias"))
    view = host.mount()
    (listed,) = mounts.mounts(host.store)
    assert listed.record.image == "odd:1"
    mounts.unmount(host.store, listed.record.view_id)
    assert not is_mounted(view)


@of_servers
def test_a_view_survives_its_mounter_and_the_working_directory(host: Host) -> None:
    view = host.mount()
    (pid,) = host.servers()
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.getsid(pid) != os.getsid(0)
    assert not any(link.startswith(("pipe:", "socket:")) for link in links_of_files(pid))
    with open(f"/proc/{pid}/environ", "rb") as file:
        assert b"LAYERSTORE_ROOT" not in file.read()
    assert (view / "big").stat().st_size == 300_000


class TestRefusals:
    @of_servers
    def test_mount_point_missing(self, host: Host) -> None:
        with pytest.raises(InputError, match="does not exist") as caught:
            mounts.mount(host.store, host.image, str(host.base / "none"))
        assert caught.value.hint is not None
        assert "mkdir" in caught.value.hint

    @of_servers
    def test_mount_point_is_a_file(self, host: Host) -> None:
        file = host.base / "a-file"
        file.write_text("x")
        with pytest.raises(InputError, match="is not a directory"):
            mounts.mount(host.store, host.image, str(file))

    def test_mounted_twice(self, host: Host) -> None:
        view = host.mount()
        with pytest.raises(ConflictError, match="already"):
            mounts.mount(host.store, host.image, str(view), rw=True, backend=host.backend)
        assert host.states() == [mounts.MOUNTED]

    @of_servers
    def test_nothing_to_unmount(self, host: Host) -> None:
        with pytest.raises(NotFoundError, match="no view"):
            mounts.unmount(host.store, str(host.target("never")))
        with pytest.raises(NotFoundError):
            mounts.unmount(host.store, "0123456789ab")

    @of_servers
    def test_a_layer_that_is_not_there(self, host: Host) -> None:
        broken = host.image._replace(layers=("sha256:" + "0" * 64,))
        with pytest.raises(MountError, match="holds no layer"):
            mounts.mount(host.store, broken, str(host.target()))
        assert host.states() == []
        assert not is_mounted(host.target())

    def test_busy_names_its_holder(self, host: Host) -> None:
        view = host.mount(rw=True)
        holder = subprocess.Popen(["sleep", "60"], cwd=view)
        try:
            with pytest.raises(MountError, match=rf"process {holder.pid} \(sleep: its working dir"):
                mounts.unmount(host.store, str(view))
            assert host.states() == [mounts.MOUNTED]
            mounts.unmount(host.store, str(view), lazy=True)
            assert host.states() == []
            assert not is_mounted(view)
        finally:
            holder.kill()
            holder.wait()

    def test_busy_names_mounts_inside(self, host: Host) -> None:
        view = host.mount(rw=True)
        inside = view / "inside"
        inside.mkdir()
        syscalls.mount("tmpfs", str(inside), "tmpfs")
        try:
            with pytest.raises(MountError, match=f"mount {inside}"):
                mounts.unmount(host.store, str(view))
        finally:
            syscalls.unmount(str(inside))

    @of_servers
    def test_no_fuse_device(self, host: Host, tmp_path: Path) -> None:
        code = (
            "from fuse_mount import starting; import os\n"
            "os.path.exists = lambda path: False\n"
            "starting.check_host()"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "there is no /dev/fuse" in done.stderr

    def test_no_libfuse(self) -> None:
        code = "import fuse_mount._binding"
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={"FUSE_LIBRARY_PATH": "libfuse.so.absent"},
        )
        assert "UnsupportedError: libfuse 2 cannot be loaded" in done.stderr


class TestAfterACrash:
    def kill_server(self, host: Host) -> None:
        (pid,) = host.servers()
        kill(pid)

    @of_libfuse
    def test_a_server_killed_this_very_moment_is_not_joined(self, host: Host) -> None:
        for attempt in range(5):
            host.mount(f"dead{attempt}")
            (pid,) = host.servers()
            os.kill(pid, signal.SIGKILL)
            view = host.mount(f"fresh{attempt}")
            assert (view / "big").stat().st_size == 300_000
            recovering.clean_stale(host.store)
            mounts.unmount(host.store, str(view))
            host.wait_for_no_server()

    @of_libfuse
    @pytest.mark.parametrize("rw", [False, True])
    def test_a_killed_server_is_told_and_cleaned(self, host: Host, rw: bool) -> None:
        view = host.mount(rw=rw)
        (view / "files").stat()
        self.kill_server(host)
        with pytest.raises(OSError, match=r"not connected|No such file"):
            (view / "links").stat()
        (item,) = mounts.mounts(host.store)
        assert item.state == mounts.STALE
        assert "server is gone" in item.reason
        with pytest.raises(ConflictError, match="stale") as caught:
            mounts.mount(host.store, host.image, str(view))
        assert caught.value.hint is not None
        assert "umount" in caught.value.hint
        mounts.unmount(host.store, str(view))
        assert not is_mounted(view)
        assert host.mount().joinpath("big").stat().st_size == 300_000

    @of_libfuse
    def test_new_views_get_a_new_server_beside_dead_ones(self, host: Host) -> None:
        dead = host.mount("dead")
        self.kill_server(host)
        view = host.mount("fresh")
        assert (view / "big").stat().st_size == 300_000
        assert sorted(host.states()) == [mounts.MOUNTED, mounts.STALE]
        cleaned = recovering.clean_stale(host.store)
        assert [record.target for record in cleaned] == [str(dead)]
        assert not is_mounted(dead)
        assert (view / "big").stat().st_size == 300_000

    def test_after_a_restart_of_the_host_records_are_stale(self, host: Host) -> None:
        view = host.mount(rw=True)
        (record,) = [item.record for item in mounts.mounts(host.store)]
        mounts.unmount(host.store, str(view), keep_upper=True)
        path = f"{host.store}/views/{record.view_id}.json"
        value = record._asdict()
        value["boot_id"] = "another"
        with open(path, "w") as file:
            json.dump(value, file)
        (item,) = mounts.mounts(host.store)
        assert (item.state, item.reason) == (mounts.STALE, "the host was restarted")
        assert record.upper is not None
        assert os.path.exists(record.upper)
        mounts.unmount(host.store, str(view))
        assert not os.path.exists(record.upper)

    def test_unmounted_behind_our_back(self, host: Host) -> None:
        view = host.mount()
        syscalls.unmount(str(view))
        assert host.states() == [mounts.STALE]
        assert len(recovering.clean_stale(host.store)) == 1
        host.wait_for_no_server()

    def test_another_mount_in_its_place_is_left_alone(self, host: Host) -> None:
        view = host.mount()
        syscalls.unmount(str(view))
        syscalls.mount("tmpfs", str(view), "tmpfs")
        try:
            assert host.states() == [mounts.STALE]
            mounts.unmount(host.store, str(view))
            assert is_mounted(view)
        finally:
            syscalls.unmount(str(view))

    @pytest.mark.parametrize("mode", ["ro", "rw"])
    def test_a_caller_killed_before_it_noted_the_mount(self, host: Host, mode: str) -> None:
        view = host.mount(rw=mode == "rw")
        (record,) = [item.record for item in mounts.mounts(host.store)]
        value = record._replace(mount_id=0, device=0)._asdict()
        with open(f"{host.store}/views/{record.view_id}.json", "w") as file:
            json.dump(value, file)
        mounts.unmount(host.store, str(view))
        assert not is_mounted(view)
        host.wait_for_no_server()

    def test_a_caller_killed_before_it_knew_its_lower(self, host: Host) -> None:
        view = host.target()
        lower = lowers.acquire(
            host.store, host.image.layers, records.view_id_of(str(view)), backend=host.backend
        )
        assert is_mounted(lower.root)
        record = records.MountRecord(
            view_id=records.view_id_of(str(view)),
            image_id=host.image.image_id,
            image="",
            layers=host.image.layers,
            target=str(view),
            mode="ro",
            kind="bind",
            upper=None,
            lower="",
            mount_id=0,
            device=0,
            boot_id=mounts.boot_id(),
            namespace=1,
            created=0.0,
            backend=host.backend,
        )
        with open(f"{host.store}/views/{record.view_id}.json", "w") as file:
            json.dump(record._asdict(), file)
        assert host.states() == [mounts.STALE]
        recovering.clean_stale(host.store)
        host.wait_for_no_server()


@of_servers
def test_instances_without_living_users_are_stopped(host: Host) -> None:
    record = Path(f"{host.store}/views/0123456789ab.json")
    record.write_text("{}")
    lower = lowers.acquire(host.store, host.image.layers, "ba9876543210", backend=host.backend)
    kept = lowers.acquire(host.store, host.image.layers, record.stem, backend=host.backend)
    assert lower == kept
    assert lowers.clean_unused(host.store) == []
    assert os.listdir(f"{kept.directory}/users") == [record.stem]
    record.unlink()
    assert lowers.clean_unused(host.store) == [kept.directory]
    host.wait_for_no_server()


@of_servers
def test_a_starter_killed_while_it_waits_leaves_nothing(host: Host) -> None:
    code = (
        "import os, sys; from fuse_mount import lowers, starting\n"
        "starting._read_report = os.abort\n"
        "real = os.read\n"
        "def read(fd, size): os.kill(os.getpid(), 9)\n"
        "os.read = read\n"
        "lowers.acquire(sys.argv[1], sys.argv[3:], '0123456789ab', backend=sys.argv[2])"
    )
    command = [sys.executable, "-c", code, host.store, host.backend, *host.image.layers]
    done = subprocess.run(command, check=False)
    assert done.returncode == -signal.SIGKILL
    # The server may not even have started: it finds out when it has something to report.
    host.clean()
    host.wait_for_no_server()


@of_servers
def test_a_writable_view_takes_privileges(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UnsupportedError, match="takes privileges") as caught:
        mounts.mount(host.store, host.image, str(host.target()), rw=True)
    assert caught.value.hint is not None
    assert "layerstore unshare" in caught.value.hint


def test_layers_of_a_mounted_image_are_roots_for_the_collector(host: Host) -> None:
    host.mount()
    names = os.listdir(f"{host.store}/views")
    records = [name for name in names if name.endswith(".json")]
    assert len(records) == 2
    for name in records:
        with open(f"{host.store}/views/{name}", "rb") as file:
            assert json.load(file)["layers"] == list(host.image.layers)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_collector_spares_what_is_mounted(tmp_path: Path, backend: str) -> None:
    from layerstore.store.collect.gc import execute, plan_gc

    host = Host(tmp_path)
    host.backend = backend
    view = host.mount(rw=True)
    try:
        with Store.open(host.store) as store:
            store.untag("odd:1")
            execute(plan_gc(store, keep_cache=False))
            assert len(list(store.layers())) == 1
            assert len((view / "big").read_bytes()) == 300_000
            mounts.unmount(host.store, str(view))
            host.wait_for_no_server()
            execute(plan_gc(store, keep_cache=False))
            assert list(store.layers()) == []
    finally:
        undo_all_mounts(tmp_path / "store")


def test_damage_is_an_error_and_never_wrong_bytes(tmp_path: Path) -> None:
    host = Host(tmp_path)
    view = host.mount()
    try:
        good = (view / "big").read_bytes()
        mounts.unmount(host.store, str(view))
        for directory, _, files in os.walk(f"{host.store}/packs"):
            for name in files:
                path = f"{directory}/{name}"
                with open(path, "r+b") as file:
                    content = bytearray(file.read())
                    place = content.find(good[1000:1040])
                    if place >= 0:
                        content[place] ^= 1
                        file.seek(0)
                        file.write(content)
                        break
        host.wait_for_no_server()
        view = host.mount()
        with pytest.raises(OSError, match="Input/output error"):
            (view / "big").read_bytes()
        assert (view / "files" / "small").read_bytes()
    finally:
        undo_all_mounts(tmp_path / "store")


@of_servers
def test_store_open_is_not_needed_by_the_caller(host: Host) -> None:
    with Store.open(host.store) as store:
        assert store.resolve("odd:1").layers == host.image.layers
