"""How often packages are drawn: ranks and Zipf's law, whose exponent is a parameter."""

from __future__ import annotations

import bisect
import itertools
import random
from typing import TYPE_CHECKING

from tests.bench.registry.catalogue import APT_HEAD, APT_SECTIONS, RUNTIMES
from tests.bench.registry.index import by_dependants

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.registry.index import Package, Resolver

TAIL = 3000
"""Ranks of Debian's packages that images ask for by name."""


class Zipf:
    """Draws ranks: rank r (from 1) with a probability in proportion to r to the minus exponent."""

    def __init__(self, ranks: int, exponent: float) -> None:
        weights = (1 / rank**exponent for rank in range(1, ranks + 1))
        self._sums = list(itertools.accumulate(weights))

    def draw(self, source: random.Random) -> int:
        """Return a rank, the most frequent one being 0."""
        return bisect.bisect_left(self._sums, source.random() * self._sums[-1])

    def several(self, source: random.Random, count: int) -> list[int]:
        """Return different ranks, at most ``count``, in the order they came."""
        found: dict[int, None] = {}
        for _ in range(20 * count):
            if len(found) == min(count, len(self._sums)):
                break
            found[self.draw(source)] = None
        return list(found)


def apt_rank(index: dict[str, Package]) -> list[str]:
    """Return what images ask apt for by name, most frequent first."""
    head = [name for name in APT_HEAD if name in index]
    tail = [name for name in by_dependants(index) if index[name].section in APT_SECTIONS]
    return list(dict.fromkeys([*head, *tail]))[:TAIL]


def weights_of(
    index: dict[str, Package], resolver: Resolver, rank: Sequence[str], *, draws: int = 3000
) -> dict[str, float]:
    """Return the part of drawn images that hold each package, the base's and runtimes' being 1."""
    base = resolver.base()
    weights = dict.fromkeys(base, 1.0)
    for names in RUNTIMES.values():
        for name in resolver.closure(names, base):
            weights[name] = weights.get(name, 0) + 1 / len(RUNTIMES)
    zipf, source = Zipf(len(rank), 1.0), random.Random("weights")
    for _ in range(draws):
        wanted = [rank[number] for number in zipf.several(source, 3)]
        for name in resolver.closure(wanted, base):
            weights[name] = weights.get(name, 0) + 1 / draws
    return weights
