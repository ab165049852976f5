"""What commands make while a helper waits is prepared for its first start, and bothers nobody."""

from __future__ import annotations

import contextlib
import marshal
import os
import resource
import signal
import socket
import subprocess
import uuid
from typing import TYPE_CHECKING

import pytest

from layerstore.cli.warm import fresh_images
from layerstore.image.kernel.metadata_files import open_whole
from layerstore.linux.locks import FileLock
from layerstore.store.objects.tier import kept_objects
from layerstore.store.paths import LEASE_PREFIX
from layerstore.store.store import Store
from tests.integration.test_warm import Warm, _children, _has_a_helper, _state, _waiting
from tests.support.build import needs_runc
from tests.support.cli import Cli
from tests.support.running import containers_in, is_running
from tests.support.running import wait_until as wait_shortly
from tests.support.store import noise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.registry_stub import StubRegistry

pytestmark = needs_runc

FILES = {"one": noise(1, 20_000), "two": noise(2, 30_000)}
NO_HELPER = {"LAYERSTORE_WARM": "no"}
PATIENCE_S = 240
"""What prepares only gets the time of processors that nobody else wants."""


def wait_until(true: Callable[[], object], what: str) -> None:
    wait_shortly(true, what, PATIENCE_S)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    with containers_in(tmp_path_factory.mktemp("preparing"), Warm) as containers:
        assert isinstance(containers, Warm)
        yield containers


@pytest.fixture
def box(shared: Warm) -> Iterator[Warm]:
    """A helper over a store in which nothing is unpacked."""
    shared.ok("gc", "--all")
    shared.ok("warm")
    _waiting(shared)
    yield shared
    shared("warm", "--stop")
    shared.clear()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files of this test alone, with a Dockerfile."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name, content in FILES.items():
        (tree / name).write_bytes(content + uuid.uuid4().bytes)
    (tree / "Dockerfile").write_text("FROM box\nCOPY one two /srv/\n")
    return tree


def _is_prepared(box: Warm, name: str) -> bool:
    with Store.open(box.store) as store, kept_objects(store.paths):
        whole = open_whole(store.paths, store.resolve(name).layers)
        if whole is not None:
            os.close(whole)
        return whole is not None


def _preparing(helper: int) -> list[int]:
    """Return the child that prepares: it is in a session of its own."""
    found = []
    for pid in _children(helper):
        with contextlib.suppress(ProcessLookupError):
            found += [pid] * (os.getsid(pid) == pid)
    return found


def _sessions(box: Warm) -> list[str]:
    """Return what those who write to the store leave behind when they do not end in order."""
    leases = [name for name in os.listdir(box.store / "locks") if name.startswith(LEASE_PREFIX)]
    return leases + os.listdir(box.store / "tmp")


