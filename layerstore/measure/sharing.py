"""How much of one image is in another, by stored bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from layerstore.formats.reference import BETWEEN_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.measure.survey import Survey


class Sharing(msgspec.Struct, frozen=True):
    """A matrix of images, or of groups of them where there are too many.

    Attributes:
        names: Of the rows, which are the columns, too.
        members: Images in each.
        shared_sizes: Stored bytes that row and column both need; of a row and itself, all of its.
    """

    names: tuple[str, ...]
    members: tuple[int, ...]
    shared_sizes: tuple[tuple[int, ...], ...]

    def shares(self) -> list[list[float]]:
        """Return which part of each row (0 to 1) is in each column."""
        return [
            [size / row[index] if row[index] else 0.0 for size in row]
            for index, row in enumerate(self.shared_sizes)
        ]


def take_sharing(survey: Survey, names: Sequence[str], most: int) -> Sharing:
    """Return what the images of a selection have in common.

    Args:
        survey: The selection.
        names: Of its images, in order; of several of one (``BETWEEN_NAMES``) the first counts.
        most: Rows; more images are put together by repository, then by their order.
    """
    groups = _folded(names, most)
    number = {rank: index for index, (_, ranks) in enumerate(groups) for rank in ranks}
    sizes: dict[frozenset[int], int] = {}
    for group in survey.attribution.groups:
        owners = frozenset(number[rank] for rank in survey.owners(group.layers))
        sizes[owners] = sizes.get(owners, 0) + group.stored
    matrix = [[0] * len(groups) for _ in groups]
    for owners, size in sizes.items():
        for row in owners:
            line = matrix[row]
            for column in owners:
                line[column] += size
    return Sharing(
        tuple(name for name, _ in groups),
        tuple(len(ranks) for _, ranks in groups),
        tuple(map(tuple, matrix)),
    )


def _folded(names: Sequence[str], most: int) -> list[tuple[str, list[int]]]:
    """Return at most ``most`` named groups of image numbers."""
    groups = [(name, [rank]) for rank, name in enumerate(names)]
    if len(groups) <= most:
        return groups
    by_repository: dict[str, list[int]] = {}
    for rank, name in enumerate(names):
        by_repository.setdefault(_first(name).rpartition(":")[0] or name, []).append(rank)
    groups = [
        (names[ranks[0]] if len(ranks) == 1 else f"{name} ({len(ranks)} images)", ranks)
        for name, ranks in by_repository.items()
    ]
    if len(groups) <= most:
        return groups
    length = -(-len(groups) // most)
    runs = [groups[start : start + length] for start in range(0, len(groups), length)]
    return [
        (
            run[0][0] if len(run) == 1 else f"{_first(run[0][0])} and {_others(run)}",
            [rank for _, ranks in run for rank in ranks],
        )
        for run in runs
    ]


def _others(run: Sequence[tuple[str, list[int]]]) -> str:
    count = sum(len(ranks) for _, ranks in run[1:])
    return f"{count} other{'s' * (count != 1)}"


def _first(names: str) -> str:
    return names.partition(BETWEEN_NAMES)[0]
