"""Writable roots for build steps: what is written, and what a killed build leaves."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from fuse_mount.private_lowers import PrivateLowers
from layerstore.errors import MountError
from layerstore.image.layers.scan import scan_upper
from layerstore.image.trees.stack import load_root, lookup
from layerstore.snapshot.overlay import OverlaySnapshotter
from layerstore.store.store import Store
from tests.support.tree_diff import flatten
from tests.support.trees import compare_trees, make_odd_tree
from tests.support.views import image_of, is_mounted, is_running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from layerstore.store.catalog.rows import ImageRecord

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting on the host needs root"),
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="there is no /dev/fuse"),
]


class Base:
    def __init__(self, directory: Path) -> None:
        self.tree = directory / "tree"
        self.tree.mkdir()
        make_odd_tree(self.tree)
        self.store = directory / "store"
        self.image: ImageRecord = image_of(self.store, self.tree)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def snapshotter(base: Base, tmp_path: Path) -> Iterator[OverlaySnapshotter]:
    with PrivateLowers(base.store, tmp_path) as lowers:
        yield OverlaySnapshotter(lowers)


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_the_root_looks_like_its_layers(
    base: Base, snapshotter: OverlaySnapshotter, tmp_path: Path
) -> None:
    with snapshotter.prepare(base.image.layers, tmp_path / "step") as snapshot:
        assert compare_trees(base.tree, snapshot.root) == []
        assert os.listdir(snapshot.upper) == []
    assert not is_mounted(tmp_path / "step" / "root")


def test_what_is_written_lies_in_the_upper(
    base: Base, snapshotter: OverlaySnapshotter, tmp_path: Path
) -> None:
    with snapshotter.prepare(base.image.layers, tmp_path / "step") as snapshot:
        (snapshot.root / "new").write_text("new")
        (snapshot.root / "files" / "small").unlink()
        subprocess.run(["rm", "-r", snapshot.root / "links"], check=True)
        (snapshot.root / "links").mkdir()
        upper = scan_upper(snapshot.upper, xattr_prefix=snapshot.xattr_prefix)
        paths = {item.entry.path for item in upper.items}
        assert b"new" in paths
        assert b"files/small" in upper.whiteouts
        assert b"links" in upper.opaques
    assert (tmp_path / "step" / "upper" / "new").read_text() == "new"


def test_setuid_and_devices_work_inside(
    base: Base, snapshotter: OverlaySnapshotter, tmp_path: Path
) -> None:
    with snapshotter.prepare(base.image.layers, tmp_path / "step") as snapshot:
        flags = os.statvfs(snapshot.root).f_flag
        assert not flags & (os.ST_NOSUID | os.ST_NODEV | os.ST_RDONLY)
        os.mknod(snapshot.root / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        assert (snapshot.root / "null").read_bytes() == b""


def test_no_layers_give_an_empty_root(snapshotter: OverlaySnapshotter, tmp_path: Path) -> None:
    with snapshotter.prepare((), tmp_path / "step") as snapshot:
        assert os.listdir(snapshot.root) == []
        status = os.stat(snapshot.root)
        assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o755, 0)


def test_many_chains_share_one_server(base: Base, tmp_path: Path) -> None:
    with PrivateLowers(base.store, tmp_path) as lowers:
        with lowers.lower(base.image.layers) as one, lowers.lower(()) as two:
            assert one.parent == two.parent
            pid = lowers.server_pid
            assert is_running(pid)
            assert os.listdir(two) == []
        with lowers.lower(base.image.layers) as again:
            assert again == one
        assert lowers.server_pid == pid
    assert wait_until(lambda: not is_running(pid))
    assert not is_mounted(tmp_path / "lowers" / "root")


def test_more_chains_than_are_kept_loaded(base: Base, tmp_path: Path) -> None:
    layers = base.image.layers
    with PrivateLowers(base.store, tmp_path) as lowers:
        paths = []
        for count in range(12):
            with lowers.lower(layers * count) as path:
                paths.append(path)
        small = (base.tree / "files" / "small").read_bytes()
        for path in paths[1:]:
            assert (path / "files" / "small").read_bytes() == small


def test_layers_that_are_not_there(tmp_path: Path, base: Base) -> None:
    with PrivateLowers(base.store, tmp_path) as lowers:
        with (
            pytest.raises(MountError, match="could not show 1 layers"),
            lowers.lower([*("sha256:" + "0" * 64,)]),
        ):
            pass
        log = (tmp_path / "lowers" / "log").read_text()
        assert "holds no layer" in log


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    with (
        PrivateLowers(tmp_path / "no-store", tmp_path) as lowers,
        pytest.raises(MountError),
        lowers.lower(()),
    ):
        pass


BUILDER = """
import os, sys, time
from pathlib import Path
from fuse_mount.private_lowers import PrivateLowers
from layerstore.linux import mounts, namespaces
from layerstore.snapshot.overlay import OverlaySnapshotter
from layerstore.store.store import Store

store, scratch, private = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "private"
with Store.open(store) as opened:
    layers = opened.images()[0].layers
if private:
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mounts.set_propagation("/", mounts.MS_SLAVE)
with PrivateLowers(store, scratch) as lowers:
    with OverlaySnapshotter(lowers).prepare(layers, scratch / "step") as snapshot:
        (snapshot.root / "half").write_text("half")
        print(lowers.server_pid, flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("namespace", ["private", "host"])
def test_a_killed_build_leaves_no_process_and_no_mount_of_layers(
    base: Base, tmp_path: Path, namespace: str
) -> None:
    command = [sys.executable, "-c", BUILDER, str(base.store), str(tmp_path), namespace]
    builder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert builder.stdout is not None
    server = int(builder.stdout.readline())
    assert is_running(server)
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    builder.stdout.close()
    assert wait_until(lambda: not is_running(server))
    assert not is_mounted(tmp_path / "lowers" / "root")
    if namespace == "private":
        assert not is_mounted(tmp_path / "step" / "root")
    else:  # without a namespace of its own the overlay stays, as the documentation says
        from layerstore.linux import mounts

        mounts.unmount(str(tmp_path / "step" / "root"), lazy=True)


def test_stacking_what_was_written_gives_what_was_seen(
    base: Base, snapshotter: OverlaySnapshotter, tmp_path: Path
) -> None:
    """The upper of one step, stored as a layer, is the lower of the next."""
    from layerstore.image.layers.layer_writer import write_layer

    with (
        Store.open(base.store) as store,
        store.begin("test") as session,
        snapshotter.prepare(base.image.layers, tmp_path / "one") as first,
    ):
        subprocess.run(["sh", "-c", STEP], cwd=first.root, check=True)
        upper = scan_upper(first.upper, xattr_prefix=first.xattr_prefix)
        record = write_layer(
            session, store, upper.items, whiteouts=upper.whiteouts, opaques=upper.opaques
        )
        layers = (*base.image.layers, record.diff_id)
        with snapshotter.prepare(layers, tmp_path / "two") as second:
            assert compare_trees(first.root, second.root) == []
        root = load_root(store, layers)
        assert lookup(root, b"made/b") is lookup(root, b"made/a")
        assert flatten(root).whiteouts == ()


STEP = """
set -e
mkdir made && echo a > made/a && ln made/a made/b && ln -s a made/c
rm files/small
rm -r modes && mkdir modes && echo x > modes/fresh
rm -r owners && echo 'a file now' > owners
chmod 4711 made/a
mv made/c made/d
"""
