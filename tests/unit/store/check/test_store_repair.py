"""Repairing from copies: what each kind of copy brings back, and what is said of the rest."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from layerstore.digest import blake3_id
from layerstore.errors import NotFoundError
from layerstore.formats.oci_config import ContainerConfig
from layerstore.image.exchange.sending import Policy
from layerstore.image.importing import ImportSpec, import_directory, import_tar
from layerstore.image.layouts.layout import NamedImage, save_oci_layout
from layerstore.image.layouts.layout_archive import save_archive
from layerstore.image.repairing import RepairOutcome, repair_store
from layerstore.image.trees.export_layer import export_layer, export_rootfs
from layerstore.progress import Silent
from layerstore.store.check.check import check
from layerstore.store.check.findings import Problem
from layerstore.store.check.glean import Gleaner, Lost
from layerstore.store.check.repair import RepairPlan, execute_repair, plan_repair
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.failures import (
    CatalogDamagedError,
    DanglingReferenceError,
    ShortSourceError,
)
from layerstore.store.packs.pack_reader import read_footer
from layerstore.store.records import CacheRecord
from layerstore.store.store import Store
from tests.support.damage import flip, pack_of
from tests.support.store import (
    add_image,
    add_version,
    assert_sound,
    fail_medium,
    noise,
    read_image,
    text,
    versions,
)

if TYPE_CHECKING:
    from collections.abc import Callable

CREATED = "2026-11-23T00:00:00Z"
FILES = {f"d/{n}": text(n, 3_000 + n) for n in range(40)} | {
    "zbig": noise(1, 700_000),
    "small": b"x",
}


def spec(name: str) -> ImportSpec:
    return ImportSpec((name,), ContainerConfig(), "", CREATED)


def make_tree(where: Path) -> Path:
    for name, content in FILES.items():
        path = where / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(5, 5))
    os.symlink("small", where / "link")
    os.link(where / "small", where / "hard")
    return where


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("source") / "tree")


@pytest.fixture(scope="module")
def tar(tree: Path) -> Path:
    path = tree.with_name("tree.tar")
    subprocess.run(["tar", "-C", str(tree), "-cf", str(path), "."], check=True)
    return path


@pytest.fixture(scope="module")
def original(tree: Path, tar: Path) -> Path:
    """A store with one image from the directory, one from its tar, and one of other content."""
    root = tree.with_name("store")
    with Store.open(root, create=True) as store:
        import_directory(store, tree, spec("dir:1"), progress=Silent())
        with open(tar, "rb") as stream:
            import_tar(store, stream, "t.tar", spec("tar:1"), progress=Silent())
        other = make_other(tree.with_name("other"))
        import_directory(store, other, spec("other:1"), progress=Silent())
    return root


def make_other(where: Path) -> Path:
    where.mkdir()
    (where / "alone").write_bytes(noise(9, 20_000))
    return where


@pytest.fixture
def root(original: Path, tmp_path: Path) -> Path:
    root = tmp_path / "store"
    shutil.copytree(original, root)
    return root


def exported(root: Path) -> dict[str, bytes]:
    """Every image's root file system and every layer's tar."""
    found: dict[str, bytes] = {}
    with Store.open(root) as store:
        for name, image_id in store.tags().items():
            sink = io.BytesIO()
            export_rootfs(store, store.image(image_id).layers, sink)
            found[name] = sink.getvalue()
        for layer in store.layers():
            sink = io.BytesIO()
            export_layer(store, layer.diff_id, sink)
            found[layer.diff_id] = sink.getvalue()
    return found


def damage_content(root: Path) -> None:
    """Flip a bit in the block that the small files share."""
    with Store.open(root) as store:
        place = store.catalog.locate(blake3_id(FILES["d/3"]))
        assert place is not None
        path = Path(store.paths.pack(place.pack_id))
    flip(path, place.block_offset + place.stored_length // 2)


def damage_everything(root: Path) -> None:
    for path in root.glob("packs/*/*.pack"):
        path.unlink()


def repaired(root: Path, *sources: Path) -> RepairOutcome:
    return repair_store(str(root), [str(source) for source in sources], dry_run=False)


COPIES: dict[str, Callable[[Path, Path, Path, Path], Path]] = {
    "store": lambda original, tree, tar, tmp: original,
    "directory": lambda original, tree, tar, tmp: tree,
    "tar": lambda original, tree, tar, tmp: tar,
    "tar.gz": lambda original, tree, tar, tmp: gzipped(tar, tmp),
    "layout": lambda original, tree, tar, tmp: saved(original, tmp / "layout"),
    "archive": lambda original, tree, tar, tmp: saved(original, tmp / "archive.tar"),
}


def gzipped(tar: Path, tmp: Path) -> Path:
    with open(tmp / "t.tar.gz", "wb") as out:
        subprocess.run(["gzip", "-c", str(tar)], stdout=out, check=True)
    return tmp / "t.tar.gz"


def saved(original: Path, out: Path) -> Path:
    with Store.open(original) as store:
        images = [NamedImage(name, store.image(i)) for name, i in store.tags().items()]
        if out.suffix != ".tar":
            save_oci_layout(store, images, out)
            return out
        with out.open("wb") as stream:
            save_archive(store, images, stream, Policy("gzip"), for_docker=False)
    return out


@pytest.mark.parametrize("kind", COPIES)
def test_every_kind_of_copy_heals_damaged_content(
    root: Path, original: Path, tree: Path, tar: Path, tmp_path: Path, kind: str
) -> None:
    copy = COPIES[kind](original, tree, tar, tmp_path)
    damage_content(root)
    outcome = repaired(root, copy)
    assert outcome.ok, (outcome.losses, outcome.sources)
    (source,) = outcome.sources
    assert source.gleaned.items > 10
    assert source.problem is None
    assert outcome.moved.packs == 1
    assert exported(root) == exported(original)
    with Store.open(root) as store:
        assert check(store, read_data=True).findings == ()
        assert execute(plan_gc(store)).packs_removed == 0
    assert list((root / "tmp").iterdir()) == []
    assert len(list((root / "quarantine").iterdir())) == 1


@pytest.mark.parametrize("kind", ["store", "layout", "archive"])
def test_a_store_without_any_pack_comes_back_whole(
    root: Path, original: Path, tree: Path, tar: Path, tmp_path: Path, kind: str
) -> None:
    copy = COPIES[kind](original, tree, tar, tmp_path)
    damage_everything(root)
    for blob in root.glob("blobs/sha256/*"):
        if kind != "store" and blob.read_bytes().startswith(b'{"schemaVersion"'):
            continue  # a layout has other manifests: theirs list compressed layers
        blob.unlink()
    outcome = repaired(root, copy)
    assert outcome.ok, outcome.losses
    assert exported(root) == exported(original)
    with Store.open(root) as store:
        assert check(store, read_data=True).findings == ()


def test_a_root_file_system_brings_its_own_image_back_wholly(
    root: Path, original: Path, tree: Path, tar: Path
) -> None:
    damage_everything(root)
    outcome = repaired(root, tree, tar)
    assert not outcome.ok
    assert [source.kind for source in outcome.sources] == ["directory", "tar"]
    with Store.open(root) as store:
        other = store.resolve("other:1")
        assert {loss.images for loss in outcome.losses} == {(other.image_id,)}
        whole = exported(original)
        for name in ("dir:1", "tar:1"):
            sink = io.BytesIO()
            export_rootfs(store, store.resolve(name).layers, sink)
            assert sink.getvalue() == whole[name]


def test_every_lost_file_is_named_and_the_rest_goes_on(root: Path, original: Path) -> None:
    damage_content(root)
    with Store.open(root) as store:
        damaged = check(store, read_data=True)
        harmed = {file.path for finding in damaged.findings for file in finding.files}
        assert harmed
        assert harmed <= set(FILES) | {"hard"}
    outcome = repaired(root)
    assert not outcome.ok
    assert {path for loss in outcome.losses for path in loss.files} == harmed
    with Store.open(root) as store:
        named = {store.resolve(name).image_id for name in ("dir:1", "tar:1")}
        assert {image for loss in outcome.losses for image in loss.images} == named
        sink = io.BytesIO()
        export_rootfs(store, store.resolve("other:1").layers, sink)
        assert sink.getvalue() == exported(original)["other:1"]
        # Nothing is deleted while something is missing, and the way out is named.
        with pytest.raises(DanglingReferenceError) as caught:
            execute(plan_gc(store))
        assert "layerstore" in (caught.value.hint or "")


@pytest.mark.parametrize("with_copy", [False, True])
def test_a_medium_that_fails_is_damage(
    root: Path, original: Path, monkeypatch: pytest.MonkeyPatch, *, with_copy: bool
) -> None:
    """Bad sectors in one block: everything else in the pack is saved."""
    with Store.open(root) as store:
        place = store.catalog.locate(blake3_id(FILES["d/3"]))
        assert place is not None
        path = Path(store.paths.pack(place.pack_id))
        rows = store.catalog.chunk_rows()
        inside = sum(row[1:3] == (place.pack, place.block) for row in rows)
    end = place.block_offset + place.stored_length
    fail_medium(monkeypatch, path, place.block_offset + 9, end - 9)
    outcome = repaired(root, *[original] * with_copy)
    assert [(finding.problem, finding.digest) for finding in outcome.before.findings] == [
        (Problem.BLOCK_DAMAGED, "")
    ]
    assert outcome.ok == with_copy
    assert outcome.moved.packs == 1
    assert outcome.moved.saved_chunks >= sum(row.pack == place.pack for row in rows) - inside
    assert outcome.moved.lost_chunks == (0 if with_copy else inside)
    if not with_copy:
        assert outcome.losses
        assert path.exists(), "the medium may give it the next time"
        monkeypatch.undo()
        assert exported(root) == exported(original)
        assert repaired(root).ok
    if with_copy:
        assert outcome.sources[0].gleaned.items == inside
        assert exported(root) == exported(original)
        with Store.open(root) as store:
            assert check(store, read_data=True).findings == ()


def test_a_block_that_was_read_before_its_medium_failed_is_saved(
    root: Path, original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(root) as store:
        item_id = blake3_id(FILES["d/3"])
        place = store.catalog.locate(item_id)
        assert place is not None
        store.read_chunk(item_id)
        path = Path(store.paths.pack(place.pack_id))
        fail_medium(monkeypatch, path, place.block_offset, place.block_offset + 1)
        report = execute_repair(RepairPlan(store, (place.pack_id,), ()))
        assert report.lost_chunks == 0
    assert exported(root) == exported(original)


def test_a_tree_on_a_medium_that_fails_is_damage(
    root: Path, original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(root) as store:
        place = store.catalog.locate(store.layer(store.resolve("dir:1").layers[0]).tree[0][1])
        assert place is not None
    path = Path(store.paths.pack(place.pack_id))
    fail_medium(monkeypatch, path, place.block_offset, place.block_offset + 1)
    with Store.open(root) as store:
        problems = {finding.problem for finding in check(store, read_data=False).findings}
        assert problems == {Problem.LAYER_DAMAGED}
    assert repaired(root, original).ok
    assert exported(root) == exported(original)


def cut_off_tables(root: Path) -> None:
    """Take the end away from every pack: the lists of what is in it, and a little content."""
    for path in root.glob("packs/*/*.pack"):
        with path.open("rb") as stream:
            blocks = read_footer(stream.fileno())
        last = max(block.offset + block.stored_length for block in blocks)
        os.truncate(path, last - 10 if len(blocks) > 3 else last)


def test_a_pack_that_lost_its_tables_gives_what_the_catalog_knows(
    root: Path, original: Path
) -> None:
    cut_off_tables(root)
    foreseen = repair_store(str(root), [], dry_run=True)
    outcome = repaired(root)
    assert foreseen.moved == outcome.moved
    assert foreseen.losses == outcome.losses
    with Store.open(original) as store:
        everything = store.catalog.one("SELECT count(*) FROM chunks")
    assert everything is not None
    assert 0.8 * int(str(everything[0])) < outcome.moved.saved_chunks
    # Only what lay in the last blocks is lost.
    assert outcome.moved.lost_chunks < 20
    assert repaired(root, original).ok
    assert exported(root) == exported(original)


def test_what_is_in_no_use_is_no_part_of_what_is_saved(root: Path, original: Path) -> None:
    gone = [blake3_id(FILES[f"d/{number}"]) for number in (0, 7, 39)]
    with Store.open(root) as store, store.catalog.write() as connection:
        for chunk in gone:
            connection.execute("DELETE FROM chunks WHERE id = ?", (chunk,))
    cut_off_tables(root)
    repaired(root)
    with Store.open(root) as store:
        assert all(store.catalog.locate(chunk) is None for chunk in gone)
        assert store.read_chunk(blake3_id(FILES["d/8"])) == FILES["d/8"]
    assert repaired(root, original).ok
    assert exported(root) == exported(original)


def test_a_list_of_files_that_comes_back_is_followed_at_once(root: Path, original: Path) -> None:
    damage_everything(root)
    assert not repaired(root).ok  # now nobody knows what the lists named
    outcome = repaired(root, original)
    assert outcome.ok, outcome.losses
    (source,) = outcome.sources
    with Store.open(root) as store:
        assert source.gleaned.items + outcome.itself.items >= len(list(store.catalog.layers()))
        assert check(store, read_data=True).findings == ()
    assert exported(root) == exported(original)


@pytest.mark.parametrize("dry_run", [True, False])
def test_files_unpacked_for_views_are_a_copy(root: Path, original: Path, *, dry_run: bool) -> None:
    for name in ("d/3", "small"):
        unpacked = root / "objects" / "ab" / name.replace("/", "")
        unpacked.parent.mkdir(parents=True, exist_ok=True)
        unpacked.write_bytes(FILES[name])
    damage_content(root)
    outcome = repair_store(str(root), [], dry_run=dry_run)
    assert outcome.itself.items >= 1
    lost = [path for loss in outcome.losses for path in loss.files]
    assert "d/4" in lost
    assert "d/3" not in lost
    assert "small" not in lost
    if not dry_run:
        with Store.open(root) as store:
            assert store.read_chunk(blake3_id(FILES["d/3"])) == FILES["d/3"]
        assert repaired(root, original).ok


def test_importing_again_after_a_repair_heals_too(root: Path, original: Path, tree: Path) -> None:
    damage_content(root)
    assert not repaired(root).ok
    with Store.open(root) as store:
        import_directory(store, tree, spec("dir:1"), progress=Silent())
        assert check(store, read_data=True).ok
    assert exported(root) == exported(original)
    assert repaired(root).ok


def test_a_dry_run_says_the_same_and_changes_nothing(
    root: Path, original: Path, tree: Path
) -> None:
    damage_content(root)
    before = {
        path: path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.name.endswith(("-shm", "-wal", "gc"))
    }
    dry = repair_store(str(root), [str(tree)], dry_run=True)
    assert dry.ok
    lost = repair_store(str(root), [], dry_run=True)
    assert not lost.ok
    after = {
        path: path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.name.endswith(("-shm", "-wal", "gc"))
    }
    assert after == before
    done = repaired(root, tree)
    assert done.sources[0].gleaned == dry.sources[0].gleaned
    assert done.moved.packs == dry.moved.packs


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("how", ["cut", "bit", "gone"])
@pytest.mark.parametrize("with_copy", [False, True])
def test_a_dry_run_foresees_what_the_run_does(
    root: Path, tree: Path, how: str, number: int, *, with_copy: bool
) -> None:
    packs = sorted(root.glob("packs/*/*.pack"), key=lambda path: path.stat().st_size)
    path = packs[number % len(packs)]
    size = path.stat().st_size
    if how == "gone":
        path.unlink()
    elif how == "cut":
        os.truncate(path, size * (number + 1) // 4)
    else:
        flip(path, size * (number + 1) // 4)
    copies = [tree] if with_copy else []
    dry = repair_store(str(root), [str(copy) for copy in copies], dry_run=True)
    done = repaired(root, *copies)
    assert dry.ok == done.ok
    assert dry.moved == done.moved
    assert dry.itself == done.itself
    assert dry.losses == done.losses
    assert [each.gleaned for each in dry.sources] == [each.gleaned for each in done.sources]


def test_packs_that_changed_places_give_everything(root: Path, original: Path) -> None:
    one, other = sorted(root.glob("packs/*/*.pack"), key=lambda path: path.stat().st_size)[-2:]
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    dry = repair_store(str(root), [], dry_run=True)
    outcome = repaired(root)
    assert (outcome.ok, outcome.itself, outcome.moved) == (True, dry.itself, dry.moved)
    assert outcome.itself.items > 0
    assert exported(root) == exported(original)
    with Store.open(root) as store:
        assert check(store, read_data=True).ok


def test_an_index_that_is_damaged_inside_is_made_again(root: Path, original: Path) -> None:
    whole = (root / "catalog.sqlite").read_bytes()
    raised = 0
    for page in range(1, len(whole) // 4096):
        (root / "catalog.sqlite").write_bytes(
            whole[: page * 4096] + bytes(4096) + whole[(page + 1) * 4096 :]
        )
        try:
            repair_store(str(root), [], dry_run=True)
        except CatalogDamagedError:
            raised += 1
        assert repaired(root).ok
        assert exported(root) == exported(original)
    assert raised


@pytest.mark.parametrize("wrong", ["id = x'01'", "id = 'text'", "size = 'x'", "retired = 'x'"])
def test_a_row_that_is_none_of_a_pack_is_damage_of_the_index(
    root: Path, original: Path, wrong: str
) -> None:
    with Store.open(root) as store:
        with store.catalog.write() as connection:
            connection.execute(f"UPDATE packs SET {wrong} WHERE pack = 2")
        with pytest.raises(CatalogDamagedError, match="row of a pack makes no sense"):
            check(store, read_data=False)
    assert repaired(root).ok
    assert exported(root) == exported(original)


@pytest.mark.parametrize("is_lost", [False, True])
def test_what_is_offered_twice_is_kept_once(tmp_path: Path, *, is_lost: bool) -> None:
    """While layers are lost, a chunk that the store lacks is kept for them, too."""
    other = tmp_path / "other"
    data = noise(1, 5_000)
    image = add_image(other, "a", {b"one": data, b"two": noise(2, 5_000)})
    nothing: frozenset[bytes] = frozenset()
    items = frozenset({blake3_id(data)}) if is_lost else nothing
    lost = Lost(items, nothing, frozenset(image.layers), frozenset(), frozenset())
    with Store.open(tmp_path / "store", create=True) as store, Store.open(other) as copy:
        with Gleaner(store, lost, dry_run=False) as gleaner:
            gleaner.put_chunk(data)
            gleaner.put_chunk(data)
            gleaner.offer_store(copy)
            assert gleaner.settle().layers == 1
        assert store.read_chunk(blake3_id(data)) == data


def test_a_copy_that_shrinks_while_it_is_read_is_an_error_of_ours(tmp_path: Path) -> None:
    nothing: frozenset[bytes] = frozenset()
    lost = Lost(frozenset({bytes(32)}), nothing, frozenset(), frozenset(), frozenset())
    with (
        Store.open(tmp_path / "store", create=True) as store,
        Gleaner(store, lost, dry_run=True) as gleaner,
        pytest.raises(ShortSourceError),
    ):
        gleaner.put_stream(io.BytesIO(b"short").read, 6)


def test_copies_that_are_not_needed_are_not_read(root: Path, tree: Path) -> None:
    assert repaired(root, tree).sources == ()


def test_a_damaged_copy_gives_what_is_good_in_it(
    root: Path, original: Path, tar: Path, tmp_path: Path
) -> None:
    damage_content(root)
    cut = tmp_path / "cut.tar"
    cut.write_bytes(tar.read_bytes()[: tar.stat().st_size - 3_000])
    outcome = repaired(root, cut)
    assert outcome.sources[0].problem is not None
    assert outcome.sources[0].gleaned.items > 0


def test_the_store_heals_itself_where_it_can(root: Path, original: Path) -> None:
    """Second copies, the catalog's layer records, manifests that can be made again."""
    with Store.open(root) as store:
        image = store.resolve("dir:1")
        os.unlink(store.paths.blob(image.manifest_digest))
    damage_content(root)
    spare = next(path for path in original.glob(f"packs/*/{pack_of(root, 'dir:1').name}"))
    shutil.copy(spare, root / "quarantine" / spare.name)
    outcome = repaired(root)
    assert outcome.ok, outcome.losses
    assert outcome.itself.items > 10
    assert outcome.itself.blobs == 1
    assert exported(root) == exported(original)


