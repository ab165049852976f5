"""F17: stores of every released format, killed inside ``upgrade`` and ``upgrade --undo``.

Whatever the moment, the store reads as it was written, and going on or going back completes
it: the format that config.toml names is then the catalog's.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from layerstore.store.config import FORMAT_VERSION
from layerstore.store.store import Store
from tests.crash.rig import campaign, oracle, scenes
from tests.crash.rig.oracle import BrokenPromiseError, Expectation
from tests.crash.rig.tracer import TRANSFERS, Plan
from tests.golden.stores.make import contents

if TYPE_CHECKING:
    from tests.crash.rig.launcher import Launcher

STORES = Path(__file__).parents[1] / "golden" / "stores"
OLDER = range(1, FORMAT_VERSION)
UPGRADE, UNDO = ("upgrade",), ("upgrade", "--undo")


class Migration(NamedTuple):
    """A store of some format, the command that changes it, and what it holds all the time."""

    template: Path
    words: tuple[str, ...]
    names: oracle.Names
    held: dict[str, object]
    mutant: str | None = None


def migration_of(
    version: int,
    words: tuple[str, ...],
    launcher: Launcher,
    box: Path,
    *,
    mutant: str | None = None,
) -> Migration:
    """Unpack a released store and bring it to where the command begins."""
    box.mkdir(parents=True)
    archive = STORES / f"format-{version}.tar.xz"
    subprocess.run(["tar", "-C", str(box), "-xJf", str(archive)], check=True)
    template = box / f"format-{version}"
    if words == UNDO:
        assert launcher.run(template, *UPGRADE).code == 0
    with Store.open(template) as store:
        held = contents(store)
    return Migration(template, words, oracle.names_of(template), held, mutant)


def points_of(migration: Migration, launcher: Launcher, box: Path) -> list[tuple[str, int]]:
    """Return every call at which to kill, writes torn in half too."""
    root = shutil.copytree(migration.template, box / "counted")
    done = launcher.run(root, *migration.words, plan=Plan())
    assert done.code == 0, done
    shutil.rmtree(root)
    points = [("kill", at) for at in range(1, len(done.seen) + 1)]
    return points + [("torn", at) for at, name in enumerate(done.seen, 1) if name in TRANSFERS]


def kill_at(
    migration: Migration, launcher: Launcher, root: Path, action: str, at: int, *, back: bool
) -> bool:
    """Kill one migration and finish it, forwards or backwards; return whether the kill happened."""
    shutil.copytree(migration.template, root)
    try:
        done = launcher.run(root, *migration.words, plan=Plan(action, at), mutant=migration.mutant)
        assert not done.fired or done.code == -9, done
        judge(migration, root)
        finish = (UPGRADE if migration.words == UNDO else UNDO) if back else migration.words
        for words in (finish, UPGRADE):
            ended = launcher.run(root, *words)
            if ended.code != 0:
                raise BrokenPromiseError(f"{words} afterwards ended with {ended.code}: {ended.err}")
            judge(migration, root, whole=True)
        oracle.settle(root, launcher, UPGRADE, migration.names, fresh_bytes=None)
        return done.fired
    finally:
        shutil.rmtree(root)


def judge(migration: Migration, root: Path, *, whole: bool = False) -> None:
    """It reads as ever; and if it is whole, config.toml and catalog are of one version."""
    oracle.judge(root, Expectation([migration.names]))
    with Store.open(root) as store:
        if contents(store) != migration.held:
            raise BrokenPromiseError("the store holds something else than before")
        if whole and store.config.format != store.catalog.version:
            raise BrokenPromiseError(
                f"config.toml says {store.config.format}, the catalog {store.catalog.version}"
            )


@pytest.mark.parametrize("words", [UPGRADE, UNDO], ids="".join)
@pytest.mark.parametrize("version", OLDER)
def test_a_kill_in_a_migration_is_gone_on_or_back_from(
    launcher: Launcher, trial_box: Path, version: int, words: tuple[str, ...]
) -> None:
    migration = migration_of(version, words, launcher, trial_box / "released")
    points = points_of(migration, launcher, trial_box)
    count = campaign.amount(4, len(points), len(points))
    with campaign.tally("F17", f"{version} {' '.join(words)}") as tally:
        for number in scenes.pick(len(points), count, campaign.SEED):
            action, at = points[number - 1]
            for back in (False, True):
                with tally.trial(f"{action} {at} {back}") as wanted:
                    if wanted:
                        root = trial_box / "store"
                        tally.fired += kill_at(migration, launcher, root, action, at, back=back)
