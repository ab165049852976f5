"""Which images a policy lets in, and that nothing it cannot check comes in."""

from __future__ import annotations

import base64
import json

import pytest

from layerstore.errors import FormatError
from layerstore.formats.reference import parse_reference
from layerstore.signing.attachments import Signature
from layerstore.signing.claims import Claim, encode_claim
from layerstore.signing.keys import PrivateKey, generate_key_pair
from layerstore.signing.policy import (
    Candidate,
    SignatureRefusedError,
    decode_policy,
    needs_signatures,
    registry_candidate,
    require_allowed,
)

MANIFEST = "sha256:" + "aa" * 32
INDEX = "sha256:" + "bb" * 32
OTHER = "sha256:" + "cc" * 32


class Signer:
    def __init__(self) -> None:
        private, self.public = generate_key_pair(b"")
        self.key = PrivateKey(private, "key", lambda: b"")

    def sign(self, digest: str, reference: str) -> Signature:
        payload = encode_claim(Claim(digest, reference))
        return Signature(payload, self.key.sign(payload))


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer()


@pytest.fixture(scope="module")
def stranger() -> Signer:
    return Signer()


def _policy(document: object, signer: Signer | None = None):
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    return decode_policy(raw, "policy.json", lambda _: signer.public if signer else b"")


def _signed(**more: object) -> dict:
    return {"type": "sigstoreSigned", "keyPath": "/k.pub", **more}


def _candidate(name: str = "host:5000/team/app:1") -> Candidate:
    return registry_candidate(parse_reference(name), [MANIFEST, INDEX])


def _check(policy, signatures: dict, candidate: Candidate | None = None) -> None:
    require_allowed(policy, candidate or _candidate(), lambda digest: signatures.get(digest, []))


def test_anything_goes():
    policy = _policy({"default": [{"type": "insecureAcceptAnything"}]})
    _check(policy, {})
    assert not needs_signatures(policy, _candidate())


def test_nothing_goes():
    with pytest.raises(SignatureRefusedError, match="rejects every image"):
        _check(_policy({"default": [{"type": "reject"}]}), {})


@pytest.mark.parametrize("digest", [MANIFEST, INDEX])
def test_signed_by_the_key(signer, digest):
    policy = _policy({"default": [_signed()]}, signer)
    assert needs_signatures(policy, _candidate())
    _check(policy, {digest: [signer.sign(digest, "host:5000/team/app:1")]})


def test_one_good_signature_among_others_is_enough(signer, stranger):
    policy = _policy({"default": [_signed()]}, signer)
    name = "host:5000/team/app:1"
    several = [stranger.sign(MANIFEST, name), signer.sign(OTHER, name), signer.sign(MANIFEST, name)]
    _check(policy, {MANIFEST: several})


def test_refusals_say_why(signer, stranger):
    policy = _policy({"default": [_signed()]}, signer)
    name = "host:5000/team/app:1"
    with pytest.raises(SignatureRefusedError, match="it has no signature"):
        _check(policy, {})
    with pytest.raises(SignatureRefusedError, match="none of the keys"):
        _check(policy, {MANIFEST: [stranger.sign(MANIFEST, name)]})
    with pytest.raises(SignatureRefusedError, match="not of this image"):
        _check(policy, {MANIFEST: [signer.sign(OTHER, name)]})
    with pytest.raises(SignatureRefusedError, match="does not accept"):
        _check(policy, {MANIFEST: [signer.sign(MANIFEST, "host:5000/team/app:2")]})


def test_a_signature_moved_to_another_payload(signer):
    policy = _policy({"default": [_signed()]}, signer)
    good = signer.sign(OTHER, "host:5000/team/app:1")
    forged = Signature(encode_claim(Claim(MANIFEST, "host:5000/team/app:1")), good.signature)
    with pytest.raises(SignatureRefusedError, match="none of the keys"):
        _check(policy, {MANIFEST: [forged]})


def test_every_requirement_counts(signer, stranger):
    both = [_signed(), {"type": "sigstoreSigned", "keyData": _data(stranger)}]
    policy = _policy({"default": both}, signer)
    name = "host:5000/team/app:1"
    with pytest.raises(SignatureRefusedError):
        _check(policy, {MANIFEST: [signer.sign(MANIFEST, name)]})
    _check(policy, {MANIFEST: [signer.sign(MANIFEST, name), stranger.sign(MANIFEST, name)]})


def _data(signer: Signer) -> str:
    return base64.b64encode(signer.public).decode()


def test_any_of_several_keys(signer, stranger):
    requirement = {"type": "sigstoreSigned", "keyDatas": [_data(stranger), _data(signer)]}
    policy = _policy({"default": [requirement]})
    _check(policy, {MANIFEST: [signer.sign(MANIFEST, "host:5000/team/app:1")]})


