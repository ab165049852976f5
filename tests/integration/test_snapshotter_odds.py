"""The plugin where things go wrong: hostile layers, a kernel that cannot, kills, wrong starts.

Capabilities: root, overlayfs.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import stat
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import grpc
import pytest

from layerstore.errors import UnsupportedError
from layerstore.linux import mounts as syscalls
from layerstore.snapshotter import showing
from layerstore.snapshotter.api import mount_pb2
from layerstore.snapshotter.server import notify, require_propagation
from layerstore.snapshotter.snapshots import Snapshots
from layerstore.store.store import Store
from tests.support.namespaces import end_mounts_below
from tests.support.snapshotter import (
    Client,
    Plugin,
    mounted,
    wait_for,
)
from tests.support.views import needs_root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from layerstore.snapshotter.showing import Mount

pytestmark = needs_root

KILLS = 7


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Plugin]:
    plugin = Plugin(tmp_path / "store", tmp_path)
    try:
        yield plugin
    finally:
        plugin.kill()
        end_mounts_below(tmp_path)


def upper_of(mounts: list[mount_pb2.Mount]) -> str:
    """Where containerd writes a layer's files: it mounts nothing for that."""
    for option in mounts[0].options:
        if option.startswith("upperdir="):
            return option.partition("=")[2]
    return mounts[0].source


def hostile(upper: str) -> None:
    """What a layer may hold that was made to trouble overlays, and whoever reads them."""
    os.mkdir(f"{upper}/dir")
    os.symlink("/etc", f"{upper}/etc")
    os.symlink("../../../../../../../../etc/passwd", f"{upper}/dir/passwd")
    os.mkfifo(f"{upper}/pipe")
    os.mknod(f"{upper}/disk", stat.S_IFBLK | 0o600, os.makedev(8, 0))
    with open(f"{upper}/{'x' * 255}", "wb") as file:
        file.write(b"long name")
    with open(os.fsencode(upper) + b"/\xff\xfe\n", "wb") as file:
        file.write(b"no text")
    deep = upper
    for _ in range(60):
        deep = f"{deep}/{'d' * 40}"
        os.mkdir(deep)
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()
        os.chdir(upper)
        try:
            listening.bind("socket")
        finally:
            os.chdir(here)


def test_a_hostile_layer_is_kept_as_it_is_or_stays_unpacked(plugin: Plugin, tmp_path: Path) -> None:
    plugin.start()
    with Client(f"unix:{plugin.address}") as client:
        hostile(upper_of(client.prepare("ns/1/extract-1 x")))
        client.commit("odd", "ns/1/extract-1 x")
        upper = upper_of(client.prepare("ns/1/extract-2 x", "odd"))
        os.mkdir(f"{upper}/redirected")
        os.setxattr(f"{upper}/redirected", "trusted.overlay.redirect", b"/../../../../etc")
        client.commit("redirect", "ns/1/extract-2 x")
        # What refers to other places than itself is no layer: it is used as it was written.
        with mounted(client.view("see", "redirect"), tmp_path / "m") as root:
            assert os.readlink(root / "etc") == "/etc"
            assert (root / ("x" * 255)).read_text() == "long name"
            with pytest.raises(PermissionError):  # redirects are not followed
                os.listdir(root / "redirected")
            assert (root / "disk").stat().st_rdev == os.makedev(8, 0)
        log = plugin.log.read_text()
        assert "keeps its files unpacked for now" in log
        assert "socket" in log
        assert "Traceback" not in log
        for key in ("see", "redirect"):
            client.remove(key)
        plugin.wait_until_settled()
        with mounted(client.view("see", "odd"), tmp_path / "m") as root:
            assert os.readlink(root / "dir/passwd").endswith("/etc/passwd")
            assert (root / os.fsdecode(b"\xff\xfe\n")).read_text() == "no text"
    assert plugin.stop() == 0
    plugin.cli.ok("check", "--read-data")


