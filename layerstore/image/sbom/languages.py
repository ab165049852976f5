"""Packages of pip and npm, wherever in an image they lie.

The tree is in memory, so all of it is looked through by name; only the few files that
describe a package are read.

Source: Python packaging, "Recording installed projects" and "Core metadata"; npm,
package.json and node_modules.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from layerstore.image.sbom.files import MAX_METADATA_BYTES
from layerstore.image.sbom.packages import Package, word
from layerstore.image.trees.stack import walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.image.sbom.files import ImageFiles
    from layerstore.image.trees.stack import Node

_MODULES = b"node_modules"
_RUNS = re.compile(r"[-_.]+")


def language_packages(files: ImageFiles) -> Iterator[Package]:
    """Yield the packages of pip and npm that an image holds."""
    for path, node in walk(files.root):
        name = path.rpartition(b"/")[2]
        if name.endswith((b".dist-info", b".egg-info")):
            package = _python(files, path, node)
            if package is not None:
                yield package
        elif name == _MODULES and node.children:
            yield from _modules(files, path, node)


def _python(files: ImageFiles, path: bytes, node: Node) -> Package | None:
    """Return the package that ``NAME.dist-info`` or ``NAME.egg-info`` describes."""
    if node.children is not None:
        inner = b"METADATA" if path.endswith(b".dist-info") else b"PKG-INFO"
        child = node.children.get(inner)
        if child is None:
            return None
        path, node = path + b"/" + inner, child
    return described_by_pip(files, path, node)


def described_by_pip(files: ImageFiles, path: bytes, node: Node) -> Package | None:
    """Return the package that a file of core metadata (``METADATA``, ``PKG-INFO``) describes."""
    data = files.content(path, node, MAX_METADATA_BYTES)
    if data is None:
        return None
    fields = _headers(data.decode("utf-8", "replace"))
    name = fields.get("name", "")
    if not name:
        files.leave_out(path, "it names no package")
        return None
    author = fields.get("author-email") or fields.get("author", "")
    return Package(
        kind="pypi",
        namespace="",
        name=_RUNS.sub("-", name).lower(),
        version=fields.get("version", ""),
        source="/" + path.decode("utf-8", "replace"),
        supplier=author,
        homepage=fields.get("home-page", ""),
        license_text=fields.get("license-expression") or fields.get("license", ""),
    )


def _headers(text: str) -> dict[str, str]:
    """Return the header fields of core metadata: first lines only, the description left out."""
    fields: dict[str, str] = {}
    for line in text.split("\n"):
        if not line.strip():
            break
        name, colon, value = line.partition(":")
        if colon and not line[0].isspace():
            fields.setdefault(name.lower(), word(value))
    return fields


def _modules(files: ImageFiles, path: bytes, node: Node) -> Iterator[Package]:
    for name, child in (node.children or {}).items():
        below = path + b"/" + name
        if name.startswith(b"@"):
            for inner, grandchild in (child.children or {}).items():
                yield from _module(files, below + b"/" + inner, grandchild)
        else:
            yield from _module(files, below, child)


def _module(files: ImageFiles, path: bytes, node: Node) -> Iterator[Package]:
    described = (node.children or {}).get(b"package.json")
    package = described and described_by_npm(files, path + b"/package.json", described)
    if package:
        yield package


def described_by_npm(files: ImageFiles, path: bytes, node: Node) -> Package | None:
    """Return the package that a ``package.json`` describes; None if it describes none."""
    data = files.content(path, node, MAX_METADATA_BYTES)
    if data is None:
        return None
    try:
        plain = json.loads(data)
    except (ValueError, RecursionError):
        files.leave_out(path, "it is not JSON")
        return None
    name = word(plain.get("name")) if isinstance(plain, dict) else ""
    if not name:
        return None  # modules inside of a package have a package.json without a name
    scope, _, last = name.rpartition("/")
    license_field = plain.get("license")
    if isinstance(license_field, dict):
        license_field = license_field.get("type")
    return Package(
        kind="npm",
        namespace=scope,
        name=last,
        version=word(plain.get("version")),
        source="/" + path.decode("utf-8", "replace"),
        supplier=_author(plain.get("author")),
        homepage=word(plain.get("homepage")),
        license_text=word(license_field),
    )


def _author(value: object) -> str:
    if isinstance(value, dict):
        name, address = word(value.get("name")), word(value.get("email"))
        return f"{name} <{address}>" if address else name
    return word(value)
