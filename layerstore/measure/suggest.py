"""Bases that images could have in common, and what they would save: predicted from packages.

Images that begin with the same layer are a group. What dpkg, pip and npm have installed in them
above the layers that all of the group share is compared; packages that several have, in the same
version and at the same place, could lie in a base. Predicted are layers as engines unpack them,
tars as registries keep them, and what is stored here, where equal content is kept once whatever the
layers, so that a common base saves next to nothing.
"""

from __future__ import annotations

import re
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

from layerstore.formats.tree import FILE
from layerstore.image.images import load_config, steps_of
from layerstore.image.layers.layers import load_changeset
from layerstore.image.sbom.files import MAX_DATABASE_BYTES, ImageFiles
from layerstore.image.sbom.system import stanzas
from layerstore.image.trees.stack import Node, lookup, walk
from layerstore.measure.asked import FILE_BYTES, asked_of, with_directory
from layerstore.measure.asked_npm import project_in
from layerstore.measure.beyond import layers_beyond, stored_sizes
from layerstore.measure.chains import trie_of, walk_trees
from layerstore.measure.common_sets import Common, common_sets
from layerstore.measure.kept_beside import DEB, Sized, kept_beside
from layerstore.measure.package_lists import PackageLists
from layerstore.measure.placed import NPM, TOOL, PlacedPackages
from layerstore.measure.shareable import Item, Refused, Told, item_of, refused
from layerstore.measure.steps import instruction_of, no_places, steps_of_layers
from layerstore.measure.waste_scan import Owners

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from layerstore.digest import DiffId, ImageId
    from layerstore.measure.asked import Asked
    from layerstore.measure.asked_npm import Projects
    from layerstore.measure.chains import ChainNode
    from layerstore.measure.common_sets import Saving
    from layerstore.measure.placed import Place
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store

