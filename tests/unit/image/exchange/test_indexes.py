"""Indexes that tags mean: kept whole, and whole they go."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from layerstore.errors import ConflictError, FormatError, IntegrityError, NotFoundError
from layerstore.formats import oci
from layerstore.formats.oci_config import ImageConfig
from layerstore.formats.origins import Origins
from layerstore.formats.reference import parse_reference
from layerstore.image.exchange.indexes import (
    find_index,
    image_for,
    keep_index,
    make_index,
    name_again,
)
from layerstore.image.exchange.original_ledger import drop_originals
from layerstore.image.exchange.originals import Originals
from layerstore.image.exchange.registry_places import RegistryDestination
from layerstore.image.exchange.sending import Policy, Sender
from layerstore.image.images import create_image, load_parts
from layerstore.image.layouts.layout import NamedImage, save_oci_layout
from layerstore.image.layouts.loading import Choice, load_directory
from layerstore.image.pushing import Pusher
from layerstore.image.transfer.having import having_images
from layerstore.image.transfer.loading import load_bundle
from layerstore.image.transfer.saving import SavedImage, save_bundle
from layerstore.progress import Silent
from layerstore.store.check.check import check
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.collect.retention import KeepRules
from layerstore.store.config import load_config
from layerstore.store.names.indexes import named_index
from layerstore.store.rebuild.rebuild import rebuild_catalog
from layerstore.store.store import Store
from tests.support.layouts import Layout, tar_of
from tests.support.registry_stub import World, stub_registry
from tests.support.store import put_layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from layerstore.image.exchange.indexes import StoredIndex
    from layerstore.image.exchange.sending import SentIndex
    from layerstore.store.catalog.rows import ImageRecord


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", create=True) as opened:
        yield opened


def of(architecture: str) -> Callable[[oci.Platform], bool]:
    return lambda platform: platform.architecture == architecture


def image(store: Store, architecture: str, *names: str, seed: int = 1) -> ImageRecord:
    with store.begin("test") as session:
        layer = put_layer(session, {b"f": f"{architecture} {seed}".encode()}).diff_id
        config = ImageConfig(architecture=architecture, os="linux")
        return create_image(session, config, [layer], (), names=names, created="")


def grouped(store: Store, name: str = "web:1", *, first: str = "amd64", seed: int = 1) -> None:
    with store.begin("test") as session:
        images = [image(store, "amd64", seed=seed), image(store, "arm64", seed=seed)]
        session.hold_images([each.image_id for each in images])
        make_index(store, [name], images, of(first))


def index_of(store: Store, name: str = "web:1") -> StoredIndex:
    found = find_index(store, name)
    assert found is not None
    return found


def collect(store: Store, **rules: object) -> None:
    execute(plan_gc(store, keep=KeepRules(**rules)))  # type: ignore[arg-type]


def test_a_name_means_all_and_one(store: Store) -> None:
    assert not load_config(store.paths).indexes
    grouped(store, first="arm64")
    found = index_of(store)
    assert [str(entry.platform) for entry in found.entries] == ["linux/amd64", "linux/arm64"]
    assert store.resolve("web:1") == found.first == list(found.images.values())[1]
    assert image_for(store, "web:1", of("amd64")) == next(iter(found.images.values()))
    assert find_index(store, f"web@{found.document.digest}") == found
    for digest, each in found.images.items():
        assert store.resolve(f"web@{digest}") == each
    assert find_index(store, found.first.image_id) is None
    assert load_config(store.paths).indexes
    assert check(store, read_data=True).ok


def test_it_stays_as_long_as_its_tag(store: Store) -> None:
    grouped(store)
    collect(store)
    found = index_of(store)
    assert len(store.images()) == 2
    name_again(store, found, "other:2")
    store.untag("web:1")
    collect(store)
    assert index_of(store, "other:2").images == found.images
    store.untag("other:2")
    assert store.tags() == {}
    collect(store)
    assert store.images() == []
    assert not store.has_blob(found.document.digest)


def test_a_tag_that_moves_takes_all_of_it_away(store: Store) -> None:
    grouped(store)
    alone = image(store, "amd64", "web:1", seed=2)
    assert find_index(store, "web:1") is None
    assert store.tags() == {"web:1": alone.image_id}
    collect(store)
    assert store.images() == [alone]


def test_names_of_a_host_with_a_port_are_no_indexes(store: Store) -> None:
    """What follows the port is no tag: ``host:5000/a@DIGEST`` is a digest's name."""
    one = image(store, "amd64", "localhost:5000/a:1")
    digest = f"localhost:5000/a@{one.manifest_digest}"
    store.name_document(digest, one.image_id)
    store.name_document(digest, one.image_id)
    assert find_index(store, "localhost:5000/a:1") is None
    store.tag("localhost:5000/a:2", one.image_id)
    store.untag("localhost:5000/a:1")
    assert sorted(store.tags()) == ["localhost:5000/a:2", digest]


