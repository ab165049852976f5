"""F3: power cut at both sides of every flush of a recorded disk.

A loop device over a FUSE file logs what ext4 writes and flushes while commands run in a
store on it. Then the disk is rebuilt as it was at a flush, plus none, half, half of them
torn, or all of the writes that came before the next one; the oracle judges each. What a
command acknowledged before the cut must be there.
"""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, NamedTuple

import pytest

from layerstore.linux.locks import exclusive
from layerstore.store.store import Store
from tests.crash.rig import blockdev, campaign, oracle
from tests.crash.rig.oracle import BrokenPromiseError, Expectation, Names
from tests.support.store import noise

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.crash.rig.launcher import Launcher
    from tests.crash.rig.scenes import Scene

DISK_BYTES = 48 * 1024 * 1024
SETTLE_EVERY = 12
LUMPS = 3
LUMP_BYTES = 300_000
"""Together less than the size at which the catalog's log is cut short."""

LIFE = (
    ("import", "{box}/base.tar", "-t", "base:1"),
    ("import", "{box}/mixed", "-t", "mixed:1"),
    ("build", "{box}/context", "-t", "built:1", "--progress", "plain"),
    ("tag", "base:1", "other:1"),
    ("import", "{box}/half", "-t", "half:1"),
    ("rm", "mixed:1"),
    ("gc",),
    ("import", "{box}/moved", "-t", "other:1"),
    ("rm", "built:1"),
    ("gc", "--all"),
    ("check", "--rebuild-index"),
    ("import", "{box}/new.tar", "-t", "new:1"),
    ("export", "new:1", "-o", "{place}/export.tar"),
)
"""What happens to the store, from its making on."""


class Life(NamedTuple):
    """A recorded life: the log position at which each command was acknowledged."""

    acknowledged: list[int]
    states: list[Names]
    exported: bytes


def states_of(scene: Scene, launcher: Launcher, scratch: Path) -> tuple[list[Names], bytes]:
    """Live through :data:`LIFE` on an ordinary disk; return what a store shows after each step."""
    root = scratch / "store"
    states: list[Names] = [{}]
    scratch.mkdir()
    for words in LIFE:
        done = launcher.run(root, *fill(words, scene, scratch))
        assert done.code == 0, done
        states.append(oracle.names_of(root))
    return states, (scratch / "export.tar").read_bytes()


def fill(words: Sequence[str], scene: Scene, place: Path) -> list[str]:
    return [word.format(box=scene.box, place=place) for word in words]


@contextlib.contextmanager
def old_log(root: Path) -> Iterator[None]:
    """Keep the catalog open, its log grown and begun anew, as a long-lived process does.

    Commits then overwrite the log in place, and forcing it forces nothing else: where the
    log grows, ext4 writes the names of new packs along with its size.
    """
    with Store.open(root) as store:
        for number in range(LUMPS):
            with store.catalog.write() as connection:
                row = (f"lump{number}", None, noise(number, LUMP_BYTES).hex(), "", b"")
                connection.execute("INSERT INTO build_cache VALUES (?, ?, ?, ?, ?)", row)
        with store.catalog.write() as connection:
            connection.execute("DELETE FROM build_cache WHERE key LIKE 'lump%'")
        with exclusive(store.paths.catalog_lock):
            store.catalog.query("PRAGMA wal_checkpoint(RESTART)")
        assert (root / "catalog.sqlite-wal").stat().st_size > LUMPS * LUMP_BYTES
        yield


def record(
    scene: Scene,
    launcher: Launcher,
    disk: blockdev.Disk,
    *,
    mutant: str | None = None,
    keep_log: bool = False,
) -> list[int]:
    """Live through :data:`LIFE` on a recorded disk; return when each step was acknowledged.

    Args:
        keep_log: After the first command, have a process keep the catalog open.
    """
    acknowledged = []
    with disk.recording() as place, contextlib.ExitStack() as stack:
        for number, words in enumerate(LIFE):
            done = launcher.run(place / "store", *fill(words, scene, place), mutant=mutant)
            assert done.code == 0, done
            acknowledged.append(disk.position())
            if keep_log and number == 0:
                stack.enter_context(old_log(place / "store"))
    return acknowledged


def judge_cut(life: Life, place: Path, moment: int, *, rebuild: bool) -> int:
    """Judge what a power cut at ``moment`` left; return how many commands were acknowledged."""
    done = sum(position <= moment for position in life.acknowledged)
    expected = Expectation(
        [life.states[done], life.states[min(done + 1, len(LIFE))]], may_lack_store=done == 0
    )
    oracle.judge(place / "store", expected, rebuild_in=place if rebuild else None)
    exported = place / "export.tar"
    found = exported.read_bytes() if exported.exists() else None
    if found != life.exported and not (found is None and done < len(LIFE)):
        raise BrokenPromiseError("export.tar is missing or not whole")
    return done


def sweep(
    life: Life,
    disk: blockdev.Disk,
    scene: Scene,
    launcher: Launcher,
    tally: campaign.Tally,
    *,
    cuts: int,
    seed: int,
    prefix: str = "",
) -> None:
    """Try ``cuts`` cuts, spread over all epochs and subsets."""
    epochs = blockdev.epochs_of(disk.log)
    points = [(n, kind) for n in range(len(epochs)) for kind in blockdev.SUBSETS]
    source = random.Random(seed)
    if cuts < len(points):
        step = len(points) / cuts
        start = source.random() * step
        points = [points[int(start + n * step) % len(points)] for n in range(cuts)]
    chosen = sorted(set(points))
    replay = blockdev.Replay(disk)
    try:
        done = 0
        for number, (epoch, kind) in enumerate(chosen):
            while done < epoch:
                replay.flush(epochs[done])
                done += 1
            with tally.trial(f"{prefix}{epoch} {kind}") as wanted:
                if not wanted:
                    continue
                extra = blockdev.subset(
                    epochs[epoch].writes, kind, random.Random(f"{seed} {epoch}")
                )
                with replay.cut(extra) as image, blockdev.mounted(image, disk.place) as place:
                    tally.fired += 1
                    settle = number % SETTLE_EVERY == 0
                    step = judge_cut(life, place, epochs[epoch].end - 1, rebuild=settle)
                    if settle and step < len(LIFE):
                        words = fill(LIFE[step], scene, place)
                        oracle.settle(
                            place / "store",
                            launcher,
                            words,
                            life.states[step + 1],
                            fresh_bytes=None,
                            accepted=(0, 3) if words[0] == "rm" else (0,),
                        )
    finally:
        replay.close()


@pytest.mark.root
@pytest.mark.fuse
@pytest.mark.parametrize("keep_log", [False, True], ids=["fresh-log", "old-log"])
def test_a_power_cut_at_any_flush_keeps_every_promise(
    scene: Scene, launcher: Launcher, tmp_path: Path, keep_log: bool
) -> None:
    reason = blockdev.missing(fuse=True)
    if reason:
        pytest.skip(reason)
    states, exported = states_of(scene, launcher, tmp_path / "plain")
    with campaign.tally("F3", "old log" if keep_log else "fresh log") as tally:
        for number in range(campaign.amount(1, 1, 6)):
            disk = blockdev.Disk(tmp_path / f"disk{number}", size=DISK_BYTES)
            life = Life(record(scene, launcher, disk, keep_log=keep_log), states, exported)
            sweep(
                life,
                disk,
                scene,
                launcher,
                tally,
                cuts=campaign.amount(40, 1_000_000, 1_000_000),
                seed=campaign.SEED + number,
                prefix=f"{number} ",
            )
