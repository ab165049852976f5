"""Key files as cosign, podman and skopeo have them: reading, making, signing, verifying.

A public key is PEM; a private key is PEM, too, usually sealed with a passphrase: scrypt makes
a key of that, NaCl's secretbox seals the PKCS #8 text. Signatures are ECDSA (any NIST curve)
or RSA PKCS #1 v1.5 over SHA-256, or Ed25519. The libraries are imported when a key is used.

Source: cosign, specs/SIGNATURE_SPEC.md, "Signature Schemes"; go-securesystemslib, ``encrypted``
(the sealed form); RFC 7468.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from typing import TYPE_CHECKING

from layerstore.errors import FormatError, InputError, IntegrityError, LimitExceededError
from layerstore.formats import strict_json
from layerstore.formats._fields import Fields

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    _Public = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey
    _Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

KEY_FILE_MAX_BYTES = 64 << 10
_SEALED = ("ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY")
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 65536, 8, 1
"""What cosign 2 writes, and what podman and skopeo insist on: 64 MiB of memory."""

_SCRYPT_MAX_BYTES = 256 << 20
"""Memory that a stranger's key file may make us take: 128 * N * r."""

_RSA_MIN_BITS = 2048
_LINE = 64


class PublicKey:
    """Who may have signed.

    Args:
        raw: A PEM text.
        where: What messages call it.

    Raises:
        FormatError: Not a public key of a kind that is known.
    """

    def __init__(self, raw: bytes, where: str) -> None:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization

        _refuse_large(raw, where)
        try:
            key = serialization.load_pem_public_key(raw)
        except (ValueError, UnsupportedAlgorithm) as err:
            raise FormatError(
                f"{where} is not a public key",
                hint="a PEM text that begins with -----BEGIN PUBLIC KEY-----",
            ) from err
        self._key = _known_public(key, where)

    def verifies(self, signature: bytes, payload: bytes) -> bool:
        """Return whether a signature is this key's, of this payload."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

        key = self._key
        try:
            if isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(signature, payload, ec.ECDSA(hashes.SHA256()))
            elif isinstance(key, rsa.RSAPublicKey):
                key.verify(signature, payload, padding.PKCS1v15(), hashes.SHA256())
            else:
                key.verify(signature, payload)
        except InvalidSignature:
            return False
        return True


class PrivateKey:
    """Who signs.

    Args:
        raw: A PEM text, sealed or not.
        where: What messages call it.
        passphrase: Asked when the key is sealed.

    Raises:
        FormatError: Not a private key of a kind that is known.
        InputError: The passphrase is wrong.
    """

    def __init__(self, raw: bytes, where: str, passphrase: Callable[[], bytes]) -> None:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization

        _refuse_large(raw, where)
        sealed = _sealed_body(raw, where)
        try:
            if sealed is not None:
                plain = _unseal(sealed, where, passphrase())
                key = serialization.load_der_private_key(plain, None)
            else:
                password = passphrase() if b"ENCRYPTED" in raw else None
                key = serialization.load_pem_private_key(raw, password)
        except (ValueError, TypeError, UnsupportedAlgorithm) as err:
            raise FormatError(
                f"{where} is not a private key that its passphrase opens",
                hint="a key of 'cosign generate-key-pair' or 'layerstore generate-key-pair'",
            ) from err
        self._key = _known_private(key, where)

    def sign(self, payload: bytes) -> bytes:
        """Return a signature of a payload."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

        key = self._key
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key.sign(payload, ec.ECDSA(hashes.SHA256()))
        if isinstance(key, rsa.RSAPrivateKey):
            return key.sign(payload, padding.PKCS1v15(), hashes.SHA256())
        return key.sign(payload)

    def public_pem(self) -> bytes:
        """Return the public half, as a PEM text."""
        from cryptography.hazmat.primitives import serialization

        return self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


