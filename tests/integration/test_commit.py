"""Writable views as images: commit and diff, over every backend, of views that are in use.

Capabilities: root; FUSE, packs and id-mapped layers where a test is about them.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest

from fuse_mount import mounts
from layerstore.cli.about.report_shapes import json_schema
from layerstore.linux import probe
from layerstore.linux.idmaps import parse_id_map
from layerstore.store.store import Store
from tests.support.build import needs_runc
from tests.support.cli import Cli
from tests.support.json_schema import faults
from tests.support.running import containers_in, wait_until
from tests.support.trees import CAPABILITY_NET_RAW, compare_trees
from tests.support.views import BACKENDS, needs_root, undo_all_mounts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from layerstore.store.catalog.rows import ImageRecord
    from tests.support.running import Containers

pytestmark = needs_root


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Containers]:
    with containers_in(tmp_path) as containers:
        yield containers
        containers.clear()


each_backend = pytest.mark.parametrize("backend", BACKENDS)


class Host:
    """A store with one image, ``a:1``, and writable views of it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.cli = Cli(base / "store")
        tree = base / "tree"
        for directory in ("etc", "doc/deep", "gone"):
            (tree / directory).mkdir(parents=True)
        for name in ("etc/passwd", "etc/group", "doc/a", "doc/deep/b", "gone/c", "kept"):
            (tree / name).write_text(f"{name}\n")
        os.link(tree / "etc/passwd", tree / "etc/passwd-")
        os.chown(tree / "etc/group", 33, 34)
        self.cli.ok("import", tree, "-t", "a:1")
        self.image = self.resolve("a:1")

    def resolve(self, name: str) -> ImageRecord:
        with Store.open(self.cli.store) as store:
            return store.resolve(name)

    def mount(self, name: str, backend: str = "kernel", rw: bool = True, **more: object) -> Path:
        target = self.base / name
        target.mkdir()
        root = str(self.cli.store)
        mounts.mount(root, self.image, str(target), rw=rw, backend=backend, name="a:1", **more)
        return target

    def shown(self, name: str, at: str) -> Path:
        target = self.base / at
        target.mkdir()
        self.cli.ok("mount", name, target)
        return target


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    undo_all_mounts(host.cli.store)


def differences(one: Path, other: Path) -> list[str]:
    """All but the time of the root, of which layers do not speak."""
    os.utime(one, ns=(0, other.stat().st_mtime_ns))
    return compare_trees(one, other)


