"""How an image was made, as an SLSA provenance predicate. Deterministic with SOURCE_DATE_EPOCH.

No secret's value is in it, no password of a URL, no proxy; build arguments only with
``mode=max``, as in BuildKit, for people hand over passwords in them. The build context is a
dependency named by a digest of what steps took from it.

Source: SLSA, provenance v1; BuildKit, docs/attestations/slsa-definitions.md (field names).
Format: docs/format/attestations.md.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING
from urllib.parse import quote

from layerstore.build.graph import ContextOp, CopyOp, GitOp, HttpOp, RunOp
from layerstore.build.lower_options import PROXY_ARGS
from layerstore.build.spec_file import NATIVE_SUFFIX
from layerstore.digest import hex_of
from layerstore.formats import strict_json
from layerstore.formats.tree import Kind
from layerstore.image.layers.layers import load_changeset
from layerstore.net.redaction import redacted
from layerstore.units import rfc3339

if TYPE_CHECKING:
    from layerstore.build.attest import BuildFacts
    from layerstore.build.record import MadeStep
    from layerstore.digest import DiffId
    from layerstore.store.store import Store

BUILD_TYPE = "urn:layerstore:build:1"
"""Says what the fields of ``buildDefinition`` mean; a change of them is a new number."""

BUILDER_ID = "urn:layerstore:builder"
"""Of a builder that nobody gave an address."""


def provenance(store: Store, facts: BuildFacts, *, mode: str, builder_id: str) -> str:
    """Return the predicate as canonical JSON.

    Args:
        store: Where fetched files are read for their digests.
        facts: Of the build.
        mode: ``min``, or ``max`` for build arguments, labels and every step.
        builder_id: URI of who builds; empty for nobody in particular.
    """
    is_max = mode == "max"
    internal: dict[str, object] = {"builderPlatform": facts.builder_platform}
    if is_max:
        internal["buildConfig"] = {"steps": [_step(n, step) for n, step in enumerate(facts.steps)]}
    definition = {
        "buildType": BUILD_TYPE,
        "externalParameters": {
            "configSource": {
                "path": os.path.basename(facts.spec_name),
                "digest": {"sha256": hashlib.sha256(facts.spec).hexdigest()},
            },
            "request": _request(facts, is_max=is_max),
        },
        "internalParameters": internal,
        "resolvedDependencies": _dependencies(store, facts),
    }
    run_details = {
        "builder": {"id": builder_id or BUILDER_ID},
        "metadata": _metadata(facts, is_max=is_max),
    }
    return strict_json.encode({"buildDefinition": definition, "runDetails": run_details}).decode()


def _request(facts: BuildFacts, *, is_max: bool) -> dict[str, object]:
    request = facts.request
    is_native = facts.spec_name.endswith(NATIVE_SUFFIX)
    args: dict[str, str] = {}
    if request.target:
        args["target"] = request.target
    if request.platform is not None:
        args["platform"] = str(request.platform)
    if not request.network:
        args["force-network-mode"] = "none"
    plain: dict[str, object] = {
        "frontend": "layerstore.v1" if is_native else "dockerfile.v0",
        "args": args,
        "locals": [{"name": "context"}, {"name": "dockerfile"}],
    }
    if is_max:
        for name, value in request.build_args.items():
            if name.lower() not in PROXY_ARGS:
                args[f"build-arg:{name}"] = redacted(value)
        args.update({f"label:{name}": value for name, value in request.labels.items()})
        plain["secrets"] = [{"id": name} for name in sorted(request.secrets)]
    return plain


def _dependencies(store: Store, facts: BuildFacts) -> list[dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    for base in facts.bases:
        config = base.config
        platform = "/".join(p for p in (config.os, config.architecture, config.variant) if p)
        uri = _image_uri(base.reference, platform)
        found[uri] = {
            "uri": uri,
            "digest": {"sha256": hex_of(base.record.manifest_digest)},
            "annotations": {"imageId": base.record.image_id},
        }
    if facts.context_keys:
        digest = hashlib.sha256("\n".join(sorted(set(facts.context_keys))).encode())
        found["context"] = {"name": "context", "digest": {"sha256": digest.hexdigest()}}
    for step in facts.steps:
        if isinstance(step.op, HttpOp | GitOp) and step.diff_id is not None:
            remote = _remote(store, facts, step.op, step.diff_id)
            found[str(remote["uri"])] = remote
    return [found[key] for key in sorted(found)]


def _image_uri(reference: str, platform: str) -> str:
    name, _, digest = reference.partition("@")
    head, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        head, tag = name, "latest"
    version = digest or tag
    return (
        f"pkg:docker/{quote(head, safe='/')}@{quote(version)}?platform={quote(platform, safe='')}"
    )


def _remote(
    store: Store, facts: BuildFacts, op: HttpOp | GitOp, diff_id: DiffId
) -> dict[str, object]:
    plain: dict[str, object] = {"annotations": {"layer": diff_id}}
    if isinstance(op, GitOp):
        plain["uri"] = redacted(op.remote) + (f"#{op.ref}" if op.ref else "")
        plain["digest"] = {"sha1": facts.commits[op]}
    else:
        plain["uri"] = redacted(op.url)
        plain["digest"] = {"sha256": _file_digest(store, diff_id)}
    return plain


def _file_digest(store: Store, diff_id: DiffId) -> str:
    """Return the SHA-256 of the one file that a fetched URL became."""
    hasher = hashlib.sha256()
    for entry in load_changeset(store, diff_id).entries:
        if entry.kind is Kind.FILE:
            for length, chunk in entry.extents:
                piece = bytes(length) if chunk is None else store.read_refs(((length, chunk),))
                hasher.update(piece)
    return hasher.hexdigest()


def _step(number: int, step: MadeStep) -> dict[str, object]:
    plain: dict[str, object] = {
        "id": f"step{number}",
        "op": str(step.op.__struct_config__.tag),
        "inputs": [f"step{each}" for each in step.inputs],
    }
    if step.label:
        plain["name"] = redacted(step.label)
    if step.diff_id is not None:
        plain["layer"] = step.diff_id
    if step.span is not None:
        plain["line"] = step.span.line
    match step.op:
        case RunOp() as op:
            plain["args"] = list(op.args)
            plain["cwd"] = op.cwd
            plain["network"] = op.network
            plain["mounts"] = [
                {"type": mount.type, "target": mount.target, "id": mount.id} for mount in op.mounts
            ]
        case CopyOp() as op:
            plain["sources"] = [redacted(source) for source in op.sources]
            plain["dest"] = op.dest
        case _:
            pass
    return plain


def _metadata(facts: BuildFacts, *, is_max: bool) -> dict[str, object]:
    runs = [step.op for step in facts.steps if isinstance(step.op, RunOp)]
    takes_context = any(isinstance(step.op, ContextOp) for step in facts.steps)
    plain: dict[str, object] = {
        "buildkit_hermetic": not any(op.network for op in runs),
        "buildkit_completeness": {
            "request": is_max,
            "resolvedDependencies": not takes_context and not any(op.network for op in runs),
        },
    }
    if facts.epoch is None:
        # Of a reproducible build these would differ each time, and so would the image's index.
        plain["invocationId"] = os.urandom(16).hex()
        plain["startedOn"] = rfc3339(float(int(facts.started)))
        plain["finishedOn"] = rfc3339(float(int(facts.finished)))
    if is_max:
        text = redacted(facts.spec.decode("utf-8", "replace"))
        plain["buildkit_metadata"] = {
            "source": {"infos": [{"filename": os.path.basename(facts.spec_name), "data": text}]}
        }
    return plain