def _ask(box: Warm, image: str) -> bytes:
    """Tell the helper of an image, as a command does; return what it says."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(60)
        connection.connect(os.path.realpath(box.socket))
        connection.send(marshal.dumps({"fresh": [str(box.store), [image]]}))
        return connection.recv(1)


@contextlib.contextmanager
def _at_work(box: Warm, tree: Path) -> Iterator[int]:
    """Give the pid of a child that has begun, and cannot go on."""
    with Store.open(box.store) as store:
        lock = FileLock(store.paths.objects_lock)
    with lock:
        box.ok("import", tree, "-t", "work")
        wait_until(lambda: _sessions(box), "the child's session")
        wait_until(lambda: _waits_for(lock.path), "its wait")
        (child,) = _preparing(box.helper)
        yield child


def _waits_for(path: str) -> bool:
    inode = f":{os.stat(path).st_ino} "
    with open("/proc/locks") as file:
        return any("->" in line and inode in line for line in file)


@pytest.mark.parametrize("command", ["build", "commit", "import", "load", "pull"])
def test_what_a_command_makes_is_prepared(
    box: Warm, tree: Path, stub: StubRegistry, command: str
) -> None:
    other = Cli(tree.parent / "other")
    name = "made:1"
    if command == "build":
        box.ok("build", "-t", name, tree)
    elif command == "import":
        box.ok("import", tree, "-t", name)
    elif command == "commit":
        box.ok("run", "--name", "made", "box", "touch", "/made")
        box.ok("commit", "made", name)
    else:
        other.ok("import", tree, "-t", name, **NO_HELPER)
    if command == "load":
        other.ok("save", name, "-o", tree.parent / "tar")
        box.ok("load", "-i", tree.parent / "tar")
    if command == "pull":
        name = f"{stub.name}/made:1"
        other.ok("push", "--tls-verify=false", "made:1", name)
        box.ok("pull", "--tls-verify=false", name)
    wait_until(lambda: _is_prepared(box, name), "what its first start needs")
    wait_until(lambda: _sessions(box) == [], "the end of that")


def test_without_a_helper_nothing_is(box: Warm, tree: Path) -> None:
    Cli(box.store).ok("build", "-t", "packed", tree, **NO_HELPER)
    # It would have been first.
    box.ok("import", tree, "-t", "after")
    wait_until(lambda: _is_prepared(box, "after"), "what the first start of another needs")
    assert not _is_prepared(box, "packed")


def test_a_build_that_is_known_is_prepared_where_it_was_not(
    box: Warm, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("build", "-t", "known", tree)
    Cli(box.store).ok(*words, **NO_HELPER)
    assert "from the cache" in box.ok(*words).err
    wait_until(lambda: _is_prepared(box, "known"), "what its first start needs")
    wait_until(lambda: _preparing(box.helper) == [], "the end of that")
    # Whoever builds in a loop asks for no more than that.
    with Store.open(box.store) as store:
        image_id = store.resolve("known").image_id
        assert not fresh_images.is_worth_telling(store.catalog, image_id)  # nobody would hear it
        monkeypatch.setattr(fresh_images, "_helper", lambda: box.socket)
        assert not fresh_images.is_worth_telling(store.catalog, image_id)
        box.ok("gc", "--all")
        assert fresh_images.is_worth_telling(store.catalog, image_id)


def test_a_helper_need_not_do_it(box: Warm) -> None:
    assert _ask(box, "box") == b"Y"
    box.ok("warm", "--stop")
    box.ok("warm", "--no-prepare")
    assert _ask(box, "box") == b"N"
    assert _preparing(box.helper) == []


def test_nobody_is_served_who_is_unlike_the_helper(box: Warm) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[0] - 1, before[1]))
    try:
        assert _ask(box, "box") == b"N"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert _ask(box, "box") == b"Y"


@pytest.mark.parametrize("how", ["killed", "stopped", "terminated"])
def test_a_helper_that_ends_leaves_nothing(box: Warm, tree: Path, how: str) -> None:
    with _at_work(box, tree) as child:
        helper = box.helper
        if how == "stopped":
            box.ok("warm", "--stop")
            assert not is_running(child)
        else:
            os.kill(helper, signal.SIGKILL if how == "killed" else signal.SIGTERM)
        wait_until(lambda: not is_running(child), "the child's end")
        wait_until(lambda: not is_running(helper), "the helper's")
        assert _sessions(box) == []
    assert not _is_prepared(box, "work")


def test_it_is_idle(box: Warm, tree: Path) -> None:
    with _at_work(box, tree) as child:
        assert os.sched_getscheduler(child) == os.SCHED_IDLE
        assert os.sched_getscheduler(box.helper) == os.SCHED_OTHER


def test_starts_do_not_wait_for_it(box: Warm, tree: Path) -> None:
    with _at_work(box, tree) as child:
        os.kill(child, signal.SIGSTOP)
        # It has no processor of its own to stop on: with the lock, it would keep others from it.
        wait_until(lambda: _state(child) == "T", "its stop")
    try:
        assert box.ok("run", "--rm", "box", "echo", "other").out == "other\n"
        box.ok("build", "-t", "same", tree)
        assert box.ok("run", "--rm", "same", "ls", "/srv").out == "one\ntwo\n"
        assert _preparing(box.helper) == [child]
    finally:
        os.kill(child, signal.SIGCONT)
    wait_until(lambda: _is_prepared(box, "work"), "what it had begun")


def test_what_it_cannot_do_is_told_where_somebody_reads_it(box: Warm) -> None:
    box.ok("warm", "--stop")
    helper = box.popen("warm", "--foreground", stderr=subprocess.PIPE)
    assert helper.stderr is not None
    wait_until(lambda: _has_a_helper(box), "its socket")
    _waiting(box)
    assert _ask(box, "sha256:" + "0" * 64) == b"Y"
    line = helper.stderr.readline().decode()
    assert "not prepared: sha256:000" in line
    assert "no image" in line
    box.ok("warm", "--stop")
    assert helper.wait(60) == 0
    helper.stderr.close()
