"""Packages of distributions: dpkg's status, apk's database and rpm's.

Source: dpkg-query(1), deb-control(5); Alpine's apk, "Apk spec", installed database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.image.sbom.files import MAX_DATABASE_BYTES, MAX_METADATA_BYTES
from layerstore.image.sbom.packages import Package, word
from layerstore.image.sbom.rpm import rpm_packages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.image.sbom.files import ImageFiles

_STATUS = b"var/lib/dpkg/status"
STATUS_PARTS = b"var/lib/dpkg/status.d"
"""Images without dpkg itself (distroless) keep one file a package here."""
INSTALLED = b"lib/apk/db/installed"
_MAX_PARTS = 20_000


def system_packages(files: ImageFiles) -> Iterator[Package]:
    """Yield what dpkg, apk and rpm have installed."""
    release = os_release(files)
    system = release.get("ID", "")
    version = release.get("VERSION_ID", "")
    distribution = f"{system}-{version}" if system and version else system
    for path, text in _dpkg_texts(files):
        for stanza in stanzas(text):
            package = _deb(stanza, path, system or "debian", distribution)
            if package is not None:
                yield package
    data = files.read(INSTALLED, MAX_DATABASE_BYTES)
    for stanza in stanzas(_text(data)) if data is not None else ():
        package = _apk(stanza, system or "alpine", distribution)
        if package is not None:
            yield package
    yield from rpm_packages(files, system, distribution)


def os_release(files: ImageFiles) -> dict[str, str]:
    """Return ``/etc/os-release``; empty when there is none.

    Source: os-release(5).
    """
    found: dict[str, str] = {}
    for path in (b"etc/os-release", b"usr/lib/os-release"):
        data = files.read(path, MAX_METADATA_BYTES)
        if data is None:
            continue
        for line in _text(data).splitlines():
            name, equals, value = line.partition("=")
            if equals and not name.startswith("#"):
                found.setdefault(name.strip(), word(value.strip().strip("\"'")))
        return found
    return found


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """Yield the blocks of ``Name: value`` lines; a line that begins with a blank is left out."""
    fields: dict[str, str] = {}
    for line in text.split("\n"):
        if not line.strip():
            if fields:
                yield fields
                fields = {}
            continue
        name, colon, value = line.partition(":")
        if colon and not line[0].isspace():
            fields.setdefault(name, word(value))
    if fields:
        yield fields


def _dpkg_texts(files: ImageFiles) -> Iterator[tuple[bytes, str]]:
    data = files.read(_STATUS, MAX_DATABASE_BYTES)
    if data is not None:
        yield _STATUS, _text(data)
    for name in files.names(STATUS_PARTS)[:_MAX_PARTS]:
        if name.endswith(b".md5sums"):
            continue
        path = STATUS_PARTS + b"/" + name
        data = files.read(path, MAX_METADATA_BYTES)
        if data is not None:
            yield path, _text(data)


def _deb(stanza: dict[str, str], path: bytes, namespace: str, distribution: str) -> Package | None:
    name, version = stanza.get("Package", ""), stanza.get("Version", "")
    status = stanza.get("Status", "install ok installed").split()
    if not name or not version or status[-1:] != ["installed"]:
        return None  # a name without a version was removed and left its configuration
    source, _, source_version = stanza.get("Source", "").partition(" ")
    source_version = source_version.strip("()")
    return Package(
        kind="deb",
        namespace=namespace,
        name=name,
        version=version,
        source=_shown(path),
        architecture=stanza.get("Architecture", ""),
        distribution=distribution,
        supplier=stanza.get("Maintainer", ""),
        homepage=stanza.get("Homepage", ""),
        origin=f"{source}@{source_version}" if source and source_version else source,
    )


def _apk(stanza: dict[str, str], namespace: str, distribution: str) -> Package | None:
    name, version = stanza.get("P", ""), stanza.get("V", "")
    if not name or not version:
        return None
    origin = stanza.get("o", "")
    return Package(
        kind="apk",
        namespace=namespace,
        name=name,
        version=version,
        source=_shown(INSTALLED),
        architecture=stanza.get("A", ""),
        distribution=distribution,
        supplier=stanza.get("m", ""),
        homepage=stanza.get("U", ""),
        license_text=stanza.get("L", ""),
        origin=origin if origin != name else "",
    )


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _shown(path: bytes) -> str:
    return "/" + path.decode("utf-8", "replace")
