"""How much of the campaign runs, what it remembers, and the table it prints.

``LAYERSTORE_CAMPAIGN`` is ``quick`` (the default, part of ``make test``), ``nightly`` or
``release``. The quick tier tries the same points every time: what a change's tests say is
about the change, not about the day's luck. The other two explore, with a new seed each
time; ``LAYERSTORE_CAMPAIGN_SEED`` repeats a run of any. Every rig keeps a :class:`Tally`:
trials planned, fired and bad are counted, written to ``.cache/campaign/`` and printed at
the end. The release tier remembers finished trials there under a digest of the sources,
so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

TIERS = ("quick", "nightly", "release")
TIER = os.environ.get("LAYERSTORE_CAMPAIGN", "quick")
if TIER not in TIERS:
    raise ValueError(f"LAYERSTORE_CAMPAIGN is {TIER!r}, expected one of {', '.join(TIERS)}")

_QUICK_SEED = 20_261_126
SEED_VARIABLE = "LAYERSTORE_CAMPAIGN_SEED"


def seed_of(tier: str) -> int:
    """Return the seed of a run of a tier, as it begins."""
    given = os.environ.get(SEED_VARIABLE)
    if given:
        return int(given)
    return _QUICK_SEED if tier == "quick" else random.SystemRandom().randrange(1 << 30)


SEED = seed_of(TIER)

_TOP = Path(__file__).parents[3]
CACHE = _TOP / ".cache" / "campaign"


def amount(quick: int, nightly: int, release: int) -> int:
    """Return the number that this tier asks for."""
    return {"quick": quick, "nightly": nightly, "release": release}[TIER]


@functools.cache
def sources_digest() -> str:
    """Return a short digest of the code under test and of the campaign."""
    digest = hashlib.sha256()
    for top in ("layerstore", "fuse_mount", "tests/crash"):
        for path in sorted((_TOP / top).rglob("*.py")):
            digest.update(str(path.relative_to(_TOP)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


class Tally:
    """Trials of one part of a rig."""

    def __init__(self, rig: str, part: str) -> None:
        self.rig, self.part = rig, part
        self.planned = self.fired = self.bad = self.remembered = 0
        self.problems: list[str] = []
        self._began = time.monotonic()
        self._done = CACHE / f"{TIER}-{sources_digest()}-{rig}-{part}.done"
        self._finished: set[str] = set()
        if TIER == "release" and self._done.exists():
            self._finished = set(self._done.read_text().split("\n"))

    @contextlib.contextmanager
    def trial(self, key: str) -> Iterator[bool]:
        """Count a trial; lends False when an earlier run of this tier finished it.

        What goes wrong inside is kept and the sweep goes on: all that is bad is told at
        the end, not the first.
        """
        self.planned += 1
        if key in self._finished:
            self.fired += 1
            self.remembered += 1
            yield False
            return
        try:
            yield True
        except (AssertionError, OSError) as err:
            self.bad += 1
            self.problems.append(f"{key}: {str(err)[:1500]}")
        else:
            self._remember(key)

    def _remember(self, key: str) -> None:
        if TIER == "release":
            CACHE.mkdir(parents=True, exist_ok=True)
            with open(self._done, "a") as file:
                file.write(key + "\n")

    def row(self) -> dict[str, Any]:
        return {
            "rig": self.rig,
            "part": self.part,
            "planned": self.planned,
            "fired": self.fired,
            "bad": self.bad,
            "remembered": self.remembered,
            "seconds": round(time.monotonic() - self._began, 1),
            "seed": SEED,
            "tier": TIER,
            "problems": self.problems,
        }

    def write_down(self) -> None:
        """Add the row to the campaign's file, and print it."""
        CACHE.mkdir(parents=True, exist_ok=True)
        with open(CACHE / f"{TIER}.jsonl", "a") as file:
            file.write(json.dumps(self.row()) + "\n")
        print(format_rows([self.row()]))

    def close(self) -> None:
        """Write the row down and fail unless every planned trial fired and none was bad."""
        self.write_down()
        assert not self.problems, "\n".join([f"seed {SEED}", *self.problems[:20]])
        assert self.planned > 0, "nothing was tried"
        assert self.fired == self.planned, f"{self.fired} of {self.planned} faults happened"


@contextlib.contextmanager
def tally(rig: str, part: str) -> Iterator[Tally]:
    """Lend a tally and close it when the block is left without an exception.

    A part that Ctrl-C ends is written down as far as it came, with what was bad.
    """
    found = Tally(rig, part)
    try:
        yield found
    except KeyboardInterrupt:
        found.write_down()
        raise
    found.close()


def format_rows(rows: list[dict[str, Any]]) -> str:
    """Return the campaign's table."""
    lines = [f"{'RIG':<6}{'PART':<28}{'PLANNED':>8}{'FIRED':>7}{'BAD':>5}{'SECONDS':>9}  SEED"]
    lines += [
        f"{row['rig']:<6}{row['part']:<28}{row['planned']:>8}{row['fired']:>7}{row['bad']:>5}"
        f"{row['seconds']:>9}  {row['seed']}"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the table of a tier's last run, and its sums."""
    rows = [json.loads(line) for line in (CACHE / f"{TIER}.jsonl").read_text().splitlines()]
    print(format_rows(sorted(rows, key=lambda row: (row["rig"], row["part"]))))
    for rig in sorted({row["rig"] for row in rows}):
        mine = [row for row in rows if row["rig"] == rig]
        sums = {key: sum(row[key] for row in mine) for key in ("planned", "fired", "bad")}
        print(f"{rig}: {sums['planned']} planned, {sums['fired']} fired, {sums['bad']} bad")


if __name__ == "__main__":
    main()
