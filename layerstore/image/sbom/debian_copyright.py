"""Licenses of Debian's machine-readable copyright files, as expressions of SPDX. Pure.

A package has files under each license that a ``Files:`` paragraph names, so what it declares is
all of them, joined by AND; a choice between licenses stays one. Paragraphs that only give a
license's text name nothing more.

Source: Debian, "Machine-readable debian/copyright file" 1.0 (DEP-5), "License specification".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from layerstore.image.sbom.expressions import license_id, license_ref
from layerstore.image.sbom.spdx_ids import EXCEPTIONS
from layerstore.image.sbom.system import stanzas

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_NAMES: Final = 200
"""Different licenses of one package; perl's file, the longest of a Debian base, has 40."""

_FORMAT = re.compile(r"copyright-format|dep-?5", re.IGNORECASE)
_COMMA = re.compile(r",\s+(and|or)\s+|\s*,\s+", re.IGNORECASE)
_CHOICE = re.compile(r"\s+(?:and/or|or)\s+|\s*\|\s*", re.IGNORECASE)
_SUM = re.compile(r"\s+and\s+", re.IGNORECASE)
_EXCEPTED = re.compile(r"(\S+)\s+with\s+(.+)", re.IGNORECASE)
_VERSIONED = re.compile(r"([A-Za-z-]+?)-?v?([0-9][0-9.]*)(\+?)")
_OTHERWISE: Final = {
    "apache-2": "Apache-2.0",
    "artistic": "Artistic-1.0",
    "artistic-2": "Artistic-2.0",
    "boost-1": "BSL-1.0",
    "bsl-1": "BSL-1.0",
    "cc0": "CC0-1.0",
    "expat": "MIT",
    "openldap-2.8": "OLDAP-2.8",
}
"""What Debian calls otherwise than SPDX, in lower case."""


class Declared(NamedTuple):
    """What a package says its licenses are.

    Attributes:
        expression: Of SPDX.
        others: Names of licenses that SPDX does not list, by their reference in the expression.
    """

    expression: str
    others: dict[str, str]


def declared_licenses(text: str) -> Declared | None:
    """Return what a copyright file declares.

    None when it is not of the machine-readable form, names nothing, or more than ``MAX_NAMES``.
    """
    paragraphs = _paragraphs(text)
    header = next(paragraphs, {})
    if not _FORMAT.search(header.get("format", header.get("format-specification", ""))):
        return None
    others: dict[str, str] = {}
    named: set[str] = set()
    alone: set[str] = set()
    _declare(header, named, others)
    for paragraph in paragraphs:
        _declare(paragraph, named if "files" in paragraph else alone, others)
        if len(named) + len(alone) > MAX_NAMES:
            return None
    terms = sorted(named or alone)
    if not terms:
        return None
    shown = [f"({term})" if " OR " in term and len(terms) > 1 else term for term in terms]
    expression = " AND ".join(shown)
    used = set(re.split(r"[\s()]+", expression))
    return Declared(expression, {ref: name for ref, name in others.items() if ref in used})


def _declare(paragraph: dict[str, str], into: set[str], others: dict[str, str]) -> None:
    """Add what a paragraph's ``License:`` names, each part of a sum by itself."""
    if "license" not in paragraph:
        return
    for choice in _choices(paragraph["license"]):
        terms = [_sum(part, others) for part in choice]
        if len(terms) == 1:
            into.update(terms[0])
        else:
            into.add(" OR ".join(sorted({_joined(term, within=len(terms) > 1) for term in terms})))


def _choices(text: str) -> Iterator[list[str]]:
    """Yield the choices that a license's first line asks for, all of them.

    A comma binds least: ``A or B, and C`` is C and one of A and B.
    """
    pieces = _COMMA.split(text)
    choice = _CHOICE.split(pieces[0])
    for connector, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        if (connector or "and").lower() == "or":
            choice += _CHOICE.split(piece)
        else:
            yield choice
            choice = _CHOICE.split(piece)
    yield choice


def _sum(text: str, others: dict[str, str]) -> list[str]:
    return sorted({_name(part.strip(), others) for part in _SUM.split(text)})


def _joined(names: list[str], *, within: bool) -> str:
    text = " AND ".join(names)
    return f"({text})" if within and len(names) > 1 else text


def _name(text: str, others: dict[str, str]) -> str:
    """Return one license as SPDX has it."""
    excepted = _EXCEPTED.fullmatch(text)
    if excepted is not None:
        base, exception = _listed(excepted[1]), _exception(excepted[2])
        if base and exception:
            return f"{base} WITH {exception}"
    found = _listed(text)
    if found is None:
        found = license_ref(text)
        others.setdefault(found, text or "a license without a name")
    return found


def _listed(text: str) -> str | None:
    """Return the license of SPDX's list that a short name of Debian's means; None for none."""
    renamed = _OTHERWISE.get(text.lower())
    if renamed:
        return renamed
    versioned = _VERSIONED.fullmatch(text)
    if versioned is None:
        return license_id(text)
    family, number, later = versioned[1].upper(), versioned[2], versioned[3]
    if family == "GFDL-NIV":
        end = "no-invariants-or-later" if later else "no-invariants-only"
        return license_id(f"GFDL-{number}-{end}")
    if family in ("GPL", "LGPL", "AGPL", "GFDL"):
        whole = number if "." in number else f"{number}.0"
        return license_id(f"{family}-{whole}-{'or-later' if later else 'only'}")
    return license_id(text) or license_id(f"{versioned[1]}-{number}.0{later}")


def _exception(text: str) -> str | None:
    bare = re.sub(r"[\s-]+exception$", "", text, flags=re.IGNORECASE)
    tried = (re.sub(r"\s+", "-", name).lower() for name in (text, bare, f"{bare}-exception"))
    return next((EXCEPTIONS[name] for name in tried if name in EXCEPTIONS), None)


def _paragraphs(text: str) -> Iterator[dict[str, str]]:
    """Yield the first lines of each paragraph's fields; names in lower case."""
    for fields in stanzas(text):
        yield {name.lower(): value for name, value in fields.items()}