def test_a_missing_catalog_is_made_again_first(root: Path, original: Path) -> None:
    damage_content(root)
    for path in root.glob("catalog.sqlite*"):
        path.unlink()
    outcome = repaired(root, original)
    assert outcome.ok, outcome.losses
    assert outcome.rebuilt is not None
    assert exported(root) == exported(original)


@pytest.mark.parametrize("dry_run", [True, False])
def test_images_that_a_new_catalog_could_not_list_come_back_with_their_layers(
    root: Path, original: Path, dry_run: bool
) -> None:
    """The catalog is gone and so are packs: names.log and configs say what there was."""
    damage_everything(root)
    for path in root.glob("catalog.sqlite*"):
        path.unlink()
    alone = repaired(root)
    assert not alone.ok
    assert len(alone.losses) == 3
    outcome = repair_store(str(root), [str(original)], dry_run=dry_run)
    assert outcome.ok, outcome.losses
    if not dry_run:
        assert outcome.sources[0].gleaned.layers == 3
        assert exported(root) == exported(original)
        with Store.open(root) as store:
            assert check(store, read_data=True).ok


def test_a_name_whose_config_is_lost_is_told(root: Path, original: Path) -> None:
    with Store.open(root) as store:
        os.unlink(store.paths.blob(store.resolve("other:1").image_id))
        store.rebuild_catalog()
        assert "other:1" not in store.tags()
    outcome = repaired(root)
    assert [loss.what for loss in outcome.losses] == [
        "the name other:1: its image's config is lost"
    ]


