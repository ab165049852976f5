"""Whose the stored bytes are: packages, each byte once, where it was met first.

What :mod:`layerstore.measure.places` is for directories. A file that an upper layer upgrades
belongs to the older package: its bytes are stored all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from layerstore.measure.owners import Owners, PartReader, owners_of
from layerstore.measure.places import first_met

if TYPE_CHECKING:
    from layerstore.digest import DiffId
    from layerstore.measure.survey import Survey
    from layerstore.store.store import Store


class PackageHeld(msgspec.Struct, frozen=True):
    """A package, or all files that belong to none.

    Attributes:
        name: With its version.
        kind: Type of its package URL: ``deb``, ``apk``, ``rpm``, ``pypi``, ``npm``; "" for none.
        size: Stored bytes of its files' contents.
    """

    name: str
    kind: str
    size: int


def take_packages(store: Store, survey: Survey) -> tuple[PackageHeld, ...]:
    """Return the packages that hold all stored file contents, the largest first.

    Raises:
        IntegrityError: A layer's tree, or the content of a package database, is damaged.
    """
    reader = PartReader()
    files: dict[DiffId, dict[bytes, int]] = {}
    for layer, path, size in first_met(survey, reader):
        files.setdefault(layer, {})[path] = size
    chains = [image.layers for image in survey.chosen]
    owners = owners_of(store, chains, lambda layer: files.get(layer, ()), reader.parts)
    return _summed(files, owners)


def _summed(files: dict[DiffId, dict[bytes, int]], owners: Owners) -> tuple[PackageHeld, ...]:
    sums: dict[tuple[str, str], int] = {}
    for layer, sizes in files.items():
        for path, size in sizes.items():
            key = owners.package(layer, path)
            sums[key] = sums.get(key, 0) + size
    held = [PackageHeld(*key, size) for key, size in sums.items()]
    return tuple(sorted(held, key=lambda each: (-each.size, each.name, each.kind)))
