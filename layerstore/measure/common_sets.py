"""What many sets have in common, as sets laid over each other: the bases that images could share.

Pure. A common set with its members saves its size once for each copy but the first. Found
greedily: the best set for some of the images, then the best for what is left of those over it, and
for the others. What all have in common is tried as a set below them, too: by itself it may save
nothing, but what lies over it for some then costs the others nothing. Candidates are
intersections, so the result is good and not proven to be the best.

Source: closed item sets of frequent-set mining (Pasquier et al., 1999), of which pairs and what
grows of them are looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

SETS_MAX = 64
"""Distinct sets whose pairs are looked at: the largest. All sets may be members."""

GROWN_MAX = 8
"""Candidates that are looked at further: the best."""

COMMON_MAX = 8
"""Bases are layers and work for people: more are not proposed."""


FORKS_MAX = 2
"""How often what all have in common is tried beside the best on the way to a set: both are planned
to the end."""


class Common(NamedTuple):
    """Items that several sets have.

    Attributes:
        items: Without those of the set below.
        members: Names of the sets that have them.
        others: Names of the sets beside those, which stay without.
        below: Number of the common set that it lies over; None for the bottom.
    """

    items: frozenset[str]
    members: tuple[str, ...]
    others: tuple[str, ...]
    below: int | None


_Sets = dict[str, frozenset[str]]
Saving = Callable[[frozenset[str], list[str], list[str]], int]
"""Says what items save that sets of these names have; it is asked for all that have them.

The last names are of the sets beside them, which lie over the same one and stay without.
"""


def common_sets(sets: Mapping[str, Collection[str]], saving: Saving) -> list[Common]:
    """Return common sets that save something, each after the one that it lies over.

    Args:
        sets: Items by the names of the sets.
        saving: Says what a set of items saves that these sets have.
    """
    root = {name: frozenset(items) for name, items in sorted(sets.items())}
    _, found = _planned(root, saving, FORKS_MAX)
    return _numbered(found)


class _Plan(NamedTuple):
    """A common set that lies over another one, and those over it."""

    items: frozenset[str]
    members: tuple[str, ...]
    others: tuple[str, ...]
    above: tuple[_Plan, ...]


def _planned(group: _Sets, saving: Saving, forks: int) -> tuple[int, tuple[_Plan, ...]]:
    """Return what common sets save that lie over the same one, and them.

    Args:
        group: Without the items of the set below.
        saving: As :func:`common_sets` has it.
        forks: How often what all have in common may still be tried.
    """
    tried = _best(group, saving)
    if len(group) > 1 and forks:
        tried.append(frozenset.intersection(*group.values()))
    best: tuple[int, tuple[_Plan, ...]] = (0, ())
    for number, items in enumerate(dict.fromkeys(tried)):
        if not items:
            continue
        left = forks - (number > 0)
        members = {name: own - items for name, own in group.items() if items <= own}
        others = {name: own for name, own in group.items() if name not in members}
        saved = saving(items, [*members], [*others])
        over, above = _planned(members, saving, left)
        beside, more = _planned(others, saving, left)
        if saved + over + beside > best[0]:
            plan = _Plan(items, tuple(members), tuple(others), above)
            best = saved + over + beside, (plan, *more)
    return best


def _numbered(plans: tuple[_Plan, ...]) -> list[Common]:
    """Return the first of all sets, each after the one that it lies over."""
    found: list[Common] = []
    pending: list[tuple[_Plan, int | None]] = [(plan, None) for plan in plans]
    while pending and len(found) < COMMON_MAX:
        plan, below = pending.pop(0)
        pending += [(above, len(found)) for above in plan.above]
        found.append(Common(plan.items, plan.members, plan.others, below))
    return found


def _best(group: _Sets, saving: Saving) -> list[frozenset[str]]:
    """Return the items that save most; none if none do."""
    distinct = sorted(set(group.values()), key=lambda own: (-len(own), sorted(own)))[:SETS_MAX]
    candidates = {left & right for left, right in combinations(distinct, 2)}
    candidates |= {own for own in distinct if sum(own <= each for each in group.values()) > 1}
    if distinct:
        candidates.add(frozenset.intersection(*distinct))
    ranked = sorted(
        ((_saved(items, group, saving), sorted(items), items) for items in candidates if items),
        reverse=True,
    )
    best: list[frozenset[str]] = []
    most = 0
    for saved, _, items in ranked[:GROWN_MAX]:
        grown, more = _grown(items, saved, group, distinct, saving)
        if more > most:
            best, most = [grown], more
    return best


def _grown(
    items: frozenset[str],
    saved: int,
    group: _Sets,
    distinct: list[frozenset[str]],
    saving: Saving,
) -> tuple[frozenset[str], int]:
    """Return a set, smaller where more members make up for it, and what it saves."""
    while True:
        smaller = {items & own for own in distinct} - {items, frozenset()}
        ranked = [(_saved(each, group, saving), sorted(each), each) for each in smaller]
        best = max(ranked, default=None)
        if best is None or best[0] <= saved:
            return items, saved
        saved, _, items = best


def _saved(items: frozenset[str], group: _Sets, saving: Saving) -> int:
    members = [name for name, own in group.items() if items <= own]
    return saving(items, members, [name for name in group if name not in members])
