"""Bases that images could have in common, and what they would save: predicted from packages.

Images that begin with the same layer are a group. What dpkg has installed in them above the layers
that all of the group share is compared; packages that several have, in the same version, could lie
in a base. Predicted are layers as engines unpack them, tars as registries keep them, and what is
stored here, where equal content is kept once whatever the layers, so that a common base saves
next to nothing.
"""

from __future__ import annotations

import re
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

from layerstore.formats.tree import FILE
from layerstore.image.layers import load_changeset
from layerstore.image.sbom.files import MAX_DATABASE_BYTES, ImageFiles
from layerstore.image.sbom.system import stanzas
from layerstore.image.stack import Node, lookup, walk
from layerstore.measure.beyond import layers_beyond, stored_sizes
from layerstore.measure.chains import trie_of, walk_trees
from layerstore.measure.common_sets import Common, common_sets
from layerstore.measure.package_lists import PackageLists
from layerstore.measure.waste_scan import Owners

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from layerstore.digest import DiffId, ImageId
    from layerstore.store.catalog_rows import ImageRecord
    from layerstore.store.store import Store

STATUS = b"var/lib/dpkg/status"
_DATABASE = b"var/lib/dpkg"
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*", re.ASCII)
NAMELESS = "base"
"""In specs, for what images have in common where the store has no image of it under a name."""

TAR_ENTRY_BYTES = 768
"""A header of 512 and half a block of padding, on average."""


class Costs(NamedTuple):
    """What images take, each layer once.

    Attributes:
        layers: Logical bytes of layers that are unpacked, by chain.
        tars: Bytes of uncompressed tars, by layer.
        stored: Bytes in packs of this kind of store.
    """

    layers: int
    tars: int
    stored: int

    def minus(self, other: Costs) -> Costs:
        """Return the difference."""
        return Costs(*(mine - its for mine, its in zip(self, other, strict=True)))


class Base(NamedTuple):
    """A base that is proposed.

    Attributes:
        name: Made up.
        below: What it is made from: the name of an image or of another proposal; empty if what
            the images have in common has no name.
        images: Which could be made from it.
        packages: To install; those they depend on come by themselves.
        package_count: With those.
        saved: What it saves.
    """

    name: str
    below: str
    images: tuple[str, ...]
    packages: tuple[str, ...]
    package_count: int
    saved: Costs


class Group(NamedTuple):
    """Images that begin alike.

    Attributes:
        images: Their names.
        base: An image that is what they have in common; empty if none has a name.
        base_names: All of its names.
        bases: Proposals, each after what it is made from; none if nothing is to be gained.
        now: What the images take.
        apart: Packages that several images have, in different versions.
    """

    images: tuple[str, ...]
    base: str
    base_names: tuple[str, ...]
    bases: tuple[Base, ...]
    now: Costs
    apart: int = 0

    @property
    def predicted(self) -> Costs:
        """What they would take."""
        costs = self.now
        for base in self.bases:
            costs = costs.minus(base.saved)
        return costs


class _Installed(NamedTuple):
    """A package of dpkg: ``key`` has its version, ``needs`` what it depends on, by name."""

    name: str
    key: str
    needs: tuple[str, ...]


class _Seen(NamedTuple):
    """What is known of an image."""

    packages: dict[str, _Installed]
    database_size: int


def suggest_bases(store: Store, images: Mapping[str, ImageRecord]) -> list[Group]:
    """Propose bases for images.

    Args:
        store: Of the images.
        images: By their names.

    Raises:
        IntegrityError: The store is damaged.
    """
    groups: dict[DiffId, dict[str, ImageRecord]] = {}
    for name, image in images.items():
        if image.layers:
            groups.setdefault(image.layers[0], {})[name] = image
    several = (group for group in groups.values() if len({i.image_id for i in group.values()}) > 1)
    proposed = 0
    found = []
    for group in several:
        made = _Grouping(store, group).group(proposed)
        proposed += len(made.bases)
        found.append(made)
    return found


def costs_of(store: Store, images: Iterable[ImageRecord]) -> Costs:
    """Return what images take.

    Raises:
        NotFoundError: A layer is not in the store.
        IntegrityError: The store is damaged.
    """
    chosen = list(images)
    diff_ids = list(dict.fromkeys(diff_id for image in chosen for diff_id in image.layers))
    chains = {image.layers[:depth] for image in chosen for depth in range(1, len(image.layers) + 1)}
    return Costs(
        layers=sum(store.layer(chain[-1]).content_size for chain in chains),
        tars=sum(store.layer(diff_id).tar_size for diff_id in diff_ids),
        stored=layers_beyond(store, diff_ids, ()).stored_size,
    )