def generate_key_pair(passphrase: bytes) -> tuple[bytes, bytes]:
    """Return a new ECDSA P-256 key, sealed, and its public half: two PEM texts."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from nacl.secret import SecretBox

    key = ec.generate_private_key(ec.SECP256R1())
    plain = key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    salt, nonce = os.urandom(32), os.urandom(SecretBox.NONCE_SIZE)
    box = SecretBox(_stretched(passphrase, salt, _SCRYPT_N, _SCRYPT_R, _SCRYPT_P))
    body = strict_json.encode(
        {
            "kdf": {
                "name": "scrypt",
                "params": {"N": _SCRYPT_N, "r": _SCRYPT_R, "p": _SCRYPT_P},
                "salt": base64.b64encode(salt).decode("ascii"),
            },
            "cipher": {
                "name": "nacl/secretbox",
                "nonce": base64.b64encode(nonce).decode("ascii"),
            },
            "ciphertext": base64.b64encode(box.encrypt(plain, nonce).ciphertext).decode("ascii"),
        }
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return _pem(_SEALED[0], body), public


def _refuse_large(raw: bytes, where: str) -> None:
    if len(raw) > KEY_FILE_MAX_BYTES:
        raise LimitExceededError(f"{where} is larger than {KEY_FILE_MAX_BYTES} bytes: no key file")


def _known_public(key: object, where: str) -> _Public:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, rsa.RSAPublicKey):
        _refuse_short(key.key_size, where)
        return key
    if isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        return key
    raise FormatError(f"{where} is neither an ECDSA nor an RSA nor an Ed25519 key")


def _known_private(key: object, where: str) -> _Private:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, rsa.RSAPrivateKey):
        _refuse_short(key.key_size, where)
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        return key
    raise FormatError(f"{where} is neither an ECDSA nor an RSA nor an Ed25519 key")


def _refuse_short(bits: int, where: str) -> None:
    if bits < _RSA_MIN_BITS:
        raise FormatError(f"{where} is an RSA key of {bits} bits, at least {_RSA_MIN_BITS} are")


def _sealed_body(raw: bytes, where: str) -> bytes | None:
    """Return what a sealed key's PEM holds, None if it is not one of cosign's."""
    lines = raw.decode("ascii", "replace").strip().splitlines()
    for label in _SEALED:
        if not lines or lines[0] != f"-----BEGIN {label}-----":
            continue
        if lines[-1] != f"-----END {label}-----":
            raise FormatError(f"{where} has no end: it was cut")
        return _base64("".join(lines[1:-1]), where)
    return None


def _unseal(body: bytes, where: str, passphrase: bytes) -> bytes:
    from nacl.exceptions import CryptoError
    from nacl.secret import SecretBox

    outer = Fields(strict_json.decode(body, where, limit_bytes=KEY_FILE_MAX_BYTES), where)
    kdf, cipher = outer.part("kdf", Fields), outer.part("cipher", Fields)
    params = kdf.part("params", Fields) if kdf is not None else None
    if kdf is None or cipher is None or params is None:
        raise FormatError(f"{where} does not say how it is sealed")
    ways = (kdf.required_text("name"), cipher.required_text("name"))
    if ways != ("scrypt", "nacl/secretbox"):
        raise FormatError(f"{where} is sealed by {ways[0][:50]} and {ways[1][:50]}, not known here")
    nonce = _base64(cipher.required_text("nonce"), where)
    if len(nonce) != SecretBox.NONCE_SIZE:
        raise FormatError(f"{where} has a nonce of {len(nonce)} bytes, expected 24")
    key = _stretched(
        passphrase,
        _base64(kdf.required_text("salt"), where),
        params.integer("N", low=2, high=1 << 24),
        params.integer("r", low=1, high=64),
        params.integer("p", low=1, high=16),
        where,
    )
    try:
        return SecretBox(key).decrypt(_base64(outer.required_text("ciphertext"), where), nonce)
    except CryptoError as err:
        raise InputError(
            f"the passphrase does not open {where}",
            hint="--sign-passphrase-file FILE, or COSIGN_PASSWORD in the environment",
        ) from err


def _stretched(
    passphrase: bytes, salt: bytes, n: int, r: int, p: int, where: str = "the key"
) -> bytes:
    if 128 * n * r > _SCRYPT_MAX_BYTES:
        raise LimitExceededError(
            f"{where} asks for {128 * n * r} bytes of memory, more than {_SCRYPT_MAX_BYTES}"
        )
    try:
        return hashlib.scrypt(
            passphrase, salt=salt, n=n, r=r, p=p, dklen=32, maxmem=2 * _SCRYPT_MAX_BYTES
        )
    except ValueError as err:
        raise FormatError(f"{where} has parameters of scrypt that cannot be") from err


def _base64(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as err:
        raise FormatError(f"{where} holds base64 that is none") from err


def decode_signature(text: str) -> bytes:
    """Return the bytes of a signature in base64.

    Raises:
        IntegrityError: Not base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as err:
        raise IntegrityError("a signature is not base64") from err


def _pem(label: str, body: bytes) -> bytes:
    text = base64.b64encode(body).decode("ascii")
    lines = [text[at : at + _LINE] for at in range(0, len(text), _LINE)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode()
