"""The payload that is signed, strictly read."""

from __future__ import annotations

import json

import pytest

from layerstore.errors import FormatError, LayerstoreError
from layerstore.signing.claims import Claim, decode_claim, encode_claim

DIGEST = "sha256:" + "ab" * 32


def _payload(**changes: object) -> dict:
    payload = {
        "critical": {
            "identity": {"docker-reference": "host/app"},
            "image": {"docker-manifest-digest": DIGEST},
            "type": "cosign container image signature",
        },
        "optional": None,
    }
    payload.update(changes)
    return payload


def test_a_claim_survives():
    claim = Claim(DIGEST, "host/app:1", "layerstore", 1700000000)
    assert decode_claim(encode_claim(claim)) == claim
    assert decode_claim(encode_claim(Claim(DIGEST, "host/app"))) == Claim(DIGEST, "host/app")


def test_as_cosign_writes_it():
    assert decode_claim(json.dumps(_payload()).encode()) == Claim(DIGEST, "host/app")
    annotated = _payload(optional={"creator": "me", "timestamp": 5, "team": "x"})
    assert decode_claim(json.dumps(annotated).encode()) == Claim(DIGEST, "host/app", "me", 5)


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it.update(more=1),
        lambda it: it["critical"].update(more=1),
        lambda it: it["critical"]["image"].update(more=1),
        lambda it: it["critical"]["image"].update({"Docker-Manifest-Digest": DIGEST}),
        lambda it: it["critical"]["image"].update({"docker-manifest-digest": "sha256:../x"}),
        lambda it: it["critical"].update(type="atomic container signature"),
        lambda it: it["critical"].pop("identity"),
        lambda it: it["critical"]["identity"].update({"docker-reference": ""}),
        lambda it: it.pop("critical"),
        lambda it: it.update(optional=[]),
    ],
)
def test_what_is_not_understood_is_refused(change):
    payload = _payload()
    change(payload)
    with pytest.raises(FormatError):
        decode_claim(json.dumps(payload).encode())


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b'{"critical":{},"critical":{}}', b" " * 70000])
def test_what_is_no_payload(raw):
    with pytest.raises(LayerstoreError):
        decode_claim(raw)
