"""The record of a build whose inputs are known by what stat(2) says of them: bytes and values.

On the fast path, so it is not MessagePack: fields are separated by zero bytes, which neither
names nor labels can have. Normative: docs/format/scans.md.
"""

from __future__ import annotations

from layerstore.formats.sealed import Seal
from layerstore.light_typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SEAL = Seal(b"LSKNOWN" + bytes((1,)), "layerstore 2026-11-26 known build v1", max_bytes=64 << 20)
_FINGERPRINT_BYTES = 32


class KnownStep(NamedTuple):
    """A step's key and what the build cache said of it; ``created`` as its shortest digits."""

    key: str
    diff_id: str
    created: str


class Said(NamedTuple):
    """A line that the build told: a warning about a place in a file, or without one a message.

    Attributes:
        is_late: 1 if it came when steps had ended already, else 0.
    """

    text: str
    file: str
    line: int
    column: int
    end_line: int
    is_late: int


class KnownBuild(NamedTuple):
    """What a build came to, and everything that decided it.

    Attributes:
        epoch: The catalog's, when all of it was there.
        image_id: Of the image, ``size`` bytes of files.
        manifest: Digest of the image's manifest, which has its annotations and attestations.
        names: That the image got.
        bases: Names of images in the Dockerfile, each with the image it meant.
        steps: Looked up or put, in the build cache.
        labels: Of the steps as they were shown, in order.
        said: Warnings and messages.
        variables: Of the environment, that must be set.
        absent: Paths that must not be there.
        given: Paths to follow: the context, the Dockerfile.
        looked: Paths that were found inside the context; symlinks themselves.
        fingerprint: Of what stat(2) said of these two.
    """

    epoch: int
    image_id: str
    manifest: str
    size: int
    names: tuple[str, ...]
    bases: tuple[tuple[str, str], ...]
    steps: tuple[KnownStep, ...]
    labels: tuple[str, ...]
    said: tuple[Said, ...]
    variables: tuple[str, ...]
    absent: tuple[bytes, ...]
    given: tuple[bytes, ...]
    looked: tuple[bytes, ...]
    fingerprint: bytes


def encode_known_build(known: KnownBuild) -> bytes | None:
    """Return the body of a record; None if a text in it has a zero byte."""
    texts = [
        str(known.epoch), known.image_id, known.manifest, str(known.size),
        *_counted(known.names),
        *_counted([text for base in known.bases for text in base]),
        *_counted([text for step in known.steps for text in step]),
        *_counted(known.labels),
        *_counted([str(text) for said in known.said for text in said]),
        *_counted(known.variables),
    ]  # fmt: skip
    fields = [text.encode("utf-8", "surrogateescape") for text in texts]
    for paths in (known.absent, known.given, known.looked):
        fields += [str(len(paths)).encode(), *paths]
    if any(b"\0" in field for field in fields):
        return None
    return known.fingerprint + b"\0".join(fields)


def decode_known_build(body: bytes | memoryview) -> KnownBuild | None:
    """Return what :func:`encode_known_build` took; None for anything else."""
    fields = iter(bytes(body[_FINGERPRINT_BYTES:]).split(b"\0"))
    try:
        known = _decoded(fields, bytes(body[:_FINGERPRINT_BYTES]))
    except (ValueError, StopIteration):
        return None
    return known if next(fields, None) is None else None


def _decoded(fields: Iterator[bytes], fingerprint: bytes) -> KnownBuild:
    epoch, image_id, manifest = int(next(fields)), next(fields).decode(), next(fields).decode()
    size = int(next(fields))
    names = _texts(fields)
    bases = _grouped(_texts(fields), 2)
    steps = _grouped(_texts(fields), 3)
    labels = _texts(fields)
    said = _grouped(_texts(fields), 6)
    variables = _texts(fields)
    return KnownBuild(
        epoch, image_id, manifest, size, names,
        tuple((reference, found) for reference, found in bases),
        tuple(KnownStep(*step) for step in steps),
        labels,
        tuple(Said(text, file, *map(int, place)) for text, file, *place in said),
        variables, _paths(fields), _paths(fields), _paths(fields), fingerprint,
    )  # fmt: skip


def _counted(texts: Sequence[str]) -> list[str]:
    return [str(len(texts)), *texts]


def _paths(fields: Iterator[bytes]) -> tuple[bytes, ...]:
    # Not islice, which would take a short list for a whole one.
    return tuple([next(fields) for _ in range(int(next(fields)))])


def _texts(fields: Iterator[bytes]) -> tuple[str, ...]:
    return tuple([field.decode("utf-8", "surrogateescape") for field in _paths(fields)])


def _grouped(texts: Sequence[str], width: int) -> list[tuple[str, ...]]:
    if len(texts) % width:
        raise ValueError("a group is cut short")
    return [tuple(texts[at : at + width]) for at in range(0, len(texts), width)]
