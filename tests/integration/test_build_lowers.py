"""Chains of a build shown by the kernel where that is cheap, and by FUSE elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from fuse_mount import mounts
from fuse_mount.build_lowers import BuildLowers
from layerstore.image import chain_images
from layerstore.image.stack import load_root
from layerstore.linux.data_layers import follow_problem
from layerstore.snapshot.overlay import PLAIN_OPTIONS, OverlaySnapshotter
from layerstore.store.eviction import evict
from layerstore.store.objects import present_objects
from layerstore.store.store import Store
from tests.support.build import box, builder, needs_runc  # noqa: F401
from tests.support.tree_diff import diff
from tests.support.trees import compare_trees, make_odd_tree
from tests.support.views import (
    image_of,
    is_mounted,
    needs_fuse,
    publish_changeset,
    undo_all_mounts,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from layerstore.digest import DiffId
    from layerstore.store.catalog_rows import ImageRecord
    from tests.support.build import Builder

pytestmark = [
    *needs_fuse,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]


def require_kernel() -> None:
    if (problem := follow_problem(PLAIN_OPTIONS)) is not None:
        pytest.skip(f"overlays need Linux 6.16 for this: {problem}")


class Chain:
    """A base, and a layer over it that makes ``changed`` of ``tree``."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.tree = place / "tree"
        self.tree.mkdir()
        make_odd_tree(self.tree)
        self.changed = place / "changed"
        subprocess.run(["cp", "-a", self.tree, self.changed], check=True)
        self.store = place / "store"

    def publish(self) -> tuple[ImageRecord, tuple[DiffId, ...]]:
        base = image_of(self.store, self.tree)
        changed = image_of(self.store, self.changed, "changed:1")
        with Store.open(self.store) as store, store.begin("test") as session:
            trees = [load_root(store, image.layers) for image in (base, changed)]
            layer = publish_changeset(session, diff(*trees))
        return base, (*base.layers, layer)

    def show_base(self, base: ImageRecord) -> None:
        """Mount the base by the kernel and unmount it: then its objects are there."""
        view = self.place / "view"
        view.mkdir(exist_ok=True)
        mounts.mount(str(self.store), base, str(view), backend="kernel")
        mounts.unmount(str(self.store), str(view))


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    require_kernel()
    made = Chain(tmp_path)
    yield made
    if made.store.exists():
        undo_all_mounts(made.store)


def change(tree: Path) -> None:
    """Do to a tree what steps of a build do."""
    (tree / "new").write_text("new")
    os.chmod(tree / "new", 0o4755)
    (tree / "deep" / "er").mkdir(parents=True)
    (tree / "deep" / "er" / "file").write_bytes(b"x" * 100_000)
    small = tree / "files" / "small"
    content = small.read_bytes()
    small.unlink()
    small.write_bytes(content + b"more")
    shutil.rmtree(tree / "links")
    (tree / "links").write_text("no directory any more")
    os.link(tree / "new", tree / "deep" / "also-new")


def test_a_chain_looks_the_same_by_the_kernel(chain: Chain, tmp_path: Path) -> None:
    change(chain.changed)
    base, layers = chain.publish()
    chain.show_base(base)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with Store.open(chain.store) as store:
        tier = present_objects(store.paths)
        with BuildLowers(store, scratch, lambda ids: load_root(store, ids)) as shown:
            assert shown.prepare(base.layers)
            assert shown.prepare(layers)
            assert shown.prepare(layers)
            with shown.lower(base.layers) as path:
                assert compare_trees(chain.tree, path) == []
            with shown.lower(layers) as path:
                assert compare_trees(chain.changed, path) == []
            with OverlaySnapshotter(shown).prepare(layers, scratch / "step") as snapshot:
                assert compare_trees(chain.changed, snapshot.root) == []
                (snapshot.root / "new").write_text("newer")
                assert (snapshot.upper / "new").read_text() == "newer"
            # What a build has unpacked is its own, and nobody takes the rest away from it.
            assert present_objects(store.paths) == tier
            assert evict(store.paths).doubt
            assert present_objects(store.paths) == tier
        assert present_objects(store.paths) == tier
        evict(store.paths)
        assert present_objects(store.paths) == set()
    assert not any(is_mounted(place) for place in (scratch / "kernel").rglob("image-*"))


def test_without_an_unpacked_base_fuse_shows_it(chain: Chain, tmp_path: Path) -> None:
    change(chain.changed)
    _, layers = chain.publish()
    with (
        Store.open(chain.store) as store,
        BuildLowers(store, tmp_path, lambda ids: load_root(store, ids)) as shown,
    ):
        assert not shown.prepare(layers)
        with shown.lower(layers) as path:
            assert compare_trees(chain.changed, path) == []
        assert present_objects(store.paths) == set()


def test_much_new_content_is_left_to_fuse(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain_images, "UNPACK_MAX_BYTES", 90_000)
    change(chain.changed)
    base, layers = chain.publish()
    chain.show_base(base)
    with (
        Store.open(chain.store) as store,
        BuildLowers(store, tmp_path, lambda ids: load_root(store, ids)) as shown,
    ):
        assert shown.prepare(base.layers)
        assert not shown.prepare(layers)
        with shown.lower(layers) as path:
            assert compare_trees(chain.changed, path) == []


def test_a_kernel_that_refuses_is_not_asked_again(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from layerstore.errors import UnsupportedError
    from layerstore.linux import mounts as syscalls

    base, _ = chain.publish()
    chain.show_base(base)
    asked = []

    def refuse(*arguments: object) -> None:
        asked.append(arguments)
        raise UnsupportedError("not on this file system")

    monkeypatch.setattr(syscalls, "mount_erofs", refuse)
    with (
        Store.open(chain.store) as store,
        BuildLowers(store, tmp_path, lambda ids: load_root(store, ids)) as shown,
    ):
        for _ in range(2):
            shown.prepare(base.layers)
            with shown.lower(base.layers) as path:
                assert compare_trees(chain.tree, path) == []
    assert len(asked) == 1


class TestSteps:
    pytestmark = needs_runc

    @pytest.mark.parametrize("unpacked", [False, True])
    def test_steps_run_over_what_is_cheap(
        self,
        box: Builder,  # noqa: F811
        tmp_path: Path,
        unpacked: bool,
    ) -> None:
        require_kernel()
        store = str(box.store.root)
        if unpacked:
            view = tmp_path / "view"
            view.mkdir()
            mounts.mount(store, box.store.resolve("box"), str(view), backend="kernel")
            mounts.unmount(store, str(view))
        result = box.build(
            "FROM box\n"
            "RUN cat /proc/self/mountinfo > /one && echo two > /two && rm /etc/group\n"
            "RUN cat /one && cat /proc/self/mountinfo > /three && cat /two > /four\n"
        )
        files = box.files(result)
        assert files["four"].content == b"two\n"
        assert "etc/group" not in files
        for name in ("one", "three"):
            lines = files[name].content.decode().splitlines()
            root = next(line for line in lines if " / / " in line)
            assert ("/kernel/" in root) == unpacked
        assert os.listdir(box.store.paths.tmp) == []
