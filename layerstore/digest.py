"""Digests and the distinct types of ids that name things in a store.

Text digests are ``algorithm:hex`` as in the OCI image spec ("Digests"); ids of
chunks and packs are 32 raw bytes of BLAKE3. The ids are distinct types so that
a type checker refuses a pack id where a chunk id is wanted. Hash libraries are
imported when first used, so that commands that hash nothing do not pay for them.
"""

from __future__ import annotations

from layerstore.errors import FormatError
from layerstore.light_typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

Digest = NewType("Digest", str)
"""``sha256:`` and 64 lower-case hex digits (or ``sha512:`` and 128)."""

DiffId = NewType("DiffId", Digest)
"""Digest of a layer's uncompressed tar (OCI image spec, "Layer DiffID")."""

ChainId = NewType("ChainId", Digest)
"""Identity of an ordered application of layers (OCI image spec, "Layer ChainID")."""

ImageId = NewType("ImageId", Digest)
"""Digest of an image's config JSON (OCI image spec, "ImageID")."""

ChunkId = NewType("ChunkId", bytes)
"""32 bytes of BLAKE3 over a chunk's plain bytes."""

PackId = NewType("PackId", bytes)
"""32 bytes of BLAKE3 over a whole pack file."""

ObjectId = NewType("ObjectId", bytes)
"""32 bytes that name a file's whole content in the object tier (docs/format/store.md)."""

ID_BYTES = 32

_SMALL_BYTES = 1 << 16
"""Up to so many bytes OpenSSL's faster SHA-256 is not worth loading it."""

_HEX_DIGITS = {"sha256": 64, "sha512": 128}
_HEX = frozenset("0123456789abcdef")


def parse_digest(text: str) -> Digest:
    """Return ``text`` as a digest, or refuse it.

    Only these strings ever reach a path or a URL, so nothing but lower-case
    hex of the exact length passes.

    Raises:
        FormatError: Unknown algorithm, wrong length, or anything but hex.
    """
    algorithm, colon, value = text.partition(":")
    if not colon or _HEX_DIGITS.get(algorithm) != len(value) or not _HEX.issuperset(value):
        raise FormatError(
            f"{text[:100]!r} is not a digest: expected sha256: and 64 lower-case hex digits"
        )
    return Digest(text)


def hex_of(digest: str) -> str:
    """Return the hexadecimal part of a parsed digest."""
    return digest.partition(":")[2]


_own: list[Any] = []
"""The constructor, once it was looked for."""


def sha256_digest(data: bytes | memoryview) -> Digest:
    """Return the SHA-256 digest of ``data``."""
    if len(data) <= _SMALL_BYTES:
        return Digest("sha256:" + _own_sha256()(data).hexdigest())
    from hashlib import sha256

    return Digest("sha256:" + sha256(data).hexdigest())


def _own_sha256() -> Any:  # noqa: ANN401 -- a constructor that typeshed has only as hashlib's
    """Return the interpreter's own SHA-256, which loads no OpenSSL: that takes 2 to 5 ms."""
    if not _own:
        _own.append(_find_own_sha256())
    return _own[0]


def _find_own_sha256() -> Any:  # noqa: ANN401
    import importlib

    for name in ("_sha2", "_sha256"):  # since Python 3.12, and before
        try:
            return importlib.import_module(name).sha256
        except ImportError:
            continue
    from hashlib import sha256

    return sha256


def blake3_id(data: bytes | bytearray | memoryview) -> bytes:
    """Return the 32 BLAKE3 bytes of ``data``, the form chunk and pack ids have."""
    from blake3 import blake3  # lazily: most commands hash nothing

    return blake3(data).digest()


def chain_id(diff_ids: Iterable[DiffId]) -> ChainId:
    """Return the chain ID of layers applied in this order, lowest first.

    Zero layers have no chain ID in the spec; here they get the digest of the
    empty string, so that an empty image can be named as well.

    Source: OCI image spec, config.md, "Layer ChainID".
    """
    chain: str | None = None
    for diff_id in diff_ids:
        chain = diff_id if chain is None else sha256_digest(f"{chain} {diff_id}".encode())
    return ChainId(Digest(chain) if chain is not None else sha256_digest(b""))
