"""Copies between registries, past every store."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from layerstore.errors import FormatError, IntegrityError, NotFoundError, RegistryError
from layerstore.formats import oci
from layerstore.formats.reference import parse_reference
from layerstore.image.exchange.copying import Copier
from layerstore.image.exchange.registry_places import RegistryDestination, RegistrySource
from layerstore.progress import Silent
from tests.support.registry_stub import StubRegistry, World, altered, stub_registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.registry.client import RegistryClient


@pytest.fixture
def here() -> Iterator[StubRegistry]:
    with stub_registry() as made:
        yield made


@pytest.fixture
def there() -> Iterator[StubRegistry]:
    with stub_registry() as made:
        yield made


@pytest.fixture
def client() -> Iterator[RegistryClient]:
    with World().client() as made:
        yield made


def image(
    stub: StubRegistry, tag: str = "", *, architecture: str = "amd64", layers: int = 5
) -> str:
    """Put an image into a registry and return its manifest's digest."""
    blobs = [os.urandom(50_000) for _ in range(layers)]
    config = json.dumps({"architecture": architecture, "os": "linux"}).encode()
    for blob in (config, *blobs):
        stub.put_blob("a", blob)
    manifest = oci.Manifest(
        config=oci.describe(config, oci.CONFIG_TYPE),
        layers=tuple(oci.describe(blob, oci.LAYER_GZIP_TYPE) for blob in blobs),
    )
    return stub.put_manifest("a", oci.encode_manifest(manifest), tag, oci.MANIFEST_TYPE)


def index(stub: StubRegistry, tag: str, entries: list[tuple[str, str]], kind: str = "") -> str:
    descriptors = tuple(
        oci.Descriptor(
            media_type=stub.repository("a").manifests[digest][1],
            digest=digest,
            size=len(stub.repository("a").manifests[digest][0]),
            platform=oci.Platform(architecture=name, os="linux"),
        )
        for name, digest in entries
    )
    raw = oci.encode_index(oci.Index(manifests=descriptors))
    return stub.put_manifest("a", raw, tag, kind or oci.INDEX_TYPE)


def copier(client: RegistryClient, here: StubRegistry, there: StubRegistry, path="b") -> Copier:
    source = RegistrySource(client.repository(parse_reference(f"{here.name}/a")))
    target = client.repository(parse_reference(f"{there.name}/{path}"))
    beside = ["a"] if here is there else []
    return Copier(source, RegistryDestination(target, beside), Silent())


def test_an_image_is_copied_byte_for_byte(
    here: StubRegistry, there: StubRegistry, client: RegistryClient
) -> None:
    digest = image(here, "v1")
    copied = copier(client, here, there).copy("v1", "v2")
    assert copied == (digest, 6, 250_000 + len('{"architecture": "amd64", "os": "linux"}'))
    assert there.repository("b").tags == {"v2": digest}
    assert there.repository("b").blobs == here.repository("a").blobs
    assert there.repository("b").manifests == here.repository("a").manifests
    again = copier(client, here, there).copy("v1", "v3")
    assert (again.blobs, again.sent_bytes) == (0, 0)


def test_within_a_registry_nothing_is_sent(here: StubRegistry, client: RegistryClient) -> None:
    image(here, "v1")
    copied = copier(client, here, here).copy("v1", "v1")
    assert copied.blobs == 0
    assert here.repository("b").blobs == here.repository("a").blobs
    assert not any(seen.method == "GET" and "blobs" in seen.path for seen in here.requests)


def test_indexes_whole_and_by_platform(
    here: StubRegistry, there: StubRegistry, client: RegistryClient
) -> None:
    amd, arm = image(here), image(here, architecture="arm64")
    whole = index(here, "v1", [("amd64", amd), ("arm64", arm)])
    one = copier(client, here, there).copy("v1", "one", lambda p: p.architecture == "arm64")
    assert one.digest == arm
    assert set(there.repository("b").manifests) == {arm}
    assert copier(client, here, there).copy("v1", "all").digest == whole
    assert set(there.repository("b").manifests) == {amd, arm, whole}
    with pytest.raises(NotFoundError, match="no image for this platform"):
        copier(client, here, there).copy("v1", "none", lambda p: p.architecture == "s390x")


def test_circles_and_depth(here: StubRegistry, there: StubRegistry, client: RegistryClient) -> None:
    digest = image(here)
    for _ in range(5):
        digest = index(here, "deep", [("amd64", digest)])
    for serves in (None, lambda _: True):
        with pytest.raises(FormatError, match="nested more than 3"):
            copier(client, here, there).copy("deep", "x", serves)
    assert there.repository("b").tags == {}


def test_what_is_not_its_digest_does_not_arrive(
    here: StubRegistry, there: StubRegistry, client: RegistryClient
) -> None:
    image(here, "v1")
    here.break_("blobs", altered(lambda body: body[:-1] + b"x", Docker_Content_Digest=""), times=99)
    with pytest.raises((IntegrityError, RegistryError)):
        copier(client, here, there).copy("v1", "v2")
    assert there.repository("b").tags == {}
    assert all(here.repository("a").blobs[d] == b for d, b in there.repository("b").blobs.items())


def test_artefacts_of_any_type(
    here: StubRegistry, there: StubRegistry, client: RegistryClient
) -> None:
    here.put_blob("a", b"{}")
    here.put_blob("a", b"chart")
    manifest = oci.Manifest(
        config=oci.describe(b"{}", "application/vnd.cncf.helm.config.v1+json"),
        layers=(oci.describe(b"chart", "application/vnd.cncf.helm.chart.content.v1.tar+gzip"),),
    )
    digest = here.put_manifest("a", oci.encode_manifest(manifest), "chart", oci.MANIFEST_TYPE)
    assert copier(client, here, there).copy("chart", "chart").digest == digest
