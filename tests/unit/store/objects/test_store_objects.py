"""The object tier: names, unpacking, eviction, and damage that is found later."""

from __future__ import annotations

import gc
import json
import os
import stat
import time
from typing import TYPE_CHECKING, ClassVar

import pytest
from blake3 import blake3

from layerstore.digest import ChunkId, ObjectId, blake3_id, chain_id, hex_of
from layerstore.errors import FormatError, IntegrityError, StorageError
from layerstore.formats.sidecar import Sidecar, decode_sidecar, encode_sidecar
from layerstore.image.kernel import metadata_files, metadata_image
from layerstore.image.kernel.kernel_tree import kernel_tree
from layerstore.image.kernel.metadata_files import open_verified, open_whole
from layerstore.image.kernel.metadata_image import prepare_view, prepare_view_beside
from layerstore.image.repairing import repair_store
from layerstore.image.trees.stack import load_root
from layerstore.linux.locks import FileLock
from layerstore.measure.df import take_df
from layerstore.progress import Silent
from layerstore.store.check.check import check
from layerstore.store.check.findings import Problem
from layerstore.store.check.scrub import scrub_objects
from layerstore.store.collect.eviction import (
    KeepUnpacked,
    chain_uses,
    evict,
    evict_damaged,
    find_evictable,
    keep_of_images,
)
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.failures import StoreFullError
from layerstore.store.names.usage import KEEP_UNPACKED_WITHIN, age_reference, note_chain_use
from layerstore.store.objects import objects, unpacking
from layerstore.store.objects import tier as object_tier
from layerstore.store.objects.mountable import is_image_of
from layerstore.store.objects.objects import (
    object_id,
    object_sizes,
    present_objects,
)
from layerstore.store.objects.tier import kept_objects, missing_objects
from layerstore.store.objects.unpacking import unpack
from layerstore.store.sharing import share_store
from layerstore.store.store import Store
from layerstore.units import parse_age
from tests.support.store import noise, put_image

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.paths import StorePaths