def test_nothing_that_was_answered_is_lost_by_kills(plugin: Plugin, tmp_path: Path) -> None:
    """Kill it again and again while layers are made; what it said was done, is done."""
    seed = int(os.environ.get("LAYERSTORE_TEST_SEED", "0")) or random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    done: dict[str, str] = {}
    removed: set[str] = set()
    parent = ""
    number = 0
    for _ in range(KILLS):
        plugin.start()
        pause = chance.uniform(0.0, 0.4)
        killer = threading.Timer(pause, plugin.kill)
        killer.start()
        try:
            with Client(f"unix:{plugin.address}") as client:
                while True:
                    number += 1
                    key = f"ns/{number}/extract-{number} x"
                    upper = upper_of(client.prepare(key, parent))
                    with open(f"{upper}/file-{number}", "wb") as file:
                        file.write(chance.randbytes(30_000))
                    client.commit(f"layer-{number}", key)
                    done[f"layer-{number}"] = parent
                    parent = f"layer-{number}"
                    if chance.random() < 0.2:
                        parent = ""
                    if chance.random() < 0.2 and parent and parent not in done.values():
                        gone, parent = parent, done[parent]
                        removed.add(gone)  # asked for: it may or may not be gone
                        client.remove(gone)
                        del done[gone]
                        removed.discard(gone)
        except grpc.RpcError:
            pass
        finally:
            killer.join()
        for gone in removed & done.keys():
            del done[gone]
        if parent not in done:
            parent = ""
    plugin.start()
    with Client(f"unix:{plugin.address}") as client:
        found = {info.name: info.parent for info in client.list("kind==committed")}
        assert done.items() <= found.items()
        for info in client.list("kind!=committed"):
            client.remove(info.name)  # as containerd does with what it was not told of
        plugin.wait_until_settled()
        wait_for("leftovers to go", lambda: plugin.uppers() == [])
        for name, below in done.items():
            with mounted(client.view("see", name), tmp_path / "m") as root:
                mine = {f"file-{name.partition('-')[2]}"}
                assert mine <= set(os.listdir(root))
                if below:
                    assert f"file-{below.partition('-')[2]}" in os.listdir(root)
                assert all((root / each).stat().st_size == 30_000 for each in os.listdir(root))
            client.remove("see")
        while left := client.list():
            for info in left:
                if info.name not in {each.parent for each in left}:
                    client.remove(info.name)
    plugin.cli.ok("check", "--read-data")
    plugin.cli.ok("gc", "--all")
    assert not list(plugin.store.glob("packs/*/*"))
    assert plugin.stop() == 0


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="there is no /dev/fuse")
def test_fuse_shows_what_the_kernel_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acquire = showing.lowers.acquire

    def refusing(*args, backend: str = "fuse", **kwargs):
        if backend != "fuse":
            raise UnsupportedError("this kernel cannot")
        return acquire(*args, backend=backend, **kwargs)

    monkeypatch.setattr(showing.lowers, "acquire", refusing)
    told: list[str] = []
    with Store.open(tmp_path / "store", create=True) as store:
        snapshots = Snapshots(store, told.append)
        snapshots.start()
        try:
            (mount,) = snapshots.prepare("a", "", {})
            with open(f"{mount.source}/file", "w") as file:
                file.write("content")
            snapshots.commit("base", "a", {})
            for key, make in (("b", snapshots.prepare), ("c", snapshots.view)):
                with mounted(as_messages(make(key, "base", {})), tmp_path / "m") as root:
                    assert (root / "file").read_text() == "content"
            assert any("shown by FUSE: this kernel cannot" in line for line in told)
        finally:
            for key in ("c", "b", "base"):
                snapshots.remove(key)
            snapshots.stop(30)
            end_mounts_below(tmp_path)


def as_messages(mounts: list[Mount]) -> list[mount_pb2.Mount]:
    return [mount_pb2.Mount(type=m.fstype, source=m.source, options=m.options) for m in mounts]


