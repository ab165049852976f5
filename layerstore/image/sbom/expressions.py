"""License expressions of SPDX. Pure.

Source: SPDX specification 2.3, annex D (license expressions) and clause 10 (other licensing
information).
"""

from __future__ import annotations

import re

from layerstore.image.sbom.spdx_ids import EXCEPTIONS, LICENSES

_TOKEN = re.compile(r"[()]|[^\s()]+")
_LATER = re.compile(r"\+(?![A-Za-z0-9])")
_NOT_REF = re.compile(r"[^A-Za-z0-9.-]+")
_MAX_REF_CHARACTERS = 80


def license_id(text: str) -> str | None:
    """Return a license of the list as the list spells it, with its ``+``; None if it is none."""
    found = LICENSES.get(text.lower())
    if found is None and text.endswith("+"):
        found = LICENSES.get(text[:-1].lower())
        return found and found + "+"
    return found


def license_ref(text: str) -> str:
    """Return the reference under which a document describes a license that the list lacks."""
    plain = _NOT_REF.sub("-", _LATER.sub("-or-later", text)).strip("-")
    return f"LicenseRef-{plain[:_MAX_REF_CHARACTERS] or 'unnamed'}"


def spdx_expression(text: str) -> str | None:
    """Return an expression of identifiers of the list, in the list's spelling; None if it is none.

    References to licenses that only another document describes make it none.
    """
    told: list[str] = []
    depth, before = 0, "("
    for token in _TOKEN.findall(text):
        if before == "with":
            shown, kind = EXCEPTIONS.get(token.lower()), "exception"
        elif token in _DEPTHS:
            shown, kind = token, token
            depth += _DEPTHS[token]
        elif token.lower() in ("and", "or", "with"):
            shown, kind = token.upper(), token.lower()
        else:
            shown, kind = license_id(token), "id"
        if shown is None or depth < 0 or before not in _AFTER[kind]:
            return None
        told.append(shown)
        before = kind
    if depth or before not in _ENDS:
        return None
    return " ".join(told).replace("( ", "(").replace(" )", ")")


_DEPTHS = {"(": 1, ")": -1}
_ENDS = ("id", "exception", ")")
_AFTER = {
    "(": ("(", "and", "or"),
    "id": ("(", "and", "or"),
    ")": _ENDS,
    "and": _ENDS,
    "or": _ENDS,
    "with": ("id",),
    "exception": ("with",),
}
"""What may stand before each kind of word."""
