"""Seals: short hashes of catalog rows that nothing else would vouch for.

SQLite keeps no checksums of its pages, and one flipped bit there can hide a row.
Chunks, layer records and blobs are verified by their own ids; images, names and
build steps carry a seal. Normative: docs/format/catalog.md, "Seals". On the fast path.
"""

from __future__ import annotations

try:
    from _blake2 import blake2b  # hashlib's own, without loading OpenSSL, which takes 2 ms
except ImportError:
    from hashlib import blake2b

SEAL_BYTES = 8
"""Enough against accidents; a seal is no defence against somebody who can write the store."""


def seal(table: str, *fields: str | int | bytes | None) -> bytes:
    """Return the seal of a row: its table and its fields, each with its length before it."""
    digest = blake2b(digest_size=SEAL_BYTES)
    for field in (table, *fields):
        data = _encode(field)
        digest.update(len(data).to_bytes(4, "little"))
        digest.update(data)
    return digest.digest()


def _encode(field: str | int | bytes | None) -> bytes:
    match field:
        case None:
            return b"n"
        case bytes():
            return b"b" + field
        case int():
            return b"i%d" % field
        case str():
            return b"s" + field.encode()