def write_everything(view: Path) -> None:
    (view / "etc/new").write_text("new\n")
    os.link(view / "etc/new", view / "etc/newer")
    os.setxattr(view / "etc/new", "security.capability", CAPABILITY_NET_RAW)
    os.setxattr(view / "etc/new", "user.note", b"mine")
    (view / "etc/passwd").write_text("changed\n")
    (view / "etc/group").unlink()
    for name in ("a", "deep/b"):
        (view / "doc" / name).unlink()
    (view / "doc/deep").rmdir()
    (view / "doc").rmdir()
    (view / "doc").mkdir(mode=0o700)  # opaque
    (view / "doc/other").write_text("other\n")
    (view / "gone/c").unlink()
    (view / "gone").rmdir()
    (view / "gone").symlink_to("kept")
    os.mkfifo(view / "fifo")
    os.mknod(view / "null", 0o20666, os.makedev(1, 3))
    with open(view / "sparse", "wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"data")


WRITTEN = """\
C /doc
D /doc/a
D /doc/deep
A /doc/other
C /etc
D /etc/group
A /etc/new
A /etc/newer
C /etc/passwd
A /fifo
C /gone
A /null
A /sparse
""".splitlines()


@each_backend
def test_an_image_of_a_view_shows_what_the_view_shows(host: Host, backend: str) -> None:
    view = host.mount("view", backend)
    write_everything(view)
    assert host.cli.ok("diff", view).lines == WRITTEN
    made = host.cli.ok("commit", view, "-t", "b:1", "-m", "by hand", "-a", "me")
    fresh = host.shown("b:1", "fresh")
    assert differences(view, fresh) == []
    assert host.cli.ok("diff", view).lines == WRITTEN  # it goes on with its own layer
    (step, below) = host.cli.ok("history", "--json", "b:1").json()
    assert (step["id"], step["comment"]) == (made.out.strip(), "by hand")
    assert below["diff_id"] == host.image.layers[0]
    assert host.cli.ok("inspect", "b:1").json()[0]["Author"] == "me"


def test_one_view_after_the_other_makes_layers_over_layers(host: Host) -> None:
    view = host.mount("view")
    (view / "one").write_text("1")
    host.cli.ok("commit", view, "b:1")
    host.image = host.resolve("b:1")
    second = host.mount("second")
    (second / "one").unlink()
    (second / "kept").chmod(0o600)
    view_id = next(
        item["view_id"]
        for item in host.cli.ok("mounts", "--json").json()
        if item["target"] == str(second)
    )
    assert host.cli.ok("diff", view_id).lines == ["C /kept", "D /one"]
    told = host.cli.ok("diff", "--json", view_id).json()
    assert told == [{"kind": "C", "path": "/kept"}, {"kind": "D", "path": "/one"}]
    schema = json.loads(json_schema())
    assert list(faults(told, schema["properties"]["diff VIEW"], schema["$defs"])) == []
    made = host.cli.ok("commit", view_id, "-t", "c:1", "-t", "c:2", "--json").json()
    assert made["names"] == ["c:1", "c:2"]
    assert len(host.cli.ok("inspect", "c:2").json()[0]["RootFS"]["Layers"]) == 3
    assert differences(second, host.shown("c:1", "fresh")) == []


def test_a_view_that_nothing_was_written_into_makes_no_layer(host: Host) -> None:
    view = host.mount("view")
    assert host.cli.ok("diff", view).out == ""
    host.cli.ok("commit", view, "b:1", "-c", 'CMD ["sh"]', "--change", "ENV A=1")
    inspected = host.cli.ok("inspect", "b:1").json()[0]
    assert inspected["RootFS"]["Layers"] == list(host.image.layers)
    assert inspected["Config"]["Cmd"] == ["sh"]
    assert "A=1" in inspected["Config"]["Env"]


def test_the_root_is_in_the_layer_when_it_was_changed(host: Host) -> None:
    view = host.mount("view")
    view.chmod(0o711)
    os.chown(view, 7, 8)
    host.cli.ok("commit", view, "b:1")
    status = host.shown("b:1", "fresh").stat()
    assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (0o711, 7, 8)


@each_backend
def test_owners_of_a_mapped_view_are_the_images(host: Host, backend: str) -> None:
    finding = probe.idmapped_layers(str(host.base))
    if not finding.works or backend == "fusepy":
        pytest.skip(f"{finding.name}: {finding.reason or 'not through libfuse 2'}")
    view = host.mount("view", backend, idmap=parse_id_map(["0:100000:65536"]))
    (view / "mine").write_text("mine")
    os.chown(view / "mine", 100_000 + 33, 100_000 + 34)
    (view / "etc/group").write_text("copied up")
    host.cli.ok("commit", view, "b:1")
    fresh = host.shown("b:1", "fresh")
    for name in ("mine", "etc/group"):
        assert (os.stat(fresh / name).st_uid, os.stat(fresh / name).st_gid) == (33, 34)


def test_a_view_that_is_in_use_but_holds_still_is_copied(host: Host) -> None:
    view = host.mount("view")
    (view / "log").write_text("x" * 100)
    with open(view / "log", "a") as log, subprocess.Popen(["sleep", "60"], cwd=view) as sleeper:
        log.write("y")
        log.flush()
        host.cli.ok("commit", view, "b:1")
        sleeper.kill()
    assert (host.shown("b:1", "fresh") / "log").read_text() == "x" * 100 + "y"


def test_a_copy_is_one_moments_or_none(host: Host) -> None:
    """A writer counts in two files, one after the other; an image holds a moment of it or is not.

    On a busy machine the writer may stand still for longer than a copy takes: no refusal then.
    """
    view = host.mount("view")
    names = ("left", "right")
    for name in names:
        (view / name).write_bytes(b"%08d" % 0)
    done = threading.Event()

    def write() -> None:
        count = 0
        while not done.is_set():
            count += 1
            for name in names:
                with open(view / name, "r+b", buffering=0) as file:
                    file.write(b"%08d" % count)
            time.sleep(0.002)

    def copied(image: str) -> tuple[int, int]:
        fresh = host.shown(image, image.replace(":", "-"))
        left, right = (int((fresh / name).read_bytes()) for name in names)
        return left, right

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for attempt in range(1, 11):
            told = host.cli("commit", view, f"b:{attempt}")
            if told.code != 0:
                break
            left, right = copied(f"b:{attempt}")
            assert left - right in {0, 1}
    finally:
        done.set()
        writer.join()
    assert told.code == 4, told
    assert "is written to all the time" in told.err
    assert "hint: end what writes there" in told.err
    assert f"b:{attempt}" not in host.cli.ok("images", "--format", "{{.Repository}}:{{.Tag}}").lines
    host.cli.ok("commit", view, "c:1")
    left, right = copied("c:1")
    assert left == right > 0


def test_what_no_layer_carries_is_told(host: Host) -> None:
    view = host.mount("view")
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.getcwd()
        os.chdir(view)
        try:
            bound.bind("socket")
        finally:
            os.chdir(here)
    result = host.cli.ok("commit", view, "b:1")
    assert "not in the image: /socket (a socket" in result.err


def test_what_cannot_be_committed_is_refused(host: Host) -> None:
    read_only = host.mount("ro", rw=False)
    assert "is read-only" in host.cli.fails(2, "commit", read_only, "b:1")
    assert "is read-only" in host.cli.fails(2, "diff", read_only)
    assert "no view" in host.cli.fails(3, "diff", host.base)
    view = host.mount("view")
    (view / "new").write_text("new")
    assert "RUN needs a build" in host.cli.fails(2, "commit", view, "b:1", "-c", "RUN true")
    host.cli.fails(2, "commit", view, "b:1:2:3")
    (view / ".wh.name").write_text("means a whiteout")
    assert "whiteout" in host.cli.fails(11, "commit", view, "b:1")
    (view / ".wh.name").unlink()
    assert "b:1" not in host.cli.ok("images").out


def test_a_view_whose_image_is_gone_keeps_what_was_written(host: Host) -> None:
    view = host.mount("view")
    (view / "new").write_text("new")
    with contextlib.closing(sqlite3.connect(host.cli.store / "catalog.sqlite")) as catalog, catalog:
        catalog.execute("DELETE FROM tags")
        catalog.execute("DELETE FROM images")
    told = host.cli.fails(3, "commit", view, "b:1")
    assert "was removed: a:1" in told
    assert f"layerstore umount --keep-upper {view}" in told


def test_a_view_of_another_namespace_is_left_to_it(host: Host) -> None:
    target = host.base / "inside"
    target.mkdir()
    command = host.cli.command("mount", "--rw", "a:1", target)
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", '"$@" && echo ready && exec sleep 60', "sh", *command],
        env=host.cli.environment(),
        stdout=subprocess.PIPE,
    ) as inside:
        assert inside.stdout is not None
        assert inside.stdout.readline() == b"ready\n"
        told = host.cli.fails(15, "commit", target, "b:1")
        enter = ["nsenter", "--target", str(inside.pid), "--mount", "--"]
        done = subprocess.run(
            [*enter, *host.cli.command("commit", target, "b:1")],
            env=host.cli.environment(),
            capture_output=True,
            check=False,
        )
        inside.kill()
    assert "another mount namespace" in told
    assert done.returncode == 0, done


