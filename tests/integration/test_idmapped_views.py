"""Views with other owners: seen from inside a user namespace, written to, and sharing memory.

Capabilities: root, a file system that can be id-mapped.
"""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fuse_mount import mounts
from layerstore.errors import UnsupportedError
from layerstore.linux import probe
from layerstore.linux.idmaps import parse_id_map, user_namespace_of
from layerstore.linux.xattrs import read_xattrs
from tests.support.cli import Cli
from tests.support.forked import problem_in_child
from tests.support.memory import forget, resident_pages
from tests.support.namespaces import enter_user_namespace
from tests.support.store import noise
from tests.support.trees import CAPABILITY_NET_RAW, compare_trees, make_odd_tree
from tests.support.views import BACKENDS, image_of, needs_root, undo_all_mounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from layerstore.store.catalog.rows import ImageRecord

pytestmark = needs_root

each_backend = pytest.mark.parametrize(
    "backend", [backend for backend in BACKENDS if backend.values[0] != "fusepy"]
)
each_fuse_backend = pytest.mark.parametrize(
    "backend", [backend for backend in BACKENDS if "fuse" in str(backend.values[0])]
)

BIG_BYTES = 1 << 20
MAP = ["0:100000:65536"]
OTHER_MAP = ["u:0:300000:1000", "g:0:400000:1000"]


class Host:
    def __init__(self, base: Path) -> None:
        self.base = base
        self.store = base / "store"
        self.root = str(self.store)
        self.tree = base / "tree"
        self.tree.mkdir()
        self.tree.chmod(0o755)
        (self.tree / "of-root").write_text("root's\n")
        (self.tree / "of-web").write_text("web's\n")
        os.chown(self.tree / "of-web", 33, 34)
        (self.tree / "of-web").chmod(0o4750)
        (self.tree / "beyond").write_text("nobody's\n")
        os.chown(self.tree / "beyond", 70_000, 70_000)
        (self.tree / "ping").write_text("ping\n")
        os.setxattr(self.tree / "ping", "security.capability", CAPABILITY_NET_RAW)
        (self.tree / "big").write_bytes(noise(7, BIG_BYTES))
        self.image: ImageRecord = image_of(self.store, self.tree, "a:1")

    def mount(self, name: str, backend: str, texts: list[str], rw: bool = False) -> Path:
        target = self.base / name
        target.mkdir()
        idmap = parse_id_map(texts)
        mounts.mount(self.root, self.image, str(target), rw=rw, backend=backend, idmap=idmap)
        return target


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    finding = probe.idmapped_layers(str(tmp_path))
    if not finding.works:
        pytest.skip(f"{finding.name}: {finding.reason}")
    host = Host(tmp_path)
    yield host
    undo_all_mounts(host.store)


def inside(texts: list[str], view: Path, test: Callable[[], None]) -> None:
    """Run ``test`` in ``view`` as root of a user namespace with this map."""
    with user_namespace_of(parse_id_map(texts)) as namespace:

        def work() -> None:
            os.chdir(view)  # beyond it pytest's directories are the host's root's alone
            enter_user_namespace(namespace)
            test()

        problem = problem_in_child(work)
    assert not problem, problem


@each_backend
@pytest.mark.parametrize("rw", [False, True], ids=["ro", "rw"])
def test_inside_owners_are_those_of_the_image(host: Host, backend: str, rw: bool) -> None:
    view = host.mount("view", backend, MAP, rw)
    assert os.stat(view / "of-web").st_uid == 100_033

    def test() -> None:
        owners = {}
        for name in ("", "of-root", "of-web", "beyond", "ping"):
            status = os.stat(name or ".")
            owners[name] = (status.st_uid, status.st_gid)
        nobody = (65_534, 65_534)
        assert owners == {
            "": (0, 0), "of-root": (0, 0), "of-web": (33, 34), "beyond": nobody, "ping": (0, 0),
        }  # fmt: skip
        assert Path("of-web").read_text() == "web's\n"
        assert stat.S_IMODE(os.stat("of-web").st_mode) == 0o4750
        capability = os.getxattr("ping", "security.capability")
        # As the file's own, or as revision 3, which names the root it is for.
        assert capability[4:12] == CAPABILITY_NET_RAW[4:12]

    inside(MAP, view, test)
    assert compare_trees(host.tree, view, ignore_fields=("uid", "gid", "xattrs")) == []


