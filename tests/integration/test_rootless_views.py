"""Views for users without privileges: FUSE through fusermount, overlays in user namespaces.

Run by root, each test starts a script as nobody, in a mount namespace where /dev/fuse
is open to everyone, as udev makes it on ordinary hosts, and /etc has the link to the mount
table that init systems and container engines put there.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import layerstore
from fuse_mount import unshare
from layerstore.linux import mounts as syscalls
from layerstore.linux import probe
from layerstore.linux.namespaces import (
    current_mount_namespace,
    mount_namespace_id,
    mount_namespace_lives,
)
from tests.support.namespaces import enter_private_mount_namespace
from tests.support.running import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOBODY = 65534
_PR_SET_DUMPABLE = 4

as_root = [
    pytest.mark.fuse,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root"),
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="there is no /dev/fuse"),
    pytest.mark.skipif(shutil.which("fusermount") is None, reason="fusermount is not installed"),
]

IMPORTS = [
    str(Path(layerstore.__file__).parents[1]),
    *(path for path in sys.path if path.endswith("-packages")),
]

PRELUDE = """
import os, sys
from pathlib import Path
from fuse_mount import mounts, recovering, unshare
from layerstore.errors import UnsupportedError
from tests.support.trees import compare_trees
from tests.support.views import image_of, is_mounted

place = Path(sys.argv[1])
store = str(place / "store")
target = place / "view"

def show(*, rw):
    tree = place / "tree"
    (tree / "d").mkdir(parents=True)
    (tree / "d/file").write_text("content")
    os.link(tree / "d/file", tree / "d/link")
    (tree / "s").symlink_to("d/file")
    image = image_of(place / "store", tree)
    target.mkdir()
    mounts.mount(store, image, str(target), rw=rw)
    assert compare_trees(tree, target) == []
    (item,) = mounts.mounts(store)
    assert item.state == mounts.MOUNTED

def take_away():
    mounts.unmount(store, str(target))
    assert not is_mounted(target)
    assert mounts.mounts(store) == []

def refused(*, rw):
    try:
        show(rw=rw)
    except UnsupportedError as err:
        return f"{err.message}: {err.hint}"
    raise AssertionError("nothing was refused")
"""

COLLECT_FROM_OUTSIDE = """
import contextlib, io
from layerstore.cli.main import dispatch

def inside(act):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            unshare.enter()
            act()
            status = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid

def ended(pid):
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

def collect():
    with contextlib.redirect_stdout(io.StringIO()):
        assert dispatch(["gc", "--all", "--compact", "--store", store]) == 0
    (item,) = mounts.mounts(store)
    assert item.state == mounts.ELSEWHERE, item
    assert recovering.clean_stale(store) == []

made, tell_made = os.pipe()
done, tell_done = os.pipe()

def live():
    os.close(tell_done)
    show(rw=True)
    (target / "new").write_text("written inside")
    os.write(tell_made, b"x")
    os.close(tell_made)
    os.read(done, 1)
    assert (target / "new").read_text() == "written inside"
    (target / "later").write_text("x")
    assert (target / "d/file").read_text() == "content"
    take_away()

view = inside(live)
os.close(tell_made)
os.close(done)
assert os.read(made, 1) == b"x"
collect()
ended(inside(collect))
os.close(tell_done)
ended(view)
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of nobody's that it can reach."""
    with tempfile.TemporaryDirectory(prefix="layerstore-test-", dir="/tmp") as name:
        os.chown(name, NOBODY, NOBODY)
        yield Path(name)


def own_etc(etc: Path, *, mount_table: bool) -> None:
    """Bind a small /etc: what programs need to start, and /etc/mtab if wanted."""
    etc.mkdir()
    (etc / "passwd").write_text(f"nobody:x:{NOBODY}:{NOBODY}::/:/bin/false\n")
    if os.path.exists("/etc/ld.so.cache"):
        shutil.copy("/etc/ld.so.cache", etc)
    if mount_table:
        (etc / "mtab").symlink_to("/proc/self/mounts")
    syscalls.bind(str(etc), "/etc")


def reachable(place: Path) -> str:
    """Bind what is imported to where nobody can read it: a checkout may lie in root's home."""
    place.mkdir()
    place.chmod(0o755)
    for number, path in enumerate(IMPORTS):
        (place / str(number)).mkdir()
        syscalls.bind(path, str(place / str(number)))
    return os.pathsep.join(str(place / str(number)) for number in range(len(IMPORTS)))


def run_as_nobody(
    place: Path, script: str, *, device_mode: int = 0o666, mount_table: bool = True
) -> tuple[int, str]:
    """Run a script as nobody; return its exit code and what it wrote."""
    device, log = str(place / "fuse-device"), str(place / "log")
    words = ["-P", "-c", PRELUDE + script, str(place)]
    pid = os.fork()
    if pid == 0:
        try:
            enter_private_mount_namespace()
            os.mknod(device, stat.S_IFCHR, os.makedev(10, 229))
            os.chmod(device, device_mode)
            syscalls.bind(device, "/dev/fuse")
            own_etc(place / "etc", mount_table=mount_table)
            imports = reachable(place / "imports")
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT, 0o644), 2)
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            os.chdir("/")
            environment = {"PYTHONPATH": imports, "PATH": os.environ["PATH"], "HOME": "/"}
            # The interpreter of the tests may lie in somebody's home.
            for path in (sys.executable, f"/usr/bin/python3.{sys.version_info[1]}"):
                try:
                    os.execve(path, [path, *words], environment)
                except OSError:
                    continue
        finally:
            os._exit(77)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == 77:
        pytest.skip("no interpreter of this version that an unprivileged user may run")
    return status, Path(log).read_text()


