"""The laws of containerd's snapshotters, asked of the plugin by a real client.

Each is one of containerd's own suite (core/snapshots/testsuite), written anew.
Capabilities: root, overlayfs.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from typing import TYPE_CHECKING

import grpc
import pytest

from layerstore.snapshotter.api import snapshots_pb2
from tests.support.namespaces import end_mounts_below
from tests.support.snapshotter import (
    Client,
    Plugin,
    mount_all,
    mounted,
    refused,
    wait_for,
)
from tests.support.trees import compare_trees
from tests.support.views import needs_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = needs_root

NOT_FOUND = grpc.StatusCode.NOT_FOUND
EXISTS = grpc.StatusCode.ALREADY_EXISTS
BUSY = grpc.StatusCode.FAILED_PRECONDITION
INVALID = grpc.StatusCode.INVALID_ARGUMENT
OWN_TIMES = {"mtime_ns"}


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Plugin]:
    plugin = Plugin(tmp_path / "store", tmp_path)
    plugin.start()
    try:
        yield plugin
    finally:
        plugin.kill()
        end_mounts_below(tmp_path)


@pytest.fixture
def client(plugin: Plugin) -> Iterator[Client]:
    with Client(f"unix:{plugin.address}") as client:
        yield client


def committed(client: Client, name: str, parent: str = "", **labels: str) -> str:
    client.prepare(f"{name}-active", parent)
    client.commit(name, f"{name}-active", labels)
    return name


def layer(
    client: Client, work: Path, name: str, parent: str, change: Callable[[Path], object]
) -> str:
    with mounted(client.prepare(f"{name}-active", parent), work / "m") as root:
        change(root)
    client.commit(name, f"{name}-active")
    return name


def write(path: Path, text: str) -> None:
    path.write_text(text)


def test_a_layer_is_written_committed_and_written_over(client: Client, tmp_path: Path) -> None:
    def first(root: Path) -> None:
        write(root / "foo", "foo\n")
        (root / "a/b/c").mkdir(parents=True)

    def second(root: Path) -> None:
        write(root / "bar", "bar\n")
        write(root / "foo", "bar\n")
        shutil.rmtree(root / "a/b")

    layer(client, tmp_path, "one", "", first)
    one = client.stat("one")
    assert (one.kind, one.parent) == (snapshots_pb2.COMMITTED, "")
    with refused(NOT_FOUND, "one-active"):
        client.stat("one-active")
    layer(client, tmp_path, "two", "one", second)
    assert client.stat("two").parent == "one"
    flat = tmp_path / "flat"
    flat.mkdir()
    first(flat)
    second(flat)
    with mounted(client.view("look", "two"), tmp_path / "m") as root:
        assert compare_trees(flat, root, ignore_fields=OWN_TIMES) == []
        with pytest.raises(OSError, match="Read-only"):
            write(root / "new", "x")
    client.remove("look")
    with refused(BUSY, "remove"):
        client.remove("one")
    client.remove("two")
    client.remove("one")
    assert client.list() == []


def test_it_is_the_same_before_and_after_it_is_packed(
    plugin: Plugin, client: Client, tmp_path: Path
) -> None:
    def odd(root: Path) -> None:
        (root / "dir").mkdir(mode=0o2750)
        write(root / "dir/file", "x" * 100_000)
        os.chown(root / "dir/file", 5, 6)
        os.link(root / "dir/file", root / "other-name")
        os.symlink("../far/away", root / "link")
        os.mkfifo(root / "pipe", 0o640)
        os.mknod(root / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        with open(root / "sparse", "wb") as sparse:
            sparse.truncate(1 << 22)
            sparse.seek(1 << 21)
            sparse.write(b"data")
        os.setxattr(root / "dir/file", "user.note", b"kept")
        os.utime(root / "dir/file", ns=(1_000_000_001, 2_000_000_003))
        os.utime(root / "dir", ns=(1_000_000_001, 2_000_000_005))
        os.chmod(root, 0o711)

    layer(client, tmp_path, "odd", "", odd)
    expected = tmp_path / "expected"
    expected.mkdir()
    odd(expected)
    plugin.wait_until_settled()
    assert plugin.uppers() == []
    with mounted(client.view("after", "odd"), tmp_path / "m") as root:
        assert compare_trees(expected, root, ignore_fields=OWN_TIMES, holes=True) == []
        assert (root / "dir/file").stat().st_mtime_ns == 2_000_000_003
        assert (root / "dir").stat().st_mtime_ns == 2_000_000_005
        assert stat.S_IMODE(root.stat().st_mode) == 0o711
    with mounted(client.prepare("write", "odd"), tmp_path / "m") as root:
        write(root / "dir/file", "changed")
        assert stat.S_IMODE(root.stat().st_mode) == 0o711


def test_what_is_unpacked_for_the_next_layer_is_whole(client: Client, tmp_path: Path) -> None:
    """containerd does not mount what it unpacks into: it looks into the lower directories."""
    layer(client, tmp_path, "base", "", lambda root: (root / "usr").mkdir(mode=0o751))
    for _ in range(2):  # over an upper, and over a view of what settled
        (mount,) = client.prepare("ns/1/extract-1 sha256:x", "base")
        options = dict(word.partition("=")[::2] for word in mount.options)
        places = options["lowerdir"].split(":")
        assert all(places)
        assert any(stat.S_IMODE(os.stat(f"{place}/usr").st_mode) == 0o751 for place in places)
        assert os.path.isdir(options["upperdir"])
        client.remove("ns/1/extract-1 sha256:x")
        client.view("wait", "base")
        client.remove("wait")


def test_kinds_times_and_parents_are_told(client: Client) -> None:
    before = time.time_ns()
    committed(client, "c1")
    committed(client, "c2", "c1")
    client.prepare("a1", "c2")
    client.prepare("a2")
    client.view("v1", "c2")
    client.view("v2")
    expected = {
        "c1": (snapshots_pb2.COMMITTED, ""),
        "c2": (snapshots_pb2.COMMITTED, "c1"),
        "a1": (snapshots_pb2.ACTIVE, "c2"),
        "a2": (snapshots_pb2.ACTIVE, ""),
        "v1": (snapshots_pb2.VIEW, "c2"),
        "v2": (snapshots_pb2.VIEW, ""),
    }
    assert {info.name: (info.kind, info.parent) for info in client.list()} == expected
    for name in expected:
        info = client.stat(name)
        assert before <= info.created_at.ToNanoseconds() <= time.time_ns()
        assert info.created_at == info.updated_at
    with refused(BUSY, "committed"):
        client.mounts("c1")
    with refused(BUSY, "not active"):
        client.commit("c3", "v1")
    with refused(INVALID, "a1"):
        client.prepare("a3", "a1")
    with refused(NOT_FOUND, "nothing"):
        client.prepare("a3", "nothing")
    with refused(NOT_FOUND, "nothing"):
        client.commit("c3", "nothing")
    with refused(INVALID, "key"):
        client.prepare("")


def test_labels_are_changed_whole_or_one_by_one(client: Client) -> None:
    committed(client, "c", kept="1")
    created = client.stat("c").created_at
    info = client.update("c", {"l1": "v1", "l2": "v2", "l3": "v3"}, parent="no such")
    assert dict(info.labels) == {"l1": "v1", "l2": "v2", "l3": "v3"}
    assert info.created_at == created
    assert info.updated_at.ToNanoseconds() > created.ToNanoseconds()
    info = client.update("c", {"l1": "updated", "l4": "v4"}, "labels.l1", "labels.l2")
    assert dict(info.labels) == {"l1": "updated", "l3": "v3"}
    info = client.update("c", {"l4": "v4"}, "labels")
    assert dict(info.labels) == {"l4": "v4"} == dict(client.stat("c").labels)
    with refused(INVALID, "parent"):
        client.update("c", {}, "parent", parent="no such")
    with refused(NOT_FOUND):
        client.update("nothing", {})
    with refused(INVALID, "4096"):
        client.update("c", {"long": "x" * 5000})


def test_labels_are_not_inherited_by_a_commit(client: Client) -> None:
    client.prepare("a", labels={"of": "active"})
    assert dict(client.stat("a").labels) == {"of": "active"}
    client.commit("c", "a", {"of": "committed"})
    assert dict(client.stat("c").labels) == {"of": "committed"}


def test_keys_are_taken_once_and_free_again(client: Client) -> None:
    committed(client, "c")
    client.prepare("key", "c")
    with refused(EXISTS, "key"):
        client.view("key", "c")
    with refused(EXISTS, "key"):
        client.prepare("key", "c")
    client.remove("key")
    client.view("key", "c")
    client.remove("key")
    client.prepare("key")
    with refused(EXISTS, "'c'"):
        client.commit("c", "key")
    client.remove("c")
    client.commit("c", "key")
    with refused(NOT_FOUND):
        client.remove("key")


def test_only_what_nothing_is_built_on_is_removed(client: Client) -> None:
    committed(client, "base")
    committed(client, "between", "base")
    client.prepare("top", "between")
    for name in ("between", "base"):
        with refused(BUSY, name):
            client.remove(name)
    for name in ("top", "between", "base"):
        client.remove(name)
    assert client.list() == []


def test_lists_are_filtered(client: Client) -> None:
    root = {"containerd.io/gc.root": "walk"}
    client.prepare("a-np", labels=root)
    client.prepare("p-tmp", labels=root)
    client.commit("p", "p-tmp", root)
    client.prepare("a", "p", root)
    client.prepare("p-wl-tmp", labels=root)
    client.commit("p-wl", "p-wl-tmp", {"l": "1", **root})
    client.prepare("a-wl", "p-wl", {"l": "2", **root})
    label = 'labels."containerd.io/gc.root"==walk'

    def listed(*filters: str) -> set[str]:
        return {info.name for info in client.list(*filters)}

    assert listed() == {"a-np", "p", "a", "p-wl", "a-wl"} == listed(label)
    assert listed(f"kind==active,{label}") == {"a-np", "a", "a-wl"}
    assert listed(f"kind==committed,{label}") == {"p", "p-wl"}
    assert listed('parent==""') == {"a-np", "p", "p-wl"}
    assert listed("parent==p") == {"a"}
    assert listed("labels.l") == {"p-wl", "a-wl"}
    assert listed("labels.l==2", "name==p") == {"a-wl", "p"}
    assert listed("name~=^a") == {"a-np", "a", "a-wl"}
    assert listed("kind!=active") == {"p", "p-wl"}
    with refused(INVALID, "filter"):
        client.list("name=")


def test_more_snapshots_than_one_message_holds_are_listed(client: Client) -> None:
    for number in range(230):
        client.prepare(f"key-{number}")
    assert len({info.name for info in client.list()}) == 230


def test_usage_counts_what_is_a_snapshots_own(client: Client, tmp_path: Path) -> None:
    layer(client, tmp_path, "base", "", lambda root: write(root / "big", "x" * (1 << 20)))
    base = client.usage("base")
    assert 1 << 20 <= base.size < (1 << 20) + (1 << 16)
    assert base.inodes == 2
    with mounted(client.prepare("top", "base"), tmp_path / "m") as root:
        empty = client.usage("top")
        write(root / "small", "y" * 5000)
        os.link(root / "small", root / "again")
        with (root / "small").open("rb") as file:
            os.fsync(file.fileno())  # its blocks are counted once it has them
        full = client.usage("top")
    assert full.inodes - empty.inodes == 1
    assert full.size - empty.size == 8192
    with refused(NOT_FOUND):
        client.usage("nothing")


def test_files_of_lower_layers_move_and_go(plugin: Plugin, client: Client, tmp_path: Path) -> None:
    def first(root: Path) -> None:
        (root / "dir1").mkdir(mode=0o700)
        write(root / "dir1/f1", "Hello")
        (root / "dir2").mkdir()
        write(root / "dir2/f2", "...")
        write(root / "gone", "x")

    def second(root: Path) -> None:
        (root / "dir3").mkdir(mode=0o700)
        shutil.copy2(root / "dir1/f1", root / "dir3/f1")
        shutil.rmtree(root / "dir1")
        (root / "dir1").mkdir(mode=0o711)
        write(root / "dir1/other", "fresh")
        os.link(root / "dir2/f2", root / "dir3/f2")
        os.unlink(root / "dir2/f2")
        os.unlink(root / "gone")
        os.chown(root / "dir2", 1, 2)

    layer(client, tmp_path, "one", "", first)
    plugin.wait_until_settled()
    layer(client, tmp_path, "two", "one", second)
    flat = tmp_path / "flat"
    flat.mkdir()
    first(flat)
    second(flat)
    for key in ("soon", "later"):
        with mounted(client.view(key, "two"), tmp_path / "m") as root:
            assert compare_trees(flat, root, ignore_fields=OWN_TIMES) == []
        plugin.wait_until_settled()


def test_a_new_root_is_as_containerd_makes_it(client: Client, tmp_path: Path) -> None:
    with mounted(client.prepare("a"), tmp_path / "m") as root:
        assert stat.S_IMODE(root.stat().st_mode) == 0o755


def test_a_commit_while_it_is_mounted_keeps_the_mount_whole(
    plugin: Plugin, client: Client, tmp_path: Path
) -> None:
    mount_all(client.prepare("a"), tmp_path / "m")  # a bind: nobody can tell
    write(tmp_path / "m/file", "1")
    client.commit("base", "a")
    with mounted(client.prepare("b", "base"), tmp_path / "n") as root:
        write(root / "file", "2")
        client.commit("top", "b")
        client.view("look", "top")  # it does not wait for what cannot settle
        assert (root / "file").read_text() == "2"
        write(root / "late", "3")
    client.remove("look")
    client.cleanup()
    plugin.wait_until_settled()
    with mounted(client.view("look", "top"), tmp_path / "n") as root:
        assert (root / "file").read_text() == "2"


def test_a_hundred_and_twenty_eight_layers_are_one_lower_directory(
    plugin: Plugin, client: Client, tmp_path: Path
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()

    def change(number: int, root: Path) -> None:
        write(root / "overwritten", f"{number} was here")
        (root / "addhere").mkdir(exist_ok=True)
        write(root / f"addhere/file-{number}", "same")
        shutil.rmtree(root / "onlyme", ignore_errors=True)
        (root / "onlyme").mkdir()
        write(root / f"onlyme/file-{number}", "only me")

    parent = ""
    for number in range(128):
        key = f"test/1/extract-{number} layer"
        with mounted(client.prepare(key, parent), tmp_path / "m") as root:
            change(number, root)
        change(number, flat)
        client.commit(f"layer-{number}", key)
        parent = f"layer-{number}"
    mounts = client.view("full", parent)
    assert len(",".join(mounts[0].options)) < 1000
    wait_for("the last upper to go", lambda: plugin.uppers() == [])
    with mounted(mounts, tmp_path / "m") as root:
        assert compare_trees(flat, root, ignore_fields=OWN_TIMES) == []


def test_owners_are_not_mapped_and_that_is_said(client: Client) -> None:
    committed(client, "base")
    with refused(INVALID, "uidmapping", "remap-ids"):
        client.prepare("a", "base", {"containerd.io/snapshot/uidmapping": "0:100000:65536"})


def test_many_clients_at_once(client: Client, plugin: Plugin) -> None:
    from concurrent.futures import ThreadPoolExecutor

    committed(client, "base")

    def life(number: int) -> None:
        with Client(f"unix:{plugin.address}") as own:
            for turn in range(5):
                key = f"{number}-{turn}"
                own.prepare(key, "base")
                own.commit(f"done-{key}", key)
                own.remove(f"done-{key}")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(life, range(8)))
    assert [info.name for info in client.list()] == ["base"]
    wait_for("uppers to go", lambda: plugin.uppers() == [])