STATUS = b"var/lib/dpkg/status"
_DATABASE = b"var/lib/dpkg"
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*", re.ASCII)
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
        packages: For apt; those they depend on come by themselves.
        package_count: With those, and those of pip and npm.
        saved: What it saves.
        others: What pip and npm install, in exact versions, by where.
        npm_install_in: Those of the images whose ``npm ci`` would remove what the base has of npm:
            their specs must say ``npm install``.
    """

    name: str
    below: str
    images: tuple[str, ...]
    packages: tuple[str, ...]
    package_count: int
    saved: Costs
    others: Mapping[Place, tuple[str, ...]] = {}
    npm_install_in: tuple[str, ...] = ()


class Group(NamedTuple):
    """Images that begin alike.

    Attributes:
        images: Their names.
        base: An image that is what they have in common; empty if none has a name.
        base_names: All of its names.
        bases: Proposals, each after what it is made from; none if nothing is to be gained.
        now: What the images take.
        apart: Packages of dpkg that several images have, in different versions.
        refused: Packages of pip and npm that several images have, and why no base can.
    """

    images: tuple[str, ...]
    base: str
    base_names: tuple[str, ...]
    bases: tuple[Base, ...]
    now: Costs
    apart: int = 0
    refused: tuple[Refused, ...] = ()

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
    """What is known of an image.

    Attributes:
        layers: Which layer has each item, the topmost of its files.
        told: What pip and npm have installed.
        asked: What pip was asked for.
        projects: What npm was.
        above: Its layers above those that all share, by the id() of each.
    """

    packages: dict[str, _Installed]
    database_size: int
    layers: dict[str, ChainNode]
    told: list[Told]
    asked: Asked
    projects: Projects
    above: dict[int, ChainNode]


def suggest_bases(
    store: Store,
    images: Mapping[str, ImageRecord],
    directories: Mapping[str, Path] | None = None,
) -> list[Group]:
    """Propose bases for images.

    Args:
        store: Of the images.
        images: By their names.
        directories: By the same, where those were built from of which that is known.

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
        made = _Grouping(store, group, directories or {}).group(proposed)
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

    def __init__(
        self, store: Store, images: dict[str, ImageRecord], directories: Mapping[str, Path]
    ) -> None:
        self._store = store
        self._directories = directories
        self._images = images
        shared = _common_layers([image.layers for image in images.values()])
        self._common, self._names = _named_below(store, shared)
        self._sizes: dict[str, tuple[int, int]] = {}
        self._items: dict[str, Item] = {}
        self._kept: dict[tuple[str, int], int] = {}
        self._rests: dict[int, int] = {}
        self._brings: dict[bytes, dict[str, None]] = {}
        self._below: dict[str, _Installed] = {}
        self._seen: dict[ImageId, _Seen] = {}

    def group(self, proposed: int) -> Group:
        """Return the group with its proposals, of which there are so many already."""
        self._look()
        sets = {name: seen.layers.keys() for name, seen in self._named()}
        overhead = max((seen.database_size for _, seen in self._named()), default=0)
        found = common_sets(sets, self._saving(overhead))
        names = self._names
        base = names[0] if names else ""
        bases: list[Base] = []
        for number, common in enumerate(found):
            below = base if common.below is None else bases[common.below].name
            bases.append(self._base(f"common-{proposed + number + 1}", below, common, overhead))
        now = costs_of(self._store, self._images.values())
        apart = _apart(seen.packages.keys() - self._below.keys() for _, seen in self._named())
        told = {name: seen.told for name, seen in self._named()}
        no_base = refused(
            told,
            {name: seen.asked for name, seen in self._named()},
            {name: seen.projects for name, seen in self._named()},
        )
        return Group(tuple(self._images), base, names, tuple(bases), now, apart, no_base)

    def _named(self) -> list[tuple[str, _Seen]]:
        return [(name, self._seen[image.image_id]) for name, image in self._images.items()]

    def _look(self) -> None:
        """Read what the images and the layers in common have installed."""
        owners, languages = Owners(), PlacedPackages()
        depth = len(self._common)
        trie = trie_of(self._images.values())
        for applied in walk_trees(trie, lambda diff_id: load_changeset(self._store, diff_id)):
            owners.note(applied)
            languages.note(applied)
            root, node = applied.after.root, applied.node
            if node.depth == depth:
                self._below = _installed(ImageFiles(self._store, root))
            for image in node.ends:
                self._seen[image.image_id] = self._look_at(image, node, root, owners, languages)

    def _look_at(
        self,
        image: ImageRecord,
        top: ChainNode,
        root: Node,
        owners: Owners,
        languages: PlacedPackages,
    ) -> _Seen:
        """Read what one image has installed."""
        depth = len(self._common)

        def layer_of(node: Node) -> ChainNode | None:
            owner = owners.of(node.entry)
            return owner if owner.depth > depth else None

        files = ImageFiles(self._store, root)
        lists = PackageLists(files)
        packages = _installed(files)
        layers = {}
        sized = []
        for package in packages.values():
            if package.key not in self._below:
                own = self._files_of(root, lists, package)
                layer = layers[package.key] = self._count(package.key, own, layer_of) or top
                sized.append(Sized(DEB, package.key, layer, self._sizes[package.key][0]))
        told = []
        steps = steps_of_layers(self._store, image, no_places(image))

        def maker_of(path: bytes) -> str | None:
            node = lookup(root, path)
            if node is None or node.entry.kind is not FILE:
                return None
            if layer_of(node) is None:
                return ""
            return next((key for key in self._brings.get(path, ()) if key in layers), None)

        above = [node for node in top.chain() if node.depth > depth]
        said = lambda node: steps[owners.of(node.entry).depth - 1].text  # noqa: E731 -- one line
        for placed in languages.found(files, above, said):
            item = item_of(placed, maker_of)
            told.append(Told(placed, item))
            name = item.key if isinstance(item, Item) else f"{placed.kind} {placed.name}, refused"
            layer = self._count(name, placed.files, layer_of) or top
            sized.append(Sized(placed.kind, name, layer, self._sizes[name][0]))
            if isinstance(item, Item):
                self._items[name] = item
                layers[name] = layer
        for name, layer, size in kept_beside(root, sized, layer_of):
            self._kept[name, id(layer)] = size
        database = _database_size(root, lambda node: layer_of(node) is not None)
        read = self._reader_of(image, files)
        return _Seen(
            packages,
            database,
            layers,
            told,
            self._asked_of(image, read) if told else {},
            _projects_of(told, read, root),
            {id(node): node for node in above},
        )

    def _reader_of(self, image: ImageRecord, files: ImageFiles) -> Callable[[str], bytes | None]:
        """Return what reads files of an image, else of the directory that it was built from."""
        names = [name for name, each in self._images.items() if each.image_id == image.image_id]
        return with_directory(
            lambda path: files.read(path.lstrip("/").encode(), FILE_BYTES),
            self._directories.get(names[0]),
        )

    def _asked_of(self, image: ImageRecord, read: Callable[[str], bytes | None]) -> Asked:
        """Read what an image asked pip for."""
        history = steps_of(load_config(self._store, image.image_id))
        return asked_of([instruction_of(step.created_by) for step in history], read)

    def _files_of(self, root: Node, lists: PackageLists, package: _Installed) -> Iterator[Node]:
        """Yield the files of a package of dpkg; those that install others are remembered.

        Compiled Python, which installing makes and no list has, goes with its source.
        """
        architecture = package.key.partition(":")[2].partition("=")[0]
        for path, node in lists.files_of(package.name, architecture):
            if TOOL.fullmatch(path):
                self._brings.setdefault(path, {})[package.key] = None
            if path.endswith(b".py"):
                yield from _compiled(root, path)
            yield node

    def _count(
        self, key: str, files: Iterable[Node], layer_of: Callable[[Node], ChainNode | None]
    ) -> ChainNode | None:
        """Remember what a package takes above the layers in common; return its topmost layer."""
        above = {id(node): (node, layer) for node in files if (layer := layer_of(node))}
        if key not in self._sizes:
            self._sizes[key] = sum(node.entry.size for node, _ in above.values()), len(above)
        return max(
            (layer for _, layer in above.values()), key=lambda each: each.depth, default=None
        )

    def _saving(self, overhead: int) -> Saving:
        return lambda items, members, others: self._layers_saved(items, members, others, overhead)

    def _layers_of(self, item: str, names: Iterable[str]) -> set[int]:
        """Return the layers in which some images have an item; shared layers have it once."""
        layers = (self._seen[self._images[name].image_id].layers for name in names)
        return {id(layer) for each in layers if (layer := each.get(item)) is not None}

    def _copies(
        self, items: Iterable[str], members: Iterable[str], others: Iterable[str]
    ) -> Iterator[tuple[str, int]]:
        """Yield how many copies of each item go if some images get it from a base.

        What they share with others, which stay without, is made for those as before: then the
        base's is one more, and the number negative.
        """
        members, others = list(members), list(others)
        for item in items:
            theirs = self._layers_of(item, others)
            yield item, len(self._layers_of(item, members) - theirs) - 1

    def _layers_saved(
        self, items: Iterable[str], members: Iterable[str], others: Iterable[str], overhead: int
    ) -> int:
        """Return the bytes of layers that a base saves: its own database costs them once more."""
        members, others = list(members), list(others)
        saved = writes = 0
        for item, copies in self._copies(items, members, others):
            saved += copies * self._sizes[item][0]
            if copies and item not in self._items:
                writes = overhead
        return saved - writes - self._parted(members, others)

    def _parted(self, members: Iterable[str], others: Iterable[str]) -> int:
        """Return what is made twice if some images get a base and others stay without.

        That is the rest of the layers that they share: what is in no package, such as indexes that
        apt was left with.
        """
        inside: dict[int, ChainNode] = {}
        for name in members:
            inside.update(self._seen[self._images[name].image_id].above)
        outside = {key for name in others for key in self._seen[self._images[name].image_id].above}
        return sum(self._rest_of(node) for key, node in inside.items() if key in outside)

    def _rest_of(self, node: ChainNode) -> int:
        """Return the bytes of a layer that are in no package that a base could have."""
        if id(node) not in self._rests:
            some = self._seen[node.images[0].image_id].layers
            sizes = sum(
                self._sizes[item][0] + self._kept.get((item, id(node)), 0)
                for item, layer in some.items()
                if layer is node
            )
            size = self._store.layer(node.diff_id).content_size if node.diff_id else 0
            self._rests[id(node)] = max(0, size - sizes)
        return self._rests[id(node)]

    def _base(self, name: str, below: str, common: Common, overhead: int) -> Base:
        saved = self._layers_saved(common.items, common.members, common.others, overhead)
        copies = self._copies(common.items, common.members, common.others)
        files = sum(n * self._sizes[item][1] for item, n in copies)
        kept, kept_once = self._kept_by(common)
        installed = self._seen[self._images[common.members[0]].image_id].packages
        stored = int(files * self._tree_bytes_per_entry())
        tars = saved + files * TAR_ENTRY_BYTES
        costs = Costs(saved + kept, tars + kept, stored + kept_once)
        needed = {item: installed[item] for item in common.items if item in installed}
        others: dict[Place, tuple[str, ...]] = {}
        for item in sorted(common.items - needed.keys()):
            place, asked = self._items[item].place, self._items[item].asked
            others[place] = (*others.get(place, ()), asked)
        return Base(
            name,
            below,
            common.members,
            _to_install(needed),
            len(common.items),
            costs,
            others,
            tuple(member for member in common.members if self._removes(member, common.items)),
        )

    def _removes(self, name: str, items: Collection[str]) -> bool:
        """Return whether a step of an image removes some items before it installs them."""
        return any(
            told.placed.removed_first and isinstance(told.item, Item) and told.item.key in items
            for told in self._seen[self._images[name].image_id].told
        )

    def _kept_by(self, common: Common) -> tuple[int, int]:
        """Return the bytes of archives and caches that go with packages into a base, and once.

        They are predicted, and are no reason for a base: a cache mount would do.
        """
        every = once = 0
        for item in common.items:
            theirs = self._layers_of(item, common.others)
            layers = self._layers_of(item, common.members)
            sizes = [self._kept.get((item, layer), 0) for layer in layers - theirs]
            every += sum(sizes)
            once += 0 if theirs else max(sizes, default=0)
        return every, once

    def _tree_bytes_per_entry(self) -> float:
        """Return the stored bytes of trees and recipes for each entry of the images' own layers."""
        known = set(self._common)
        diff_ids = {each for image in self._images.values() for each in image.layers} - known
        records = [self._store.layer(diff_id) for diff_id in diff_ids]
        chunks = {chunk for record in records for _, chunk in record.tree + record.recipe}
        stored = sum(size for size, _ in stored_sizes(self._store, chunks).values())
        return stored / max(1, sum(record.entry_count for record in records))


