"""Chains of a build shown by the kernel where that is cheap, and by FUSE elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3

from fuse_mount import object_maker
from fuse_mount.build_lowers import BuildLowers
from layerstore.digest import DiffId, chain_id, hex_of, sha256_digest
from layerstore.errors import IntegrityError, UnsupportedError
from layerstore.image.kernel import chain_images
from layerstore.image.kernel.metadata_files import open_verified
from layerstore.image.layers.layer_writer import write_layer
from layerstore.image.layers.layers import load_changeset
from layerstore.image.layers.scan import scan_upper
from layerstore.image.trees.stack import load_root
from layerstore.linux import mounts as syscalls
from layerstore.linux.data_layers import follow_problem
from layerstore.snapshot.overlay import PLAIN_OPTIONS, OverlaySnapshotter
from layerstore.store.collect.eviction import evict
from layerstore.store.objects.objects import present_objects
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

    from layerstore.digest import ObjectId
    from layerstore.errors import LayerstoreError
    from layerstore.store.catalog.rows import ImageRecord
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


def lowers(store: Store, scratch: Path) -> BuildLowers:
    scratch.mkdir(exist_ok=True)
    return BuildLowers(store, scratch, partial(load_changeset, store))


def everything_large(monkeypatch: pytest.MonkeyPatch, limit: int = 0) -> None:
    """Have every layer shown as a base, whose files lie in the object tier or are made."""
    monkeypatch.setattr(chain_images, "SMALL_MAX_BYTES", limit)


@pytest.mark.parametrize("limit", [0, 250_000, 1 << 30])
def test_a_chain_looks_the_same_by_the_kernel(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """As bases, as a small layer over a base, and as images of layers."""
    everything_large(monkeypatch, limit)
    change(chain.changed)
    base, layers = chain.publish()
    scratch = tmp_path / "scratch"
    with Store.open(chain.store) as store, lowers(store, scratch) as shown:
        for expected, chained in ((chain.tree, base.layers), (chain.changed, layers)):
            assert shown.prepare(chained)
            with shown.lower(chained) as path:
                assert compare_trees(expected, path) == []
        with OverlaySnapshotter(shown).prepare(layers, scratch / "step") as snapshot:
            assert compare_trees(chain.changed, snapshot.root) == []
            (snapshot.root / "new").write_text("newer")
            assert (snapshot.upper / "new").read_text() == "newer"
    assert not any(is_mounted(place) for place in (scratch / "kernel").iterdir())


def test_what_a_step_wrote_is_what_the_next_lies_over(chain: Chain, tmp_path: Path) -> None:
    base, _ = chain.publish()
    scratch = tmp_path / "scratch"
    with (
        Store.open(chain.store) as store,
        store.begin("test") as session,
        lowers(store, scratch) as shown,
    ):
        assert shown.prepare(base.layers)
        with OverlaySnapshotter(shown).prepare(base.layers, scratch / "one") as snapshot:
            change(snapshot.root)
            subprocess.run(["cp", "-a", snapshot.root, scratch / "copy"], check=True)
        scan = scan_upper(snapshot.upper)
        record = write_layer(
            session, store, scan.items, whiteouts=scan.whiteouts, opaques=scan.opaques
        )
        layers = (*base.layers, record.diff_id)
        shown.add_upper(layers, snapshot.upper)
        assert shown.prepare(layers)
        with OverlaySnapshotter(shown).prepare(layers, scratch / "two") as second:
            assert compare_trees(scratch / "copy", second.root) == []
            table = Path("/proc/self/mountinfo").read_text()
        line = next(line for line in table.splitlines() if f" {second.root} " in line)
        assert str(snapshot.upper) in line
        with lowers(store, tmp_path / "other") as other:
            assert other.prepare(layers)
            with other.lower(layers) as path:
                assert compare_trees(scratch / "copy", path) == []


def test_a_directory_of_a_step_goes_when_nothing_shows_it(chain: Chain, tmp_path: Path) -> None:
    """Whoever asks for its chain later is shown the layer."""
    base = chain.publish()[0]
    scratch = tmp_path / "scratch"
    with (
        Store.open(chain.store) as store,
        store.begin("test") as session,
        lowers(store, scratch) as shown,
    ):
        shown.prepare(base.layers)
        with OverlaySnapshotter(shown).prepare(base.layers, scratch / "one") as snapshot:
            (snapshot.root / "new").write_text("new")
        scan = scan_upper(snapshot.upper)
        layers = (*base.layers, write_layer(session, store, scan.items).diff_id)
        shown.add_upper(layers, snapshot.upper)
        with shown.used([base.layers, layers]):
            shown.prepare(layers)
            with OverlaySnapshotter(shown).prepare(layers, scratch / "two") as second:
                assert not shown.drop_upper(layers)
                assert (second.root / "new").read_text() == "new"
        assert shown.drop_upper(layers)
        shutil.rmtree(snapshot.upper)
        shown.prepare(layers)
        with shown.used([layers]), shown.lower(layers) as path:
            assert (path / "new").read_text() == "new"
        shown.add_upper(layers, scratch)
        assert not shown.drop_upper(layers), "what was mounted by lower() stays mounted"


def test_what_was_opened_is_there_the_next_time(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything_large(monkeypatch)
    base, _ = chain.publish()
    content = (chain.tree / "files" / "small").read_bytes()
    with Store.open(chain.store) as store:
        for number in range(2):
            before = present_objects(store.paths)
            with lowers(store, tmp_path / f"scratch-{number}") as shown:
                assert shown.prepare(base.layers)
                with shown.lower(base.layers) as path:
                    assert (path / "files" / "small").read_bytes() == content
                    made = list((tmp_path / f"scratch-{number}/kernel/made").glob("*/*"))
                    assert len(made) == (1 if not number else 0)
                # While a build runs, nobody takes away what it may open.
                assert evict(store.paths).doubt
            assert len(present_objects(store.paths) - before) == (1 if not number else 0)


def test_every_overlay_gets_what_was_made_once(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything_large(monkeypatch)
    base, _ = chain.publish()
    content = (chain.tree / "files" / "small").read_bytes()
    made: list[ObjectId] = []
    real = object_maker.unpack_one

    def unpack_one(store: Store, name: ObjectId, *rest: object) -> None:
        made.append(name)
        real(store, name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(object_maker, "unpack_one", unpack_one)
    with Store.open(chain.store) as store, lowers(store, tmp_path / "scratch") as shown:
        assert shown.prepare(base.layers)
        below, _ = shown.below(base.layers)
        for number in range(3):  # an overlay of its own, as each step has
            upper, work, root = (tmp_path / f"{each}-{number}" for each in ("upper", "work", "in"))
            for place in (upper, work, root):
                place.mkdir()
            overlay = below._replace(upper=str(upper), work=str(work))
            syscalls.mount_overlay(overlay, str(root), 0)
            try:
                assert (root / "files" / "small").read_bytes() == content
            finally:
                syscalls.unmount(str(root))
    assert made == [blake3(content).digest()]


def test_long_files_are_not_kept(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything_large(monkeypatch)
    long = chain.tree / "long"
    long.write_bytes(os.urandom(object_maker.KEEP_MAX_BYTES + 1))
    base, _ = chain.publish()
    with Store.open(chain.store) as store:
        with lowers(store, tmp_path / "scratch") as shown:
            assert shown.prepare(base.layers)
            with shown.lower(base.layers) as path:
                assert (path / "long").read_bytes() == long.read_bytes()
        assert present_objects(store.paths) == set()


def test_a_damaged_file_is_an_error_in_itself_alone(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything_large(monkeypatch)
    base, _ = chain.publish()
    told: list[LayerstoreError] = []
    with Store.open(chain.store) as store:
        shown = BuildLowers(store, tmp_path, partial(load_changeset, store), told.append)
        real = object_maker.unpack_one
        small = blake3((chain.tree / "files" / "small").read_bytes()).digest()

        def unpack_one(store: Store, name: ObjectId, *rest: object) -> None:
            if name == small:
                raise IntegrityError("damaged for a test")
            real(store, name, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(object_maker, "unpack_one", unpack_one)
        with shown:
            assert shown.prepare(base.layers)
            with shown.lower(base.layers) as path:
                for _ in range(2):
                    with pytest.raises(OSError, match="Input/output error"):
                        (path / "files" / "small").read_bytes()
                other = next(
                    each
                    for each in sorted((chain.tree / "files").iterdir())
                    if each.is_file() and each.stat().st_size and each.name != "small"
                )
                assert (path / "files" / other.name).read_bytes() == other.read_bytes()
    assert [error.message for error in told] == ["damaged for a test"] * len(told)
    assert told


def test_a_base_that_does_not_last_is_left_to_fuse(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything_large(monkeypatch)
    base, _ = chain.publish()
    with Store.open(chain.store) as store, lowers(store, tmp_path) as shown:
        assert not shown.prepare(base.layers, lasting=False)
        with shown.lower(base.layers) as path:
            assert compare_trees(chain.tree, path) == []
        assert present_objects(store.paths) == set()
    assert not os.path.exists(store.paths.metadata) or not os.listdir(store.paths.metadata)


def test_a_later_build_begins_with_the_image_that_one_leaves(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although this one shows the layer by the directory that a step wrote."""
    everything_large(monkeypatch)
    change(chain.changed)
    base, layers = chain.publish()
    with Store.open(chain.store) as store:
        with lowers(store, tmp_path) as shown:
            shown.leave_base(layers)
            assert open_verified(store.paths, hex_of(chain_id(layers))) is None, (
                "whether the kernel can is unknown"
            )
            shown.prepare(base.layers)
            shown.add_upper(layers, tmp_path)
            shown.leave_base(layers)
        with lowers(store, tmp_path / "later") as later:
            assert later.prepare(layers, lasting=False)
            with later.lower(layers) as path:
                assert compare_trees(chain.changed, path) == []


