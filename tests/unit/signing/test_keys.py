"""Key files: made here, made by others, damaged, hostile."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa

from layerstore.errors import FormatError, InputError, LimitExceededError
from layerstore.signing.keys import PrivateKey, PublicKey, generate_key_pair

PASSPHRASE = b"correct horse"


def never() -> bytes:
    raise AssertionError("a plain key was asked for its passphrase")


@pytest.fixture(scope="module")
def pair() -> tuple[bytes, bytes]:
    return generate_key_pair(PASSPHRASE)


def _plain_pem(key: object) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _envelope(pair: tuple[bytes, bytes]) -> dict:
    return json.loads(base64.b64decode("".join(pair[0].decode().splitlines()[1:-1])))


def _sealed(envelope: dict) -> bytes:
    body = base64.b64encode(json.dumps(envelope).encode()).decode()
    label = "ENCRYPTED SIGSTORE PRIVATE KEY"
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n".encode()


def test_a_new_pair_signs_and_verifies(pair):
    private = PrivateKey(pair[0], "key", lambda: PASSPHRASE)
    public = PublicKey(pair[1], "pub")
    signature = private.sign(b"payload")
    assert public.verifies(signature, b"payload")
    assert not public.verifies(signature, b"payloae")
    assert not public.verifies(signature[:-1] + bytes([signature[-1] ^ 1]), b"payload")
    assert not public.verifies(b"", b"payload")
    assert private.public_pem() == pair[1]


def test_the_private_half_is_sealed(pair):
    lines = pair[0].decode().splitlines()
    assert lines[0] == "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----"
    envelope = _envelope(pair)
    assert envelope["kdf"]["name"] == "scrypt"
    assert envelope["kdf"]["params"] == {"N": 65536, "r": 8, "p": 1}
    assert envelope["cipher"]["name"] == "nacl/secretbox"
    assert generate_key_pair(PASSPHRASE)[0] != pair[0]


def test_a_wrong_passphrase_is_said(pair):
    with pytest.raises(InputError, match=r"the passphrase does not open my\.key"):
        PrivateKey(pair[0], "my.key", lambda: b"wrong")


@pytest.mark.parametrize(
    "make",
    [
        lambda: ec.generate_private_key(ec.SECP256R1()),
        lambda: ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate,
        lambda: rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-256", "P-384", "Ed25519", "RSA"],
)
def test_plain_keys_of_every_kind(make):
    private = PrivateKey(_plain_pem(make()), "key", never)
    public = PublicKey(private.public_pem(), "pub")
    assert public.verifies(private.sign(b"x"), b"x")
    assert not public.verifies(private.sign(b"x"), b"y")


def test_an_encrypted_pkcs8_key():
    key = ec.generate_private_key(ec.SECP256R1())
    raw = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(PASSPHRASE),
    )
    assert PrivateKey(raw, "key", lambda: PASSPHRASE).sign(b"x")
    with pytest.raises(FormatError):
        PrivateKey(raw, "key", lambda: b"wrong")


@pytest.mark.parametrize(
    "key",
    [lambda: rsa.generate_private_key(65537, 1024), lambda: dsa.generate_private_key(2048)],
    ids=["short RSA", "DSA"],
)
def test_keys_that_are_not_taken(key):
    raw = _plain_pem(key())
    with pytest.raises(FormatError, match="RSA"):
        PrivateKey(raw, "key", never)


@pytest.mark.parametrize(
    "raw",
    [b"", b"no key", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", b"\xff"],
)
def test_what_is_no_key(raw):
    with pytest.raises(FormatError):
        PublicKey(raw, "file")
    with pytest.raises(FormatError):
        PrivateKey(raw, "file", never)


def test_a_private_key_is_no_public_one(pair):
    with pytest.raises(FormatError, match="not a public key"):
        PublicKey(pair[0], "file")


def test_a_file_too_large():
    with pytest.raises(LimitExceededError):
        PublicKey(b"x" * (1 << 17), "file")


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it["kdf"]["params"].update(N=1 << 23),
        lambda it: it["kdf"]["params"].update(N=65535),
        lambda it: it["kdf"]["params"].update(N=0),
        lambda it: it["kdf"].update(name="pbkdf2"),
        lambda it: it["cipher"].update(name="none"),
        lambda it: it["cipher"].update(nonce="AAAA"),
        lambda it: it.update(ciphertext="!"),
        lambda it: it.pop("kdf"),
    ],
    ids=["memory bomb", "not a power", "zero", "kdf", "cipher", "nonce", "base64", "no kdf"],
)
def test_hostile_envelopes(pair, change):
    envelope = _envelope(pair)
    change(envelope)
    with pytest.raises((FormatError, LimitExceededError)):
        PrivateKey(_sealed(envelope), "key", lambda: PASSPHRASE)


def test_a_cut_key_file(pair):
    with pytest.raises(FormatError, match="has no end"):
        PrivateKey(pair[0][:-20], "key", never)