def _projects_of(told: Iterable[Told], read: Callable[[str], bytes | None], root: Node) -> Projects:
    """Read what npm was asked for wherever it has installed something."""

    def has(path: str) -> bool:
        return lookup(root, path.lstrip("/").encode()) is not None

    places = (each.placed.place for each in told if each.placed.kind == NPM)
    folders = sorted({place.folder for place in places if place is not None})
    found = ((folder, project_in(folder, read, has)) for folder in folders)
    return {folder: project for folder, project in found if project is not None}


def _named_below(
    store: Store, shared: tuple[DiffId, ...]
) -> tuple[tuple[DiffId, ...], tuple[str, ...]]:
    """Return the most of some layers that is an image with a name, and its names.

    Only such can be replaced in specs. Where none has a name, all of the layers are returned.
    """
    names: dict[ImageId, list[str]] = {}
    for name, image_id in store.tags().items():
        names.setdefault(image_id, []).append(name)
    below: dict[tuple[DiffId, ...], list[str]] = {}
    for image_id, called in names.items():
        layers = store.image(image_id).layers
        if layers and layers == shared[: len(layers)]:
            below.setdefault(layers, []).extend(called)
    if not below:
        return shared, ()
    most = max(below, key=len)
    return most, tuple(sorted(below[most], key=lambda name: ("@" in name, name)))


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
