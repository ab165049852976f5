"""Which group each stretch of a pack belongs to, as positions where another one begins.

An item lies in one stretch. Places of a block that no item covers belong to whatever is before
them: nobody asks for these.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Run = tuple[int, int, int]
"""Number of a block of the pack, offset in its plain bytes, number of a group."""

Runs = dict[int, list[Run]]
"""Of each pack, by its number, in order."""


def group_at(runs: Sequence[Run], block: int, offset: int) -> int | None:
    """Return the group of what lies at a place of a pack; None before the first stretch."""
    place = bisect_right(runs, (block, offset, _BEHIND)) - 1
    return runs[place][2] if place >= 0 else None


def painted(runs: Sequence[Run], items: Iterable[tuple[int, int, int, int]]) -> list[Run]:
    """Return the stretches of a pack with some items put into other groups.

    Args:
        runs: The pack's.
        items: Block, offset, length and group of each, in order.
    """
    groups: dict[tuple[int, int], int] = {(block, offset): group for block, offset, group in runs}
    for block, offset, length, group in items:
        behind = group_at(runs, block, offset + length)
        groups[block, offset] = group
        if behind is not None:
            groups.setdefault((block, offset + length), behind)
    found: list[Run] = []
    for (block, offset), group in sorted(groups.items()):
        if not found or found[-1][2] != group:
            found.append((block, offset, group))
    return found


def renumbered(runs: Runs, numbers: Mapping[int, int]) -> Runs:
    """Return stretches with the groups' new numbers, without those of groups that have none."""
    return {
        pack: [(block, offset, numbers[group]) for block, offset, group in of_pack
               if group in numbers]
        for pack, of_pack in runs.items()
    }  # fmt: skip


_BEHIND = 1 << 62
"""Above every group's number."""
