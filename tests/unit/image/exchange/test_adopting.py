"""From a source into a store and out again: verified on the way in, bit for bit on the way out."""

from __future__ import annotations

import io
import json
import threading
from typing import TYPE_CHECKING

import pytest

from layerstore.digest import Digest
from layerstore.errors import IntegrityError, LayerstoreError, LimitExceededError, NotFoundError
from layerstore.formats import oci
from layerstore.formats.tree import decode_changeset
from layerstore.image.exchange import finding
from layerstore.image.exchange.adopting import adopt_image
from layerstore.image.exchange.finding import find_all, find_image
from layerstore.image.exchange.originals import Originals
from layerstore.image.exchange.sending import Policy
from layerstore.image.images import inspect
from layerstore.image.layouts.layout import NamedImage, save_layout, save_oci_layout
from layerstore.image.layouts.layout_reader import LayoutReader
from layerstore.image.repairing import repair_store
from layerstore.image.trees.export_layer import export_layer
from layerstore.store.check.check import check
from layerstore.store.store import Store
from tests.support.damage import flip
from tests.support.layouts import COMPRESSORS, Layout, tar_of
from tests.support.store import noise, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from layerstore.image.exchange.adopting import Adopted

LOWER = tar_of({"bin/sh": text(1, 400_000), "etc/os": b"debian"})
UPPER = tar_of({"app": noise(2, 70_000), "lib": text(3, 250_000)})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", create=True) as opened:
        yield opened


def adopt(
    store: Store,
    reader: LayoutReader,
    reference: str = "",
    names: Sequence[str] = ("web:1",),
    originals: Originals = Originals.AUTO,
) -> Adopted:
    with store.begin("load") as session:
        image = find_image(reader, reference, lambda platform: platform.architecture == "amd64")
        return adopt_image(session, reader, image, names=names, originals=originals)


def load(store: Store, root: Path, **options: object) -> Adopted:
    with LayoutReader(root) as reader:
        return adopt(store, reader, **options)  # type: ignore[arg-type]


def saved_digest(store: Store, name: str, out: Path) -> str:
    """Save an image as it came; return the digest it left under, every blob verified."""
    image = NamedImage(name, store.resolve(name))
    report = save_oci_layout(store, [image], out, compression="original")
    with (
        LayoutReader(out) as reader,
        Store.open(out.parent / "other", create=True) as other,
        other.begin("check") as session,
    ):
        for found in find_all(reader, "").images:
            adopt_image(session, reader, found)
    return report.descriptors[0].digest


@pytest.mark.parametrize("compression", sorted(COMPRESSORS))
def test_what_came_leaves_under_its_digest(store: Store, tmp_path: Path, compression: str) -> None:
    layout = Layout(tmp_path / "layout")
    entry = layout.image([LOWER, UPPER], compression)
    adopted = load(store, layout.finish(("1", entry)))
    assert adopted.documents == (entry["digest"],)
    assert bool(adopted.kept_bytes) == (compression == "go"), "the others are made again"
    assert saved_digest(store, "web:1", tmp_path / "saved") == entry["digest"]
    assert check(store, read_data=True).ok
    assert inspect(store, adopted.image)["Origins"] == [entry["digest"]]
    assert store.resolve(str(entry["digest"])) == adopted.image


@pytest.mark.parametrize("compression", ["gzip", "go"])
def test_originals_may_all_be_kept_or_none(store: Store, tmp_path: Path, compression: str) -> None:
    layout = Layout(tmp_path / "layout")
    entry = layout.image([LOWER], compression)
    root = layout.finish(("1", entry))
    adopted = load(store, root, originals=Originals.DROP)
    assert not store.origins(adopted.image)
    assert saved_digest(store, "web:1", tmp_path / "anew") != entry["digest"]
    adopted = load(store, root, originals=Originals.KEEP)
    assert adopted.kept_bytes
    assert saved_digest(store, "web:1", tmp_path / "kept") == entry["digest"]