class TestUnprivileged:
    pytestmark = as_root

    def test_a_read_only_view_through_fusermount(self, place: Path) -> None:
        assert run_as_nobody(place, "show(rw=False); take_away()") == (0, "")

    def test_nothing_of_its_server_is_left_when_it_is_unmounted(self, place: Path) -> None:
        script = (
            "from tests.support.views import keeper_pids, server_pids\n"
            "show(rw=False); take_away()\n"
            "assert (server_pids(store), keeper_pids(store)) == ([], [])\n"
            "assert os.listdir(f'{store}/views/lowers') == []\n"
        )
        assert run_as_nobody(place, script) == (0, "")

    def test_a_writable_view_says_how_to_get_it(self, place: Path) -> None:
        status, told = run_as_nobody(place, "sys.exit(refused(rw=True))")
        assert status == 1
        assert "takes privileges" in told
        assert "layerstore unshare" in told

    @pytest.mark.parametrize("rw", [False, True])
    def test_views_inside_a_user_namespace(self, place: Path, rw: bool) -> None:
        if not probe.user_namespaces().works:
            pytest.skip("user namespaces are not permitted")
        script = f"unshare.enter(); assert os.geteuid() == 0; show(rw={rw})\n"
        if rw:
            script += (
                "(target / 'd/file').unlink(); (target / 'new').write_text('x')\n"
                "assert os.listdir(target / 'd') == ['link']\n"
            )
        assert run_as_nobody(place, script + "take_away()") == (0, "")

    def test_gc_from_other_namespaces_leaves_a_writable_view_alone(self, place: Path) -> None:
        """Of mount namespaces elsewhere /proc tells little: that is no reason to call them dead."""
        if not probe.user_namespaces().works:
            pytest.skip("user namespaces are not permitted")
        assert run_as_nobody(place, COLLECT_FROM_OUTSIDE) == (0, "")

    def test_a_closed_device_is_told(self, place: Path) -> None:
        status, told = run_as_nobody(place, "sys.exit(refused(rw=False))", device_mode=0o600)
        assert status == 1
        assert "may not open /dev/fuse" in told
        assert "chmod 666" in told

    def test_a_view_that_could_not_be_unmounted_is_not_mounted(self, place: Path) -> None:
        status, told = run_as_nobody(place, "sys.exit(refused(rw=False))", mount_table=False)
        assert status == 1
        assert "there is no /etc/mtab" in told
        assert "ln -s /proc/self/mounts /etc/mtab" in told


def _as_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def _in_user_namespace() -> None:
    _as_nobody()
    # Whoever changed its ids does not own its own /proc, where the maps are written.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    unshare.enter()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
@pytest.mark.parametrize("become", [_as_nobody, _in_user_namespace])
def test_who_may_not_ask_all_processes_takes_no_namespace_for_dead(
    become: Callable[[], None],
) -> None:
    """In a store that is shared with a group, kernel views of root are such."""
    if become is _in_user_namespace and not probe.user_namespaces().works:
        pytest.skip("user namespaces are not permitted")
    said, say = os.pipe()
    stay, leave = os.pipe()
    holder = os.fork()
    if holder == 0:
        try:
            os.close(leave)
            enter_private_mount_namespace()
            numbers = current_mount_namespace(), mount_namespace_id()
            os.write(say, "{} {}".format(*numbers).encode())
            os.read(stay, 1)
        finally:
            os._exit(0)
    os.close(stay)
    os.close(say)
    try:
        inode, number = map(int, os.read(said, 100).split())
        assert mount_namespace_lives(inode, number)
        assert _asked_as(become, inode, number)
    finally:
        for descriptor in (said, leave):
            os.close(descriptor)
        os.waitpid(holder, 0)
    if number:  # before Linux 6.11 another namespace may have the inode by now
        # Whoever of other tests looks at it just now keeps it for a moment.
        wait_until(lambda: not mount_namespace_lives(inode, number), "its end")
    assert _asked_as(become, inode, number)


def _asked_as(become: Callable[[], None], inode: int, number: int) -> bool:
    pid = os.fork()
    if pid == 0:
        status = 2
        try:
            become()
            status = int(not mount_namespace_lives(inode, number))
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 1)
    return status == 0


def test_ranges_of_subordinate_ids(tmp_path: Path) -> None:
    path = tmp_path / "subuid"
    path.write_text("# ranges\nalice:100000:65536\n1001:200000:1000\nbob:x:y\n")
    assert unshare.subordinate_range(str(path), "alice", 1000) == (100000, 65536)
    assert unshare.subordinate_range(str(path), "carol", 1001) == (200000, 1000)
    assert unshare.subordinate_range(str(path), "bob", 1002) is None
    assert unshare.subordinate_range(str(tmp_path / "none"), "alice", 1000) is None


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="setting up ranges of ids needs root")
def test_a_whole_range_of_ids_is_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    if not unshare._has("newuidmap"):
        pytest.skip("newuidmap is not installed (uidmap)")
    ranges = unshare.IdRange(100_000, 65_536)
    monkeypatch.setattr(unshare, "subordinate_range", lambda *_: ranges)
    # newuidmap checks /etc/subuid itself, which is root's to write: give it one of ours.
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            enter_private_mount_namespace()
            with tempfile.NamedTemporaryFile("w", suffix="subid") as file:
                file.write("root:100000:65536\n")
                file.flush()
                for name in ("/etc/subuid", "/etc/subgid"):
                    syscalls.bind(file.name, name)
                assert unshare.enter()
                with open("/proc/self/uid_map") as maps:
                    rows = [tuple(map(int, line.split())) for line in maps]
                assert rows == [(0, 0, 1), (1, 100_000, 65_536)]
                status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
