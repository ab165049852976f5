"""What ``build --attest``, ``--provenance`` and ``--sbom`` mean.

Source: buildx, ``build --attest`` and its shorthands (behaviour).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from layerstore.cli.parsing.fields import parse_fields
from layerstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.build.request import BuildRequest

_TRUE = ("true", "1")
_FALSE = ("false", "0")
_HINT = "--provenance=mode=max, --sbom=true, or --attest type=provenance,mode=max"


def with_attestations(
    request: BuildRequest, words: Sequence[str], provenance: str | None, sbom: str | None
) -> BuildRequest:
    """Return the request with what is to be attested.

    Raises:
        InputError: Not an attestation, or one that is not made here.
    """
    if not words and provenance is None and sbom is None:
        return request
    wanted = request.attestations
    asked = [_fields(word) for word in words]
    for kind, text in (("provenance", provenance), ("sbom", sbom)):
        if text is not None:
            asked.append(_shorthand(kind, text))
    for fields in asked:
        kind = fields.pop("type", "")
        is_wanted = not _flag(fields, "disabled", default=False)
        if kind == "provenance":
            mode = fields.pop("mode", "min")
            builder_id = fields.pop("builder-id", "")
            if mode not in ("min", "max"):
                raise InputError(f"mode={mode} is no mode of provenance", hint="mode=min or max")
            if fields.pop("version", "v1") != "v1":
                raise InputError("provenance is made in version v1 only")
            wanted = wanted._replace(provenance=mode if is_wanted else "", builder_id=builder_id)
        elif kind == "sbom":
            wanted = wanted._replace(sbom=is_wanted)
        else:
            raise InputError(f"{kind!r} is no type of attestation", hint=_HINT)
        for name in fields:
            raise InputError(f"{name!r} is no attribute of type={kind} that is known", hint=_HINT)
    return msgspec.structs.replace(request, attestations=wanted)


def _fields(word: str) -> dict[str, str]:
    return parse_fields(word, "an attestation", _HINT)


def _shorthand(kind: str, text: str) -> dict[str, str]:
    """Return what ``--provenance=TEXT`` or ``--sbom=TEXT`` stands for."""
    if text in _TRUE:
        return {"type": kind}
    if text in _FALSE:
        return {"type": kind, "disabled": "true"}
    return {"type": kind, **_fields(text)}


def _flag(fields: dict[str, str], name: str, *, default: bool) -> bool:
    text = fields.pop(name, None)
    if text is None:
        return default
    if text not in (*_TRUE, *_FALSE):
        raise InputError(f"{name}={text} is neither true nor false")
    return text in _TRUE
