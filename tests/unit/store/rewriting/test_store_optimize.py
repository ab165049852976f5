"""Optimizing: the same bytes in fewer, wherever it is interrupted and whoever else works."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from layerstore.errors import LayerstoreError
from layerstore.formats.tree import decode_changeset
from layerstore.image.layers.similar import SimilarFiles
from layerstore.image.optimize import contents_in_order
from layerstore.linux.locks import FileLock, is_held
from layerstore.store.check.check import check
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.failures import GcRunningError
from layerstore.store.packs import pack_writer
from layerstore.store.packs.differences import COST_MAX_BYTES, WRITE_DEPTH_MAX
from layerstore.store.rebuild.rebuild import rebuild_catalog
from layerstore.store.rewriting import depths
from layerstore.store.rewriting import optimize as module
from layerstore.store.rewriting.optimize import find_cold, optimize
from layerstore.store.store import Store
from tests.support.store import (
    add_image,
    add_version,
    assert_sound,
    blobs_of,
    disk_bytes,
    noise,
    put_unpublished_layer,
    read_image,
    text,
    versions,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.store.records import Refs
    from tests.support.store import Files

LEVEL = 6
"""Of the tests: what is moved where does not depend on it."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def run(root: Path) -> module.OptimizeReport:
    with Store.open(root) as store:
        report = optimize(store, contents_in_order(store), level=LEVEL)
        execute(plan_gc(store))
    return report


def fill(root: Path, count: int = 6) -> dict[str, list[Files]]:
    """Images that resemble each other, stored without differences, and one that does not."""
    expected = {}
    for number, files in enumerate(versions(count)):
        add_image(root, f"app:{number}", files)
        expected[f"app:{number}"] = [files]
    other = {b"doc/%d.txt" % n: text(n, 20_000) for n in range(30)}
    add_image(root, "other:latest", other)
    return {**expected, "other:latest": [other]}


def test_the_same_bytes_in_fewer(root: Path) -> None:
    expected = fill(root)
    before = disk_bytes(root)
    report = run(root)
    assert report.skipped == 0
    assert disk_bytes(root) < before / 1.5
    assert_sound(root, expected)
    with Store.open(root) as store:
        rows = store.catalog.block_rows()
        assert {row.depth for row in rows} == {0, 1, 2}
        assert max(row.depth for row in rows) <= WRITE_DEPTH_MAX
        assert max(row.cost for row in rows) <= COST_MAX_BYTES
        assert all(row.effort == LEVEL for row in store.catalog.pack_rows())


def test_a_second_run_finds_nothing_and_a_harder_one_everything(root: Path) -> None:
    expected = fill(root)
    run(root)
    before = disk_bytes(root)
    with Store.open(root) as store:
        assert not find_cold(store, LEVEL).packs
        assert find_cold(store, LEVEL + 1).packs
    assert run(root).items == 0
    assert disk_bytes(root) == before
    assert_sound(root, expected)