@pytest.mark.parametrize(
    ("scope", "matches"),
    [
        ("host.example.com:5000/team/app:1", True),
        ("host.example.com:5000/team/app", True),
        ("host.example.com:5000/team", True),
        ("host.example.com:5000", True),
        ("*.example.com", True),
        ("*.com", True),
        ("", True),
        ("host.example.com:5000/tea", False),
        ("host.example.com", False),
        ("*.host.example.com", False),
        ("host.example.com:5000/team/app:2", False),
    ],
)
def test_scopes(scope, matches):
    rejecting = {"docker": {scope: [{"type": "reject"}]}}
    policy = _policy({"default": [{"type": "insecureAcceptAnything"}], "transports": rejecting})
    candidate = _candidate("host.example.com:5000/team/app:1")
    if matches:
        with pytest.raises(SignatureRefusedError):
            _check(policy, {}, candidate)
    else:
        _check(policy, {}, candidate)


def test_the_most_specific_scope_counts_alone():
    scopes = {
        "": [{"type": "reject"}],
        "host:5000": [{"type": "reject"}],
        "host:5000/team/app": [{"type": "insecureAcceptAnything"}],
    }
    policy = _policy({"default": [{"type": "reject"}], "transports": {"docker": scopes}})
    _check(policy, {})
    with pytest.raises(SignatureRefusedError):
        _check(policy, {}, _candidate("host:5000/team/other:1"))


def test_familiar_names_are_whole_names():
    scopes = {"docker.io/library/debian": [{"type": "reject"}]}
    policy = _policy(
        {"default": [{"type": "insecureAcceptAnything"}], "transports": {"docker": scopes}}
    )
    with pytest.raises(SignatureRefusedError, match=r"docker\.io/library/debian"):
        _check(policy, {}, _candidate("debian"))


@pytest.mark.parametrize(
    ("identity", "signed", "wanted", "good"),
    [
        ({"type": "matchExact"}, "h.x/a:1", "h.x/a:1", True),
        ({"type": "matchExact"}, "h.x/a:1", f"h.x/a@{MANIFEST}", False),
        ({"type": "matchRepoDigestOrExact"}, "h.x/a:9", f"h.x/a@{MANIFEST}", True),
        ({"type": "matchRepoDigestOrExact"}, "h.x/a", "h.x/a:1", False),
        ({"type": "matchRepoDigestOrExact"}, "h.x/a", "h.x/a:latest", False),
        ({"type": "matchRepository"}, "h.x/a", "h.x/a:1", True),
        ({"type": "matchRepository"}, "h.x/ab", "h.x/a:1", False),
        ({"type": "exactReference", "dockerReference": "up.x/b:1"}, "up.x/b:1", "h.x/a:1", True),
        ({"type": "exactReference", "dockerReference": "up.x/b:1"}, "up.x/b:2", "h.x/a:1", False),
        ({"type": "exactRepository", "dockerRepository": "up.x/b"}, "up.x/b:7", "h.x/a:1", True),
        (
            {"type": "remapIdentity", "prefix": "h.x/mirror", "signedPrefix": "up.x"},
            "up.x/b/c:1", "h.x/mirror/b/c:1", True,
        ),
        (
            {"type": "remapIdentity", "prefix": "h.x/mirror", "signedPrefix": "up.x"},
            "up.x/b/c:1", "h.x/mirrored/b/c:1", False,
        ),
        ({"type": "matchRepository"}, "///", "h.x/a:1", False),
    ],
)  # fmt: skip
def test_identities(signer, identity, signed, wanted, good):
    policy = _policy({"default": [_signed(signedIdentity=identity)]}, signer)
    signatures = {MANIFEST: [signer.sign(MANIFEST, signed)]}
    if good:
        _check(policy, signatures, _candidate(wanted))
    else:
        with pytest.raises(SignatureRefusedError):
            _check(policy, signatures, _candidate(wanted))


@pytest.mark.parametrize(
    "requirement",
    [
        {"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/x"},
        {"type": "sigstoreSigned", "fulcio": {"caPath": "/x"}},
        {"type": "sigstoreSigned", "keyPath": "/k", "rekorPublicKeyPath": "/r"},
    ],
)
def test_what_cannot_be_checked_is_not_let_in(signer, requirement):
    policy = _policy({"default": [requirement]}, signer)
    with pytest.raises(SignatureRefusedError, match="not checked here"):
        _check(policy, {MANIFEST: [signer.sign(MANIFEST, "host:5000/team/app:1")]})


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"default": []},
        {"default": [{"type": "signedByMagic"}]},
        {"default": [{"type": "reject", "more": 1}]},
        {"default": [{"type": "reject"}], "more": 1},
        {"default": [{"type": "sigstoreSigned"}]},
        {"default": [{"type": "sigstoreSigned", "keyPath": "/a", "keyData": "AAAA"}]},
        {"default": [{"type": "sigstoreSigned", "keyData": "!"}]},
        {"default": [{"type": "sigstoreSigned", "keyPath": "/a", "signedIdentity": {}}]},
        {"default": [{"type": "reject"}], "transports": {"docker": {"x": {}}}},
        b'{"default": [{"type": "reject"}], "default": [{"type": "insecureAcceptAnything"}]}',
        b"// a comment\n{}",
    ],
)
def test_policies_that_are_none(signer, document):
    with pytest.raises(FormatError):
        _policy(document, signer)