class TestContainers:
    """What containers of ours wrote."""

    pytestmark = needs_runc

    def test_what_a_container_wrote_becomes_an_image(self, box: Containers) -> None:
        script = "echo x > /part; mv /part /file; sleep 600"  # it is whole once it is there
        box.ok("run", "-d", "--name", "one", "box", "sh", "-c", script)
        wait_until(lambda: "A /file" in box.ok("diff", "one").lines, "the file is written")
        box.ok("commit", "one", "made:1", "-c", 'CMD ["cat", "/file"]')
        assert box.ok("run", "--rm", "made:1").out == "x\n"
        box.ok("stop", "-t", "0", "one")
        assert "A /file" in box.ok("diff", "one").lines

    def test_what_the_runtime_made_to_mount_over_is_no_part_of_it(self, box: Containers) -> None:
        volume = ["-v", f"{box.store}:/made/for/this"]
        box.ok("run", "--name", "one", *volume, "box", "true")
        told = box.ok("diff", "one").out
        for path in ("/etc/hosts", "/etc/resolv.conf", "/proc", "/made/for/this"):
            assert path not in told.split()

    def test_a_container_that_wrote_nothing_makes_no_layer(self, box: Containers) -> None:
        box.ok("create", "--name", "one", "box", "true")
        assert box.ok("diff", "one").out == ""
        box.ok("commit", "one", "made:1")
        layers = [
            box.ok("inspect", name).json()[0]["RootFS"]["Layers"] for name in ("box", "made:1")
        ]
        assert layers[0] == layers[1]
