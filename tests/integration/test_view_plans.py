"""Views as data: prepared here, mounted by somebody else, and given up.

Capabilities: root; fuse for the FUSE backend.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from fuse_mount import lowers, mounts, recovering
from fuse_mount.plan import plan_to_json
from layerstore.errors import ConflictError, InputError, UnsupportedError
from layerstore.linux import mounts as syscalls
from layerstore.linux.idmaps import parse_id_map
from layerstore.store.collect.eviction import evict
from layerstore.store.paths import StorePaths
from tests.support.cli import Cli
from tests.support.views import BACKENDS, image_of, is_mounted, needs_root, undo_all_mounts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from layerstore.store.catalog.rows import ImageRecord

pytestmark = needs_root

each_backend = pytest.mark.parametrize("backend", BACKENDS)
by_kernel_and_by_server = pytest.mark.parametrize(
    "backend", [backend for backend in BACKENDS if backend.values[0] in ("kernel", "fuse")]
)

EXECUTE = """
import json, os, sys
from layerstore.linux import mounts as syscalls, namespaces, planned
namespaces.unshare(namespaces.CLONE_NEWNS)
syscalls.set_propagation("/", syscalls.MS_PRIVATE)
plan = json.load(sys.stdin)
for mount in plan["mounts"]:
    planned.execute(planned.from_json(mount))
target = plan["target"]
print(open(f"{target}/etc/motd").read().strip(), flush=True)
try:
    open(f"{target}/new", "w").close()
    print("written", flush=True)
except OSError as err:
    print(err.strerror, flush=True)