def test_layers_that_are_here_are_not_read(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(tmp_path / "layout")
    one, two = layout.image([LOWER], "go"), layout.image([LOWER, UPPER], "go")
    root = layout.finish(("1", one), ("2", two))
    read: list[str] = []
    opened = LayoutReader.open_blob

    def note(self: LayoutReader, descriptor: oci.Descriptor) -> object:
        read.append(descriptor.digest)
        return opened(self, descriptor)

    monkeypatch.setattr(LayoutReader, "open_blob", note)
    load(store, root, reference="1")
    lower = read[-1]
    read.clear()
    load(store, root, reference="2", names=["web:2"])
    assert lower not in read
    assert saved_digest(store, "web:2", tmp_path / "saved") == two["digest"]


@pytest.mark.parametrize("lie", [UPPER, b"no tar at all"])
def test_what_a_compressed_layer_holds_is_compared_although_its_layer_is_here(
    store: Store, tmp_path: Path, lie: bytes
) -> None:
    layout = Layout(tmp_path / "layout")
    entry = layout.image([LOWER])
    load(store, layout.finish(("1", entry)))
    manifest = json.loads((layout.blobs / str(entry["digest"])[7:]).read_bytes())
    manifest["layers"] = [layout.put(COMPRESSORS["go"](lie), oci.LAYER_GZIP_TYPE)]
    lying = layout.put_json(manifest, oci.MANIFEST_TYPE)
    with pytest.raises(IntegrityError, match="its config says"):
        load(store, layout.finish(("2", lying)), reference="2", names=["web:2"])
    assert list(store.tags()) == ["web:1"]


@pytest.mark.parametrize("compression", ["none", "gzip", "go"])
@pytest.mark.parametrize("lie", [{"size": 5}, {"size": 1 << 20}, {"mediaType": None}])
def test_what_a_manifest_says_of_a_layer_that_is_here_is_compared(
    store: Store, tmp_path: Path, compression: str, lie: dict[str, object]
) -> None:
    layout = Layout(tmp_path / "layout")
    entry = layout.image([LOWER], compression)
    load(store, layout.finish(("1", entry)))
    manifest = json.loads((layout.blobs / str(entry["digest"])[7:]).read_bytes())
    if "mediaType" in lie:
        lie = {"mediaType": oci.LAYER_GZIP_TYPE if compression == "none" else oci.LAYER_TAR_TYPE}
    manifest["layers"][0] |= lie
    lying = layout.put_json(manifest, oci.MANIFEST_TYPE)
    with pytest.raises(IntegrityError, match=r"its (manifest|media type) says"):
        load(store, layout.finish(("2", lying)), reference="2", names=["web:2"])
    assert list(store.tags()) == ["web:1"]
    assert saved_digest(store, "web:1", tmp_path / "saved") == entry["digest"]


def test_layers_that_no_disk_holds_are_not_begun(store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    entry = layout.image([LOWER])
    manifest = json.loads((layout.blobs / str(entry["digest"])[7:]).read_bytes())
    manifest["layers"][0]["size"] = 1 << 50
    huge = layout.put_json(manifest, oci.MANIFEST_TYPE)
    with pytest.raises(LimitExceededError, match="expanded_bytes"):
        load(store, layout.finish(("1", huge)))


def test_several_manifests_of_one_image_each_leave_under_theirs(
    store: Store, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "layout")
    entries = [layout.image([LOWER], compression) for compression in ("gzip", "go", "zstd")]
    root = layout.finish(*((str(number), entry) for number, entry in enumerate(entries)))
    for number in range(3):
        load(store, root, reference=str(number))
    image = NamedImage("web:1", store.resolve("web:1"))
    for number, entry in enumerate(entries):
        policy = Policy(prefer=frozenset([Digest(str(entry["digest"]))]))
        report = save_layout(store, [image], tmp_path / f"out{number}", policy)
        assert report.descriptors[0].digest == entry["digest"]


class Far:
    """A layout that is far away: blobs come slowly, and are counted."""

    is_remote = True
    has_originals = True
    name = "a registry"

    def __init__(self, reader: LayoutReader, fail: str = "") -> None:
        self._reader = reader
        self._fail = fail
        self._lock = threading.Lock()
        self.opened: list[str] = []
        self.document = reader.document

    def open_blob(self, descriptor: oci.Descriptor) -> Slow:
        with self._lock:
            self.opened.append(descriptor.digest)
        blob = self._reader.open_blob(descriptor)
        return Slow(blob, fail=descriptor.digest == self._fail)


class Slow:
    def __init__(self, blob: io.FileIO, *, fail: bool) -> None:
        self._blob = blob
        self._left = 20_000 if fail else None
        self.close = blob.close

    def read(self, size: int, /) -> bytes:
        piece = self._blob.read(min(size, 10_000))
        if self._left is not None:
            self._left -= len(piece)
            if self._left < 0:
                raise NotFoundError("the registry has gone")
        return piece or b""


def test_from_far_away_each_blob_comes_once(store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    entry = layout.image([LOWER, UPPER, LOWER], "go")  # the same layer twice
    with LayoutReader(layout.finish(("1", entry))) as reader:
        far = Far(reader)
        adopted = adopt(store, far)  # type: ignore[arg-type]
    assert len(far.opened) == len(set(far.opened)) == 3  # config and two layers
    assert adopted.kept_bytes
    assert saved_digest(store, "web:1", tmp_path / "saved") == entry["digest"]
    assert not list((tmp_path / "store" / "tmp").iterdir())


def test_a_source_that_breaks_off_leaves_no_image(store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    entry = layout.image([LOWER, UPPER], "go")
    with LayoutReader(layout.finish(("1", entry))) as reader:
        manifest = oci.decode_manifest(reader.document("1").raw)
        far = Far(reader, fail=manifest.layers[1].digest)
        with pytest.raises(NotFoundError, match="has gone"):
            adopt(store, far)  # type: ignore[arg-type]
    assert store.tags() == {}
    assert not list((tmp_path / "store" / "tmp").iterdir())


@pytest.mark.parametrize("where", ["config", "layers"])
@pytest.mark.parametrize("damage", ["flip", "short", "long", "gone"])
def test_nothing_that_is_not_what_it_says_gets_in(
    store: Store, tmp_path: Path, where: str, damage: str
) -> None:
    layout = Layout(tmp_path / "layout")
    entry = layout.image([LOWER])
    root = layout.finish(("1", entry))
    manifest = json.loads((layout.blobs / str(entry["digest"])[7:]).read_bytes())
    blob = manifest[where] if where == "config" else manifest[where][0]
    path = layout.blobs / blob["digest"][7:]
    raw = path.read_bytes()
    match damage:
        case "flip":
            path.write_bytes(raw[:-20] + bytes([raw[-20] ^ 1]) + raw[-19:])
        case "short":
            path.write_bytes(raw[:-1])
        case "long":
            path.write_bytes(raw + b"x")
        case "gone":
            path.unlink()
    with pytest.raises((IntegrityError, NotFoundError)):
        load(store, root)
    assert store.tags() == {}
    assert store.images() == []


def test_a_layer_of_another_diff_id_is_refused(store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    entry = layout.image([LOWER])
    manifest = json.loads((layout.blobs / str(entry["digest"])[7:]).read_bytes())
    manifest["layers"] = [layout.put(COMPRESSORS["gzip"](UPPER), oci.LAYER_GZIP_TYPE)]
    lying = layout.put_json(manifest, oci.MANIFEST_TYPE)
    with pytest.raises(IntegrityError, match="its config says"):
        load(store, layout.finish(("1", lying)))
    assert store.images() == []


def test_a_stranger_cannot_make_the_store_remember(store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    entry = layout.image([LOWER])
    manifest = json.loads((layout.blobs / str(entry["digest"])[7:]).read_bytes())
    digest = "sha256:" + "e" * 64
    manifest["annotations"] |= {
        f"layerstore.origin/{digest}": oci.MANIFEST_TYPE,
        f"layerstore.encoding/{digest}": json.dumps({"diff_id": digest, "size": 1, "kept": digest}),
        "layerstore.attestation/x": "{}",
    }
    lying = layout.put_json(manifest, oci.MANIFEST_TYPE)
    adopted = load(store, layout.finish(("1", lying)))
    assert set(store.origins(adopted.image).documents) == {lying["digest"]}
    assert digest not in store.origins(adopted.image).encodings
    assert "Attestations" not in inspect(store, adopted.image)
    assert check(store, read_data=True).ok


def test_a_layout_brings_originals_back(tmp_path: Path) -> None:
    root = tmp_path / "store"
    layout = Layout(tmp_path / "layout")
    entry = layout.image([LOWER, UPPER], "go")
    with Store.open(root, create=True) as store:
        load(store, layout.finish(("1", entry)))
        (root / "blobs" / "sha256" / str(entry["digest"])[7:]).unlink()
        for pack in root.glob("packs/*/*.pack"):
            damaged = bytearray(pack.read_bytes())
            for at in range(200, len(damaged) - 4_000, 10_000):
                damaged[at] ^= 1
            pack.write_bytes(damaged)
        assert not check(store, read_data=True).ok
    told = repair_store(str(root), [], dry_run=True)
    assert any("can no longer leave as" in loss.what for loss in told.losses)
    done = repair_store(str(root), [str(layout.root)], dry_run=False)
    assert done.ok, [each.what for each in done.losses]
    with Store.open(root) as store:
        assert saved_digest(store, "web:1", tmp_path / "saved") == entry["digest"]


def test_a_lost_original_is_not_called_a_loss_of_files(tmp_path: Path) -> None:
    root = tmp_path / "store"
    layout = Layout(tmp_path / "layout")
    entry = layout.image([UPPER], "gzip")
    with Store.open(root, create=True) as store:
        adopted = load(store, layout.finish(("1", entry)), originals=Originals.KEEP)
        (kept,) = store.origins(adopted.image).kept
        (original,) = decode_changeset(store.read_refs(store.layer(kept).tree)).entries
        assert original.extents[0][1] is not None
        place = store.catalog.locate(original.extents[0][1])
        assert place is not None
        pack = tmp_path / store.paths.pack(place.pack_id)
        flip(pack, place.block_offset + place.stored_length // 2)
    done = repair_store(str(root), [], dry_run=False)
    (loss,) = done.losses
    assert loss.images == (adopted.image.image_id,)
    assert "can no longer leave as it came; nothing else is harmed" in loss.what
    assert loss.files == ()
    with Store.open(root) as store:
        export_layer(store, adopted.image.layers[0], io.BytesIO())


# -- indexes


def indexed(tmp_path: Path) -> tuple[Layout, dict[str, object], list[dict[str, object]]]:
    layout = Layout(tmp_path / "layout")
    images = [
        layout.image([LOWER], "gzip"),
        layout.image([LOWER, UPPER], "go", architecture="arm64"),
    ]
    index = layout.index(*images, layout.attestation(images[0]))
    layout.finish(("1", index))
    return layout, index, images


def test_all_platforms_of_an_index_leave_under_it(store: Store, tmp_path: Path) -> None:
    layout, index, images = indexed(tmp_path)
    with LayoutReader(layout.root) as reader, store.begin("load") as session:
        found = find_all(reader, "1")
        assert [each.documents[0].digest for each in found.images] == [i["digest"] for i in images]
        for number, image in enumerate(found.images):
            names = [f"web:{number}"]
            adopt_image(session, reader, image, names=names, beside=found.beside)
    assert saved_digest(store, "web:0", tmp_path / "saved") == index["digest"]
    assert store.resolve(f"web@{index['digest']}").image_id in store.tags().values()
    assert check(store, read_data=True).ok


def test_one_platform_of_an_index_leaves_under_its_manifest(store: Store, tmp_path: Path) -> None:
    layout, index, images = indexed(tmp_path)
    adopted = load(store, layout.root)
    assert adopted.documents == (images[0]["digest"], index["digest"])
    assert saved_digest(store, "web:1", tmp_path / "saved") == images[0]["digest"]


def test_no_image_for_a_platform(store: Store, tmp_path: Path) -> None:
    layout, _, _ = indexed(tmp_path)
    with LayoutReader(layout.root) as reader, pytest.raises(NotFoundError, match="this platform"):
        find_image(reader, "1", lambda platform: platform.architecture == "riscv64")


def test_nested_indexes_are_bounded(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    entry = layout.image([LOWER])
    for _ in range(oci.INDEX_DEPTH):
        entry = layout.index(entry)
    deep = layout.index(entry)
    layout.finish(("ok", entry), ("deep", deep))
    with LayoutReader(layout.root) as reader:
        assert find_image(reader, "ok", lambda _: True).config.os == "linux"
        assert len(find_all(reader, "ok").images) == 1
        for find in (
            lambda: find_image(reader, "deep", lambda _: True),
            lambda: find_all(reader, "deep"),
        ):
            with pytest.raises(LimitExceededError, match="nested"):
                find()


def test_documents_of_an_index_are_bounded_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, _, _ = indexed(tmp_path)
    monkeypatch.setattr(finding, "_DOCUMENTS_MAX_BYTES", 1_500)
    with LayoutReader(layout.root) as reader, pytest.raises(LayerstoreError, match="1500 bytes"):
        find_all(reader, "1")


def test_a_kept_original_that_is_damaged_does_not_leave(store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    entry = layout.image([LOWER], "go")
    adopted = load(store, layout.finish(("1", entry)))
    encodings = store.origins(adopted.image).encodings
    (kept,) = store.origins(adopted.image).kept
    other = Layout(tmp_path / "two")
    load(store, other.finish(("2", other.image([UPPER], "go"))), names=["two:1"])
    # The same record under another's digest: what comes out must be compared.
    from layerstore.image.exchange.originals import original_pieces

    (digest,) = encodings
    lying = encodings[digest]._replace(kept=store.origins(store.resolve("two:1")).kept[0])
    with pytest.raises(IntegrityError, match="came out as"):
        list(original_pieces(store, digest, lying))
    assert (
        b"".join(original_pieces(store, digest, encodings[digest]))
        == (layout.blobs / digest[7:]).read_bytes()
    )
    assert kept != lying.kept
