"""What an image came under, where strangers may have said so: a bundle brings such documents."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from layerstore.errors import FormatError
from layerstore.formats import oci
from layerstore.formats.origins import Origins
from layerstore.image.exchange.sending import Policy, find_original
from layerstore.image.images import ImageParts, load_parts, publish_parts
from layerstore.image.transfer import publishing
from layerstore.image.transfer.publishing import EARLIER_MAX, LOOKED_MAX, _uppermost_first
from layerstore.store.store import Store
from tests.support.store import blobs_of, put_layer, text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from layerstore.digest import DiffId

FILES = {b"bin/sh": text(1, 3_000)}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", create=True) as opened:
        yield opened


def manifest_of(store: Store, config: bytes, *layers: DiffId) -> bytes:
    descriptors = tuple(
        oci.Descriptor(media_type=oci.LAYER_TAR_TYPE, digest=each, size=store.layer(each).tar_size)
        for each in layers
    )
    described = oci.describe(config, oci.CONFIG_TYPE)
    return oci.encode_manifest(oci.Manifest(config=described, layers=descriptors))


def published(
    store: Store, config: bytes, layer: DiffId, documents: dict[bytes, str]
) -> ImageParts:
    origins = Origins({oci.describe(raw, "").digest: kind for raw, kind in documents.items()})
    with store.begin("test") as session:
        session.hold_layers([layer])
        parts = ImageParts(config, (layer,), {}, origins=origins)
        return load_parts(store, publish_parts(session, parts, documents=list(documents)))


def layer_of(store: Store) -> DiffId:
    with store.begin("test") as session:
        return put_layer(session, FILES).diff_id


def test_a_manifest_of_another_number_of_layers_is_passed_over(store: Store) -> None:
    layer = layer_of(store)
    config, _ = blobs_of([layer])
    raw = manifest_of(store, config, layer, layer)
    assert find_original(store, published(store, config, layer, {raw: oci.MANIFEST_TYPE}),
                         Policy()) is None  # fmt: skip


def test_indexes_that_list_each_other_twice_end(store: Store) -> None:
    layer = layer_of(store)
    config, _ = blobs_of([layer])
    raw = manifest_of(store, config, layer)
    chain = [(raw, oci.MANIFEST_TYPE)]
    for _ in range(40):  # 2**40 ways down
        below = oci.describe(*chain[-1])
        index = oci.encode_index(oci.Index(manifests=(below, below)))
        chain.append((index, oci.INDEX_TYPE))
    parts = published(store, config, layer, dict(reversed(chain)))
    found = find_original(store, parts, Policy())
    assert found is not None
    # The highest that is nested no deeper than a registry's may be, each document once.
    assert [each.raw for each in found.documents] == [raw for raw, _ in chain[:4]]
    assert len(found.images) == 1


def test_packs_that_build_on_each_other() -> None:
    assert _uppermost_first({0: {1}, 1: {1, 2}, 2: set()}) == [0, 1, 2]
    with pytest.raises(FormatError, match="in a circle"):
        _uppermost_first({0: {1}, 1: {0}})


@pytest.mark.parametrize(("having", "asked"), [(True, EARLIER_MAX), (False, LOOKED_MAX)])
def test_earlier_parcels_are_asked_for_one_by_one(
    monkeypatch: pytest.MonkeyPatch, having: bool, asked: int
) -> None:
    looked: list[str] = []

    def find(_repository: object, digest: str) -> SimpleNamespace | None:
        looked.append(digest)
        return SimpleNamespace(packs=[]) if having else None

    monkeypatch.setattr(publishing, "find_artefact", find)
    named = iter(range(1000))
    there = publishing._There()
    there.learn(None, (f"sha256:{n % 500}" for n in named))  # type: ignore[arg-type]
    assert len(looked) == asked
    assert next(named) == asked  # nobody listed tags for what was not wanted any more