@each_backend
def test_what_is_written_inside_lands_with_the_images_ids(host: Host, backend: str) -> None:
    view = host.mount("view", backend, MAP, rw=True)

    def test() -> None:
        Path("new").write_text("new")
        Path("directory").mkdir()
        os.chown("directory", 5, 6)
        Path("of-web").chmod(0o640)  # copied up
        os.chown("of-root", 33, 33)
        Path("ping").unlink()
        os.setxattr("new", "user.x", b"1")
        with pytest.raises(OSError):  # nobody's inside
            Path("beyond").write_text("")

    inside(MAP, view, test)
    (item,) = mounts.mounts(host.root)
    upper = f"{item.record.upper}/upper"
    owners = {
        name: (os.lstat(f"{upper}/{name}").st_uid, os.lstat(f"{upper}/{name}").st_gid)
        for name in ("", "new", "directory", "of-web", "of-root")
    }
    assert owners == {
        "": (0, 0), "new": (0, 0), "directory": (5, 6), "of-web": (33, 34), "of-root": (33, 33),
    }  # fmt: skip
    assert (view / "new").stat().st_uid == 100_000
    assert stat.S_ISCHR(os.lstat(f"{upper}/ping").st_mode)
    assert (b"user.x", b"1") in read_xattrs(f"{upper}/new")


@each_backend
def test_views_with_different_maps_share_their_memory(host: Host, backend: str) -> None:
    views = [
        host.mount("plain", backend, []),
        host.mount("mapped", backend, MAP),
        host.mount("written", backend, OTHER_MAP, rw=True),
    ]
    owners = {view.name: os.stat(view / "of-web").st_uid for view in views}
    assert owners == {"plain": 33, "mapped": 100_033, "written": 300_033}
    forget(views[0] / "big")
    assert (views[0] / "big").read_bytes() == noise(7, BIG_BYTES)
    pages = BIG_BYTES // mmap.PAGESIZE
    assert [resident_pages(view / "big") for view in views] == [pages] * len(views)


@each_backend
def test_everything_odd_under_a_map(host: Host, backend: str) -> None:
    tree = host.base / "odd"
    tree.mkdir()
    make_odd_tree(tree)
    host.image = image_of(host.store, tree, "odd:1")
    for rw in (False, True):
        view = host.mount(f"odd-{rw}", backend, MAP, rw)
        # Ids in ACLs and capabilities move with the owners.
        assert compare_trees(tree, view, ignore_fields=("uid", "gid", "xattrs")) == []


@each_backend
def test_the_command_line_takes_maps(host: Host, backend: str) -> None:
    cli = Cli(host.store)
    for number, words in enumerate(
        (["--idmap", MAP[0]], ["--idmap", OTHER_MAP[0], "--idmap", OTHER_MAP[1]])
    ):
        target = host.base / f"cli-{number}"
        target.mkdir()
        cli.ok("mount", "--backend", backend, *words, "a:1", target)
        assert os.stat(target / "of-root").st_uid == (100_000, 300_000)[number]
    target = host.base / "like-another"
    target.mkdir()
    with user_namespace_of(parse_id_map(OTHER_MAP)) as namespace:
        path = f"/proc/{os.getpid()}/fd/{namespace}"
        cli.ok("mount", "--backend", backend, "--rw", "--userns", path, "a:1", target)
    assert os.stat(target / "of-web").st_gid == 400_034
    listed = {view["target"]: view["idmap"] for view in cli.ok("mounts", "--json").json()}
    assert listed[str(target)] == OTHER_MAP
    assert "give either" in cli.fails(
        2, "mount", "--userns", "/proc/self/ns/user", "--idmap", MAP[0], "a:1", target
    )
    assert "is no map of ids" in cli.fails(2, "mount", "--idmap", "0", "a:1", target)
    cli.ok("umount", "--all")
    assert mounts.mounts(host.root) == []
    assert os.listdir(host.store / "uppers") == []


@each_backend
def test_killed_before_it_took_note(host: Host, backend: str) -> None:
    """A mapped view whose maker died between mounting and noting is found and undone."""
    for rw in (False, True):
        view = host.mount(f"view-{rw}", backend, MAP, rw)
        record = next(
            item.record for item in mounts.mounts(host.root) if item.record.target == str(view)
        )
        mounts.write_record(host.root, record._replace(mount_id=0, device=0))
        assert {item.state for item in mounts.mounts(host.root)} == {mounts.MOUNTED}
        mounts.unmount(host.root, str(view))
        assert os.listdir(view) == []


@each_fuse_backend
def test_a_server_that_cannot_be_mapped_is_refused(host: Host, backend: str) -> None:
    target = host.base / "view"
    target.mkdir()
    idmap = parse_id_map(MAP)
    for rw in (False, True):
        try:
            mounts.mount(host.root, host.image, str(target), rw=rw, backend=backend, idmap=idmap)
        except UnsupportedError as err:
            told = err
        else:  # a server that lets the kernel map its files
            assert os.stat(target / "of-web").st_uid == 100_033
            mounts.unmount(host.root, str(target))
            continue
        assert "map the owners" in told.message
        assert "--backend kernel" in str(told.hint)
        assert mounts.mounts(host.root) == []
        assert not any((host.store / "uppers").glob("*"))
