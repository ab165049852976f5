"""Which images have a package, in which version, and which layer brought it.

A package is meant by its own name or by that of the source it was built from: advisories name
sources (``openssl``), images have what was built of them (``libssl3``).
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import InputError, UnsafeContentError
from layerstore.image.layers.layers import load_changeset
from layerstore.image.sbom.packages import MAX_WORD_CHARACTERS
from layerstore.image.trees.stack import resolve
from layerstore.measure.chains import trie_of, walk_trees
from layerstore.measure.nearby import near_words
from layerstore.measure.packages import full_name, packages_of
from layerstore.measure.versions import version_key
from layerstore.measure.waste_scan import Owners

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from layerstore.digest import ImageId
    from layerstore.image.sbom.packages import Package
    from layerstore.image.trees.stack import Node
    from layerstore.measure.chains import ChainNode
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store

_SPEC = re.compile(r"([^<>=]+)(?:(<=|>=|=|<|>)(.+))?", re.DOTALL)
_INFO = b"var/lib/dpkg/info/"


class PackageSpec(NamedTuple):
    """What is looked for.

    Attributes:
        name: A pattern of fnmatch.
        relation: ``=``, ``<``, ``<=``, ``>``, ``>=``, or nothing for every version.
        version: With ``=`` a pattern, too.
    """

    name: str
    relation: str
    version: str


class PackageHit(NamedTuple):
    """A package in an image.

    Attributes:
        depth: Number of the layer that brought it, from 1; 0 when that cannot be told.
    """

    image_id: ImageId
    package: Package
    depth: int


class FoundPackages(NamedTuple):
    """What was found.

    Attributes:
        hits: By image, in the order asked for, then by name.
        not_compared: Packages of that name whose versions, or the one asked for, nothing orders.
        left_out: What could not be read of the images.
        other_versions: Those that the images have where only the version was not found.
        near: Names that are nearly the one asked for, where no package has it.
    """

    hits: list[PackageHit]
    not_compared: int
    left_out: tuple[str, ...]
    other_versions: tuple[str, ...] = ()
    near: tuple[str, ...] = ()


def parse_package(text: str) -> PackageSpec:
    """Return what ``openssl``, ``openssl=3.0.*`` or ``openssl<3.0.15-1`` means.

    Raises:
        InputError: Not that.
    """
    match = _SPEC.fullmatch(text.strip())
    if match is None or len(text) > MAX_WORD_CHARACTERS:
        raise InputError(
            f"{text!r} names no package", hint="NAME, NAME=VERSION or NAME<VERSION, in quotes"
        )
    name, relation, version = match.groups(default="")
    return PackageSpec(name.strip().lower(), relation, version.strip())


def find_packages(store: Store, images: Sequence[ImageRecord], spec: PackageSpec) -> FoundPackages:
    """Look through the package databases of images.

    Raises:
        IntegrityError: The store is damaged.
    """
    owners = Owners()
    hits: dict[ImageId, list[PackageHit]] = {}
    left_out: dict[str, None] = {}
    skipped = 0
    names: set[str] = set()
    versions: dict[str, None] = {}
    for applied in walk_trees(trie_of(images), lambda diff_id: load_changeset(store, diff_id)):
        owners.note(applied)
        if not applied.node.ends:
            continue
        listed = packages_of(store, applied.after.root)
        left_out.update(dict.fromkeys(listed.left_out))
        names.update(full_name(each).lower() for each in listed.packages)
        named = [each for each in listed.packages if _is_named(each, spec.name)]
        versions.update((f"{each.name} {each.version}", None) for each in named)
        found = [each for each in named if _is_version(each, spec)]
        if spec.relation not in ("", "="):
            skipped += sum(not _is_compared(each, spec) for each in named)
        rows = [(each, _depth_of(applied.after.root, each, owners.of)) for each in found]
        for image in applied.node.ends:
            hits[image.image_id] = [PackageHit(image.image_id, *row) for row in rows]
    ordered = [
        hit
        for image in {image.image_id: image for image in images}
        for hit in sorted(hits.get(image, ()), key=lambda hit: hit.package[:4])
    ]
    if ordered:
        return FoundPackages(ordered, skipped, tuple(left_out))
    near = () if versions else tuple(near_words(spec.name, names))
    return FoundPackages([], skipped, tuple(left_out), tuple(versions), near)


def _is_named(package: Package, name: str) -> bool:
    names = {package.name, full_name(package), package.origin.partition("@")[0]}
    return any(fnmatchcase(each.lower(), name) for each in names if each)


def _is_version(package: Package, spec: PackageSpec) -> bool:
    if not spec.relation:
        return True
    if spec.relation == "=":
        return fnmatchcase(package.version, spec.version)
    have = version_key(package.kind, package.version)
    limit = version_key(package.kind, spec.version)
    if have is None or limit is None:
        return False
    return bool(
        {"<": have < limit, "<=": have <= limit, ">": have > limit, ">=": have >= limit}[
            spec.relation
        ]
    )


def _is_compared(package: Package, spec: PackageSpec) -> bool:
    return None not in (
        version_key(package.kind, package.version),
        version_key(package.kind, spec.version),
    )


def _depth_of(root: Node, package: Package, owner: Callable[..., ChainNode]) -> int:
    """Return the number of the layer with what tells of a package, its own file where it has one.

    dpkg's ``status`` is written anew for every package; the list of files is each one's own.
    """
    paths = [package.source.encode("utf-8", "surrogateescape")]
    if package.kind == "deb":
        stems = (package.name, f"{package.name}:{package.architecture}")
        paths[:0] = [_INFO + stem.encode("utf-8", "replace") + b".list" for stem in stems]
    for path in paths:
        try:
            _, node = resolve(root, path)
        except UnsafeContentError:
            continue
        if node is not None and node.children is None:
            try:
                return owner(node.entry).depth
            except KeyError:
                continue  # no regular file
    return 0