def test_an_image_of_it_that_is_forced_away_ends_it(store: Store) -> None:
    grouped(store)
    *_, arm = index_of(store).images.values()
    store.remove_image(arm.image_id, force=True)
    assert find_index(store, "web:1") is None
    assert list(store.tags()) == ["web:1"]
    assert check(store, read_data=False).ok


def test_rules_keep_all_of_it_or_nothing(store: Store) -> None:
    for number in range(3):
        grouped(store, f"web:{number}", seed=number)
    collect(store, keep_last=3)
    assert len(store.images()) == 6
    store.pin("web:0")
    collect(store, keep_last=1)
    kept = {name for name in store.tags() if "@" not in name}
    assert "web:0" in kept
    assert len(kept) == 2
    assert len(store.images()) == 4
    for name in kept:
        assert len(index_of(store, name).images) == 2
    store.unpin("web:0")
    collect(store, keep_last=0, max_size=1)
    assert store.images() == []


def test_a_catalog_made_again_knows_it(store: Store) -> None:
    grouped(store)
    before, tags = index_of(store), store.tags()
    root = store.root
    rebuild_catalog(root)
    with Store.open(root) as again:
        assert again.tags() == tags
        assert index_of(again) == before


def test_what_is_lost_of_it_is_told(store: Store) -> None:
    grouped(store)
    found = index_of(store)
    parts = load_parts(store, found.first)
    with store.catalog.write() as connection:  # as if an old manifest had come back
        connection.execute("DELETE FROM tags WHERE name = ?", (f"web:1@{found.document.digest}",))
    with pytest.raises(IntegrityError, match="the index that web:1 means is lost"):
        find_index(store, "web:1")
    assert "the index that web:1 means is lost" in str(check(store, read_data=False).findings)
    assert parts.origins.documents
    store.tag("web:1", found.first.image_id)
    assert find_index(store, "web:1") is None


def test_one_image_for_each_platform(store: Store) -> None:
    images = [image(store, "amd64", "a:1"), image(store, "amd64", "a:2", seed=2)]
    with pytest.raises(ConflictError, match="two images of the index are for linux/amd64"):
        make_index(store, ["web:1"], images, of("amd64"))
    assert find_index(store, "web:1") is None


def layout_of(tmp_path: Path) -> tuple[Path, dict[str, object]]:
    """A layout with an index like nobody of us writes it: annotated, and one index below it."""
    layout = Layout(tmp_path / "layout")
    amd = layout.image([tar_of({"amd": b"amd"})], "go")
    arm = layout.image([tar_of({"arm": b"arm"})], "gzip", architecture="arm64")
    below = layout.index(arm)
    amd["annotations"] = {"a": "b"}
    top = layout.index(amd, below, layout.attestation(amd))
    return layout.finish(("docker.io/library/web:1", top)), top


def loaded(store: Store, place: Path, originals: Originals = Originals.AUTO) -> None:
    list(load_directory(store, place, Choice(of("arm64"), True, originals), Silent()))


def test_what_came_leaves_byte_for_byte(store: Store, tmp_path: Path) -> None:
    place, top = layout_of(tmp_path)
    loaded(store, place)
    found = index_of(store)
    assert found.document.digest == top["digest"]
    assert found.first.image_id == image_for(store, "web:1", of("arm64")).image_id
    out = tmp_path / "out"
    named = NamedImage("web:1", found.first, stored_index=found)
    report = save_oci_layout(store, [named], out, compression="original")
    assert report.descriptors[0].digest == top["digest"]
    with Store.open(tmp_path / "other", create=True) as other:
        loaded(other, out)
        assert index_of(other).document == found.document


@pytest.mark.parametrize("is_dropped", [False, True])
def test_what_is_made_anew_says_the_same_of_its_images(
    store: Store, tmp_path: Path, *, is_dropped: bool
) -> None:
    place, top = layout_of(tmp_path)
    loaded(store, place, Originals.DROP if is_dropped else Originals.AUTO)
    found = index_of(store)
    if not is_dropped:
        for each in found.images.values():
            drop_originals(store, each, kept_only=False, dry_run=False)
        collect(store)
        found = index_of(store)
    named = NamedImage("web:1", found.first, stored_index=found)
    report = save_oci_layout(store, [named], tmp_path / "out", compression="original")
    descriptor = report.descriptors[0]
    assert descriptor.digest != top["digest"]
    raw = (tmp_path / "out/blobs/sha256" / descriptor.digest[7:]).read_bytes()
    entries = json.loads(raw)["manifests"]
    assert [each["platform"]["architecture"] for each in entries] == ["amd64", "arm64"]
    assert entries[0]["annotations"] == {"a": "b"}
    assert not {each["digest"] for each in entries} & found.images.keys()