print(bool(os.statvfs(target).f_flag & os.ST_NOSUID), flush=True)
"""


class Host:
    def __init__(self, base: Path) -> None:
        self.store = base / "store"
        self.root = str(self.store)
        self.target = base / "view"
        self.target.mkdir()
        tree = base / "tree"
        (tree / "etc").mkdir(parents=True)
        (tree / "etc" / "motd").write_text("hello\n")
        self.image: ImageRecord = image_of(self.store, tree, "a:1")

    def states(self) -> list[str]:
        return [item.state for item in mounts.mounts(self.root)]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    undo_all_mounts(host.store)


def nothing_is_left(host: Host, backend: str) -> bool:
    # A FUSE server removes its own record, a moment later.
    left = [
        path.name
        for path in (host.store / "views").glob("*.json")
        if not path.name.startswith("lower-") or backend.startswith("kernel")
    ]
    return left == [] and host.states() == [] and not any((host.store / "uppers").glob("*"))


@each_backend
@pytest.mark.parametrize("rw", [False, True], ids=["ro", "rw"])
def test_mounted_by_another_process_in_another_namespace(
    host: Host, backend: str, rw: bool
) -> None:
    plan = mounts.prepare(host.root, host.image, str(host.target), rw=rw, backend=backend)
    assert not is_mounted(host.target)
    assert host.states() == [mounts.PREPARED]
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE],
        input=json.dumps(plan_to_json(plan)),
        capture_output=True,
        text=True,
        check=True,
    )
    write = "written" if rw else "Read-only file system"
    assert done.stdout.splitlines() == ["hello", write, "True"]
    assert not is_mounted(host.target)
    mounts.unmount(host.root, plan.view_id)
    assert nothing_is_left(host, backend)


@by_kernel_and_by_server
@pytest.mark.parametrize("rw", [False, True], ids=["ro", "rw"])
def test_mounted_by_mount_8_from_the_oci_form(host: Host, backend: str, rw: bool) -> None:
    cli = Cli(host.store)
    words = ["mount", "--print", "--json", "--backend", backend, "-o", "suid,noexec"]
    printed = cli.ok(*words, *(["--rw"] if rw else []), "a:1", host.target).json()
    (oci,) = printed["oci"]
    fstype = "none" if oci["type"] == "bind" else oci["type"]
    options = ",".join(oci["options"])
    command = ["mount", "-t", fstype, "-o", options, oci["source"], oci["destination"]]
    subprocess.run(command, check=True)
    assert (host.target / "etc" / "motd").read_text() == "hello\n"
    flags = os.statvfs(host.target).f_flag
    assert flags & os.ST_NODEV
    assert flags & os.ST_NOEXEC
    assert not flags & os.ST_NOSUID
    assert bool(flags & os.ST_RDONLY) != rw
    assert host.states() == [mounts.MOUNTED]
    cli.ok("umount", host.target)
    assert not is_mounted(host.target)
    assert nothing_is_left(host, backend)


@by_kernel_and_by_server
@pytest.mark.parametrize("rw", [False, True], ids=["ro", "rw"])
def test_mounted_by_the_commands_printed(host: Host, backend: str, rw: bool) -> None:
    cli = Cli(host.store)
    words = ["mount", "--print", "--backend", backend, *(["--rw"] if rw else [])]
    printed = cli.ok(*words, "a:1", host.target).out
    subprocess.run(["sh", "-euc", printed], check=True)
    assert (host.target / "etc" / "motd").read_text() == "hello\n"
    cli.ok("umount", "--all")
    assert nothing_is_left(host, backend)


@by_kernel_and_by_server
def test_what_it_leads_to_stays_until_it_is_given_up(host: Host, backend: str) -> None:
    paths = StorePaths(host.root)
    with mounts.prepared(host.root, host.image, str(host.target), backend=backend) as plan:
        recovering.clean_stale(host.root)
        assert evict(paths).objects == ()
        Cli(host.store).fails(4, "rm", "a:1")
        with pytest.raises(ConflictError, match="is a view of"):
            mounts.mount(host.root, host.image, str(host.target), backend=backend)
        (mount,) = plan.mounts
        assert os.path.exists(f"{mount.source}/etc/motd")
    assert nothing_is_left(host, backend)
    if backend == "kernel":
        assert os.listdir(lowers.lowers_directory(host.root)) == []
    Cli(host.store).ok("rm", "a:1")


@by_kernel_and_by_server
def test_another_boot_makes_it_stale(host: Host, backend: str, monkeypatch) -> None:
    plan = mounts.prepare(host.root, host.image, "/nowhere/yet", backend=backend)
    assert plan.target == "/nowhere/yet"
    path = host.store / "views" / f"{plan.view_id}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot_id": "another"}))
    assert host.states() == [mounts.STALE]
    recovering.clean_stale(host.root)
    assert nothing_is_left(host, backend)


@by_kernel_and_by_server
def test_a_path_that_mount_8_cannot_take_is_executed_all_the_same(
    tmp_path: Path, backend: str
) -> None:
    odd = tmp_path / "with,comma:and colon"
    odd.mkdir()
    host = Host(odd)
    try:
        plan = mounts.prepare(host.root, host.image, str(host.target), rw=True, backend=backend)
        assert plan_to_json(plan)["oci"] is None
        command = [sys.executable, "-c", EXECUTE]
        value = json.dumps(plan_to_json(plan)).encode()
        done = subprocess.run(command, input=value, capture_output=True, check=True)
        assert done.stdout.startswith(b"hello\nwritten\n")
        mounts.unmount(host.root, plan.view_id)
        message = Cli(host.store).fails(15, "mount", "--print", "--rw", "a:1", host.target)
        assert "gives a meaning" in message or "give a meaning" in message
        assert nothing_is_left(host, backend)
    finally:
        undo_all_mounts(host.store)


@by_kernel_and_by_server
def test_who_may_not_mount_is_told(host: Host, backend: str, monkeypatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UnsupportedError, match="privileges"):
        mounts.prepare(host.root, host.image, str(host.target), backend=backend)
    idmap = parse_id_map(["0:1000:1"])
    with pytest.raises(UnsupportedError, match="other owners"):
        mounts.mount(host.root, host.image, str(host.target), backend=backend, idmap=idmap)
    assert host.states() == []


@by_kernel_and_by_server
def test_a_target_inside_of_the_store_is_refused(host: Host, backend: str) -> None:
    with pytest.raises(InputError, match="would hide the store"):
        mounts.prepare(host.root, host.image, f"{host.root}/x", backend=backend)


@by_kernel_and_by_server
def test_unmounting_a_busy_one_that_somebody_mounted(host: Host, backend: str) -> None:
    plan = mounts.prepare(host.root, host.image, str(host.target), backend=backend)
    (mount,) = plan.mounts
    syscalls.bind(mount.source, str(host.target), flags=syscalls.MS_RDONLY)
    with (host.target / "etc" / "motd").open():
        message = Cli(host.store).fails(15, "umount", host.target)
        assert f"process {os.getpid()}" in message
    mounts.unmount(host.root, str(host.target))
    assert nothing_is_left(host, backend)
