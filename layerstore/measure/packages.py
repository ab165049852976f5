"""Packages of images as people compare them: by name, with the versions that are there.

The lists come out of package databases of strangers (:mod:`layerstore.image.sbom`), which may
lie and may be cut short: what was left out is told with them.
"""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple

from layerstore.image.sbom.files import ImageFiles
from layerstore.image.sbom.languages import language_packages
from layerstore.image.sbom.scan import MAX_PACKAGES
from layerstore.image.sbom.system import system_packages

if TYPE_CHECKING:
    from collections.abc import Iterable

    from layerstore.image.sbom.packages import Package
    from layerstore.image.trees.stack import Node
    from layerstore.store.store import Store


class PackageList(NamedTuple):
    """What is installed.

    Attributes:
        packages: In no order; one package may be there several times.
        left_out: What could not be read, and why.
    """

    packages: list[Package]
    left_out: tuple[str, ...]


class PackageKey(NamedTuple):
    """What makes two packages the same one in two versions."""

    kind: str
    name: str
    architecture: str


class PackageChange(NamedTuple):
    """A package that two images do not have alike.

    Attributes:
        name: With its scope, and after a colon its architecture if it has some.
        old: Its versions in the first image, none if it was added.
        new: Its versions in the second, none if it was removed.
    """

    kind: str
    name: str
    old: tuple[str, ...]
    new: tuple[str, ...]


def packages_of(store: Store, root: Node, modules: Node | None = None) -> PackageList:
    """Return what dpkg, apk, rpm, pip and npm installed.

    Args:
        store: Of the image.
        root: Of its tree.
        modules: The tree in which packages of languages are looked for, if not all of it.

    Raises:
        IntegrityError: The store is damaged.
    """
    files = ImageFiles(store, root)
    inner = files if modules is None else ImageFiles(store, modules)
    found = chain(system_packages(files), language_packages(inner))
    packages = list(islice(found, MAX_PACKAGES))
    if next(found, None) is not None:
        files.leave_out(b"", f"more than {MAX_PACKAGES} packages")
    more = inner.left_out if inner is not files else []
    return PackageList(packages, (*files.left_out, *more))


def full_name(package: Package) -> str:
    """Return a package's name with the scope of npm, which is part of it."""
    if package.kind == "npm" and package.namespace:
        return f"{package.namespace}/{package.name}"
    return package.name


def versions_of(packages: Iterable[Package]) -> dict[PackageKey, tuple[str, ...]]:
    """Return the versions of each package, sorted, one for every time that it is there."""
    found: dict[PackageKey, list[str]] = {}
    for each in packages:
        key = PackageKey(each.kind, full_name(each), each.architecture)
        found.setdefault(key, []).append(each.version)
    return {key: tuple(sorted(versions)) for key, versions in found.items()}


def package_changes(old: Iterable[Package], new: Iterable[Package]) -> list[PackageChange]:
    """Return what differs, sorted by kind and name."""
    before, after = versions_of(old), versions_of(new)
    keys = sorted(before.keys() | after.keys())
    architectures: dict[tuple[str, str], set[str]] = {}
    for key in keys:
        architectures.setdefault((key.kind, key.name), set()).add(key.architecture)
    return [
        PackageChange(
            key.kind,
            # The architecture is told only where it tells two packages apart.
            f"{key.name}:{key.architecture}"
            if key.architecture and len(architectures[key.kind, key.name]) > 1
            else key.name,
            before.get(key, ()),
            after.get(key, ()),
        )
        for key in keys
        if before.get(key) != after.get(key)
    ]