def load_listing(store: Store, layout: Layout, *entries: dict[str, object]) -> None:
    loaded(store, layout.finish(("docker.io/library/web:1", layout.index(*entries))))


def test_what_lists_no_image_is_passed_over(store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    amd, arm = layout.image([]), layout.image([], architecture="arm64")
    other = layout.put(b"{}", "application/vnd.example+json")
    load_listing(store, layout, amd, other, arm, layout.index(other))
    assert list(index_of(store).images) == [amd["digest"], arm["digest"]]


def test_an_index_without_images_is_told(store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    with pytest.raises(NotFoundError, match="lists no image"):
        load_listing(store, layout, layout.attestation(layout.image([])))
    assert not store.tags()


def test_what_is_listed_often_is_taken_once(store: Store, tmp_path: Path) -> None:
    """Else three small documents would be thousands of millions of images."""
    layout = Layout(tmp_path / "layout")
    both = [layout.image([]), layout.image([], architecture="arm64")]
    below = layout.index(*both * 2000)
    load_listing(store, layout, *[layout.index(*[below] * 2000)] * 2000)
    assert [entry.digest for entry in index_of(store).entries] == [each["digest"] for each in both]


def test_a_push_leaves_a_name_that_moved_meanwhile(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build may end while its predecessor is still on its way."""
    with stub_registry() as stub, World().client() as client, store.begin("test") as session:
        there = parse_reference(f"{stub.name}/web:1")
        both = [
            create_image(session, ImageConfig(architecture=each, os="linux"), [], (), created="")
            for each in ("amd64", "arm64")
        ]
        make_index(store, [there.name], both[:1], of("amd64"))
        sending = Sender.send_index

        def send(*arguments: Any) -> SentIndex:
            sent = sending(*arguments)
            make_index(store, [there.name], both, of("amd64"))
            return sent

        monkeypatch.setattr(Sender, "send_index", send)
        destination = RegistryDestination(client.repository(there))
        pusher = Pusher(store, destination, Policy(), Silent())
        pusher.push_index(index_of(store, there.name), there)
        assert len(index_of(store, there.name).images) == 2
        assert stub.repository("web").tags


def test_an_index_that_lists_others_is_refused(store: Store) -> None:
    one = image(store, "amd64", "a:1", seed=9)
    grouped(store)
    found = index_of(store)
    listed = {digest: each.image_id for digest, each in found.images.items()}
    with pytest.raises(FormatError, match="lists other images"):
        keep_index(store, ["x:1"], found.document, {}, one.image_id)
    with pytest.raises(FormatError, match="lists other images"):
        keep_index(store, ["x:1"], found.document, listed, one.image_id)
    nested = msgspec.structs.replace(
        found.listing, manifests=(oci.describe(found.document.raw, oci.INDEX_TYPE),)
    )
    above = type(found.document)(oci.encode_index(nested), oci.INDEX_TYPE)
    with pytest.raises(FormatError, match="came without"):
        keep_index(store, ["x:1"], above, listed, found.first.image_id)
    assert named_index(store, "x:1") is None


def test_attestations_and_origins_of_the_first_image_stay(store: Store) -> None:
    grouped(store)
    found = index_of(store)
    origins = load_parts(store, found.first).origins
    assert origins == Origins({found.document.digest: oci.INDEX_TYPE})
    grouped(store)
    assert index_of(store) == found


def test_a_bundle_that_names_an_index_it_does_not_bring(store: Store, tmp_path: Path) -> None:
    loaded(store, layout_of(tmp_path)[0])
    one = index_of(store).first
    names = ("x:1", f"x:1@{one.manifest_digest}")
    place = tmp_path / "bundle"
    save_bundle(
        store, [SavedImage(one, names)], lambda: place.open("wb"), having=having_images(store, [])
    )
    with (
        Store.open(tmp_path / "other", create=True) as other,
        place.open("rb") as stream,
        pytest.raises(FormatError, match="the bundle has no index for x:1"),
    ):
        load_bundle(other, stream.read)
    with Store.open(tmp_path / "other") as other:
        assert other.tags() == {}
