"""What is attested of a built image: its provenance and its packages, each on request."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.formats.oci_config import decode_config

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from layerstore.build.graph import GitOp
    from layerstore.build.record import MadeStep
    from layerstore.build.request import BuildRequest
    from layerstore.build.resources import BuildResources
    from layerstore.build.result import BaseImage
    from layerstore.image.images import ImageParts


class Attestations(NamedTuple):
    """What was asked for.

    Attributes:
        provenance: ``min`` or ``max``; empty for none.
        builder_id: URI of who builds.
        sbom: Whether the packages are listed.
    """

    provenance: str = ""
    builder_id: str = ""
    sbom: bool = False


NO_ATTESTATIONS = Attestations()


class BuildFacts(NamedTuple):
    """What one build had and did.

    Attributes:
        spec: The Dockerfile's bytes.
        spec_name: Its path as it is shown; only the last component is told.
        context_keys: How the steps' selections of the build context are named in keys.
        commits: What the refs of git sources meant.
        builder_platform: What the build ran on.
        started: Seconds since the epoch.
    """

    request: BuildRequest
    spec: bytes
    spec_name: str
    steps: Sequence[MadeStep]
    bases: Sequence[BaseImage]
    context_keys: Sequence[str]
    commits: Mapping[GitOp, str]
    builder_platform: str
    epoch: int | None
    started: float
    finished: float


def attested(
    resources: BuildResources,
    parts: ImageParts,
    facts: BuildFacts,
    names: Sequence[str],
) -> ImageParts:
    """Return the image with what is attested of it.

    Raises:
        IntegrityError: The store is damaged.
    """
    from layerstore.image.exchange.attestations import PROVENANCE_TYPE, SBOM_TYPE

    wanted = facts.request.attestations
    predicates: dict[str, str] = {}
    if wanted.provenance:
        from layerstore.build.provenance import provenance

        predicates[PROVENANCE_TYPE] = provenance(
            resources.store, facts, mode=wanted.provenance, builder_id=wanted.builder_id
        )
    if wanted.sbom:
        from layerstore.image.sbom.scan import sbom_of

        found = sbom_of(
            resources.store,
            resources.load(parts.layers),
            name=names[0] if names else "image",
            image_id=parts.image_id,
            created=decode_config(parts.config).created,
        )
        for what in found.left_out:
            resources.ui.message(f"not in the SBOM: {what}")
        predicates[SBOM_TYPE] = found.text
    return parts._replace(predicates=predicates)
