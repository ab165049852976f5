"""Signatures beside an image: written, added to, read, and what strangers put there."""

from __future__ import annotations

import base64

import pytest
from msgspec import structs

from layerstore.errors import FormatError, IntegrityError, LimitExceededError
from layerstore.formats import oci, strict_json
from layerstore.image.exchange.exchange import Document
from layerstore.signing.attachments import (
    MAX_SIGNATURES,
    SIGNATURE_ANNOTATION,
    read_signatures,
    sign,
    signature_tag,
)
from layerstore.signing.claims import PAYLOAD_TYPE, Claim, decode_claim
from layerstore.signing.keys import PrivateKey, PublicKey, generate_key_pair
from tests.support.memory_place import MemoryPlace

DIGEST = "sha256:" + "ab" * 32


@pytest.fixture(scope="module")
def keys() -> list[PrivateKey]:
    return [PrivateKey(generate_key_pair(b"")[0], "key", lambda: b"") for _ in range(2)]


def test_nothing_is_signed():
    assert read_signatures(MemoryPlace(), DIGEST) == []


def test_signatures_add_up(keys):
    place = MemoryPlace()
    for key in keys:
        sign(place, place, Claim(DIGEST, "host/app:1", "test", 1), key)
    found = read_signatures(place, DIGEST)
    assert [decode_claim(each.payload).digest for each in found] == [DIGEST, DIGEST]
    for key, each in zip(keys, found, strict=True):
        assert PublicKey(key.public_pem(), "pub").verifies(each.signature, each.payload)
    document = place.documents[signature_tag(DIGEST)]
    manifest = oci.decode_artifact(document.raw, media_type=document.media_type)
    config = strict_json.decode(place.blobs[manifest.config.digest], "config")
    assert config["rootfs"]["diff_ids"] == [layer.digest for layer in manifest.layers]


def test_what_others_keep_there_stays(keys):
    place = MemoryPlace()
    sign(place, place, Claim(DIGEST, "host/app:1"), keys[0])
    document = place.documents[signature_tag(DIGEST)]
    manifest = oci.decode_artifact(document.raw, media_type=document.media_type)
    foreign = oci.Descriptor(media_type="text/x-other", digest=DIGEST, size=5)
    altered = structs.replace(manifest, layers=(foreign, *manifest.layers), annotations={"a": "b"})
    place.put_document(
        Document(oci.encode_manifest(altered), oci.MANIFEST_TYPE), signature_tag(DIGEST)
    )
    sign(place, place, Claim(DIGEST, "host/app:1"), keys[1])
    assert len(read_signatures(place, DIGEST)) == 2
    after = oci.decode_artifact(place.documents[signature_tag(DIGEST)].raw)
    assert after.layers[0] == foreign
    assert after.annotations == {"a": "b"}


def _place_with(layers: list[oci.Descriptor]) -> MemoryPlace:
    place = MemoryPlace()
    config = place.put_blob([b"{}"], oci.CONFIG_TYPE)
    manifest = oci.Manifest(config=config, layers=tuple(layers))
    place.put_document(
        Document(oci.encode_manifest(manifest), oci.MANIFEST_TYPE), signature_tag(DIGEST)
    )
    return place


def _layer(text: str | None = "AAAA", size: int = 5, digest: str = DIGEST) -> oci.Descriptor:
    annotations = {} if text is None else {SIGNATURE_ANNOTATION: text}
    return oci.Descriptor(
        media_type=PAYLOAD_TYPE, digest=digest, size=size, annotations=annotations
    )


def test_hostile_signatures():
    with pytest.raises(LimitExceededError):
        read_signatures(_place_with([_layer()] * (MAX_SIGNATURES + 1)), DIGEST)
    with pytest.raises(LimitExceededError):
        read_signatures(_place_with([_layer(size=1 << 20)]), DIGEST)
    with pytest.raises(FormatError, match="has no signature"):
        read_signatures(_place_with([_layer(None)]), DIGEST)
    place = _place_with([_layer("!")])
    place.blobs[DIGEST] = b"12345"
    with pytest.raises(IntegrityError):
        read_signatures(place, DIGEST)
    place = MemoryPlace()
    place.put_document(Document(b"{}", oci.MANIFEST_TYPE), signature_tag(DIGEST))
    with pytest.raises(FormatError):
        read_signatures(place, DIGEST)


def test_a_payload_that_is_another(keys):
    place = MemoryPlace()
    sign(place, place, Claim(DIGEST, "host/app:1"), keys[0])
    (payload_digest,) = [d for d, raw in place.blobs.items() if b"critical" in raw]
    place.blobs[payload_digest] = place.blobs[payload_digest].replace(b"app", b"apq")
    with pytest.raises(IntegrityError):
        read_signatures(place, DIGEST)


def test_base64_is_as_cosign_writes_it(keys):
    place = MemoryPlace()
    sign(place, place, Claim(DIGEST, "host/app:1"), keys[0])
    manifest = oci.decode_artifact(place.documents[signature_tag(DIGEST)].raw)
    text = manifest.layers[0].annotations[SIGNATURE_ANNOTATION]
    assert base64.b64encode(base64.b64decode(text)).decode() == text
