"""What refers to a manifest: signatures, attestations, and whatever names it as its subject.

Registries of the specification's version 1.1 keep account of it; for others there is a tag made of
the manifest's digest, whose index the clients keep.

Source: OCI distribution spec 1.1, "Listing Referrers", "Referrers Tag Schema".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from layerstore.digest import hex_of
from layerstore.errors import FormatError, LimitExceededError
from layerstore.formats import oci, strict_json
from layerstore.registry.errors import UnknownToRegistryError

if TYPE_CHECKING:
    from layerstore.digest import Digest
    from layerstore.registry.repository import Repository

MAX_REFERRERS = 10_000

_OF_A_MANIFEST = re.compile(r"sha256-[0-9a-f]{64}(\.\w+)?|sha512-[0-9a-f]{128}(\.\w+)?")


def referrers(
    repository: Repository, digest: Digest, artifact_type: str = ""
) -> list[oci.Descriptor]:
    """Return the descriptors of the manifests that have a manifest as their subject.

    Args:
        repository: Where it lies.
        digest: Of the manifest.
        artifact_type: Only those of this type; empty for all.

    Raises:
        RegistryAnswerError: The registry cannot be asked.
        FormatError: It answers with something else than an index.
        LimitExceededError: It lists more than anybody has use for.
    """
    host = repository.origin
    path = host.repository_path(repository.path)
    found: list[oci.Descriptor] = []
    try:
        pages = repository.pages(host, f"{path}/referrers/{digest}", f"referrers of {digest}")
        for raw in pages:
            found += _entries(raw)
            if len(found) > MAX_REFERRERS:
                raise LimitExceededError(
                    f"{repository.name} lists more than {MAX_REFERRERS} referrers of {digest}"
                )
    except UnknownToRegistryError:
        try:
            found = _entries(repository.manifest(referrers_tag(digest)).raw)
        except UnknownToRegistryError:
            return []
    # Not every registry filters, and none is believed.
    return [one for one in found if not artifact_type or artifact_type_of(one) == artifact_type]


def referrers_tag(digest: Digest) -> str:
    """Return the tag under which clients keep a manifest's referrers."""
    return f"{digest.partition(':')[0]}-{hex_of(digest)}"


def attached_tags(digest: Digest) -> tuple[str, ...]:
    """Return the tags under which cosign keeps what it makes for a manifest.

    Source: cosign, "Signature Specification", and its attestations and SBOMs named alike.
    """
    return tuple(f"{referrers_tag(digest)}.{suffix}" for suffix in ("sig", "att", "sbom"))


def is_of_a_manifest(tag: str) -> bool:
    """Tell whether a tag is one under which clients keep what belongs to a manifest.

    Its referrers, or with a suffix its signatures (``.sig``), its parcels and their like.
    """
    return _OF_A_MANIFEST.fullmatch(tag) is not None


def artifact_type_of(descriptor: oci.Descriptor) -> str:
    """Return what kind of artefact a referrer's descriptor says it is."""
    value = descriptor.extra.get("artifactType", "")
    return value if isinstance(value, str) else ""


def tag_referrer(repository: Repository, raw: bytes, media_type: str) -> None:
    """Note a manifest that was written in the index of its subject's referrers.

    Two clients that do so at once can lose one of the two entries: the specification knows no way
    around that where the registry does not help.
    """
    value = strict_json.decode(raw, "manifest")
    subject = value.get("subject") if isinstance(value, dict) else None
    if not isinstance(value, dict) or subject is None:
        return
    target = oci.descriptor_of(subject, "manifest.subject")
    tag = referrers_tag(target.digest)
    try:
        entries = _entries(repository.without_mirrors().manifest(tag).raw)
    except UnknownToRegistryError:
        entries = []
    own = oci.describe(raw, media_type)
    if any(entry.digest == own.digest for entry in entries):
        return
    config = value.get("config")
    kind = value.get("artifactType") or (
        config.get("mediaType") if isinstance(config, dict) else None
    )
    annotations = value.get("annotations")
    entry = oci.Descriptor(
        media_type=own.media_type,
        digest=own.digest,
        size=own.size,
        annotations=annotations if isinstance(annotations, dict) else {},
        extra={"artifactType": kind} if kind else {},
    )
    index = oci.encode_index(oci.Index(manifests=(*entries, entry)))
    repository.put_manifest(index, oci.INDEX_TYPE, tag)


def _entries(raw: bytes) -> list[oci.Descriptor]:
    try:
        return list(oci.decode_index(raw, media_type=oci.INDEX_TYPE).manifests)
    except FormatError as err:
        raise FormatError(f"a list of referrers is none: {err.message}") from err
