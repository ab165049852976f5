"""Mounting and unmounting killed at any moment: what is left can be listed and cleaned."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fuse_mount import lowers, mounts, recovering
from fuse_mount.lazy_lowers import LazySource
from layerstore.store.store import Store
from tests.crash.rig import campaign
from tests.support.namespaces import private_mount_table
from tests.support.views import BACKENDS, image_of, is_mounted, undo_all_mounts

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting on the host needs root"),
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="there is no /dev/fuse"),
]

# Each audit event (file opened, renamed, removed, process started, ...) counts down to the end.
SCRIPT = """
import os, sys
from fuse_mount import mounts
from fuse_mount.lazy_lowers import LazySource
from layerstore.linux import mounts as syscalls
from layerstore.store.store import Store

root, target, backend, verb, left, remote = *sys.argv[1:5], int(sys.argv[5]), sys.argv[6]
with Store.open(remote or root) as store:
    image = store.images()[0]
if remote:
    image = LazySource(remote, image.image_id)

def step(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), 9)

def counted(call):
    def wrapper(*args, **kwargs):
        step()
        try:
            return call(*args, **kwargs)
        finally:
            step()
    return wrapper

for name in ("mkdir", "rename", "unlink", "rmdir", "symlink", "posix_spawn", "open", "close"):
    setattr(os, name, counted(getattr(os, name)))
for name in ("mount", "unmount", "mount_overlay", "mount_erofs", "attach", "identify"):
    setattr(syscalls, name, counted(getattr(syscalls, name)))
if verb == "mount":
    mounts.mount(root, image, target, rw=True, backend=backend)
else:
    mounts.unmount(root, target)
print(left)
"""

POINTS = 5
LAZY = "lazy-"


class Rig:
    def __init__(self, base: Path, backend: str) -> None:
        self.backend = backend.removeprefix(LAZY)
        tree = base / "tree"
        (tree / "d").mkdir(parents=True)
        (tree / "d" / "f").write_text("content")
        self.store = str(base / "store")
        self.caches = (f"{self.store}/views/meta", f"{self.store}/views/packs")  # gc's to remove
        self.remote = str(base / "remote") if backend != self.backend else ""
        self.image = image_of(Path(self.remote or self.store), tree)
        self.shown = LazySource(self.remote, self.image.image_id) if self.remote else self.image
        Store.open(self.store, create=True).close()
        self.target = base / "view"
        self.target.mkdir()

    def run(self, verb: str, left: int) -> tuple[int, str]:
        arguments = [self.store, str(self.target), self.backend, verb, str(left), self.remote]
        command = [sys.executable, "-c", SCRIPT, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    def mount(self, *, rw: bool = False) -> None:
        mounts.mount(self.store, self.shown, str(self.target), rw=rw, backend=self.backend)

    def steps_of(self, verb: str) -> int:
        status, told = self.run(verb, 1_000_000)
        assert status == 0
        return 1_000_000 - int(told)

    def assert_clean(self) -> None:
        """After cleaning, nothing may be left: no mount, process, record or upper."""
        for item in mounts.mounts(self.store):
            mounts.unmount(self.store, item.record.view_id)
        deadline = time.monotonic() + 60
        while True:
            waited_for = lowers.clean_unused(self.store)
            recovering.clean_stale(self.store)
            left = self.leftovers()
            # A server that ends has its lock and its files a moment longer.
            if not (waited_for or left) or time.monotonic() > deadline:
                break
            time.sleep(0.02)
        assert not is_mounted(self.target)
        assert left == []

    def leftovers(self) -> list[str]:
        """Return what nobody wants once nothing is mounted."""
        left = [
            f"{directory}/{name}"
            for top in ("views", "uppers")
            for directory, _, names in os.walk(f"{self.store}/{top}")
            for name in names
            if directory not in self.caches
        ]
        return left + os.listdir(f"{self.store}/uppers")


def test_a_spec_without_its_name_goes_too(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    (tmp_path / "tree").mkdir()
    image_of(tmp_path / "store", tmp_path / "tree")
    instance = f"{lowers.lowers_directory(store)}/{'ab' * 16}/0123456789ab"
    for name in ("root", "users"):
        os.makedirs(f"{instance}/{name}")
    for name in ("users/1234", "spec.json.1.tmp"):
        with open(f"{instance}/{name}", "w") as file:
            file.write("{")
    assert lowers.clean_unused(store) == [instance]
    assert os.listdir(lowers.lowers_directory(store)) == []


class Killed(BaseException):
    pass


@pytest.mark.parametrize("point", range(1, 11))
def test_a_server_killed_while_it_removes_its_files(tmp_path: Path, monkeypatch, point) -> None:
    store = str(tmp_path / "store")
    (tmp_path / "tree").mkdir()
    image_of(tmp_path / "store", tmp_path / "tree")
    instance = f"{lowers.lowers_directory(store)}/{'ab' * 16}/0123456789ab"
    for name in ("root", "users"):
        os.makedirs(f"{instance}/{name}")
    for path in (f"{instance}/spec.json", f"{instance}/log", f"{instance}/alive"):
        Path(path).touch()
    record = Path(f"{store}/views/lower-0123456789ab.json")
    record.write_text("{}")
    left = point

    def counted(call):
        def wrapper(*args, **kwargs):
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            return call(*args, **kwargs)

        return wrapper

    with monkeypatch.context() as patch:
        for name in ("unlink", "rmdir"):
            patch.setattr(os, name, counted(getattr(os, name)))
        with contextlib.suppress(Killed):
            lowers.remove_instance(instance)
    lowers.clean_unused(store)
    assert not record.exists()
    assert os.listdir(lowers.lowers_directory(store)) == []


def test_a_record_without_its_instance_goes(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    (tmp_path / "tree").mkdir()
    image_of(tmp_path / "store", tmp_path / "tree")
    lone = Path(f"{store}/views/lower-0123456789ab.json")
    lone.write_text("{}")
    lowers.clean_unused(store)
    assert not lone.exists()


@pytest.mark.parametrize("backend", [*BACKENDS, f"{LAZY}fuse", f"{LAZY}kernel"])
@pytest.mark.parametrize("verb", ["mount", "unmount"])
def test_killed_anywhere(tmp_path: Path, verb: str, backend: str) -> None:
    # What others copy into their namespaces meanwhile would live on with its server.
    with private_mount_table():
        rig = Rig(tmp_path, backend)
        try:
            steps = {"mount": rig.steps_of("mount")}
            steps["unmount"] = rig.steps_of("unmount")
            print(f"seed {campaign.SEED}")  # shown when the test fails
            chooser = random.Random(campaign.SEED)
            killed = 0
            for _ in range(POINTS * 4):
                if killed == POINTS:
                    break
                point = chooser.randrange(1, steps[verb])
                if verb == "unmount":
                    rig.mount(rw=True)
                status, _ = rig.run(verb, point)
                # A server that removes its files itself saves unmount some steps: a late point
                # may then lie beyond the end, and the run does not count.
                assert status in (-signal.SIGKILL, 0), f"status {status} at {point}"
                killed += status == -signal.SIGKILL
                rig.assert_clean()
                # And it works again, with the right content.
                rig.mount()
                assert (rig.target / "d" / "f").read_text() == "content"
                mounts.unmount(rig.store, str(rig.target))
            assert killed == POINTS
        finally:
            undo_all_mounts(tmp_path / "store")
