"""An image's packages as an SPDX 2.3 document. Pure; equal images give equal documents.

Source: SPDX specification 2.3, clauses 6 (document), 7 (packages), 10 (other licensing
information), 11 (relationships), and its JSON schema.
"""

from __future__ import annotations

import hashlib
import re
from importlib.metadata import version
from typing import TYPE_CHECKING

from layerstore.formats import strict_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.image.sbom.licenses import Licenses
    from layerstore.image.sbom.packages import Package

NOASSERTION = "NOASSERTION"
_DOCUMENT = "SPDXRef-DOCUMENT"
_IMAGE = "SPDXRef-Image"
_NOT_ID = re.compile(r"[^A-Za-z0-9.-]+")
_URL = re.compile(r"https?://[A-Za-z0-9.:-]+(?:/[!-~]*)?", re.ASCII)
_ELSEWHERE = "its text is in the image, in the copyright files of the packages that name it"
_PERSON = re.compile(r"([^<>()]+?)\s*<([^<>()\s]+)>")


def spdx_document(
    packages: Sequence[Package],
    licenses: Licenses,
    *,
    name: str,
    image_id: str,
    created: str,
    left_out: Sequence[str],
) -> str:
    """Return the document's canonical JSON text.

    Args:
        packages: In any order; equal ones count once.
        licenses: What they declare.
        name: What people call the image.
        image_id: Its id.
        created: RFC 3339; seconds count.
        left_out: What of the image could not be read, for a remark.
    """
    rows = sorted({_id_of(package): package for package in packages}.items())
    described = [_package(spdx_id, package, licenses) for spdx_id, package in rows]
    digest = hashlib.sha256(strict_json.encode([image_id, described])).hexdigest()
    root: dict[str, object] = {
        "SPDXID": _IMAGE,
        "name": name,
        "downloadLocation": NOASSERTION,
        "filesAnalyzed": False,
        "licenseConcluded": NOASSERTION,
        "licenseDeclared": NOASSERTION,
        "copyrightText": NOASSERTION,
        "supplier": NOASSERTION,
        "primaryPackagePurpose": "CONTAINER",
        "versionInfo": image_id,
    }
    document: dict[str, object] = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": _DOCUMENT,
        "name": name,
        "documentNamespace": f"https://spdx.org/spdxdocs/layerstore-{digest}",
        "creationInfo": {
            "created": created[:19] + "Z",
            "creators": [f"Tool: layerstore-{version('layerstore')}"],
        },
        "packages": [root, *described],
        "relationships": [
            _relation(_DOCUMENT, "DESCRIBES", _IMAGE),
            *(_relation(_IMAGE, "CONTAINS", spdx_id) for spdx_id, _ in rows),
        ],
    }
    if licenses.others:
        document["hasExtractedLicensingInfos"] = [
            {"licenseId": ref, "name": told, "extractedText": _ELSEWHERE}
            for ref, told in sorted(licenses.others.items())
        ]
    if left_out:
        document["comment"] = "not whole, left out: " + "; ".join(left_out)
    return strict_json.encode(document).decode()


def _package(spdx_id: str, package: Package, licenses: Licenses) -> dict[str, object]:
    declared = licenses.of.get(package)
    name = f"{package.namespace}/{package.name}" if package.kind == "npm" else package.name
    plain: dict[str, object] = {
        "SPDXID": spdx_id,
        "name": name.lstrip("/"),
        "downloadLocation": NOASSERTION,
        "filesAnalyzed": False,
        "licenseConcluded": NOASSERTION,
        "licenseDeclared": declared.expression if declared else NOASSERTION,
        "copyrightText": NOASSERTION,
        "supplier": _supplier(package),
        "sourceInfo": f"found in {package.source}",
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": package.purl,
            }
        ],
    }
    if package.version:
        plain["versionInfo"] = package.version
    if _URL.fullmatch(package.homepage):
        plain["homepage"] = package.homepage
    if declared and declared.source:
        plain["licenseComments"] = f"as {declared.source} names them"
    elif package.license_text:
        # Words of its own, not always an expression of SPDX, so they are no license field.
        plain["licenseComments"] = f"declared as: {package.license_text}"
    return plain


def _supplier(package: Package) -> str:
    if not package.supplier:
        return NOASSERTION
    found = _PERSON.fullmatch(package.supplier)
    if found is None:
        kind = "Organization" if package.kind == "rpm" else "Person"
        return f"{kind}: {package.supplier.translate({ord(c): None for c in '<>()'})}"
    kind = "Organization" if package.kind in ("deb", "apk", "rpm") else "Person"
    return f"{kind}: {found[1]} ({found[2]})"


def _id_of(package: Package) -> str:
    """Return an id that no other package of the image has, and this one has in every image."""
    short = hashlib.sha256(strict_json.encode([*package])).hexdigest()[:12]
    return f"SPDXRef-{package.kind}-{_NOT_ID.sub('-', package.name)[:80]}-{short}"


def _relation(one: str, kind: str, other: str) -> dict[str, object]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
