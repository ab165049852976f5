"""What the packages of an image declare as their licenses.

Only what is an expression of SPDX is told as one. Debian's packages have no field for it: theirs
is made of their copyright files, of which packages of one source mostly share one.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from layerstore.image.sbom.debian_copyright import Declared, declared_licenses
from layerstore.image.sbom.expressions import spdx_expression
from layerstore.image.sbom.files import MAX_METADATA_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from layerstore.image.sbom.files import ImageFiles
    from layerstore.image.sbom.packages import Package

MAX_READ_BYTES: Final = 64 << 20
"""Of all copyright files; those of a Debian desktop's 2,000 packages have 30 MiB."""

MAX_TOLD_CHARACTERS: Final = 512 << 10
"""Of all that comes of them, so that an image's attestations stay within their bound."""

_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*")
_CHARACTERS_OF_OTHERS: Final = 200
"""What a document says of a license that SPDX does not list, beside its names."""


class License(NamedTuple):
    """What one package declares.

    Attributes:
        expression: Of SPDX.
        source: Path of the file that it was made of, from ``/``; empty if the package says it.
    """

    expression: str
    source: str


class Licenses(NamedTuple):
    """What all of them declare.

    Attributes:
        of: Those of which something is known.
        others: Names of licenses that SPDX does not list, by the references in expressions.
    """

    of: dict[Package, License]
    others: dict[str, str]


def licenses_of(files: ImageFiles, packages: Iterable[Package]) -> Licenses:
    """Return what packages of an image declare.

    Raises:
        IntegrityError: The store is damaged.
    """
    found = Licenses({}, {})
    copyrights = _Copyrights(files)
    for package in sorted(packages):
        if package.kind == "deb":
            copyrights.add(package, found)
            continue
        expression = spdx_expression(package.license_text)
        if expression:
            found.of[package] = License(expression, "")
    return found


class _Copyrights:
    """Copyright files of Debian's packages, each content read for meaning once."""

    def __init__(self, files: ImageFiles) -> None:
        self._files = files
        self._known: dict[bytes, Declared | None] = {}
        self._bytes = self._told = 0
        self._full = False

    def add(self, package: Package, to: Licenses) -> None:
        """Add what a package's file declares, unless a bound is reached, which is remembered."""
        if self._full or not _NAME.fullmatch(package.name):
            return
        path = f"usr/share/doc/{package.name}/copyright"
        declared = self._declared(path.encode())
        if declared is None:
            return
        new = {ref: name for ref, name in declared.others.items() if ref not in to.others}
        self._told += len(declared.expression) + len(path)
        self._told += sum(2 * len(name) + _CHARACTERS_OF_OTHERS for name in new.values())
        if self._bytes > MAX_READ_BYTES or self._told > MAX_TOLD_CHARACTERS:
            self._full = True
            self._files.leave_out(path.encode(), "licenses of this package and those after it")
            return
        to.others.update(new)
        to.of[package] = License(declared.expression, f"/{path}")

    def _declared(self, path: bytes) -> Declared | None:
        data = self._files.read(path, MAX_METADATA_BYTES)
        if data is None:
            return None
        self._bytes += len(data)
        key = hashlib.sha256(data).digest()
        if key not in self._known:
            self._known[key] = declared_licenses(data.decode("utf-8", "replace"))
        return self._known[key]
