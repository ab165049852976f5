"""What a stored manifest remembers of how its image came: annotations of its own.

An image may have come under several manifests, each with layers compressed in its own way.
*Origins* are the documents, kept byte for byte as blobs; *encodings* say how the exact bytes
of a compressed layer are made again. Pure: manifests to values and back.

Source: docs/format/origins.md.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from layerstore.digest import DiffId, Digest, parse_digest
from layerstore.errors import FormatError
from layerstore.formats import strict_json

if TYPE_CHECKING:
    from collections.abc import Mapping

ORIGIN_KEY = "layerstore.origin/"
"""Begins the annotation of a document: its digest ends the key, its media type is the value."""
ENCODING_KEY = "layerstore.encoding/"
"""Begins the annotation of a compressed layer: the rest of the key is its digest."""

_MARKS = (f'"{ORIGIN_KEY}'.encode(), f'"{ENCODING_KEY}'.encode())


class Encoding(NamedTuple):
    """How the exact bytes of a compressed layer are made again.

    Attributes:
        diff_id: What is compressed.
        size: Bytes of the compressed layer.
        kept: The layer whose only file is the compressed original; None if ``recipe`` makes it.
        recipe: What to do with the layer's tar, in the words of
            :mod:`layerstore.image.exchange.reencoding`; empty if it is kept.
    """

    diff_id: DiffId
    size: int
    kept: DiffId | None = None
    recipe: Mapping[str, object] = {}


class Origins(NamedTuple):
    """What one stored manifest remembers.

    Attributes:
        documents: Media types of documents by their digests, which are blobs.
        encodings: By the digest of the compressed layer.
    """

    documents: Mapping[Digest, str] = {}
    encodings: Mapping[Digest, Encoding] = {}

    def __bool__(self) -> bool:
        """Return whether there is anything to remember."""
        return bool(self.documents or self.encodings)

    @property
    def kept(self) -> tuple[DiffId, ...]:
        """The layers whose only file is a compressed original."""
        return tuple(each.kept for each in self.encodings.values() if each.kept is not None)


NO_ORIGINS = Origins()


def decode_origins(manifest: bytes) -> Origins:
    """Return what a stored manifest remembers.

    Raises:
        FormatError: It is no manifest, or remembers in words that mean nothing.
    """
    if not any(mark in manifest for mark in _MARKS):
        return NO_ORIGINS  # attestations make manifests of megabytes
    try:
        annotations = json.loads(manifest)["annotations"]
        return origins_of_annotations(annotations)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as err:
        raise FormatError(f"a stored manifest's origins are malformed: {err}") from err


def origins_of_annotations(annotations: Mapping[str, str]) -> Origins:
    """Return what annotations remember.

    Raises:
        FormatError: A digest is none.
        ValueError: A value is malformed, and as the next two.
        KeyError: See there.
        TypeError: See there.
    """
    documents: dict[Digest, str] = {}
    encodings: dict[Digest, Encoding] = {}
    for key, value in annotations.items():
        if key.startswith(ORIGIN_KEY):
            documents[parse_digest(key.removeprefix(ORIGIN_KEY))] = str(value)
        elif key.startswith(ENCODING_KEY):
            digest = parse_digest(key.removeprefix(ENCODING_KEY))
            encodings[digest] = decode_encoding(value)
    return Origins(documents, encodings)


def decode_encoding(text: str) -> Encoding:
    """Return the encoding that a text tells.

    Raises:
        FormatError: It tells none.
        ValueError: It is malformed, and as the next two.
        KeyError: See there.
        TypeError: See there.
    """
    plain = json.loads(text)
    kept = plain.get("kept")
    recipe = plain.get("recipe", {})
    size = plain["size"]
    if not isinstance(size, int) or not isinstance(recipe, dict) or not (kept or recipe):
        raise FormatError(f"a layer's encoding is malformed: {text[:200]}")
    return Encoding(
        DiffId(parse_digest(plain["diff_id"])),
        size,
        DiffId(parse_digest(kept)) if kept else None,
        recipe,
    )


def encode_origins(origins: Origins) -> dict[str, str]:
    """Return the annotations that remember ``origins``."""
    annotations = {ORIGIN_KEY + digest: text for digest, text in origins.documents.items()}
    for digest, encoding in origins.encodings.items():
        annotations[ENCODING_KEY + digest] = encode_encoding(encoding)
    return annotations


def encode_encoding(encoding: Encoding) -> str:
    """Return the text that tells an encoding."""
    plain: dict[str, object] = {"diff_id": encoding.diff_id, "size": encoding.size}
    if encoding.kept is not None:
        plain["kept"] = encoding.kept
    else:
        plain["recipe"] = dict(encoding.recipe)
    return strict_json.encode(plain).decode()


def is_of_origins(key: str) -> bool:
    """Return whether an annotation remembers an origin or an encoding."""
    return key.startswith((ORIGIN_KEY, ENCODING_KEY))


def with_origins_of(manifest: bytes, other: bytes) -> bytes:
    """Return a stored manifest that also remembers what another one of its image does.

    Where both know the same layer's encoding, that of ``manifest`` counts, but what is kept
    gives way to what can be made again.

    Raises:
        FormatError: One of them is no manifest of ours.
    """
    theirs = decode_origins(other)
    if not theirs:
        return manifest
    ours = decode_origins(manifest)
    encodings = {**theirs.encodings, **ours.encodings}
    for digest, encoding in theirs.encodings.items():
        if encodings[digest].kept is not None and encoding.kept is None:
            encodings[digest] = encoding
    return replace_origins(manifest, Origins({**theirs.documents, **ours.documents}, encodings))


def replace_origins(manifest: bytes, origins: Origins) -> bytes:
    """Return a stored manifest that remembers ``origins`` and nothing else of the kind."""
    plain = json.loads(manifest)
    kept = {k: v for k, v in plain.get("annotations", {}).items() if not is_of_origins(k)}
    annotations = {**kept, **encode_origins(origins)}
    plain.pop("annotations", None)
    if annotations:
        plain["annotations"] = annotations
    return strict_json.encode(plain)
