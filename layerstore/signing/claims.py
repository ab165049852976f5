"""What a signature of an image says: this manifest goes by that name.

The payload is a small JSON text, "simple signing", that cosign, podman and skopeo sign. It is
read strictly: two readers must not find two manifests in it. Pure: bytes to values and back.

Source: cosign, specs/SIGNATURE_SPEC.md; containers-signature(5), "JSON DATA FORMAT".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.digest import parse_digest
from layerstore.errors import FormatError
from layerstore.formats import strict_json
from layerstore.formats._fields import Fields

if TYPE_CHECKING:
    from layerstore.digest import Digest

PAYLOAD_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
PAYLOAD_MAX_BYTES = 64 << 10
"""cosign's have 250 bytes; annotations that users add make them longer."""

_SIGNATURE_TYPE = "cosign container image signature"


class Claim(NamedTuple):
    """What was signed.

    Attributes:
        digest: Of a manifest or an index.
        reference: The name it goes by: ``host/path:tag``, or ``host/path`` as cosign writes it.
        creator: The program that signed, empty if it does not say.
        timestamp: Seconds since 1970, as the signer's clock was; 0 if it does not say.
    """

    digest: Digest
    reference: str
    creator: str = ""
    timestamp: int = 0


def encode_claim(claim: Claim) -> bytes:
    """Return the payload to sign."""
    optional: dict[str, object] = {}
    if claim.creator:
        optional["creator"] = claim.creator
    if claim.timestamp:
        optional["timestamp"] = claim.timestamp
    return strict_json.encode(
        {
            "critical": {
                "identity": {"docker-reference": claim.reference},
                "image": {"docker-manifest-digest": claim.digest},
                "type": _SIGNATURE_TYPE,
            },
            "optional": optional,
        }
    )


def decode_claim(raw: bytes) -> Claim:
    """Return what a payload says. It means nothing before its signature was verified.

    Raises:
        FormatError: Not a payload, or one with critical fields that are not understood.
    """
    payload = Fields(
        strict_json.decode(raw, "signature payload", limit_bytes=PAYLOAD_MAX_BYTES),
        "signature payload",
    )
    critical = payload.part("critical", Fields)
    if critical is None:
        raise FormatError("signature payload.critical is missing")
    kind = critical.required_text("type")
    if kind != _SIGNATURE_TYPE:
        raise FormatError(f"signature payload.critical.type is {kind[:100]!r}, not of an image")
    image = critical.part("image", Fields)
    identity = critical.part("identity", Fields)
    if image is None or identity is None:
        raise FormatError("signature payload.critical lacks the image or its identity")
    digest = parse_digest(image.required_text("docker-manifest-digest"))
    reference = identity.required_text("docker-reference")
    optional = payload.part("optional", Fields)
    for part in (payload, critical, image, identity):
        unknown = sorted(part.rest())
        if unknown:  # critical: who does not understand it must not accept it
            raise FormatError(f"{part.where}.{unknown[0][:100]} is not understood")
    if optional is None:
        return Claim(digest, reference)
    rest = optional.rest()
    creator, timestamp = rest.get("creator"), rest.get("timestamp")
    return Claim(
        digest,
        reference,
        creator if isinstance(creator, str) else "",
        int(timestamp) if isinstance(timestamp, int | float) else 0,
    )