def test_neighbours_share_what_they_have_in_common(root: Path) -> None:
    """Files of many names with common parts: blocks of a run lean on its middle."""
    pool = noise(1, 600_000)
    files = {
        b"bin/%c%c" % (97 + n // 26, 97 + n % 26): pool[n * 9_000 :][:80_000] + noise(n, 100_000)
        for n in range(28)
    }
    add_image(root, "tools", files)
    before = disk_bytes(root)
    run(root)
    assert disk_bytes(root) < before * 0.95
    assert_sound(root, {"tools": [files]})
    with Store.open(root) as store:
        rows = store.catalog.block_rows()
        assert {row.depth for row in rows} == {0, 1, 2}
        assert max(row.cost for row in rows) <= COST_MAX_BYTES


def test_new_content_after_a_run_hangs_on_what_was_optimized(root: Path) -> None:
    many = versions(9)
    for number, files in enumerate(many[:5]):
        add_version(root, f"app:{number}", files)
    run(root)
    for number, files in enumerate(many[5:], 5):
        add_version(root, f"app:{number}", files)
    run(root)
    assert_sound(root, {f"app:{n}": [files] for n, files in enumerate(many)})
    with Store.open(root) as store:
        assert max(row.depth for row in store.catalog.block_rows()) <= WRITE_DEPTH_MAX


def test_interrupted_anywhere_nothing_is_lost_and_the_next_run_ends_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fill(root)
    monkeypatch.setattr(pack_writer, "PACK_TARGET_BYTES", 200_000)
    real = module.publish_pack
    for allowed in (0, 0, 1, 1):
        left = allowed

        def publish(*arguments, **options):
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(module, "publish_pack", publish)
            with Store.open(root) as store, pytest.raises(KeyboardInterrupt):
                optimize(store, contents_in_order(store), level=LEVEL)
        assert_sound(root, expected)
    run(root)
    with Store.open(root) as store:
        assert not find_cold(store, LEVEL).packs
    assert_sound(root, expected)
    assert list((root / "tmp").iterdir()) == []


def test_a_session_that_began_a_difference_meanwhile_is_readable(root: Path) -> None:
    many = versions(6)
    for number, files in enumerate(many[:5]):
        add_image(root, f"app:{number}", files)
    with Store.open(root) as store, store.begin("test") as session:
        record = put_unpublished_layer(session, many[5], SimilarFiles(store))
        session._finish_packs()
        with Store.open(root) as other:
            optimize(other, contents_in_order(other), level=LEVEL)
        session.publish_layer(record)
        session.publish_image(*blobs_of([record.diff_id]), [record.diff_id], names=["app:5"])
    with Store.open(root) as store:
        execute(plan_gc(store))
    assert_sound(root, {f"app:{n}": [files] for n, files in enumerate(many)})


def refs_of(store: Store, name: str, path: bytes) -> Refs:
    """Return the chunks of one file of an image of one layer."""
    (diff_id,) = store.resolve(name).layers
    tree = decode_changeset(store.read_refs(store.layer(diff_id).tree))
    (entry,) = [entry for entry in tree.entries if entry.path == path]
    return tuple((length, chunk) for length, chunk in entry.extents if chunk is not None)


def test_a_base_that_became_one_meanwhile_makes_no_circle(root: Path) -> None:
    """It stays where it is, and so does what would have become a difference against it."""
    one, two, three = (
        {b"lib/f.so": files[b"lib/f0.so"]} for files in versions(3, size=100_000, files=1)
    )
    add_version(root, "app:1", one)
    add_version(root, "app:2", two)
    with Store.open(root) as store:
        first, second = (refs_of(store, name, b"lib/f.so") for name in ("app:1", "app:2"))
        assert store.catalog.places(c for _, c in second)[second[0][1]].depth == 1

        def contents() -> Iterator[module.FileContent]:
            add_version(root, "app:3", three)
            yield module.FileContent(other, (), is_base=True)
            yield module.FileContent(second, other, generation=1)
            yield module.FileContent(first, second, generation=2)

        add_image(root, "other", {b"f": noise(5, 100_000) + two[b"lib/f.so"][:90_000]})
        other = refs_of(store, "other", b"f")
        optimize(store, contents(), level=LEVEL)
    assert_sound(root, {"app:1": [one], "app:2": [two], "app:3": [three]})
    run(root)
    assert_sound(root, {"app:1": [one], "app:2": [two], "app:3": [three]})


def test_gc_copies_an_item_only_from_where_it_is(root: Path) -> None:
    """Its other copy, left in a block that is copied whole, is a difference against its own."""
    one = {b"lib/f1.so": noise(1, 100_000)}
    two = {b"lib/f2.so": one[b"lib/f1.so"][:50_000] + b"two" + one[b"lib/f1.so"][50_000:]}
    two[b"lib/f3.so"] = b"three" + one[b"lib/f1.so"]
    add_version(root, "app:1", one)
    add_version(root, "app:2", two)
    with Store.open(root) as store:
        first = refs_of(store, "app:1", b"lib/f1.so")
        moving = refs_of(store, "app:2", b"lib/f2.so")
        staying = refs_of(store, "app:2", b"lib/f3.so")
        places = store.catalog.places(c for _, c in moving + staying)
        assert len({place.block for place in places.values()}) == 1, "they share a difference"
        contents = [
            module.FileContent(moving, (), is_base=True),
            module.FileContent(first, moving, generation=1),
        ]
        optimize(store, contents, level=LEVEL)
        places = store.catalog.places(c for _, c in first + moving + staying)
        assert [places[refs[0][1]].depth for refs in (moving, first, staying)] == [0, 1, 2]
        execute(plan_gc(store, rewrite_dead_fraction=0.1))
    assert_sound(root, {"app:1": [one], "app:2": [two]})


def test_depths_are_worked_out_while_others_may_write(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a million chunks that takes seconds."""
    expected = fill(root, 3)
    locked: list[bool] = []
    alone = depths._alone

    def asked(*what: object) -> object:
        locked.append(is_held(f"{root}/locks/catalog"))
        return alone(*what)  # type: ignore[arg-type]

    monkeypatch.setattr(depths, "_alone", asked)
    with Store.open(root) as store:
        optimize(store, contents_in_order(store), level=LEVEL)
    assert locked
    assert not any(locked)
    assert_sound(root, expected)


def test_wrong_depths_are_set_right(root: Path) -> None:
    for number, files in enumerate(versions(3)):
        add_version(root, f"app:{number}", files)
    with Store.open(root) as store:
        right = store.catalog.block_rows()
        with store.catalog.write() as connection:
            connection.execute("UPDATE blocks SET depth = 7, cost = raw WHERE depth > 0")
        depths.refresh_depths_beside_writers(store.catalog)
        assert store.catalog.block_rows() == right


def test_bases_without_an_image_of_their_own_are_let_go(root: Path) -> None:
    one, two, three = versions(3)
    for name, files in (("a:1", one), ("a:2", two), ("a:3", three)):
        add_version(root, name, files)
    with Store.open(root) as store:
        store.untag("a:1")
        store.untag("a:2")
        execute(plan_gc(store))
    run(root)
    assert_sound(root, {"a:3": [three]})
    with Store.open(root) as store:
        assert store.catalog.base_rows() == []


def test_what_is_damaged_stays_and_is_told(root: Path) -> None:
    expected = fill(root, 2)
    add_image(root, "bad:1", {b"bad": noise(77, 50_000)})
    with Store.open(root) as store:
        newest = max(store.catalog.pack_rows(), key=lambda row: row.pack)
        path = Path(store.paths.pack(newest.pack_id))
    data = bytearray(path.read_bytes())
    data[1_000] ^= 1
    path.write_bytes(data)
    with Store.open(root) as store:
        report = optimize(store, contents_in_order(store), level=LEVEL)
        assert report.skipped == 1
        for name, layers in expected.items():
            assert read_image(store, name) == layers
        findings = check(store, read_data=True).findings
        assert findings
        assert {image for f in findings for image in f.images} == {store.resolve("bad:1").image_id}


def test_rebuilt_after_a_run(root: Path) -> None:
    expected = fill(root)
    run(root)
    with Store.open(root) as store:
        depths = sorted((row.offset, row.depth, row.cost) for row in store.catalog.block_rows())
    rebuild_catalog(str(root))
    assert_sound(root, expected)
    with Store.open(root) as store:
        rows = store.catalog.block_rows()
        assert sorted((row.offset, row.depth, row.cost) for row in rows) == depths
        assert not find_cold(store, LEVEL).packs, "the effort is in the packs"


def test_rebuilt_with_old_copies_that_lean_on_what_leans_on_them(root: Path) -> None:
    """Their footers claim equal depths, so only following the bases tells the copies apart."""
    orders = set()
    for seed in range(8):
        place = root / str(seed)
        one = {b"lib/f1.so": noise(seed, 100_000)}
        two = {b"lib/f2.so": one[b"lib/f1.so"][:50_000] + b"two" + one[b"lib/f1.so"][50_000:]}
        add_image(place, "app:1", one)
        add_version(place, "app:2", {**two, b"rest": noise(-1 - seed, 400_000)})
        other = {b"w": two[b"lib/f2.so"][:99_000] + b"other"}
        add_image(place, "app:3", other)
        with Store.open(place) as store:
            first = refs_of(store, "app:1", b"lib/f1.so")
            second = refs_of(store, "app:2", b"lib/f2.so")
            third = refs_of(store, "app:3", b"w")
            old = store.catalog.locate(second[0][1])
            contents = [
                module.FileContent(third, (), is_base=True),
                module.FileContent(second, third, generation=1),
                module.FileContent(first, second, generation=2),
            ]
            optimize(store, contents, level=LEVEL)
            execute(plan_gc(store))
            new = store.catalog.locate(second[0][1])
            assert old is not None
            assert new is not None
            assert (old.depth, new.depth) == (1, 1)
            assert store.catalog.pack_row(old.pack_id), "the old copy is still there"
            orders.add(old.pack_id < new.pack_id)
        rebuild_catalog(str(place))
        with Store.open(place) as store:
            assert read_image(store, "app:1") == [one]
            assert read_image(store, "app:3") == [other]
            assert check(store, read_data=True).ok
    assert orders == {True, False}, "each was found first once"


def test_gc_and_optimize_exclude_each_other(root: Path) -> None:
    fill(root, 2)
    with Store.open(root) as store:
        with FileLock(store.paths.gc_lock), pytest.raises(GcRunningError):
            optimize(store, contents_in_order(store), level=LEVEL)
        with FileLock(f"{store.paths.locks}/optimize"), pytest.raises(GcRunningError):
            optimize(store, contents_in_order(store), level=LEVEL)


def test_random_histories(tmp_path: Path) -> None:
    """Adding, removing, collecting and optimizing in any order never costs a byte."""
    for seed in range(4):
        root = tmp_path / str(seed)
        source = random.Random(seed)
        many = versions(8, size=150_000)
        there: dict[str, list[Files]] = {}
        for number, files in enumerate(many):
            (add_version if source.random() < 0.7 else add_image)(root, f"v:{number}", files)
            there[f"v:{number}"] = [files]
            if source.random() < 0.4:
                run(root)
            if len(there) > 2 and source.random() < 0.5:
                name = source.choice(sorted(there))
                del there[name]
                with Store.open(root) as store:
                    store.untag(name)
                    if source.random() < 0.5:
                        execute(plan_gc(store))
            assert_sound(root, there)
        run(root)
        assert_sound(root, there)


def test_running_out_of_space_changes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = fill(root, 3)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with Store.open(root) as store:
        monkeypatch.setattr("layerstore.linux.files.write_all", full)
        with pytest.raises(LayerstoreError, match="No space left"):
            optimize(store, contents_in_order(store), level=LEVEL)
        monkeypatch.undo()
    assert_sound(root, expected)
    assert list((root / "tmp").iterdir()) == []


def test_what_is_against_scattered_bases_can_be_read_until_it_moves(root: Path) -> None:
    """The bases of one block come to lie in seventy: a read decodes all of these."""
    one = {b"d/%d" % n: noise(n, 8_000) for n in range(70)}
    two = {path: data[:4_000] + b"changed" + data[4_000:] for path, data in one.items()}
    large = {b"large/%d" % n: noise(1_000 + n, 1_040_000) for n in range(70)}
    add_version(root, "app:1", one)
    add_version(root, "app:2", two)
    add_image(root, "large", large)
    with Store.open(root) as store:
        contents = []
        for n in range(70):
            for name, path in (("app:1", b"d/%d" % n), ("large", b"large/%d" % n)):
                refs = refs_of(store, name, path)
                contents.append(module.FileContent(refs, (), is_base=True))
        optimize(store, contents, level=1)
    with Store.open(root) as store:
        assert max(row.cost for row in store.catalog.block_rows()) > 60 << 20
        assert read_image(store, "app:2") == [two]
    run(root)
    assert_sound(root, {"app:1": [one], "app:2": [two], "large": [large]})