def test_a_manifest_that_a_new_catalog_missed_is_made_again(root: Path, original: Path) -> None:
    with Store.open(root) as store:
        os.unlink(store.paths.blob(store.resolve("other:1").manifest_digest))
        store.rebuild_catalog()
        assert "other:1" not in store.tags()
    assert repaired(root).ok
    assert exported(root) == exported(original)


def test_build_steps_of_lost_layers_are_forgotten(root: Path) -> None:
    with Store.open(root) as store, store.begin("test") as session:
        for name in ("dir:1", "other:1"):
            diff_id = store.resolve(name).layers[0]
            session.cache_put(CacheRecord(name, diff_id, b"", 1.0))
    damage_content(root)
    outcome = repaired(root)
    assert outcome.cache_keys == ("dir:1",)
    with Store.open(root) as store:
        assert [record.key for record in store.cache_records()] == ["other:1"]


def test_a_pack_that_gc_took_since_the_check_is_no_damage_of_the_index(tmp_path: Path) -> None:
    """Repair took it for that, and the index was made again, without its build cache."""
    root = tmp_path / "store"
    kept = {b"k": noise(4, 90_000)}
    add_image(root, "kept:1", kept)
    add_image(root, "gone:1", {b"g": noise(3, 90_000)})
    flip(pack_of(root, "gone:1"), 1000)
    with Store.open(root) as store:
        plan = plan_repair(store, check(store, read_data=True))
        assert len(plan.packs) == 1
        store.untag("gone:1")
        execute(plan_gc(store))
        assert execute_repair(plan) == (0, 0, 0)
    assert os.listdir(root / "quarantine") == []
    assert_sound(root, {"kept:1": [kept]})


