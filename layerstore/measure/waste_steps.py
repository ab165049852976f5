"""Which steps of several images waste most: what images share is one step of all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from layerstore.measure.waste_rules import ADVICE, Rule, fix_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from layerstore.digest import ChunkId, ImageId
    from layerstore.measure.chains import ChainNode
    from layerstore.measure.steps import Step
    from layerstore.measure.waste_scan import Needless


PACKAGES_TOLD = 5


class PackageSize(msgspec.Struct, frozen=True):
    """Needless bytes of one package.

    Attributes:
        name: With its version.
    """

    name: str
    size: int


class StepTotal(msgspec.Struct, frozen=True):
    """What one step wastes by one cause, in all images that have it.

    Attributes:
        number: Of the layer, from 1 for the lowest.
        text: The instruction, or what else the history says.
        file: The spec that it stands in; empty if not known.
        line: Where it begins in that; None if not known.
        where: Place and number in short: ``Dockerfile:12``, else ``step 3``.
        images: Ids of those that have it, at least one.
        files: How many are needless.
        size: Their logical bytes in layers.
        stored: Stored bytes that this store would not need without them.
        packages: Whose files they are, the largest ``PACKAGES_TOLD``; none where that is not known
            or nobody asked.
        fix: What to type instead.
        advice: Whether they may well be wanted, and are in no sum.
    """

    rule: Rule
    cause: str
    number: int
    text: str
    file: str
    line: int | None
    where: str
    images: tuple[str, ...]
    files: int
    size: int
    stored: int
    packages: tuple[PackageSize, ...]
    fix: str
    advice: bool


class _Kind(NamedTuple):
    """What is told as one, in the order in which stored bytes are charged."""

    advice: bool
    rule: Rule
    cause: str
    layer: ChainNode
    by: ChainNode | None

    @property
    def order(self) -> tuple[bool, Rule, str]:
        return self.advice, self.rule, self.cause


def cause_told(item: Needless) -> str:
    """Return the cause by which a file is told: compilers are one, whatever their packages."""
    return "packages" if item.rule is Rule.BUILD_TOOLS else item.cause


def charge(items: Iterable[Needless], left: dict[ChunkId, int]) -> int:
    """Take the stored bytes of files out of what is not charged yet, and return them."""
    return sum(
        left.pop(chunk, 0) for item in items for _, chunk in item.entry.extents if chunk is not None
    )


def step_totals(
    found: Mapping[ImageId, Sequence[Needless]],
    steps: Mapping[ImageId, Sequence[Step]],
    sizes: Mapping[ChunkId, int],
    package_of: Callable[[Needless], str],
) -> tuple[StepTotal, ...]:
    """Return the steps, the one that wastes most first, advice last.

    Args:
        found: Needless files of each image.
        steps: Of each image, lowest first.
        sizes: Stored bytes of the chunks that only needless files need.
        package_of: Names the package of a file; empty if there is none.
    """
    groups: dict[_Kind, dict[bytes, Needless]] = {}
    images: dict[_Kind, dict[ImageId, None]] = {}
    for image_id, items in found.items():
        for item in items:
            by = item.by if item.rule is Rule.ATTRIBUTES else None
            kind = _Kind(item.rule in ADVICE, item.rule, cause_told(item), item.layer, by)
            groups.setdefault(kind, {})[item.entry.path] = item
            images.setdefault(kind, {})[image_id] = None
    left = dict(sizes)
    totals = []
    for kind, group in sorted(groups.items(), key=lambda pair: pair[0].order):
        owners = tuple(images[kind])
        totals.append(
            _total(kind, owners, steps[owners[0]], list(group.values()), left, package_of)
        )
    totals.sort(key=lambda total: (total.advice, -total.size))
    return tuple(totals)


def _total(
    kind: _Kind,
    images: tuple[ImageId, ...],
    steps: Sequence[Step],
    items: Sequence[Needless],
    left: dict[ChunkId, int],
    package_of: Callable[[Needless], str],
) -> StepTotal:
    step = steps[kind.layer.depth - 1]
    by = "" if kind.by is None else steps[kind.by.depth - 1].text
    return StepTotal(
        rule=kind.rule,
        cause=kind.cause,
        number=step.number,
        text=step.text,
        file=step.file,
        line=step.line,
        where=step.where or f"step {step.number}",
        images=images,
        files=len(items),
        size=sum(item.entry.size for item in items),
        stored=charge(items, left),
        packages=_packages(items, package_of),
        fix=fix_of(kind.rule, kind.cause, step.text, by),
        advice=kind.advice,
    )


def _packages(
    items: Iterable[Needless], package_of: Callable[[Needless], str]
) -> tuple[PackageSize, ...]:
    sums: dict[str, int] = {}
    for item in items:
        name = package_of(item)
        if name:
            sums[name] = sums.get(name, 0) + item.entry.size
    ranked = sorted(sums.items(), key=lambda pair: (-pair[1], pair[0]))
    return tuple(PackageSize(name, size) for name, size in ranked[:PACKAGES_TOLD])
