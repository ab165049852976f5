"""When images and build steps were last used: advice for people and for rules by age.

An image's last use is the time of its config's file: setting it costs one system call,
is never waited for on the disk, and lasts through a rebuild of the catalog. What kernel views
of a chain of layers needed was used last at the time of the chain's sidecar. A build
step's is a row, written together with the end of the build's lease. Nothing here keeps
or removes anything; a reader that may not write a store simply records nothing.

Clocks jump. :func:`age_reference` decides what ages are measured from, so that a wrong
clock makes rules keep more and hardly ever less. On the fast path.
"""

from __future__ import annotations

import contextlib
import os

from layerstore.light_typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterable

    from layerstore.store.catalog.catalog import Catalog
    from layerstore.store.paths import StorePaths

KEEP_UNPACKED_WITHIN = "7d"
"""A week of images that come and go; what was not shown in one is unpacked again when it is."""

EARLIEST_S = 1577836800.0
"""2020-01-01: no store is older, so an earlier time comes from a clock that was not set."""

SILENCE_S = 90 * 86400.0
"""Longer than this without any use looks like a clock that jumped."""

_YEAR_10000_S = 253402300800.0
"""Times that no calendar has count as unknown."""

_AHEAD_S = 3600.0
"""A use this far in the future is a small correction of the clock, not a jump."""


def note_image_use(paths: StorePaths, image_id: str) -> None:
    """Record that an image is used now."""
    with contextlib.suppress(OSError):
        os.utime(paths.blob(image_id), follow_symlinks=False)


def image_uses(paths: StorePaths, image_ids: Iterable[str]) -> dict[str, float]:
    """Return when images were last used, in seconds since the epoch; unknown ones are left out."""
    uses: dict[str, float] = {}
    for image_id in image_ids:
        with contextlib.suppress(OSError):
            moment = os.stat(paths.blob(image_id)).st_mtime
            if 0 <= moment < _YEAR_10000_S:
                uses[image_id] = moment
    return uses


def note_chain_use(paths: StorePaths, chain: str) -> None:
    """Record that a kernel view of a chain of layers, by its hex id, is made or ends now."""
    with contextlib.suppress(OSError):
        os.utime(paths.metadata_sidecar(chain), follow_symlinks=False)


def note_step_uses(connection: sqlite3.Connection, keys: Collection[str], now_s: float) -> None:
    """Record, inside a write transaction, that remembered build steps were used."""
    connection.executemany(
        "INSERT OR REPLACE INTO step_uses SELECT key, ? FROM build_cache WHERE key = ?",
        [(now_s, key) for key in keys],
    )


def step_uses(catalog: Catalog) -> dict[str, float]:
    """Return when each remembered build step was made or last used."""
    rows = catalog.query(
        "SELECT c.key, max(c.created, coalesce(u.used, 0)) FROM build_cache c"
        " LEFT JOIN step_uses u ON u.key = c.key"
    )
    return {str(key): float(used) for key, used in rows if isinstance(used, int | float)}


class Reference(NamedTuple):
    """What ages are measured from.

    Attributes:
        moment: Seconds since the epoch, or None when no recorded time can be believed.
        doubt: Why the clock is doubted, or "".
    """

    moment: float | None
    doubt: str

    def age_of(self, used: float | None) -> float:
        """Return how long ago a use was, in seconds; an unbelievable one counts as just now."""
        if self.moment is None or used is None or used < EARLIEST_S:
            return 0.0
        return max(0.0, self.moment - used)


def age_reference(now_s: float, uses: Iterable[float], *, trust: bool = False) -> Reference:
    """Return what ages are measured from: the last recorded use, never the clock alone.

    A clock that is ahead now thereby removes nothing. If it was ahead when something was
    used, that use follows a long silence: ages are then measured from before the
    silence, and what came after it counts as just used. A use in the future counts as
    just now and as no evidence, and so does one before there were stores.

    Args:
        now_s: What the clock says.
        uses: All recorded uses of the store.
        trust: Believe the clock whatever the records look like.
    """
    believable = sorted(use for use in uses if EARLIEST_S <= use <= now_s + _AHEAD_S)
    if not believable:
        return Reference(None, "no use is recorded that this clock can be true beside")
    if trust:
        return Reference(min(now_s, believable[-1]), "")
    moment = believable[0]
    for use in believable:
        if use - moment > SILENCE_S:
            return Reference(
                moment,
                f"nothing was used for {(use - moment) / 86400:.0f} days after {_day(moment)}",
            )
        moment = use
    return Reference(min(now_s, moment), "")


def _day(moment: float) -> str:
    from datetime import UTC, datetime  # lazily: only messages need it

    return datetime.fromtimestamp(moment, UTC).date().isoformat()