def test_it_is_started_right_or_says_why_not(plugin: Plugin, tmp_path: Path) -> None:
    cli = plugin.cli
    taken = tmp_path / "file"
    taken.write_text("mine")
    assert "no socket" in cli.fails(2, "snapshotter", "--address", taken)
    assert taken.read_text() == "mine"
    assert "107 bytes" in cli.fails(2, "snapshotter", "--address", f"/tmp/{'x' * 120}")
    assert "no backend" in cli.fails(2, "snapshotter", "--backend", "fuse")
    assert "colon" in cli.fails(2, "snapshotter", "--root", tmp_path / "a:b")
    assert "could not listen" in cli.fails(12, "snapshotter", "--address", "/nowhere/at/all.sock")
    plugin.start()
    assert stat.S_IMODE(os.stat(plugin.address).st_mode) == 0o600
    second = cli.fails(4, "snapshotter", "--address", tmp_path / "second.sock")
    assert "another process serves" in second
    plugin.kill()  # its socket stays behind
    assert plugin.address.exists()
    plugin.start()
    assert plugin.stop() == 0


@pytest.mark.parametrize("propagation", ["private", "slave"])
def test_mounts_that_containerd_would_not_see_are_refused(tmp_path: Path, propagation: str) -> None:
    require_propagation(str(tmp_path), os.getpid())
    text = "import sys; from layerstore.snapshotter.server import require_propagation as ask; "
    text += "ask(sys.argv[1], int(sys.argv[2]))"
    words = [sys.executable, "-c", text, str(tmp_path), str(os.getpid())]
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", propagation, *words],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "mount namespace of its own" in done.stderr


def test_it_may_serve_from_a_pod(plugin: Plugin, tmp_path: Path) -> None:
    """In a mount namespace of its own, with the store on a shared mount."""
    plugin.store.mkdir(mode=0o700)
    syscalls.bind(str(plugin.store), str(plugin.store))
    subprocess.run(["mount", "--make-shared", plugin.store], check=True)
    plugin.prefix = ("unshare", "--mount", "--propagation", "unchanged")
    for turn in range(2):  # the second finds what the first, which was killed, had mounted
        plugin.start()
        with Client(f"unix:{plugin.address}") as client:
            if not turn:
                with open(f"{upper_of(client.prepare('a'))}/file", "w") as file:
                    file.write("content")
                client.commit("base", "a")
                plugin.wait_until_settled()
            with mounted(client.prepare(f"b{turn}", "base"), tmp_path / "m") as root:
                assert (root / "file").read_text() == "content"
        plugin.kill()
    end_mounts_below(tmp_path)


def test_systemd_is_told_when_it_is_ready(plugin: Plugin, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(60)
        os.environ["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        try:
            plugin.start()
        finally:
            del os.environ["NOTIFY_SOCKET"]
        assert listening.recv(100) == b"READY=1"
        plugin.stop()
        assert listening.recv(100) == b"STOPPING=1"
    notify("", "READY=1")
    notify(f"{tmp_path}/nobody", "READY=1")


def test_a_long_answer_is_given_before_it_ends(plugin: Plugin) -> None:
    plugin.start()
    with Client(f"unix:{plugin.address}") as client:
        client.prepare("a")
        upper = upper_of(client.mounts("a"))
        for number in range(400):
            with open(f"{upper}/{number}", "wb") as file:
                file.write(os.urandom(50_000))
        answers: list[object] = []

        def ask() -> None:
            with contextlib.suppress(grpc.RpcError):  # it was not heard any more
                answers.append(client.commit("c", "a"))

        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(0.05)
        assert plugin.stop() == 0
        asking.join()
    plugin.start()
    with Client(f"unix:{plugin.address}") as client:
        assert [info.name for info in client.list()] in (["c"], ["a"])
        if answers:
            assert client.stat("c").name == "c"