FILES = {
    b"small": b"small",
    b"again": b"small",
    b"large": noise(1, 1_500_000),
    b"empty": b"",
    **{b"many-%d" % number: b"content %d" % number for number in range(50)},
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", create=True) as store:
        yield store


@pytest.fixture
def image(store: Store) -> ImageRecord:
    with store.begin("test") as session:
        return put_image(session, FILES, names=["a:1"])


def prepare(store: Store, image: ImageRecord) -> None:
    with kept_objects(store.paths):
        os.close(prepare_view(store, image.layers, Silent()))


def use(store: Store, image: ImageRecord, *, backend: str = "kernel") -> str:
    """Write the record of a view; return its path."""
    path = f"{store.paths.views}/0123456789ab.json"
    record = {"layers": list(image.layers), "backend": backend, "target": "/mnt/a"}
    with open(path, "w") as file:
        json.dump({**record, "image_id": image.image_id}, file)
    return path


class TestNames:
    def test_one_chunk_is_named_by_itself(self) -> None:
        chunk = ChunkId(blake3_id(b"content"))
        assert object_id(((7, chunk),)) == chunk

    def test_lists_are_apart_from_content(self) -> None:
        """What a list hashes to must not be reached by a file whose bytes are that list."""
        chunk = ChunkId(blake3_id(b"content"))
        extents = ((7, chunk), (4096, None))
        name = object_id(extents)
        encoded = b"".join(
            objects._EXTENT.pack(length, chunk_id is not None, chunk_id or bytes(32))
            for length, chunk_id in extents
        )
        assert name != blake3(encoded).digest()
        assert name == blake3(encoded, derive_key_context="layerstore object 1").digest()

    def test_holes_and_chunks_of_zeros_differ(self) -> None:
        zeros = ChunkId(bytes(32))
        lists = [((7, None),), ((7, zeros), (1, None)), ((7, None), (1, zeros)), ((8, None),)]
        assert len({object_id(extents) for extents in lists}) == 4


class TestPresence:
    def test_of_what_is_wanted_alone_and_not_behind_links(
        self, store: Store, image: ImageRecord, tmp_path: Path
    ) -> None:
        prepare(store, image)
        there = sorted(present_objects(store.paths))
        wanted = {there[0], there[-1], ObjectId(bytes(32))}
        assert missing_objects(store.paths, wanted) == {ObjectId(bytes(32))}
        assert missing_objects(store.paths, ()) == set()
        moved = f"{store.paths.objects}/{there[0].hex()[:2]}"
        os.rename(moved, tmp_path / "elsewhere")
        os.symlink(tmp_path / "elsewhere", moved)
        assert missing_objects(store.paths, wanted) == wanted - present_objects(store.paths)

    def test_in_directories_much_longer_than_what_is_wanted(
        self, store: Store, image: ImageRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prepare(store, image)
        wanted = set(kernel_tree(load_root(store, image.layers)).objects)
        absent = ObjectId(bytes([min(wanted)[0]]) + bytes(31))
        monkeypatch.setattr(object_tier, "_LISTED_PER_ASKED", 0)
        with monkeypatch.context() as patched:
            patched.setattr(os, "listdir", lambda path: pytest.fail(f"{path} was listed"))
            missing = missing_objects(store.paths, {*wanted, absent})
        assert missing == {absent}

    def test_what_is_whole_is_shown_again_and_nothing_else(
        self, store: Store, image: ImageRecord
    ) -> None:
        assert open_whole(store.paths, image.layers) is None
        prepare(store, image)
        found = open_whole(store.paths, image.layers)
        assert found is not None
        assert os.path.samestat(os.fstat(found), os.stat(TestMetadata().path(store)))
        os.close(found)
        os.unlink(store.paths.object(min(present_objects(store.paths))))
        assert open_whole(store.paths, image.layers) is None
        prepare(store, image)
        os.truncate(TestMetadata().path(store), 4096)
        assert open_whole(store.paths, image.layers) is None


class TestUnpacking:
    def test_each_content_once_and_private(self, store: Store, image: ImageRecord) -> None:
        prepare(store, image)
        tree = kernel_tree(load_root(store, image.layers))
        assert present_objects(store.paths) == set(tree.objects)
        assert len(tree.objects) == len(set(FILES.values()) - {b""})
        contents = set()
        for name in tree.objects:
            path = store.paths.object(name)
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
            with open(path, "rb") as file:
                contents.add(file.read())
        assert contents == set(FILES.values()) - {b""}
        assert os.listdir(store.paths.tmp) == []
        assert check(store, read_data=True).ok

    def test_in_small_batches(
        self, store: Store, image: ImageRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(unpacking, "BATCH_FILES", 3)
        synced = []
        real = unpacking.sync_file_system
        monkeypatch.setattr(
            unpacking, "sync_file_system", lambda path: (synced.append(path), real(path))
        )
        prepare(store, image)
        wanted = kernel_tree(load_root(store, image.layers)).objects
        assert present_objects(store.paths) == set(wanted)
        assert len(synced) == -(-len(wanted) // 3)

    def test_only_what_is_missing_is_written(self, store: Store, image: ImageRecord) -> None:
        prepare(store, image)
        wanted = kernel_tree(load_root(store, image.layers)).objects
        inodes = {name: os.stat(store.paths.object(name)).st_ino for name in wanted}
        gone = object_id(((5, ChunkId(blake3_id(b"small"))),))
        os.unlink(store.paths.object(gone))
        assert unpack(store, wanted, Silent()) == 5
        assert unpack(store, wanted, Silent()) == 0
        for name, inode in inodes.items():
            assert name == gone or os.stat(store.paths.object(name)).st_ino == inode

    def test_damage_in_a_pack_gets_no_name(self, store: Store, image: ImageRecord) -> None:
        large = FILES[b"large"]
        for directory, _, names in os.walk(store.paths.packs):
            for name in names:
                with open(f"{directory}/{name}", "r+b") as file:
                    place = file.read().find(large[1000:1040])
                    if place >= 0:
                        file.seek(place)
                        file.write(b"\0")
        store.reader.close()
        with pytest.raises(IntegrityError):
            prepare(store, image)
        for name, path in objects.object_files(store.paths):
            with open(path, "rb") as file:
                assert blake3_id(file.read()) == name
        assert os.listdir(store.paths.tmp) == []

    def test_what_has_no_room_is_not_begun(
        self, store: Store, image: ImageRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else a full disk would be left with half an image that nothing shows."""
        real = os.statvfs(store.paths.root)
        fields = list(real)
        fields[4] = 1_000_000 // real.f_frsize  # f_bavail
        monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(fields))
        with pytest.raises(StoreFullError, match="unpacking") as caught:
            prepare(store, image)
        assert "fuse" in str(caught.value.hint)
        assert present_objects(store.paths) == set()

    def test_a_sync_that_fails_names_nothing(
        self, store: Store, image: ImageRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(path: str) -> None:
            raise OSError(5, "Input/output error", path)

        monkeypatch.setattr(unpacking, "sync_file_system", fail)
        with pytest.raises(Exception, match="bring unpacked files to disk"):
            prepare(store, image)
        assert present_objects(store.paths) == set()

    def test_a_failure_ends_the_batch_that_is_under_way(
        self, store: Store, image: ImageRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Batches that were on disk before keep their names, and nothing else is left."""
        monkeypatch.setattr(unpacking, "BATCH_FILES", 10)
        synced = []

        def fail_third(path: str) -> None:
            synced.append(path)
            if len(synced) == 3:
                raise OSError(28, "No space left on device", path)

        monkeypatch.setattr(unpacking, "sync_file_system", fail_third)
        with pytest.raises(StoreFullError, match="bring unpacked files to disk"):
            prepare(store, image)
        assert len(present_objects(store.paths)) == 20
        assert os.listdir(store.paths.tmp) == []
        assert check(store, read_data=True).ok

    @pytest.mark.parametrize("umask", [0o077, 0o222, 0])
    def test_modes_do_not_depend_on_the_umask(
        self, store: Store, image: ImageRecord, umask: int
    ) -> None:
        before = os.umask(umask)
        try:
            prepare(store, image)
        finally:
            os.umask(before)
        modes = {os.stat(path).st_mode for _, path in objects.object_files(store.paths)}
        assert modes == {stat.S_IFREG | 0o600}

    @pytest.mark.root
    @pytest.mark.skipif(os.geteuid() != 0, reason="giving files to a group needs root")
    def test_a_store_that_is_opened_to_a_group_opens_its_objects(
        self, store: Store, image: ImageRecord
    ) -> None:
        prepare(store, image)
        share_store(store.paths, 12_345)
        for _, path in objects.object_files(store.paths):
            directory = os.stat(os.path.dirname(path))
            assert (directory.st_mode & 0o7777, directory.st_gid) == (0o2770, 12_345)
            file = os.stat(path)
            assert (file.st_mode & 0o7777, file.st_gid) == (0o660, 12_345)

    @pytest.mark.skipif(os.geteuid() != 0, reason="giving files to a group needs root")
    @pytest.mark.parametrize("spreads", [True, False])
    def test_in_a_store_of_a_group_all_is_the_groups(
        self,
        store: Store,
        image: ImageRecord,
        spreads: bool,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        if not spreads:
            monkeypatch.setattr(unpacking, "spread_children", lambda directory: False)
        share_store(store.paths, 12_345)
        prepare(store, image)
        for _, path in objects.object_files(store.paths):
            file = os.stat(path)
            assert (file.st_mode & 0o7777, file.st_gid) == (0o660, 12_345)
        assert os.listdir(store.paths.tmp) == []


class TestOnABase:
    """Images whose metadata is made of that of a base."""

    ADDED: ClassVar = {b"srv/a": b"an application", b"srv/again": b"small", b"srv/b": b"b" * 9}

    @pytest.fixture
    def app(self, store: Store, image: ImageRecord) -> ImageRecord:
        prepare(store, image)
        with store.begin("test") as session:
            return put_image(session, FILES, self.ADDED, names=["app:1"])

    def test_what_it_adds_is_unpacked(self, store: Store, app: ImageRecord) -> None:
        before = present_objects(store.paths)
        prepare(store, app)
        assert len(present_objects(store.paths) - before) == 2
        wanted = kernel_tree(load_root(store, app.layers)).objects
        assert present_objects(store.paths) == set(wanted)
        assert open_whole(store.paths, app.layers) is not None
        assert os.listdir(store.paths.tmp) == []
        assert check(store, read_data=True).ok

    def test_files_that_the_base_has_lost_are_unpacked_again(
        self, store: Store, app: ImageRecord
    ) -> None:
        before = present_objects(store.paths)
        for name in sorted(before)[:3]:
            os.unlink(store.paths.object(name))
        prepare(store, app)
        assert before < present_objects(store.paths)
        assert open_whole(store.paths, app.layers) is not None

    def test_the_image_is_made_while_the_disk_works(
        self, store: Store, app: ImageRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sidecar = store.paths.metadata_sidecar(hex_of(chain_id(app.layers)))
        made: list[bool] = []

        def sync(path: str) -> None:
            until = time.monotonic() + 60
            while not os.path.exists(sidecar) and time.monotonic() < until:
                time.sleep(0.01)
            made.append(os.path.exists(sidecar))
            assert len(present_objects(store.paths)) == len(set(FILES.values()) - {b""})

        monkeypatch.setattr(unpacking, "sync_file_system", sync)
        prepare(store, app)
        assert made == [True]

    def test_a_sync_that_fails_names_nothing_and_leaves_nothing_open(
        self, store: Store, app: ImageRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = present_objects(store.paths)

        def fail(path: str) -> None:
            raise OSError(5, "Input/output error", path)

        with monkeypatch.context() as patched:
            patched.setattr(unpacking, "sync_file_system", fail)
            with pytest.raises(Exception, match="bring unpacked files to disk"):
                prepare(store, app)
            os.unlink(store.paths.metadata_sidecar(hex_of(chain_id(app.layers))))
            gc.collect()  # what other tests left to it closes now, and not in between
            opened = os.listdir("/proc/self/fd")
            with pytest.raises(Exception, match="bring unpacked files to disk"):
                prepare(store, app)
            assert os.listdir("/proc/self/fd") == opened
        assert present_objects(store.paths) == before
        assert os.listdir(store.paths.tmp) == []
        assert open_whole(store.paths, app.layers) is None
        prepare(store, app)
        assert open_whole(store.paths, app.layers) is not None

    def test_layers_that_replace_are_unpacked_too(self, store: Store, image: ImageRecord) -> None:
        prepare(store, image)
        with store.begin("test") as session:
            app = put_image(session, FILES, {b"small": b"another"}, names=["app:1"])
        prepare(store, app)
        assert open_whole(store.paths, app.layers) is not None


class TestMetadata:
    def path(self, store: Store) -> str:
        (name,) = (n for n in os.listdir(store.paths.metadata) if n.endswith(".erofs"))
        return f"{store.paths.metadata}/{name}"

    @pytest.mark.parametrize(
        "harm",
        [
            lambda path: os.truncate(path, 4096),
            lambda path: os.chmod(path, 0o620),
            lambda path: os.link(path, f"{path}.other"),
            lambda path: os.unlink(path),
            lambda path: os.truncate(path.replace(".erofs", ".objects"), 100),
            lambda path: os.unlink(path.replace(".erofs", ".objects")),
        ],
    )
    def test_a_doubtful_image_is_made_anew(self, store: Store, image: ImageRecord, harm) -> None:
        prepare(store, image)
        path = self.path(store)
        with open(path, "rb") as file:
            good = file.read()
        harm(path)
        prepare(store, image)
        with open(path, "rb") as file:
            assert file.read() == good
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600

    def test_one_that_was_replaced_by_its_like_is_still_good(
        self, store: Store, image: ImageRecord
    ) -> None:
        prepare(store, image)
        found = open_verified(store.paths, hex_of(chain_id(image.layers)))
        assert found is not None
        fd, sidecar = found
        os.unlink(self.path(store))
        assert is_image_of(fd, sidecar)
        os.close(fd)

    def test_a_flipped_bit_is_seen(self, store: Store, image: ImageRecord) -> None:
        prepare(store, image)
        path = self.path(store)
        with open(path, "r+b") as file:
            good = file.read()
            file.seek(2000)
            file.write(bytes([good[2000] ^ 1]))
        prepare(store, image)
        with open(path, "rb") as file:
            assert file.read() == good


class TestGrownMetadata:
    """Images of applications on one base; what such an image has: test_grown_image.py."""

    def images(self, store: Store, count: int = 2) -> list[ImageRecord]:
        base = {b"base/%d" % number: b"%d" % number for number in range(50)}
        with store.begin("test") as session:
            return [
                put_image(session, base, {b"app/%d" % number: b"app %d" % number, b"x": b""})
                for number in range(count)
            ]

    def test_they_lead_to_all_files_and_decode_the_base_once(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        images = self.images(store)
        prepare(store, images[0])
        loaded = []
        monkeypatch.setattr(metadata_image, "load_root", lambda *args: loaded.append(args))
        prepare(store, images[1])
        assert not loaded, "only what the second adds is looked at"
        for image in images:
            found = open_verified(store.paths, hex_of(chain_id(image.layers)))
            assert found is not None
            os.close(found[0])
            assert found[1].objects == kernel_tree(load_root(store, image.layers)).objects.keys()
            assert found[1].objects <= present_objects(store.paths)

    def test_of_a_base_that_is_known_nothing_is_asked(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        images = self.images(store, 4)
        for image in images[:2]:  # the second finds what the first had to unpack
            prepare(store, image)
        asked: list[int] = []

        def counted(paths: StorePaths, wanted: Collection[ObjectId]) -> set[ObjectId]:
            asked.append(len(wanted))
            return missing_objects(paths, wanted)

        for module in (unpacking, metadata_image, metadata_files):
            monkeypatch.setattr(module, "missing_objects", counted)
        prepare(store, images[2])
        TestBeside().make(store, images[3])
        whole = [open_whole(store.paths, image.layers) for image in images[1:]]
        for fd in whole:
            assert fd is not None
            os.close(fd)
        # What each adds, and beside it the base; then three images of which all is known.
        assert asked == [1, 0, 1, 0, 0, 0]

    @pytest.mark.parametrize("how", ["by hand", "by repair", "by gc"])
    def test_files_of_a_base_that_was_known_are_unpacked_again(
        self, store: Store, how: str
    ) -> None:
        images = self.images(store, 3)
        for image in images[:2]:
            prepare(store, image)
        gone = object_id(((1, ChunkId(blake3_id(b"7"))),))
        if how == "by hand":
            os.unlink(store.paths.object(gone))
        elif how == "by repair":
            assert evict_damaged(store.paths, [gone]) == 1
        else:
            evict(store.paths)
        assert open_whole(store.paths, images[1].layers) is None
        prepare(store, images[2])
        assert gone in present_objects(store.paths)
        found = open_verified(store.paths, hex_of(chain_id(images[2].layers)))
        assert found is not None
        os.close(found[0])
        assert not missing_objects(store.paths, found[1].objects)

    def test_files_of_the_base_that_are_gone_are_unpacked_again(self, store: Store) -> None:
        first, second = self.images(store)
        prepare(store, first)
        wanted = kernel_tree(load_root(store, second.layers)).objects
        shared = set(wanted) & present_objects(store.paths)
        for name in shared:
            os.unlink(store.paths.object(name))
        prepare(store, second)
        assert len(shared) == 50
        assert not missing_objects(store.paths, wanted)

    def test_a_damaged_image_of_the_base_is_made_anew(self, store: Store) -> None:
        first, second = self.images(store)
        prepare(store, first)
        base = hex_of(chain_id(first.layers[:1]))
        with open(store.paths.metadata_image(base), "r+b") as file:
            good = file.read()
            file.seek(2000)
            file.write(bytes([good[2000] ^ 1]))
        prepare(store, second)
        with open(store.paths.metadata_image(base), "rb") as file:
            assert file.read() == good


class TestBeside:
    """Made by who keeps nobody waiting."""

    def make(self, store: Store, image: ImageRecord) -> None:
        with kept_objects(store.paths):
            prepare_view_beside(store, image.layers, f"{store.paths.tmp}/beside")

    def test_it_waits_for_nobody_who_unpacks_and_nobody_for_it(self, store: Store) -> None:
        grown = TestGrownMetadata().images(store)[0]
        with store.begin("test") as session:
            alone = put_image(session, FILES)
        with FileLock(store.paths.unpack_lock):  # who took it once more would wait for itself
            for image in (grown, alone):
                self.make(store, image)
                whole = open_whole(store.paths, image.layers)
                assert whole is not None
                os.close(whole)
        assert os.listdir(store.paths.tmp) == []

    def test_what_another_unpacked_meanwhile_stays(
        self, store: Store, image: ImageRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inodes = []

        def inode(name: ObjectId) -> int:
            return os.stat(store.paths.object(name)).st_ino

        def another(path: str) -> None:
            monkeypatch.undo()
            # Without its files it would have all layers read.
            assert open_verified(store.paths, hex_of(chain_id(image.layers))) is None
            prepare(store, image)
            inodes.extend(map(inode, sorted(present_objects(store.paths))))

        monkeypatch.setattr(unpacking, "sync_file_system", another)
        self.make(store, image)
        assert list(map(inode, sorted(present_objects(store.paths)))) == inodes
        assert len(inodes) > 50
        assert os.listdir(store.paths.tmp) == []

    def test_a_tenth_of_the_disk_stays_free(
        self, store: Store, image: ImageRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = os.statvfs(store.paths.root)
        blocks = 200_000_000 // real.f_frsize

        def free(share: int) -> None:
            fields = list(real)
            fields[2], fields[4] = blocks, share  # f_blocks, f_bavail
            monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(fields))

        free(blocks // 10 - 1)
        with pytest.raises(StoreFullError, match="are to stay so"):
            self.make(store, image)
        assert not os.path.exists(store.paths.metadata)
        free(blocks // 10 + 1_000_000 // real.f_frsize)
        with pytest.raises(StoreFullError, match="unpacking 52 files"):
            self.make(store, image)
        assert present_objects(store.paths) == set()
        free(blocks // 10 + 3_000_000 // real.f_frsize)
        self.make(store, image)
        assert len(present_objects(store.paths)) == 52


class TestSidecar:
    def test_there_and_back(self) -> None:
        sidecar = Sidecar(4096, bytes(range(32)), frozenset({ChunkId(bytes(32)), bytes([1]) * 32}))
        encoded = encode_sidecar(*sidecar)
        assert decode_sidecar(encoded) == sidecar
        for place in range(len(encoded)):
            broken = bytearray(encoded)
            broken[place] ^= 1
            with pytest.raises(FormatError):
                decode_sidecar(bytes(broken))
            with pytest.raises(FormatError):
                decode_sidecar(encoded[:place])


class TestEviction:
    def test_what_no_view_needs_goes(self, store: Store, image: ImageRecord) -> None:
        prepare(store, image)
        count = len(present_objects(store.paths))
        found = find_evictable(store.paths)
        assert (len(found.objects), found.kept, found.doubt) == (count, 0, "")
        assert present_objects(store.paths)
        assert evict(store.paths) == found
        assert present_objects(store.paths) == set()
        assert os.listdir(store.paths.metadata) == []
        assert not os.path.exists(store.paths.whole_images)

    def test_views_keep_theirs_and_no_others(self, store: Store, image: ImageRecord) -> None:
        with store.begin("test") as session:
            other = put_image(session, {b"small": b"small", b"own": b"own"}, names=["b:1"])
        prepare(store, image)
        prepare(store, other)
        use(store, other)
        evict(store.paths)
        assert present_objects(store.paths) == {blake3_id(b"small"), blake3_id(b"own")}
        row = next(row for row in take_df(store).rows if row.kind == "Unpacked for views")
        assert (row.count, row.active, row.reclaimable) == (2, 2, 0)

    def test_views_of_fuse_need_none(self, store: Store, image: ImageRecord) -> None:
        prepare(store, image)
        use(store, image, backend="fuse")
        evict(store.paths)
        assert present_objects(store.paths) == set()

    @pytest.mark.parametrize("harm", ["sidecar", "record"])
    def test_doubt_keeps_everything(self, store: Store, image: ImageRecord, harm: str) -> None:
        prepare(store, image)
        before = present_objects(store.paths)
        record = use(store, image)
        if harm == "record":
            os.truncate(record, 3)
        else:
            for name in os.listdir(store.paths.metadata):
                os.truncate(f"{store.paths.metadata}/{name}", 50)
        assert evict(store.paths).doubt
        assert present_objects(store.paths) == before

    def test_nothing_goes_while_a_view_is_made(self, store: Store, image: ImageRecord) -> None:
        prepare(store, image)
        with FileLock(store.paths.objects_lock, shared=True):
            assert evict(store.paths).doubt.startswith("a view is being made")
        assert present_objects(store.paths)

    def test_df_counts_them_apart(self, store: Store, image: ImageRecord) -> None:
        before = take_df(store)
        assert not any(row.kind == "Unpacked for views" and row.size for row in before.rows)
        prepare(store, image)
        usage = take_df(store)
        row = next(row for row in usage.rows if row.kind == "Unpacked for views")
        sizes = object_sizes(store.paths)
        assert row.count == len(sizes)
        assert row.size > sum(file.size for file in sizes.values())
        assert row.reclaimable == 0, "gc keeps for a week what an image needed"
        assert usage.droppable >= sum(file.disk_size for file in sizes.values())
        images = [row.size for row in usage.rows if row.kind == "Images"]
        assert images == [row.size for row in before.rows if row.kind == "Images"]

    def test_df_foretells_what_of_them_gc_removes(self, store: Store, image: ImageRecord) -> None:
        with store.begin("test") as session:
            other = put_image(session, {b"small": b"small", b"own": noise(3, 9000)}, names=["b:1"])
        for one in (image, other):
            prepare(store, one)
        now = time.time()
        for path, days in (
            (store.paths.metadata_sidecar(hex_of(chain_id(image.layers))), 10),
            (store.paths.blob(image.image_id), 10),
            (store.paths.metadata_sidecar(hex_of(chain_id(other.layers))), 1),
        ):
            os.utime(path, (now - days * 86400, now - days * 86400))
        usage = take_df(store)
        found = find_evictable(
            store.paths, keep_of_images(store, store.images(), parse_age(KEEP_UNPACKED_WITHIN))
        )
        row = next(row for row in usage.rows if row.kind == "Unpacked for views")
        assert 1_500_000 < row.reclaimable == found.size < row.size
        assert usage.reclaimable == found.disk_size
        store.untag("b:1")  # its files go with it, although they were needed yesterday
        gone = take_df(store)
        plan = plan_gc(store)
        report = execute(plan)
        keep = keep_of_images(store, store.images(), parse_age(KEEP_UNPACKED_WITHIN))
        evicted = evict(store.paths, keep)
        assert evicted.disk_size > found.disk_size
        assert gone.reclaimable == report.freed_bytes + evicted.disk_size

    def test_nothing_outside_of_the_store_goes(
        self, store: Store, image: ImageRecord, tmp_path: Path
    ) -> None:
        prepare(store, image)
        name = min(present_objects(store.paths)).hex()
        outside = tmp_path / "outside"
        os.rename(f"{store.paths.objects}/{name[:2]}", outside)
        os.symlink(outside, f"{store.paths.objects}/{name[:2]}")
        evict(store.paths)
        assert (outside / name).exists()
        with pytest.raises(StorageError):
            prepare(store, image)


DAY_S = 86400.0
NOW_S = 1_800_000_000.0


class TestKeptUnpacked:
    """What no view needs stays for a while, by rules that look at when one needed it."""

    def keep(
        self,
        store: Store,
        *,
        within_s: float = 7 * DAY_S,
        max_bytes: int | None = None,
        now_s: float = NOW_S,
    ) -> KeepUnpacked:
        chains = frozenset(hex_of(chain_id(image.layers)) for image in store.images())
        reference = age_reference(now_s, chain_uses(store.paths).values())
        return KeepUnpacked(chains, within_s, max_bytes, reference)

    def used(self, store: Store, image: ImageRecord, age_s: float) -> None:
        path = store.paths.metadata_sidecar(hex_of(chain_id(image.layers)))
        os.utime(path, (NOW_S - age_s, NOW_S - age_s))

    @pytest.fixture
    def other(self, store: Store) -> ImageRecord:
        with store.begin("test") as session:
            return put_image(session, {b"small": b"small", b"own": b"own"}, names=["b:1"])

    def test_the_last_used_stay(self, store: Store, image: ImageRecord, other: ImageRecord) -> None:
        prepare(store, image)
        prepare(store, other)
        self.used(store, image, 8 * DAY_S)
        self.used(store, other, 0)
        count = len(present_objects(store.paths))
        found = evict(store.paths, self.keep(store))
        assert (len(found.objects), found.kept, found.recent) == (count - 2, 0, 2)
        assert found.recent_bytes == sum(
            file.disk_size for file in object_sizes(store.paths).values()
        )
        assert present_objects(store.paths) == {blake3_id(b"small"), blake3_id(b"own")}
        chain = hex_of(chain_id(other.layers))
        assert sorted(os.listdir(store.paths.metadata)) == [f"{chain}.erofs", f"{chain}.objects"]

    def test_a_view_is_a_use_and_needs_no_rule(
        self, store: Store, image: ImageRecord, other: ImageRecord
    ) -> None:
        prepare(store, image)
        prepare(store, other)
        use(store, image)
        self.used(store, image, 300 * DAY_S)
        self.used(store, other, 0)
        found = evict(store.paths, self.keep(store, within_s=0.0, max_bytes=0))
        assert found.objects == (blake3_id(b"own"),)
        assert check(store, read_data=True).ok

    def test_uses_are_noted(self, store: Store, image: ImageRecord) -> None:
        prepare(store, image)
        self.used(store, image, 300 * DAY_S)
        chain = hex_of(chain_id(image.layers))
        before = chain_uses(store.paths)[chain]
        note_chain_use(store.paths, chain)
        assert chain_uses(store.paths)[chain] > before
        note_chain_use(store.paths, "0" * 64)  # one that was evicted meanwhile

    def test_files_of_no_image_go(
        self, store: Store, image: ImageRecord, other: ImageRecord
    ) -> None:
        prepare(store, image)
        prepare(store, other)
        self.used(store, image, 0)
        self.used(store, other, 0)
        store.remove_image(image.image_id)
        evict(store.paths, self.keep(store))
        assert present_objects(store.paths) == {blake3_id(b"small"), blake3_id(b"own")}

    def test_a_cap_lets_the_longest_unused_go(
        self, store: Store, image: ImageRecord, other: ImageRecord
    ) -> None:
        prepare(store, image)
        prepare(store, other)
        self.used(store, image, 2 * DAY_S)
        self.used(store, other, 1 * DAY_S)
        everything = sum(file.disk_size for file in object_sizes(store.paths).values())
        assert evict(store.paths, self.keep(store, max_bytes=everything)).objects == ()
        evict(store.paths, self.keep(store, max_bytes=everything - 1))
        assert present_objects(store.paths) == {blake3_id(b"small"), blake3_id(b"own")}
        evict(store.paths, self.keep(store, max_bytes=0))
        assert present_objects(store.paths) == set()

    @pytest.mark.parametrize("jump_s", [-3000 * DAY_S, 3000 * DAY_S])
    def test_a_clock_that_jumped_evicts_nothing(
        self, store: Store, image: ImageRecord, jump_s: float
    ) -> None:
        prepare(store, image)
        self.used(store, image, 0)
        found = evict(store.paths, self.keep(store, now_s=NOW_S + jump_s))
        assert found.objects == ()
        assert found.recent == len(present_objects(store.paths))

    def test_a_damaged_list_keeps_nothing(self, store: Store, image: ImageRecord) -> None:
        prepare(store, image)
        keep = self.keep(store)
        os.truncate(store.paths.metadata_sidecar(hex_of(chain_id(image.layers))), 70)
        evict(store.paths, keep)
        assert present_objects(store.paths) == set()
        prepare(store, image)
        assert check(store, read_data=True).ok


class TestScrub:
    @pytest.mark.parametrize("used", [False, True])
    @pytest.mark.parametrize("path", [b"small", b"large"])
    def test_a_flipped_bit_is_found(
        self, store: Store, image: ImageRecord, path: bytes, used: bool
    ) -> None:
        prepare(store, image)
        if used:
            use(store, image)
        root = load_root(store, image.layers)
        assert root.children is not None
        name = object_id(root.children[path].entry.extents)
        with open(store.paths.object(name), "r+b") as file:
            file.write(bytes([FILES[path][0] ^ 1]))
        assert check(store, read_data=False).ok
        report = check(store, read_data=True)
        (finding,) = report.findings
        assert finding.digest == name.hex()
        assert report.ok == (not used)
        if used:
            assert finding.problem is Problem.OBJECT_DAMAGED
            assert "/mnt/a" in finding.message
        else:
            assert finding.problem is Problem.UNUSED_OBJECT_DAMAGED
            evict(store.paths)
            assert check(store, read_data=True).findings == ()

    @pytest.mark.parametrize("used", [False, True])
    def test_what_a_lost_list_of_files_is_about_is_not_called_damaged(
        self, store: Store, image: ImageRecord, used: bool
    ) -> None:
        prepare(store, image)
        root = load_root(store, image.layers)
        assert root.children is not None
        large = object_id(root.children[b"large"].entry.extents)
        with open(store.paths.object(large), "r+b") as file:
            file.write(b"damage")
        if used:
            use(store, image)
        (record,) = (store.layer(diff_id) for diff_id in image.layers)
        with store.catalog.write() as connection:
            for _, chunk_id in record.tree:
                connection.execute("DELETE FROM chunks WHERE id = ?", (chunk_id,))
        told = {each.digest: each for each in check(store, read_data=True).findings}
        (finding,) = (each for each in told.values() if "object" in each.problem)
        assert finding.digest == large.hex(), "what is sound says so by itself"
        assert finding.problem is Problem.OBJECT_UNKNOWN
        assert "list of files is lost" in finding.message
        assert ("/mnt/a" in finding.message) == used
        assert repair_store(store.paths.root, (), dry_run=True).unpacked == 0

    @pytest.mark.parametrize("damaged", [b"", b"small", b"large"])
    def test_files_outlive_their_layer_and_are_sound_until_they_are_not(
        self, store: Store, image: ImageRecord, damaged: bytes
    ) -> None:
        prepare(store, image)
        root = load_root(store, image.layers)
        assert root.children is not None
        store.remove_image(image.image_id)
        with FileLock(store.paths.objects_lock, shared=True):  # as builds hold it
            execute(plan_gc(store))
        assert list(store.layers()) == []
        assert len(present_objects(store.paths)) > 1
        if damaged:
            name = object_id(root.children[damaged].entry.extents)
            with open(store.paths.object(name), "r+b") as file:
                file.write(bytes([FILES[damaged][0] ^ 1]))
        report = check(store, read_data=True)
        assert report.ok
        problems = [Problem.UNUSED_OBJECT_DAMAGED] if damaged else []
        assert [finding.problem for finding in report.findings] == problems
        assert repair_store(store.paths.root, (), dry_run=False).unpacked == len(problems)

    @pytest.mark.parametrize(
        ("path", "problem"),
        [(b"small", Problem.OBJECT_DAMAGED), (b"large", Problem.OBJECT_UNKNOWN)],
    )
    def test_what_only_another_store_knows_is_not_called_damaged(
        self, store: Store, image: ImageRecord, path: bytes, problem: Problem
    ) -> None:
        """As a lazy view has it: shown here, listed elsewhere."""
        prepare(store, image)
        use(store, image)
        root = load_root(store, image.layers)
        assert root.children is not None
        with store.catalog.write() as connection:
            connection.execute("DELETE FROM layers")
        before = [each.problem for each in scrub_objects(store, Silent())]
        assert before == []
        name = object_id(root.children[path].entry.extents)
        with open(store.paths.object(name), "r+b") as file:
            file.write(bytes([FILES[path][0] ^ 1]))
        (finding,) = scrub_objects(store, Silent())
        assert finding.problem is problem
        assert "/mnt/a" in finding.message

    def test_repair_lets_damage_be_unpacked_anew(self, store: Store, image: ImageRecord) -> None:
        prepare(store, image)
        name = blake3_id(b"small")
        others = present_objects(store.paths) - {name}
        with open(store.paths.object(ObjectId(name)), "r+b") as file:
            file.write(b"S")
        root = store.paths.root
        assert repair_store(root, (), dry_run=True).unpacked == 1
        assert name in present_objects(store.paths)
        outcome = repair_store(root, (), dry_run=False)
        assert (outcome.unpacked, outcome.ok) == (1, True)
        assert present_objects(store.paths) == others
        prepare(store, image)
        assert check(store, read_data=True).findings == ()

    def test_repair_takes_nothing_from_a_view(self, store: Store, image: ImageRecord) -> None:
        """Its files would be gone for it, and the view may have come after the check."""
        prepare(store, image)
        use(store, image)
        names = present_objects(store.paths)
        assert evict_damaged(store.paths, names) == 0
        os.truncate(f"{store.paths.views}/0123456789ab.json", 3)
        assert evict_damaged(store.paths, names) == 0
        os.unlink(f"{store.paths.views}/0123456789ab.json")
        with FileLock(store.paths.objects_lock, shared=True):
            assert evict_damaged(store.paths, names) == 0
        assert present_objects(store.paths) == names
        assert evict_damaged(store.paths, names) == len(names)
