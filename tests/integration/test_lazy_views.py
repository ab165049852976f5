"""Lazy views: content of another store, fetched when it is read, whatever happens to whom."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3

from fuse_mount import mounts, recovering
from fuse_mount.lazy_lowers import LazySource
from layerstore.digest import ImageId
from layerstore.errors import LayerstoreError, NotFoundError, UnsupportedError
from layerstore.formats.trace import decode_trace
from layerstore.formats.tree import Changeset, Entry, Kind
from layerstore.store.collect.eviction import evict
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.objects.objects import object_sizes, present_objects
from layerstore.store.paths import StorePaths
from layerstore.store.remotes.remote import StoreRemote
from layerstore.store.store import Store
from tests.support.lazy import LazyPlace, Wrapped, wait_until, wrap_remotes
from tests.support.namespaces import private_mount_table
from tests.support.trees import compare_trees
from tests.support.views import needs_fuse, needs_root, publish_changeset

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from layerstore.digest import ChunkId
    from layerstore.store.remotes.remote import Remote

pytestmark = [*needs_root, *needs_fuse]

SMALL = 40
LARGE_BYTES = 6 << 20


@pytest.fixture(autouse=True, scope="module")
def own_mounts() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    with private_mount_table():
        yield


@pytest.fixture
def place(tmp_path: Path) -> Iterator[LazyPlace]:
    tree = tmp_path / "tree"
    tree.mkdir()
    content = random.Random(5)
    for number in range(SMALL):
        (tree / f"small-{number:02}").write_bytes(b"small %02d\n" % number * 300)
    (tree / "large").write_bytes(content.randbytes(LARGE_BYTES))
    (tree / "zeros").write_bytes(b"x" + bytes(2 << 20) + b"y")
    shutil.copy("/bin/true", tree / "program")
    place = LazyPlace(tmp_path, tree)
    yield place
    place.undo()


@pytest.fixture
def view(tmp_path: Path) -> Path:
    return tmp_path / "view"


def small(number: int) -> bytes:
    return b"small %02d\n" % number * 300


def content_of(path: Path) -> bytes | None:
    """Return a file's content, None if it cannot be read now."""
    try:
        return path.read_bytes()
    except OSError:
        return None


