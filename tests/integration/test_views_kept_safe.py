"""Who holds a view, what a restart takes and restores, and what an image may do on the host.

Capabilities: root; fuse for the FUSE backend.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fuse_mount import mounts, recovering
from fuse_mount.records import FORBIDDEN
from layerstore.errors import MountError
from layerstore.linux import mounts as syscalls
from layerstore.linux import planned
from layerstore.linux.planned import flags_of
from tests.support.cli import Cli
from tests.support.views import (
    BACKENDS,
    image_of,
    is_mounted,
    kill_servers,
    needs_root,
    server_pids,
    undo_all_mounts,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.store.catalog.rows import ImageRecord

pytestmark = needs_root

each_backend = pytest.mark.parametrize("backend", BACKENDS)
by_kernel_and_by_server = pytest.mark.parametrize(
    "backend", [backend for backend in BACKENDS if backend.values[0] in ("kernel", "fuse")]
)

read_only_and_writable = pytest.mark.parametrize("rw", [False, True], ids=["ro", "rw"])


class Host:
    def __init__(self, base: Path) -> None:
        self.base = base
        self.store = base / "store"
        self.root = str(self.store)
        tree = base / "tree"
        (tree / "etc").mkdir(parents=True)
        tree.chmod(0o755)
        (tree / "etc" / "motd").write_text("hello\n")
        (tree / "etc" / "motd").chmod(0o644)
        shutil.copy("/usr/bin/id", tree / "id")
        (tree / "id").chmod(0o4755)
        shutil.copy("/usr/bin/sleep", tree / "sleep")
        os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        self.image: ImageRecord = image_of(self.store, tree, "a:1")
        self.view = base / "view"
        self.view.mkdir()
        self.cli = Cli(self.store)

    def mount(self, backend: str, **words: object) -> Path:
        mounts.mount(self.root, self.image, str(self.view), backend=backend, **words)
        return self.view

    def state(self) -> str:
        ((state, _),) = [(item.state, item.reason) for item in mounts.mounts(self.root)]
        return state


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    undo_all_mounts(host.store)


@contextlib.contextmanager
def running(code: str, *arguments: object, **words: object) -> Iterator[int]:
    """Run a program that prints a line when it is ready, until the block ends."""
    command = [sys.executable, "-c", f"{code}\nprint(flush=True)\ninput()", *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **words
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.communicate(b"\n")


# -- who holds it


@by_kernel_and_by_server
class TestHolders:
    CHROOT = "import os, sys; os.chroot(sys.argv[1]); os.chdir('/')"
    MAPPED = (
        "import mmap, os, sys\n"
        "fd = os.open(sys.argv[1] + '/etc/motd', os.O_RDONLY)\n"
        "held = mmap.mmap(fd, 6, prot=mmap.PROT_READ)\n"
        "os.close(fd)\n"
    )
    OPEN = "import sys; held = open(sys.argv[1] + '/etc/motd')"
    AWAY = (  # in a mount namespace of its own, with its working directory in the host's view
        "import os, sys\n"
        "from tests.support.namespaces import enter_private_mount_namespace, forget_mounts_but\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "enter_private_mount_namespace()\n"
        "forget_mounts_but(os.path.dirname(sys.argv[1]))\n"
    )

    COPY = AWAY + "os.close(fd)\n"

    @read_only_and_writable
    @pytest.mark.parametrize(
        ("code", "use"),
        [
            (OPEN, "open etc/motd"),
            (MAPPED, "mapped etc/motd"),
            (CHROOT, "its working directory, its root"),
            (AWAY, "open "),
        ],
        ids=["open", "mapped", "chroot", "another namespace"],
    )
    def test_a_process_is_named_with_what_it_holds(
        self, host: Host, backend: str, rw: bool, code: str, use: str
    ) -> None:
        view = host.mount(backend, rw=rw)
        with running(code, view, cwd=Path(__file__).parents[2]) as pid:
            with pytest.raises(MountError, match="is busy") as caught:
                mounts.unmount(host.root, str(view))
            assert f"process {pid} (" in caught.value.message
            assert use in caught.value.message
            assert host.state() == mounts.MOUNTED
        mounts.unmount(host.root, str(view))

    def test_a_program_that_runs_from_it(self, host: Host, backend: str) -> None:
        view = host.mount(backend)
        program = subprocess.Popen([view / "sleep", "60"])
        try:
            with pytest.raises(MountError, match=rf"process {program.pid} \(sleep: its program"):
                mounts.unmount(host.root, str(view))
        finally:
            program.kill()
            program.wait()

    def test_views_of_one_image_are_told_apart(self, host: Host, backend: str) -> None:
        view = host.mount(backend)
        other = host.base / "other"
        other.mkdir()
        mounts.mount(host.root, host.image, str(other), backend=backend)
        with (other / "etc" / "motd").open():
            mounts.unmount(host.root, str(view))
            with pytest.raises(MountError, match=f"process {os.getpid()} "):
                mounts.unmount(host.root, str(other))

    def test_a_writable_layer_stays_while_another_namespace_writes_to_it(
        self, host: Host, backend: str
    ) -> None:
        """A container that was started from here has its own copy of the mount."""
        view = host.mount(backend, rw=True)
        code = self.COPY + "os.chdir(sys.argv[1]); open('written', 'w').close()\n"
        with running(code, view, cwd=Path(__file__).parents[2]) as pid:
            with pytest.raises(MountError, match="is unmounted here, but elsewhere") as caught:
                mounts.unmount(host.root, str(view))
            assert f"used by process {pid} (" in caught.value.message
            assert "its working directory" in caught.value.message
            (upper,) = (host.store / "uppers").iterdir()
            assert (upper / "upper" / "written").exists()
            assert not is_mounted(view)
            assert Path(f"/proc/{pid}/cwd/etc/motd").read_text() == "hello\n"
        mounts.unmount(host.root, str(view))
        assert not any((host.store / "uppers").iterdir())

    def test_a_kept_layer_has_no_marks_of_another_overlay(self, host: Host, backend: str) -> None:
        view = host.mount(backend, rw=True)
        (view / "mine").write_text("mine")
        record = mounts.unmount(host.root, str(view), keep_upper=True)
        assert os.listdir(f"{record.upper}/work") == ["work"]
        assert "trusted.overlay.origin" not in os.listxattr(f"{record.upper}/upper")
        assert os.listdir(f"{record.upper}/upper") == ["mine"]

    def test_a_copy_that_nobody_works_in_keeps_nothing(self, host: Host, backend: str) -> None:
        """Every mount namespace has copies of what was mounted when it was made."""
        view = host.mount(backend, rw=True)
        with running(self.COPY, view, cwd=Path(__file__).parents[2]):
            mounts.unmount(host.root, str(view))
            assert not any((host.store / "uppers").iterdir())

    def test_the_same_of_a_view_that_somebody_else_mounted(self, host: Host, backend: str) -> None:
        plan = mounts.prepare(host.root, host.image, str(host.view), backend=backend, rw=True)
        code = self.COPY + (
            "from layerstore.linux import planned\n"
            "import json\n"
            "for mount in json.loads(sys.argv[2]): planned.execute(planned.from_json(mount))\n"
            "os.chdir(sys.argv[1])\n"
        )
        made = json.dumps([planned.to_json(mount) for mount in plan.mounts])
        with (
            running(code, host.view, made, cwd=Path(__file__).parents[2]) as pid,
            pytest.raises(MountError, match=f"used by process {pid} "),
        ):
            mounts.unmount(host.root, plan.view_id)
        mounts.unmount(host.root, plan.view_id)


# -- after a restart


def pretend_a_restart(host: Host) -> None:
    """Take all mounts and servers away, and let records be of another run of the kernel."""
    targets = [item.record.target for item in mounts.mounts(host.root)]
    kill_servers(host.store)  # until they are gone their locks are held, and views are served
    for target in targets:
        syscalls.unmount(target, lazy=True)
    views = host.store / "views"
    for place in (*views.glob("lowers/*/*/*"), *views.glob("pack-mounts/*/*/*")):
        with contextlib.suppress(OSError):
            while place.is_dir() and is_mounted(place):
                syscalls.unmount(str(place), lazy=True)
    for path in (
        *views.glob("*.json"),
        *views.glob("lowers/*/*/kernel.json"),
        *views.glob("pack-mounts/*/*/kernel.json"),
    ):
        value = json.loads(path.read_text())
        if "boot_id" in value:
            path.write_text(json.dumps({**value, "boot_id": "another"}))


@each_backend
@read_only_and_writable
def test_restored_after_a_restart(host: Host, backend: str, rw: bool) -> None:
    words = ["--backend", backend, "-o", "suid,noexec", *(["--rw"] if rw else [])]
    host.cli.ok("mount", *words, "a:1", host.view)
    if rw:
        (host.view / "mine").write_text("mine")
        host.view.chmod(0o711)
    before = host.cli.ok("mounts", "--json").json()[0]
    pretend_a_restart(host)
    assert host.state() == mounts.STALE
    (listed,) = host.cli.ok("mounts", "--restore", "--json").json()
    assert listed["state"] == "mounted"
    for field in ("view_id", "target", "mode", "backend", "upper", "flags", "image", "layers"):
        assert listed[field] == before[field], field
    assert (host.view / "etc" / "motd").read_text() == "hello\n"
    flags = os.statvfs(host.view).f_flag
    assert (bool(flags & os.ST_NOSUID), bool(flags & os.ST_NOEXEC)) == (False, True)
    if rw:
        assert (host.view / "mine").read_text() == "mine"
        assert stat.S_IMODE(host.view.stat().st_mode) == 0o711
        (host.view / "more").write_text("more")
    host.cli.ok("mounts", "--restore")  # nothing to do
    host.cli.ok("umount", host.view)
    recovering.clean_stale(host.root)
    assert not any((host.store / "uppers").glob("*"))


@by_kernel_and_by_server
def test_a_failed_restore_loses_nothing(host: Host, backend: str) -> None:
    host.mount(backend, rw=True)
    (host.view / "mine").write_text("mine")
    pretend_a_restart(host)
    host.view.rename(host.base / "away")
    for _ in range(2):
        result = host.cli("mounts", "--restore")
        assert result.code == 2
        assert f"mount point {host.view} does not exist" in result.err
        assert host.state() == mounts.STALE
    host.view.mkdir()
    host.cli.ok("mounts", "--restore")
    assert (host.view / "mine").read_text() == "mine"


@by_kernel_and_by_server
def test_killed_while_restoring(host: Host, backend: str) -> None:
    host.mount(backend, rw=True)
    (host.view / "mine").write_text("mine")
    pretend_a_restart(host)
    code = (
        "import os, sys\n"
        "from fuse_mount import mounts, recovering\n"
        "def die(*_): os.kill(os.getpid(), 9)\n"
        "{name} = die\n"
        "failures = []\n"
        "recovering.restore(sys.argv[1], failures)\n"
        "sys.exit(f'not killed: {failures}')\n"
    )
    for name in ("recovering.make_shown", "mounts.execute"):
        command = [sys.executable, "-c", code.replace("{name}", name), host.root]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert host.state() == mounts.STALE
    host.cli.ok("mounts", "--restore")
    assert (host.view / "mine").read_text() == "mine"
    assert host.state() == mounts.MOUNTED


@by_kernel_and_by_server
def test_what_somebody_unmounted_is_not_restored(host: Host, backend: str) -> None:
    host.mount(backend)
    syscalls.unmount(str(host.view))
    host.cli.ok("mounts", "--restore")
    assert not is_mounted(host.view)
    mounts.unmount(host.root, str(host.view))
    mounts.prepare(host.root, host.image, str(host.view), backend=backend)
    pretend_a_restart_of_records(host)
    assert recovering.restore(host.root, []) == []


def pretend_a_restart_of_records(host: Host) -> None:
    for path in (host.store / "views").glob("*.json"):
        value = json.loads(path.read_text())
        if "boot_id" in value:
            path.write_text(json.dumps({**value, "boot_id": "another"}))


@by_kernel_and_by_server
def test_a_view_whose_server_was_killed_is_restored(host: Host, backend: str) -> None:
    if "fuse" not in backend:
        assert server_pids(host.store) == []
        return
    view = host.mount(backend, rw=True)
    (view / "mine").write_text("mine")
    kill_servers(host.store)
    host.cli.ok("mounts", "--restore")
    assert (view / "mine").read_text() == "mine"
    assert (view / "etc" / "motd").read_text() == "hello\n"


# -- what an image may do on the host


def effective_user(view: Path) -> str:
    """Run the image's set-user-id program as somebody else."""
    done = subprocess.run(
        ["./id", "-u"], cwd=view, user=12_345, group=12_345, extra_groups=[],
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    return done.stdout.strip()


def opens_devices(view: Path) -> bool:
    try:
        os.close(os.open(view / "null", os.O_RDONLY))
    except PermissionError:
        return False
    return True


@each_backend
@read_only_and_writable
def test_set_user_id_and_devices_act_only_when_asked_for(
    host: Host, backend: str, rw: bool
) -> None:
    for options, user, devices in (
        ("", "12345", False),
        ("suid,dev", "0", True),
        ("suid", "0", False),
        ("dev", "12345", True),
    ):
        flags = flags_of(options.split(",") if options else [], FORBIDDEN)
        host.mount(backend, rw=rw, flags=flags)
        assert (effective_user(host.view), opens_devices(host.view)) == (user, devices), options
        mounts.unmount(host.root, str(host.view))
    words = ["--backend", backend, *(["--rw"] if rw else []), "a:1"]
    host.cli.ok("mount", "-o", "noexec", *words, host.view)
    with pytest.raises(PermissionError):
        effective_user(host.view)
    assert "no mount option 'rw'" in host.cli.fails(2, "mount", "-o", "rw", *words, host.view)


@each_backend
@read_only_and_writable
def test_nobody_else_reaches_what_views_are_made_of(host: Host, backend: str, rw: bool) -> None:
    host.mount(backend, rw=rw)
    mounted = set()
    for directory, names, files in os.walk(f"{host.root}/views"):
        assert stat.S_IMODE(os.stat(directory).st_mode) & 0o077 == 0, directory
        for name in list(names):
            if is_mounted(f"{directory}/{name}"):  # the image's own rights, behind those above
                mounted.add(f"{directory}/{name}")
                names.remove(name)
        for name in files:
            assert os.lstat(f"{directory}/{name}").st_mode & 0o077 == 0, name
    assert mounted
    for upper in (host.store / "uppers").glob("*"):
        assert stat.S_IMODE(upper.stat().st_mode) == 0o700
    for place in mounted:
        flags = os.statvfs(place).f_flag
        assert flags & os.ST_NOSUID, place
        assert flags & os.ST_NODEV, place
        assert flags & os.ST_RDONLY, place
