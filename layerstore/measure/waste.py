"""What images could do without, step by step: what plain layers pay for it, and what is paid here.

*Size* is logical bytes in layers: what an engine pays that unpacks every layer. *Stored* is what
the packs of this store would not need if nothing that is listed were there: content that something
else needs as well, be it another path, layer, image or remembered step of a build, costs nothing
here. Metadata is not counted.

Over several images every needless file is counted once, however many images share its layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from layerstore.image.layers.layers import load_changeset
from layerstore.measure.beyond import stored_sizes
from layerstore.measure.chains import ChainNode, trie_of, walk_trees
from layerstore.measure.owners import NO_PACKAGE, PartReader, owners_of
from layerstore.measure.steps import no_places, steps_of_layers
from layerstore.measure.waste_rules import ADVICE, Rule, fix_of
from layerstore.measure.waste_scan import Needless, Owners, hidden_files, left_files
from layerstore.measure.waste_steps import StepTotal, cause_told, charge, step_totals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from layerstore.digest import ChunkId, DiffId, ImageId
    from layerstore.measure.steps import Places, Step
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store

PATHS_TOLD = 5
"""Paths of a finding that are told by name, the largest."""


class WastedFile(NamedTuple):
    """One path and its bytes."""

    path: bytes
    size: int


class Finding(NamedTuple):
    """Needless files of one image that one step made, of one cause.

    Attributes:
        step: Whose layer holds the bytes.
        by: The step that makes them needless: a later one hides them, an earlier one has the
            same content; None when they are simply left in the image.
        files: How many.
        size: Logical bytes.
        stored: Stored bytes that this store would not need without them.
        paths: The largest.
        fix: What to type instead.
        advice: Whether it may well be wanted and is in no sum.
    """

    rule: Rule
    cause: str
    step: Step
    by: Step | None
    files: int
    size: int
    stored: int
    paths: tuple[WastedFile, ...]
    fix: str
    advice: bool


class ImageWaste(NamedTuple):
    """What one image could do without, the largest finding first.

    Attributes:
        layers_size: Logical bytes of all its layers.
    """

    image_id: ImageId
    layers_size: int
    findings: tuple[Finding, ...]

    def size(self, rule: Rule | None = None) -> int:
        """Return the logical bytes of a rule, or of all that do more than advise."""
        return sum(each.size for each in self.findings_of(rule))

    def stored(self, rule: Rule | None = None) -> int:
        """Return the stored bytes of the same."""
        return sum(each.stored for each in self.findings_of(rule))

    def findings_of(self, rule: Rule | None = None) -> list[Finding]:
        """Return the findings of a rule, or all that do more than advise."""
        return [
            each
            for each in self.findings
            if (each.rule is rule if rule is not None else not each.advice)
        ]


class CauseTotal(msgspec.Struct, frozen=True):
    """One cause over all images, shared layers counted once.

    Attributes:
        images: How many have it.
        files: How many are needless.
        size: Their logical bytes in layers.
        stored: Stored bytes that this store would not need without them.
        advice: Whether they may well be wanted, and are in no sum.
    """

    rule: Rule
    cause: str
    images: int
    files: int
    size: int
    stored: int
    advice: bool


class Waste(NamedTuple):
    """What several images could do without.

    Attributes:
        images: In the order asked for.
        causes: Over all of them, the largest first.
        steps: The same by what made it.
    """

    images: tuple[ImageWaste, ...]
    causes: tuple[CauseTotal, ...]
    steps: tuple[StepTotal, ...]


def take_waste(
    store: Store,
    images: Sequence[ImageRecord],
    places: Places = no_places,
    *,
    packages: bool = False,
) -> Waste:
    """Find what images could do without.

    Args:
        store: Of the images.
        images: In the order in which they are reported.
        places: Where steps stand, as far as that is known.
        packages: Whether it is told whose files are needless; databases are read for it.

    Raises:
        IntegrityError: The store is damaged.
    """
    chosen = {image.image_id: image for image in images}
    reader = PartReader() if packages else None
    found = _scan(store, chosen.values(), reader)
    package_of = _no_package if reader is None else _packages(store, chosen.values(), found, reader)
    sizes = _freed(store, chosen.values(), found)
    steps = {
        image_id: steps_of_layers(store, image, places(image)) for image_id, image in chosen.items()
    }
    reports = tuple(
        _report(image, found[image_id], sizes, steps[image_id])
        for image_id, image in chosen.items()
    )
    return Waste(reports, _causes(found, sizes), step_totals(found, steps, sizes, package_of))


_Found = dict["ImageId", list[Needless]]


def _scan(store: Store, images: Iterable[ImageRecord], reader: PartReader | None) -> _Found:
    """Return the needless files of each image; ``reader`` is shown every layer."""
    found: _Found = {image.image_id: [] for image in images}
    owners = Owners()
    hidden: dict[ChainNode, list[Needless]] = {}
    for applied in walk_trees(trie_of(images), lambda diff_id: load_changeset(store, diff_id)):
        owners.note(applied)
        node = applied.node
        if reader is not None and node.diff_id is not None:
            reader(node.diff_id, applied.changeset)
        hidden[node] = list(hidden_files(applied, owners))
        for image in node.ends:
            mine = found[image.image_id]
            for below in node.chain():
                mine.extend(hidden[below])
            told = {id(item.entry) for item in mine}
            mine.extend(left_files(store, applied.after, owners, told))
    return found


def _no_package(_: Needless) -> str:
    return ""


def _packages(
    store: Store, images: Iterable[ImageRecord], found: _Found, reader: PartReader
) -> Callable[[Needless], str]:
    """Return what names the package of a needless file, empty for none."""
    paths: dict[DiffId, set[bytes]] = {}
    for item in (item for items in found.values() for item in items):
        assert item.layer.diff_id is not None
        paths.setdefault(item.layer.diff_id, set()).add(item.entry.path)
    chains = [image.layers for image in images]
    known = owners_of(store, chains, lambda layer: paths.get(layer, ()), reader.parts)

    def package_of(item: Needless) -> str:
        assert item.layer.diff_id is not None
        owner = known.package(item.layer.diff_id, item.entry.path)
        return "" if owner == NO_PACKAGE else owner[0]

    return package_of


def _freed(store: Store, images: Iterable[ImageRecord], found: _Found) -> dict[ChunkId, int]:
    """Return the stored bytes of the chunks that only needless files refer to.

    A file of a layer is needless if it is so in every image of the store that has the layer.
    """
    wasted: dict[tuple[DiffId, bytes], set[ImageId]] = {}
    for image_id, items in found.items():
        for item in items:
            assert item.layer.diff_id is not None
            wasted.setdefault((item.layer.diff_id, item.entry.path), set()).add(image_id)
    holders: dict[DiffId, set[ImageId]] = {}
    for image in (*store.images(), *images):
        for diff_id in image.layers:
            holders.setdefault(diff_id, set()).add(image.image_id)
    needless = {key for key, where in wasted.items() if holders[key[0]] <= where}
    chunks = {
        chunk
        for items in found.values()
        for item in items
        if (item.layer.diff_id, item.entry.path) in needless
        for _, chunk in item.entry.extents
        if chunk is not None
    }
    if not chunks:
        return {}
    # Layers of no image stay for the build cache, with all that is in them.
    cached = (record.diff_id for record in store.cache_records() if record.diff_id is not None)
    for diff_id in dict.fromkeys((*holders, *cached)):  # one tree in memory at a time
        for entry in load_changeset(store, diff_id).entries:
            if entry.extents and (diff_id, entry.path) not in needless:
                chunks.difference_update(chunk for _, chunk in entry.extents if chunk is not None)
    chunks.difference_update(base for _, _, base in store.catalog.base_rows())
    return {chunk: stored for chunk, (stored, _) in stored_sizes(store, chunks).items()}


def _report(
    image: ImageRecord,
    items: list[Needless],
    sizes: Mapping[ChunkId, int],
    steps: Sequence[Step],
) -> ImageWaste:
    groups: dict[tuple[Rule, str, int, int], list[Needless]] = {}
    for item in items:
        cause = cause_told(item)
        by = item.by.depth if item.by is not None else 0
        groups.setdefault((item.rule, cause, item.layer.depth, by), []).append(item)
    left = dict(sizes)
    findings = []
    # What counts is charged first: a chunk that a piece of advice has as well is charged once.
    for (rule, cause, depth, by), group in sorted(groups.items(), key=_order):
        step, other = steps[depth - 1], steps[by - 1] if by else None
        findings.append(
            Finding(
                rule=rule,
                cause=cause,
                step=step,
                by=other,
                files=len(group),
                size=sum(item.entry.size for item in group),
                stored=charge(group, left),
                paths=_largest(group),
                fix=fix_of(rule, cause, step.text, other.text if other is not None else ""),
                advice=rule in ADVICE,
            )
        )
    findings.sort(key=lambda each: (each.advice, -each.size))
    return ImageWaste(image.image_id, image.size, tuple(findings))


def _order(group: tuple[tuple[Rule, str, int, int], list[Needless]]) -> tuple[object, ...]:
    (rule, cause, depth, by), _ = group
    return rule in ADVICE, rule, cause, depth, by


def _largest(items: list[Needless]) -> tuple[WastedFile, ...]:
    ranked = sorted(items, key=lambda item: (-item.entry.size, item.path))
    return tuple(WastedFile(item.path, item.entry.size) for item in ranked[:PATHS_TOLD])


def _causes(found: _Found, sizes: Mapping[ChunkId, int]) -> tuple[CauseTotal, ...]:
    groups: dict[tuple[bool, Rule, str], dict[tuple[ChainNode, bytes], Needless]] = {}
    images: dict[tuple[bool, Rule, str], int] = {}
    for items in found.values():
        kinds = set()
        for item in items:
            cause = cause_told(item)
            kind = (item.rule in ADVICE, item.rule, cause)
            kinds.add(kind)
            groups.setdefault(kind, {})[item.layer, item.entry.path] = item
        for kind in kinds:
            images[kind] = images.get(kind, 0) + 1
    left = dict(sizes)
    totals = [
        CauseTotal(
            rule=kind[1],
            cause=kind[2],
            images=images[kind],
            files=len(group),
            size=sum(item.entry.size for item in group.values()),
            stored=charge(group.values(), left),
            advice=kind[0],
        )
        for kind, group in sorted(groups.items(), key=lambda pair: pair[0])
    ]
    totals.sort(key=lambda total: (total.advice, -total.size))
    return tuple(totals)