def test_a_later_build_finds_the_image_of_a_layer(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything_large(monkeypatch, 1 << 30)
    monkeypatch.setattr(chain_images, "ENTRIES_MIN", 1)
    change(chain.changed)
    _, layers = chain.publish()

    def made(*_: object) -> None:
        raise AssertionError("the image was made again")

    with Store.open(chain.store) as store:
        with lowers(store, tmp_path) as shown:
            shown.prepare(layers)
            shown.leave_base(layers)
        monkeypatch.setattr(chain_images, "write_layer_image", made)
        with lowers(store, tmp_path / "later") as later:
            assert later.prepare(layers)
            with later.lower(layers) as path:
                assert compare_trees(chain.changed, path) == []


@pytest.mark.parametrize(
    ("constant", "value"), [("LEFT_MAX_ENTRIES", 1), ("SMALL_MAX_BYTES", 1 << 40)]
)
def test_no_image_is_left_that_takes_long_or_nobody_needs(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, constant: str, value: int
) -> None:
    everything_large(monkeypatch)
    base, layers = chain.publish()
    with Store.open(chain.store) as store, lowers(store, tmp_path) as shown:
        shown.prepare(base.layers)
        monkeypatch.setattr(
            chain_images, constant, 1 if constant == "LEFT_MAX_ENTRIES" else 1 << 40
        )
        shown.leave_base(layers)
        assert open_verified(store.paths, hex_of(chain_id(layers))) is None


def test_a_kernel_that_refuses_is_not_asked_again(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, _ = chain.publish()
    asked = []

    def refuse(*arguments: object) -> None:
        asked.append(arguments)
        raise UnsupportedError("not on this file system")

    monkeypatch.setattr(syscalls, "mount_erofs", refuse)
    with Store.open(chain.store) as store, lowers(store, tmp_path) as shown:
        for _ in range(2):
            shown.prepare(base.layers)
            with shown.lower(base.layers) as path:
                assert compare_trees(chain.tree, path) == []
        with OverlaySnapshotter(shown).prepare(base.layers, tmp_path / "step") as snapshot:
            (snapshot.root / "more").write_text("more")
        layers = (*base.layers, DiffId(sha256_digest(b"a layer of this build")))
        shown.add_upper(layers, snapshot.upper)
        with OverlaySnapshotter(shown).prepare(layers, tmp_path / "next") as snapshot:
            assert (snapshot.root / "more").read_text() == "more"
    assert len(asked) == 1


class TestSteps:
    pytestmark = needs_runc

    def test_steps_run_over_each_other(self, box: Builder) -> None:  # noqa: F811
        require_kernel()
        result = box.build(
            "FROM box\n"
            "RUN cat /proc/self/mountinfo > /one && echo two > /two && rm /etc/group\n"
            "RUN cat /one && cat /proc/self/mountinfo > /three && cat /two > /four\n"
        )
        files = box.files(result)
        assert files["four"].content == b"two\n"
        assert "etc/group" not in files
        roots = {}
        for name in ("one", "three"):
            lines = files[name].content.decode().splitlines()
            roots[name] = next(line for line in lines if " / / " in line)
            assert "/kernel/" in roots[name]
        assert "/upper:" not in roots["one"].partition("lowerdir=")[2].partition(",")[0]
        assert "/upper" in roots["three"].partition("lowerdir")[2].partition("upperdir")[0]
        assert os.listdir(box.store.paths.tmp) == []

    def test_a_step_sees_the_same_whether_the_one_before_ran(
        self,
        box: Builder,  # noqa: F811
    ) -> None:
        """Sockets, times of directories and what the sandbox mounts over are no part of a layer."""
        require_kernel()
        listing = "find / -xdev -path /proc -prune -o -exec stat -c '%n %f %u %g %Y' {} +"
        first = "FROM box\nRUN mkdir /made && echo x > /made/file && rm -r /etc/group && : CHANGE\n"
        for number in range(2):
            box.build(first.replace("CHANGE", str(number)) + f"RUN {listing} > /listing\n")
        # Both steps ran; then the first one is cached, and the second runs again.
        again = first.replace("CHANGE", "1")
        ran = box.files(box.build(again + f"RUN {listing} > /listing\n"))["listing"].content
        over = box.files(box.build(again + f"RUN : again && {listing} > /listing\n"))
        assert without_own_times(over["listing"].content) == without_own_times(ran)
        assert os.listdir(box.store.paths.tmp) == []


def without_own_times(listing: bytes) -> list[bytes]:
    """Return the lines but those of what a step makes itself, or the runtime for it."""
    own = (
        b"/listing ",
        b"/ ",
        b"/etc ",
        b"/dev",
        b"/sys",
        b"/proc",
        b"/etc/resolv.conf",
        b"/etc/hosts",
    )
    return sorted(line for line in listing.splitlines() if not line.startswith(own))