@pytest.fixture
def updated(tmp_path: Path) -> tuple[Path, list[dict[bytes, bytes]]]:
    """A store whose second image is a difference against its first, whose content is damaged."""
    root = tmp_path / "updated"
    one, two = versions(2, files=1)
    add_version(root, "app:1", one)
    add_version(root, "app:2", two)
    shutil.copytree(root, tmp_path / "spare")
    with Store.open(root) as store:
        place = store.catalog.locate(store.catalog.base_rows()[0][2])
        assert place is not None
        path = Path(store.paths.pack(place.pack_id))
    flip(path, place.block_offset + place.stored_length // 2)
    return root, [one, two]


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_base_that_heals_heals_its_differences(
    updated: tuple[Path, list[dict[bytes, bytes]]], dry_run: bool
) -> None:
    root, (one, two) = updated
    outcome = repair_store(str(root), [str(root.with_name("spare"))], dry_run=dry_run)
    assert outcome.ok, outcome.losses
    assert outcome.moved.packs == 1
    assert outcome.sources[0].gleaned.items == len(outcome.before.lost_items)
    if not dry_run:
        assert_sound(root, {"app:1": [one], "app:2": [two]})


@pytest.mark.parametrize("dry_run", [True, False])
def test_differences_heal_alone_when_their_bases_are_lost(
    updated: tuple[Path, list[dict[bytes, bytes]]], tmp_path: Path, dry_run: bool
) -> None:
    root, (_, two) = updated
    copy = tmp_path / "copy"
    for path, content in two.items():
        (copy / path.decode()).parent.mkdir(parents=True, exist_ok=True)
        (copy / path.decode()).write_bytes(content)
    outcome = repair_store(str(root), [str(copy)], dry_run=dry_run)
    with Store.open(root) as store:
        first = store.resolve("app:1").image_id
        assert {image for loss in outcome.losses for image in loss.images} == {first}
        if not dry_run:
            assert read_image(store, "app:2") == [two]


def test_a_copy_that_is_not_there_and_the_store_itself_are_refused(root: Path) -> None:
    damage_content(root)
    with pytest.raises(LookupError):
        repaired(root, root / "nothing")
    outcome = repaired(root, root)
    assert "to be repaired" in (outcome.sources[0].problem or "")


def test_a_copy_that_is_not_there_is_refused_though_nothing_is_missing(
    root: Path, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        repaired(root, tmp_path / "absent")