class _Grouping:
    """Looks at one group."""

    def __init__(self, store: Store, images: dict[str, ImageRecord]) -> None:
        self._store = store
        self._images = images
        self._common = _common_layers([image.layers for image in images.values()])
        self._sizes: dict[str, tuple[int, int]] = {}
        self._below: dict[str, _Installed] = {}
        self._seen: dict[ImageId, _Seen] = {}

    def group(self, proposed: int) -> Group:
        """Return the group with its proposals, of which there are so many already."""
        self._look()
        sets = {
            name: self._seen[image.image_id].packages.keys() - self._below.keys()
            for name, image in self._images.items()
        }
        overhead = max((seen.database_size for seen in self._seen.values()), default=0)
        found = common_sets(sets, lambda items, count: self._layers_saved(items, count, overhead))
        names = self._names_of_base()
        base = names[0] if names else ""
        bases: list[Base] = []
        for number, common in enumerate(found):
            below = base if common.below is None else bases[common.below].name
            bases.append(self._base(f"common-{proposed + number + 1}", below, common, overhead))
        now = costs_of(self._store, self._images.values())
        return Group(tuple(self._images), base, names, tuple(bases), now, _apart(sets.values()))

    def _names_of_base(self) -> tuple[str, ...]:
        for image in self._store.images():
            if image.layers == self._common:
                names = [n for n, i in self._store.tags().items() if i == image.image_id]
                if names:
                    return tuple(sorted(names, key=lambda name: ("@" in name, name)))
        return ()

    def _look(self) -> None:
        """Read what the images and the layers in common have installed."""
        owners = Owners()
        depth = len(self._common)
        trie = trie_of(self._images.values())
        for applied in walk_trees(trie, lambda diff_id: load_changeset(self._store, diff_id)):
            owners.note(applied)
            root, node = applied.after.root, applied.node
            if node.depth == depth:
                self._below = _installed(ImageFiles(self._store, root))
            if not node.ends:
                continue
            files = ImageFiles(self._store, root)
            lists = PackageLists(files)
            packages = _installed(files)

            def is_above(node: Node) -> bool:
                return owners.of(node.entry).depth > depth

            for package in packages.values():
                if package.key not in self._below and package.key not in self._sizes:
                    self._sizes[package.key] = _size_of(root, lists, package, is_above)
            database = _database_size(root, is_above)
            for image in node.ends:
                self._seen[image.image_id] = _Seen(packages, database)

    def _layers_saved(self, items: frozenset[str], count: int, overhead: int) -> int:
        """Return the bytes of layers that a base saves: its own database costs them once more."""
        return (count - 1) * sum(self._sizes[item][0] for item in items) - overhead

    def _base(self, name: str, below: str, common: Common, overhead: int) -> Base:
        count = len(common.members)
        saved = self._layers_saved(common.items, count, overhead)
        files = (count - 1) * sum(self._sizes[item][1] for item in common.items)
        installed = self._seen[self._images[common.members[0]].image_id].packages
        stored = int(files * self._tree_bytes_per_entry())
        costs = Costs(saved, saved + files * TAR_ENTRY_BYTES, stored)
        needed = {item: installed[item] for item in common.items}
        return Base(name, below, common.members, _to_install(needed), len(needed), costs)

    def _tree_bytes_per_entry(self) -> float:
        """Return the stored bytes of trees and recipes for each entry of the images' own layers."""
        known = set(self._common)
        diff_ids = {each for image in self._images.values() for each in image.layers} - known
        records = [self._store.layer(diff_id) for diff_id in diff_ids]
        chunks = {chunk for record in records for _, chunk in record.tree + record.recipe}
        stored = sum(size for size, _ in stored_sizes(self._store, chunks).values())
        return stored / max(1, sum(record.entry_count for record in records))


def _common_layers(chains: Sequence[tuple[DiffId, ...]]) -> tuple[DiffId, ...]:
    levels = takewhile(lambda level: len(set(level)) == 1, zip(*chains, strict=False))
    return tuple(level[0] for level in levels)