@pytest.mark.parametrize("backend", ["fuse", "kernel"])
class TestBoth:
    def test_only_what_is_read_is_fetched_and_then_stays(
        self, place: LazyPlace, view: Path, backend: str
    ) -> None:
        record = place.mount(view, backend=backend)
        assert (record.backend, record.remote) == (backend, str(place.remote))
        assert len(os.listdir(view)) == SMALL + 3
        assert place.fetched(view) == {"chunks": 0, "size": 0, "failures": 0}
        assert (view / "small-07").read_bytes() == small(7)
        assert (view / "small-07").read_bytes() == small(7)
        assert place.fetched(view) == {"chunks": 1, "size": len(small(7)), "failures": 0}
        with (view / "large").open("rb") as large:
            large.seek(LARGE_BYTES // 2)
            assert large.read(10) == (place.tree / "large").read_bytes()[LARGE_BYTES // 2 :][:10]
        after = place.fetched(view)["size"]
        assert after - len(small(7)) <= 3 * 256 * 1024  # what the kernel reads ahead
        place.unmount(view)
        assert [file.size for file in object_sizes(StorePaths(str(place.store))).values()] == [
            len(small(7))
        ]

    def test_it_is_the_tree(self, place: LazyPlace, view: Path, backend: str) -> None:
        place.mount(view, backend=backend)
        assert compare_trees(place.tree, view) == []
        whole = place.fetched(view)["size"]
        assert compare_trees(place.tree, view) == []
        assert place.fetched(view)["size"] == whole
        assert subprocess.run([str(view / "program")], check=False).returncode == 0
        place.unmount(view)
        # Everything has joined the object tier: it is not fetched again.
        place.mount(view, backend=backend)
        assert compare_trees(place.tree, view) == []
        assert place.fetched(view)["size"] == 0

    def test_a_writable_view_copies_what_was_never_read(
        self, place: LazyPlace, view: Path, backend: str
    ) -> None:
        place.mount(view, backend=backend, rw=True)
        os.chmod(view / "small-03", 0o600)
        os.rename(view / "small-04", view / "moved")
        with (view / "large").open("r+b") as large:
            large.write(b"changed")
        assert (view / "small-03").read_bytes() == small(3)
        assert (view / "moved").read_bytes() == small(4)
        wanted = b"changed" + (place.tree / "large").read_bytes()[7:]
        assert (view / "large").read_bytes() == wanted

    def test_views_of_one_image_share_what_came(
        self, place: LazyPlace, view: Path, tmp_path: Path, backend: str
    ) -> None:
        place.mount(view, backend=backend)
        other = tmp_path / "other"
        place.mount(other, backend=backend, rw=True)
        assert place.record(view).lower == place.record(other).lower
        assert (view / "small-01").read_bytes() == (other / "small-01").read_bytes() == small(1)
        assert place.fetched(other)["chunks"] == 1

    def test_local_content_is_not_fetched(self, place: LazyPlace, view: Path, backend: str) -> None:
        with Store.open(place.store) as store, store.begin("test") as session:
            extents = tuple(session.put_bytes(small(5)))
            entry = Entry(b"own", Kind.FILE, 0o644, size=len(small(5)), extents=extents)
            publish_changeset(session, Changeset((entry,)))
        place.mount(view, backend=backend)
        assert (view / "small-05").read_bytes() == small(5)
        assert place.fetched(view)["size"] == 0

    def test_a_remote_that_lies_harms_the_file_it_lies_about(
        self, place: LazyPlace, view: Path, backend: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Liar(Wrapped):
            def chunks(self, chunk_ids: Sequence[ChunkId]) -> Iterator[tuple[ChunkId, bytes]]:
                for chunk_id, data in super().chunks(chunk_ids):
                    lie = data.startswith(b"small 09")
                    yield chunk_id, data.replace(b"small", b"wrong") if lie else data

        wrap_remotes(monkeypatch, Liar)
        place.mount(view, backend=backend)
        for _ in range(2):
            with pytest.raises(OSError) as caught:
                (view / "small-09").read_bytes()
            assert caught.value.errno == errno.EIO
        assert (view / "small-08").read_bytes() == small(8)
        log = place.log(view)
        assert "/small-09 cannot be read" in log
        assert "gave other bytes" in log
        assert "small-08" not in log

    def test_a_remote_that_went_away_leaves_what_is_here(
        self, place: LazyPlace, view: Path, backend: str
    ) -> None:
        place.mount(view, backend=backend)
        assert (view / "small-01").read_bytes() == small(1)
        for pack in (place.remote / "packs").glob("*/*"):
            os.truncate(pack, 0)  # its server has it open: removing it would not be felt
        with pytest.raises(OSError) as caught:
            (view / "large").read_bytes()
        assert caught.value.errno == errno.EIO
        assert (view / "small-01").read_bytes() == small(1)
        assert "/large cannot be read" in place.log(view)

    def test_a_remote_that_hangs_fails_the_read_and_no_other(
        self, place: LazyPlace, view: Path, backend: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Hanging(Wrapped):
            def chunks(self, chunk_ids: Sequence[ChunkId]) -> Iterator[tuple[ChunkId, bytes]]:
                for chunk_id, data in super().chunks(chunk_ids):
                    if data.startswith(b"small 11"):
                        threading.Event().wait()  # for good
                    yield chunk_id, data

        wrap_remotes(monkeypatch, Hanging, patience_s=3)  # for all it asks
        place.mount(view, backend=backend)
        with pytest.raises(OSError) as caught:
            (view / "small-11").read_bytes()
        assert caught.value.errno == errno.EIO
        assert "did not answer in time" in place.log(view)
        # Reads wait a second alone from now on, which a busy host may need for more than one.
        wait_until(lambda: content_of(view / "small-12") == small(12))

    def test_a_trace_lists_what_was_read_and_is_fetched_ahead(
        self, place: LazyPlace, view: Path, tmp_path: Path, backend: str
    ) -> None:
        trace = tmp_path / "trace"
        place.mount(view, backend=backend, record_trace=str(trace))
        for number in (9, 2, 5):
            (view / f"small-{number:02}").read_bytes()
        place.unmount(view)
        expected = [blake3(small(number)).digest() for number in (9, 2, 5)]
        assert decode_trace(trace.read_bytes()) == expected
        shutil.rmtree(place.store / "objects")
        place.mount(view, backend=backend, ahead=str(trace))
        wait_until(lambda: place.fetched(view)["chunks"] == 3)
        for number in (9, 2, 5):
            assert (view / f"small-{number:02}").read_bytes() == small(number)
        assert place.fetched(view)["chunks"] == 3

    def test_everything_can_be_fetched_ahead(
        self, place: LazyPlace, view: Path, backend: str
    ) -> None:
        place.mount(view, backend=backend, ahead="all")
        whole = len({small(number) for number in range(SMALL)}) * len(small(1)) + LARGE_BYTES
        wait_until(lambda: place.fetched(view)["size"] >= whole)
        place.unmount(view)
        sizes = [file.size for file in object_sizes(StorePaths(str(place.store))).values()]
        assert sizes.count(len(small(1))) == SMALL
        assert LARGE_BYTES in sizes

    def test_the_remote_keeps_the_image_while_a_view_lives(
        self, place: LazyPlace, view: Path, backend: str
    ) -> None:
        place.mount(view, backend=backend)
        with Store.open(place.remote) as remote:
            remote.remove_image(ImageId(place.image_id))
            execute(plan_gc(remote, keep_cache=False))
        assert (view / "small-20").read_bytes() == small(20)
        assert (view / "large").read_bytes() == (place.tree / "large").read_bytes()
        place.unmount(view)
        wait_until(lambda: not any((place.remote / "views").glob("remote-*")))
        with Store.open(place.remote) as remote:
            execute(plan_gc(remote, keep_cache=False))
            assert remote.catalog.pack_rows() == []

    def test_a_local_gc_leaves_a_living_view_alone(
        self, place: LazyPlace, view: Path, backend: str
    ) -> None:
        place.mount(view, backend=backend)
        assert (view / "small-20").read_bytes() == small(20)
        with Store.open(place.store) as store:
            execute(plan_gc(store))
            assert evict(store.paths).doubt == ""
        assert compare_trees(place.tree, view) == []

    def test_what_is_not_there_is_said(self, place: LazyPlace, view: Path, backend: str) -> None:
        view.mkdir()
        nobody = LazySource(str(place.remote), f"sha256:{0:064}")
        with pytest.raises(LayerstoreError, match="no image"):
            mounts.mount(str(place.store), nobody, str(view), backend=backend)
        assert mounts.mounts(str(place.store)) == []
        with pytest.raises(NotFoundError):
            StoreRemote(str(place.base / "nowhere"))


def test_packs_of_another_store_are_not_mounted(place: LazyPlace, view: Path) -> None:
    with pytest.raises(UnsupportedError, match="another store") as caught:
        place.mount(view, backend="kernel-packs")
    assert "--backend kernel" in str(caught.value.hint)
    assert mounts.mounts(str(place.store)) == []


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A directory in which remotes leave word and wait: see :class:`Gated`."""
    (tmp_path / "gate").mkdir()
    return tmp_path / "gate"


def gated(gate: Path) -> type[Wrapped]:
    class Gated(Wrapped):
        """Notes which processes open it; stops in a fetch until ``open`` is there."""

        def __init__(self, remote: Remote) -> None:
            super().__init__(remote)
            (gate / f"pid-{len(list(gate.glob('pid-*')))}").write_text(str(os.getpid()))

        def chunks(self, chunk_ids: Sequence[ChunkId]) -> Iterator[tuple[ChunkId, bytes]]:
            for chunk_id, data in super().chunks(chunk_ids):
                if data.startswith(b"small 15"):
                    (gate / "waiting").touch()
                    wait_until(lambda: (gate / "open").exists())
                yield chunk_id, data

    return Gated


def reader(path: Path) -> subprocess.Popen[bytes]:
    """Begin to read a file in a process of its own: it prints the content, or the errno."""
    words = "import sys\ntry: sys.stdout.buffer.write(open(sys.argv[1], 'rb').read())\n"
    words += "except OSError as err: sys.exit(err.errno)"
    return subprocess.Popen([sys.executable, "-c", words, str(path)], stdout=subprocess.PIPE)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
class TestKilled:
    """Servers of kernel views, killed while somebody waits for them."""

    def test_another_server_goes_on_and_readers_see_nothing_of_it(
        self, place: LazyPlace, view: Path, gate: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wrap_remotes(monkeypatch, gated(gate))
        place.mount(view, backend="kernel")
        assert (view / "small-14").read_bytes() == small(14)
        waiting = reader(view / "small-15")
        wait_until((gate / "waiting").exists)
        os.kill(int((gate / "pid-1").read_text()), signal.SIGKILL)
        wait_until((gate / "pid-2").exists)
        (gate / "open").touch()
        assert waiting.communicate(timeout=60)[0] == small(15)
        assert waiting.returncode == 0
        assert (view / "small-14").read_bytes() == small(14)
        assert (view / "large").read_bytes() == (place.tree / "large").read_bytes()
        assert "another one goes on" in place.log(view)
        assert place.state(view)[0] == mounts.MOUNTED

    def test_without_any_server_nothing_reads_as_zeros(
        self, place: LazyPlace, view: Path, gate: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pids = wrap_remotes(monkeypatch, gated(gate))
        place.mount(view, backend="kernel")
        assert (view / "small-14").read_bytes() == small(14)
        half = LARGE_BYTES // 2
        with (view / "large").open("rb") as large:
            assert large.read(10) == (place.tree / "large").read_bytes()[:10]
            waiting = reader(view / "small-15")
            wait_until((gate / "waiting").exists)
            os.kill(pids[0], signal.SIGKILL)  # the keeper first: nobody starts another server
            os.kill(int((gate / "pid-1").read_text()), signal.SIGKILL)
            assert waiting.communicate(timeout=60)[0] == b""
            assert waiting.returncode not in (0, errno.ENOENT)
            large.seek(half)
            with pytest.raises(OSError):
                large.read(10)
        for name in ("small-16", "small-15", "zeros"):
            with pytest.raises(OSError) as caught:
                (view / name).read_bytes()
            assert caught.value.errno != errno.ENOENT
        assert (view / "small-14").read_bytes() == small(14)  # whole: nobody is needed for it
        gone = (mounts.STALE, "the server that fetches its content is gone")
        wait_until(lambda: place.state(view) == gone)  # its lock is let go of last
        # A new view begins anew; the old one is shown again, or cleaned up.
        monkeypatch.undo()
        other = place.base / "other"
        place.mount(other, backend="kernel")
        assert (other / "small-15").read_bytes() == small(15)
        assert [record.target for record in recovering.restore(str(place.store), [])] == [str(view)]
        assert (view / "small-16").read_bytes() == small(16)
        assert place.state(view)[0] == mounts.MOUNTED

    def test_gc_collects_what_the_dead_left(
        self, place: LazyPlace, view: Path, gate: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pids = wrap_remotes(monkeypatch, gated(gate))
        place.mount(view, backend="kernel")
        (view / "small-14").read_bytes()
        lower = place.record(view).lower
        staged = list(Path(lower, "staged").glob("*/*"))
        assert len(staged) == 1
        os.kill(pids[0], signal.SIGKILL)
        os.kill(int((gate / "pid-1").read_text()), signal.SIGKILL)
        wait_until(lambda: place.state(view)[0] == mounts.STALE)
        paths = StorePaths(str(place.store))
        evict(paths)
        assert not Path(lower, "staged").exists()
        assert present_objects(paths) == set()
        with Store.open(place.remote) as remote:
            records = lambda: list((place.remote / "views").glob("remote-*"))  # noqa: E731
            assert len(records()) == 1
            execute(plan_gc(remote))
            assert records() == []
