"""What is attested of an image, in the form that travels with it.

Each predicate becomes an in-toto statement about the image's manifest; the statements are
the layers of a manifest of their own, which stands beside the image's in an index and names
it. Where an image is written as plain files the statements are files, about each of the others.
Pure; equal predicates give equal bytes.

Source: BuildKit, docs/attestations/attestation-storage.md; in-toto attestation framework,
Statement v1.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from layerstore.digest import DiffId, hex_of
from layerstore.formats import oci, strict_json
from layerstore.formats.oci_config import ImageConfig, encode_config

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROVENANCE_TYPE = "https://slsa.dev/provenance/v1"
SBOM_TYPE = "https://spdx.dev/Document"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
IN_TOTO_TYPE = "application/vnd.in-toto+json"
REFERENCE_TYPE = "vnd.docker.reference.type"
REFERENCE_DIGEST = "vnd.docker.reference.digest"
PREDICATE_TYPE = "in-toto.io/predicate-type"
_FILE_NAMES = {PROVENANCE_TYPE: "provenance.json", SBOM_TYPE: "sbom.spdx.json"}

_NOWHERE = oci.Platform(architecture="unknown", os="unknown")
"""No runtime takes the manifest for an image that it could run."""


class Attested(NamedTuple):
    """A manifest of attestations.

    Attributes:
        descriptor: Its own, for the index that holds it.
        blobs: Everything it needs and itself, each under its own digest.
    """

    descriptor: oci.Descriptor
    blobs: tuple[bytes, ...]


def attestation_blobs(image: oci.Descriptor, predicates: Mapping[str, str]) -> Attested:
    """Return the manifest that attests ``predicates`` of an image.

    Args:
        image: Of the image's manifest.
        predicates: JSON texts by predicate type.
    """
    statements = [_statement(image, kind, text) for kind, text in sorted(predicates.items())]
    layers = tuple(
        oci.Descriptor(
            media_type=IN_TOTO_TYPE,
            digest=described.digest,
            size=described.size,
            annotations={PREDICATE_TYPE: kind},
        )
        for kind, described in zip(
            sorted(predicates),
            (oci.describe(raw, IN_TOTO_TYPE) for raw in statements),
            strict=True,
        )
    )
    config = encode_config(
        ImageConfig(
            architecture=_NOWHERE.architecture,
            os=_NOWHERE.os,
            diff_ids=tuple(DiffId(layer.digest) for layer in layers),
        )
    )
    manifest = oci.encode_manifest(
        oci.Manifest(config=oci.describe(config, oci.CONFIG_TYPE), layers=layers)
    )
    described = oci.describe(manifest, oci.MANIFEST_TYPE)
    descriptor = oci.Descriptor(
        media_type=described.media_type,
        digest=described.digest,
        size=described.size,
        platform=_NOWHERE,
        annotations={REFERENCE_TYPE: "attestation-manifest", REFERENCE_DIGEST: image.digest},
    )
    return Attested(descriptor, (*statements, config, manifest))


def file_statements(files: Mapping[str, str], predicates: Mapping[str, str]) -> dict[str, bytes]:
    """Return what is attested of plain files, as BuildKit lays it beside them: texts by file name.

    Args:
        files: SHA-256 in hexadecimal by path.
        predicates: JSON texts by predicate type.
    """
    subjects = [{"name": path, "digest": {"sha256": files[path]}} for path in sorted(files)]
    return {
        _FILE_NAMES[kind]: json.dumps(_statement_of(subjects, kind, text), indent=2).encode()
        for kind, text in sorted(predicates.items())
    }


def _statement(image: oci.Descriptor, kind: str, predicate: str) -> bytes:
    subject = {"name": "_", "digest": {"sha256": hex_of(image.digest)}}
    return strict_json.encode(_statement_of([subject], kind, predicate))


def _statement_of(subjects: Sequence[object], kind: str, predicate: str) -> dict[str, object]:
    return {
        "_type": STATEMENT_TYPE,
        "subject": list(subjects),
        "predicateType": kind,
        "predicate": strict_json.decode(predicate.encode(), "predicate"),
    }