def _installed(files: ImageFiles) -> dict[str, _Installed]:
    """Return what dpkg has installed, by name, architecture and version."""
    data = files.read(STATUS, MAX_DATABASE_BYTES)
    found = {}
    for stanza in stanzas(data.decode("utf-8", "replace")) if data is not None else ():
        name, version = stanza.get("Package", ""), stanza.get("Version", "")
        status = stanza.get("Status", "").split()
        if not version or status[-1:] != ["installed"] or not _NAME.fullmatch(name):
            continue  # what a stranger calls a package ends in a Dockerfile of ours
        key = f"{name}:{stanza.get('Architecture', '')}={version}"
        wants = f"{stanza.get('Pre-Depends', '')},{stanza.get('Depends', '')}"
        needs = (alternative.split("(")[0].split(":")[0].strip()
                 for part in wants.split(",") for alternative in part.split("|"))  # fmt: skip
        found[key] = _Installed(name, key, tuple(need for need in needs if need))
    return found


def _apart(sets: Iterable[Iterable[str]]) -> int:
    """Return how many names are there in several versions."""
    keys = {key for each in sets for key in each}
    names: dict[str, int] = {}
    for key in keys:
        name = key.partition("=")[0]
        names[name] = names.get(name, 0) + 1
    return sum(count > 1 for count in names.values())


def _size_of(
    root: Node, lists: PackageLists, package: _Installed, is_above: Callable[[Node], bool]
) -> tuple[int, int]:
    """Return bytes and number of the files that a package has above the layers in common.

    Compiled Python, which installing makes and no list has, goes with its source.
    """
    architecture = package.key.partition(":")[2].partition("=")[0]
    found: dict[int, Node] = {}
    for path, node in lists.files_of(package.name, architecture):
        if id(node) not in found and path.endswith(b".py"):
            found.update((id(each), each) for each in _compiled(root, path))
        found[id(node)] = node
    above = [node for node in found.values() if is_above(node)]
    return sum(node.entry.size for node in above), len(above)


def _compiled(root: Node, source: bytes) -> Iterator[Node]:
    folder, _, name = source.rpartition(b"/")
    caches = lookup(root, folder + b"/__pycache__")
    for each, node in ((caches.children if caches is not None else None) or {}).items():
        if each.startswith(name.removesuffix(b"py")) and node.entry.kind is FILE:
            yield node


def _database_size(root: Node, is_above: Callable[[Node], bool]) -> int:
    """Return the bytes of dpkg's database that every layer with packages writes anew."""
    database = lookup(root, _DATABASE)
    if database is None or database.children is None:
        return 0
    return sum(
        node.entry.size
        for path, node in walk(database)
        if not path.startswith(b"info/") and node.entry.kind is FILE and is_above(node)
    )


def _to_install(packages: Mapping[str, _Installed]) -> tuple[str, ...]:
    """Return names whose dependencies bring all the others, as far as they can be told."""
    by_name: dict[str, _Installed] = {each.name: each for each in packages.values()}
    needed = {need for each in by_name.values() for need in each.needs if need != each.name}
    chosen = sorted(by_name.keys() - needed)
    reached: set[str] = set()
    pending = list(chosen)
    for name in [*sorted(by_name), ""]:
        while pending:
            each = pending.pop()
            if each in by_name and each not in reached:
                reached.add(each)
                pending.extend(by_name[each].needs)
        if name and name not in reached:  # of a circle of dependencies: none is at its top
            chosen.append(name)
            pending.append(name)
    return tuple(sorted(chosen))


def dockerfile_of(base: Base) -> str:
    """Return a Dockerfile that makes a proposed base."""
    mounts = " \\\n    ".join(
        f"--mount=type=cache,target={path},sharing=locked"
        for path in ("/var/cache/apt", "/var/lib/apt/lists")
    )
    words = " \\\n      ".join(base.packages)
    return (
        f"FROM {base.below or NAMELESS}\n"
        f"RUN {mounts} \\\n"
        "    rm -f /etc/apt/apt.conf.d/docker-clean \\\n"
        " && apt-get update \\\n"
        f" && apt-get install -y --no-install-recommends \\\n      {words} \\\n"
        " && rm -rf /var/log/apt /var/log/dpkg.log /var/cache/ldconfig\n"
    )


def native_spec_of(base: Base) -> str:
    """Return a native spec that makes a proposed base."""
    words = "".join(f'    "{name}",\n' for name in base.packages)
    below = base.below or NAMELESS
    return f'base = "{below}"\ntags = ["{base.name}"]\n\n[packages]\napt = [\n{words}]\n'
