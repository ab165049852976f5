"""The promises about size, judged from results whose restores compared equal.

For us the larger of file bytes and allocated bytes counts, for a peer the smaller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

RELATED_AT_INGEST = 7.0
RELATED_OPTIMIZED = 9.5
UPDATE_SHARE_MAX = 1 / 3
WHEELS_AGAINST_CHUNKING = 1.8

CHUNKERS = ("casync", "restic", "borg")
"""Peers that find duplicates by content-defined chunks."""

RIVALS = (*CHUNKERS, "squashfs")


class Measured(Protocol):
    """What a bar needs of a result."""

    name: str
    stored: list[int]
    disk: int

    @property
    def valid(self) -> bool: ...

    @property
    def total(self) -> int: ...

    @property
    def last_added(self) -> int: ...


@dataclass(frozen=True)
class Bar:
    """One promise and what came of it; ``measured`` is None when nothing valid was measured."""

    what: str
    wanted: str
    measured: str | None
    met: bool

    def __str__(self) -> str:
        verdict = "met" if self.met else "NOT MET"
        return f"{verdict:8}{self.what}: {self.measured or 'not measured'}, wanted {self.wanted}"


def bars_of(corpus: str, logical: int, results: Iterable[Measured]) -> list[Bar]:
    """Return the bars that a corpus decides."""
    found = {one.name: one for one in results if one.valid}
    ours = [
        ("at ingest", found.get("layerstore")),
        ("optimized", found.get("layerstore, optimized")),
    ]
    if corpus == "related":
        wanted = (RELATED_AT_INGEST, RELATED_OPTIMIZED)
        return [
            _ratio(f"related, {when}", logical, one, least)
            for (when, one), least in zip(ours, wanted, strict=True)
        ]
    if corpus == "updates":
        return [_update(f"updates, {when}", one, found) for when, one in ours[:1]]
    return [_wheels(f"{corpus}, {when}", one, found) for when, one in ours[1:]]


def _ratio(what: str, logical: int, one: Measured | None, least: float) -> Bar:
    if one is None:
        return Bar(what, f"1/{least}", None, met=False)
    ratio = logical / max(one.total, one.disk)
    return Bar(what, f"1/{least} of logical", f"1/{ratio:.2f}", met=ratio >= least)


def _update(what: str, one: Measured | None, found: dict[str, Measured]) -> Bar:
    wanted = "at most 1/3 of the best peer"
    rivals = _of(found, RIVALS)
    if one is None or not rivals:
        return Bar(what, wanted, None, met=False)
    best = min(rivals, key=lambda rival: rival.last_added)
    share = one.last_added / best.last_added
    measured = (
        f"the second tree adds {one.last_added / 1e6:.1f} MB, "
        f"{share:.2f} of {best.name}'s {best.last_added / 1e6:.1f}"
    )
    return Bar(what, wanted, measured, met=share <= UPDATE_SHARE_MAX)


def _wheels(what: str, one: Measured | None, found: dict[str, Measured]) -> Bar:
    wanted = f"{WHEELS_AGAINST_CHUNKING} times smaller than the best chunking"
    rivals = _of(found, CHUNKERS)
    if one is None or not rivals:
        return Bar(what, wanted, None, met=False)
    best = min(rivals, key=lambda rival: min(rival.total, rival.disk))
    factor = min(best.total, best.disk) / max(one.total, one.disk)
    return Bar(
        what,
        wanted,
        f"{factor:.2f} times smaller than {best.name}",
        met=factor >= WHEELS_AGAINST_CHUNKING,
    )


def _of(found: dict[str, Measured], names: tuple[str, ...]) -> list[Measured]:
    return [one for name, one in found.items() if name.split(" ")[0] in names]
