"""Packages as values, and their package URLs. Pure.

Source: package-url specification, PURL-SPECIFICATION.rst and PURL-TYPES.rst.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote

MAX_WORD_CHARACTERS = 300
"""Of a name, a version and the like; longer ones are no package's."""

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class Package(NamedTuple):
    """One installed package.

    Attributes:
        kind: Type of its package URL: ``deb``, ``apk``, ``rpm``, ``pypi``, ``npm``.
        namespace: ``debian``, a scope of npm, or nothing.
        version: In its system's own form; of rpm ``[epoch:]version-release``.
        source: Path of what told of it, from ``/``.
        architecture: As its database calls it; empty for none.
        supplier: ``Name <address>``, as the database has it.
        license_text: What it says its license is, in its own words.
        origin: ``name`` or ``name@version`` of what it was built from, empty for itself.
    """

    kind: str
    namespace: str
    name: str
    version: str
    source: str
    architecture: str = ""
    distribution: str = ""
    supplier: str = ""
    homepage: str = ""
    license_text: str = ""
    origin: str = ""

    @property
    def purl(self) -> str:
        """The package URL."""
        namespace = f"{_quoted(self.namespace)}/" if self.namespace else ""
        epoch, text = "", self.version
        if self.kind == "rpm":
            epoch, _, text = text.rpartition(":")
        version = f"@{_quoted(text)}" if text else ""
        given = (
            ("arch", self.architecture),
            ("distro", self.distribution),
            ("epoch", epoch),
            ("upstream", self.origin),
        )
        qualifiers = "&".join(f"{key}={_quoted(value)}" for key, value in given if value)
        question = "?" if qualifiers else ""
        return f"pkg:{self.kind}/{namespace}{_quoted(self.name)}{version}{question}{qualifiers}"


def word(text: object) -> str:
    """Return a text of a stranger's as one short line; empty when it is none."""
    if not isinstance(text, str):
        return ""
    return _UNPRINTABLE.sub(" ", text).strip()[:MAX_WORD_CHARACTERS].strip()


def _quoted(text: str) -> str:
    return quote(text, safe="-._~:")
