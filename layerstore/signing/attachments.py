"""Where signatures lie: beside the image, in a manifest under a tag made of its digest.

cosign's place: the image ``repo@sha256:abc...`` has its signatures in the manifest
``repo:sha256-abc....sig``. Each layer of that is a payload; the signature is its annotation.
Any registry and any OCI layout can hold them. Who may add to it is decided by the registry,
so nothing here is believed before a key verified it (:mod:`layerstore.signing.policy`).

Two who sign one image at the same time may lose one signature, as with cosign: registries
have no way to replace a tag only if nobody else did.

Source: cosign, specs/SIGNATURE_SPEC.md, "Tag-based Discovery" and "Object Types".
"""

from __future__ import annotations

import base64
import contextlib
from typing import TYPE_CHECKING, NamedTuple

from msgspec import structs

from layerstore.errors import FormatError, LimitExceededError, NotFoundError
from layerstore.formats import oci, strict_json
from layerstore.image.exchange.exchange import Document, read_blob
from layerstore.signing.claims import PAYLOAD_MAX_BYTES, PAYLOAD_TYPE, Claim, encode_claim
from layerstore.signing.keys import decode_signature

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.digest import Digest
    from layerstore.image.exchange.exchange import ImageDestination, ImageSource
    from layerstore.signing.keys import PrivateKey

SIGNATURE_ANNOTATION = "dev.cosignproject.cosign/signature"
MAX_SIGNATURES = 128
"""Of one manifest: each costs a request and a verification."""


class Signature(NamedTuple):
    """A payload and a signature of it; neither is verified.

    Attributes:
        payload: The signed bytes.
        signature: By somebody.
    """

    payload: bytes
    signature: bytes


def signature_tag(digest: Digest) -> str:
    """Return the tag under which the signatures of a manifest lie."""
    return f"{digest.replace(':', '-')}.sig"


def read_signatures(source: ImageSource, digest: Digest) -> list[Signature]:
    """Return the signatures of a manifest, none if there are none.

    Layers of other kinds are passed over: other tools keep theirs in such manifests.

    Raises:
        FormatError: The manifest of signatures is none.
        LimitExceededError: More signatures, or longer ones, than anybody has use for.
        IntegrityError: A payload is not what its descriptor says.
    """
    manifest = _manifest(source, digest)
    if manifest is None:
        return []
    layers = [each for each in manifest.layers if each.media_type == PAYLOAD_TYPE]
    if len(layers) > MAX_SIGNATURES:
        raise LimitExceededError(f"{digest} has {len(layers)} signatures, over {MAX_SIGNATURES}")
    found = []
    for layer in layers:
        if layer.size > PAYLOAD_MAX_BYTES:
            raise LimitExceededError(
                f"a signature of {digest} is of {layer.size} bytes, over {PAYLOAD_MAX_BYTES}"
            )
        text = layer.annotations.get(SIGNATURE_ANNOTATION)
        if text is None:
            raise FormatError(f"a layer of the signatures of {digest} has no signature")
        found.append(Signature(read_blob(source, layer), decode_signature(text)))
    return found


def sign(
    source: ImageSource, destination: ImageDestination, claim: Claim, key: PrivateKey
) -> Document:
    """Add a signature to those of a manifest, and return the manifest that holds them all.

    Args:
        source: Has the signatures that are there.
        destination: The same place, for writing.
        claim: What to sign.
        key: By whom.

    Raises:
        FormatError: What lies where signatures should is something else.
        LayerstoreError: The place cannot be written.
    """
    payload = encode_claim(claim)
    manifest = _manifest(source, claim.digest)
    descriptor = destination.put_blob([payload], PAYLOAD_TYPE, oci.describe(payload, PAYLOAD_TYPE))
    signature = base64.b64encode(key.sign(payload)).decode("ascii")
    layer = oci.Descriptor(
        media_type=PAYLOAD_TYPE,
        digest=descriptor.digest,
        size=descriptor.size,
        annotations={SIGNATURE_ANNOTATION: signature},
    )
    # The same claim signed anew, perhaps by another key, is one more: neither says whose it is.
    layers = (*(manifest.layers if manifest is not None else ()), layer)
    config = _config(layers)
    document = _document(config, layers, manifest)
    destination.put_blob([config], oci.CONFIG_TYPE, oci.describe(config, oci.CONFIG_TYPE))
    destination.put_document(document, signature_tag(claim.digest))
    return document


def _manifest(source: ImageSource, digest: Digest) -> oci.Manifest | None:
    with contextlib.suppress(NotFoundError):
        document = source.document(signature_tag(digest))
        return oci.decode_artifact(document.raw, media_type=document.media_type)
    return None


def _config(layers: Sequence[oci.Descriptor]) -> bytes:
    """Return the config of an image of payloads, as registries that look into configs want it."""
    return strict_json.encode(
        {
            "architecture": "",
            "os": "",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
        }
    )


def _document(
    config: bytes, layers: tuple[oci.Descriptor, ...], before: oci.Manifest | None
) -> Document:
    empty = oci.Manifest(config=oci.describe(config, oci.CONFIG_TYPE), layers=())
    manifest = structs.replace(before or empty, config=empty.config, layers=layers)
    return Document(oci.encode_manifest(manifest), manifest.media_type)
