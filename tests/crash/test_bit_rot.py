"""F11: damage to every kind of file of a store, bit by bit and in coarser ways.

``check --read-data`` finds all of it that can matter, no reader hands out a wrong byte
or anything but an error of ours, images that do not use what is damaged are read as
before, the collector deletes nothing it should not, and repair ends in words and leaves
what it could save.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from typing import TYPE_CHECKING, NamedTuple

import pytest

from layerstore.errors import LayerstoreError
from layerstore.store.check.check import check
from layerstore.store.collect.gc import plan_gc
from layerstore.store.failures import ImageNotFoundError
from layerstore.store.store import Store
from tests.crash.rig import campaign, oracle, scenes
from tests.crash.rig.oracle import BrokenPromiseError
from tests.support.store import noise, text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.crash.rig.launcher import Launcher

MUST_BE_FOUND = frozenset({"pack", "config blob", "manifest blob"})
"""Files of which every bit is under a checksum. Elsewhere a comment, a free page or the
space between two words may change without anybody being harmed."""


class Victim(NamedTuple):
    """A small store to damage: one file of each kind, and what its images hold."""

    root: Path
    files: dict[str, Path]
    content: dict[str, str]
    rerun: list[list[str]]


@pytest.fixture(scope="module")
def victim(campaign_box: Path, launcher: Launcher) -> Victim:
    return make_victim(campaign_box / "victim", launcher)


def make_victim(box: Path, launcher: Launcher) -> Victim:
    """Make a store of three small images; one has no name and is only held by a view."""
    root = box / "store"
    trees = {
        "a:1": {"f": text(1, 900), "g": noise(2, 300)},
        "twin:1": {"t": noise(3, 700)},
        "twin:2": {"t": noise(4, 700)},
        "seen:1": {"v": noise(5, 500)},
    }
    rerun = []
    for name, files in trees.items():
        tree = scenes.write_tree(box / name.replace(":", "-"), files)
        rerun.append(["import", str(tree), "-t", name])
        assert launcher.run(root, *rerun[-1]).code == 0
    with Store.open(root) as store:
        seen = store.resolve("seen:1")
        record = {"view_id": "ab" * 8, "image_id": seen.image_id, "layers": list(seen.layers)}
        (root / "views" / f"{'ab' * 8}.json").write_text(json.dumps(record))
        store.untag("seen:1")
        content = {name: oracle.content_of(store, name) for name in store.tags()}
        image = store.resolve("a:1")
        place = store.catalog.locate(store.layer(image.layers[0]).tree[0][1])
        assert place is not None
        files = {
            "pack": root / os.path.relpath(store.paths.pack(place.pack_id), root),
            "config blob": root / "blobs/sha256" / image.image_id[7:],
            "manifest blob": root / "blobs/sha256" / image.manifest_digest[7:],
            "config.toml": root / "config.toml",
            "names.log": root / "names.log",
            "catalog": root / "catalog.sqlite",
            "view": root / "views" / f"{'ab' * 8}.json",
        }
    return Victim(root, files, content, rerun)


def judge_reading(victim: Victim, root: Path, kind: str, *, always_found: bool) -> None:
    """Judge a damaged store in place; nothing is repaired."""
    found = wrong_or_refused(victim, root)
    if always_found and kind in MUST_BE_FOUND and not found:
        raise BrokenPromiseError("the damage was not found")


def wrong_or_refused(victim: Victim, root: Path, *, rebuilt: bool = False) -> bool:
    """Whether the store says that it is damaged; raises if it hands out something wrong.

    Args:
        rebuilt: The catalog was made again: an image that lost its layer record or its
            config is gone by name, and its other parts are garbage.
    """
    try:
        with Store.open(root) as store:
            report = check(store, read_data=True)
            refused = False
            for name, content in victim.content.items():
                try:
                    found = oracle.content_of(store, name)
                except ImageNotFoundError:
                    refused = refused or not rebuilt
                except LayerstoreError:
                    refused = True
                else:
                    if found != content:
                        raise BrokenPromiseError(f"{name} was read with other content")
            if refused and report.ok:
                raise BrokenPromiseError("an image cannot be read, check did not say so")
            if not rebuilt:
                judge_plan(store)
            return refused or bool(report.findings)
    except LayerstoreError:
        return True


def judge_plan(store: Store) -> None:
    """A collection beside damage deletes no layer that a name or a view needs."""
    try:
        plan = plan_gc(store)
    except LayerstoreError:
        return
    if not plan.dangling and plan.layers:
        raise BrokenPromiseError(f"gc would delete {plan.layers}")


@pytest.mark.parametrize(
    "kind", ["pack", "config blob", "manifest blob", "config.toml", "names.log", "catalog", "view"]
)
def test_a_flipped_bit_is_found_and_never_served(victim: Victim, kind: str) -> None:
    original = victim.files[kind].read_bytes()
    bits = 8 * len(original)
    count = campaign.amount(60, 3_000, bits)
    with campaign.tally("F11", f"bits of {kind}") as tally:
        for bit in scenes.pick(bits, count, campaign.SEED):
            with tally.trial(str(bit)) as wanted:
                if wanted:
                    flip(victim, kind, original, bit - 1)
                tally.fired += bool(wanted)


def flip(victim: Victim, kind: str, original: bytes, bit: int) -> None:
    """Flip one bit, judge, and put the file back."""
    damaged = bytearray(original)
    damaged[bit // 8] ^= 1 << bit % 8
    try:
        victim.files[kind].write_bytes(damaged)
        judge_reading(victim, victim.root, kind, always_found=True)
    except BrokenPromiseError as err:
        raise BrokenPromiseError(f"byte {bit // 8}: {err}") from err
    finally:
        victim.files[kind].write_bytes(original)
        for suffix in ("-wal", "-shm"):
            (victim.root / f"catalog.sqlite{suffix}").unlink(missing_ok=True)


def _replace(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _instead(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def _zeroed(data: bytes, source: random.Random) -> bytes:
    at = source.choice([n for n, byte in enumerate(data) if byte])
    return data[:at] + bytes(min(512, len(data) - at)) + data[at + 512 :]


def _swapped(data: bytes, source: random.Random) -> bytes:
    size = max(1, min(512, len(data) // 4))
    first = min(source.randrange(0, 2 * size), len(data) - 2 * size)
    second = source.randrange(first + size, len(data) - size + 1)
    return (
        data[:first]
        + data[second : second + size]
        + data[first + size : second]
        + data[first : first + size]
        + data[second + size :]
    )


def _doubled(data: bytes, source: random.Random) -> bytes:
    at = source.randrange(0, len(data))
    return data[:at] + data[max(0, at - 512) : at] + data[at:]


CHANGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "cut to 0": lambda data, source: b"",
    "cut to 1": lambda data, source: data[:1],
    "cut in half": lambda data, source: data[: len(data) // 2],
    "cut by 1": lambda data, source: data[:-1],
    "appended": lambda data, source: data + b"x",
    "zeroed": _zeroed,
    "swapped": _swapped,
    "doubled": _doubled,
    "noise": lambda data, source: source.randbytes(len(data)),
}

REPLACEMENTS: dict[str, Callable[[Path], object]] = {
    "deleted": lambda path: None,
    "symlink": lambda path: os.symlink("/etc/passwd", path),
    "directory": lambda path: path.mkdir(),
    "fifo": lambda path: os.mkfifo(path),
    "unreadable": lambda path: (path.write_bytes(b""), path.chmod(0)),
}


@pytest.mark.parametrize(
    "kind", ["pack", "config blob", "manifest blob", "config.toml", "names.log", "catalog", "view"]
)
def test_coarse_damage_is_found_repaired_or_told(
    victim: Victim, launcher: Launcher, trial_box: Path, kind: str
) -> None:
    relative = victim.files[kind].relative_to(victim.root)
    with campaign.tally("F11", f"damage to {kind}") as tally:
        for number in range(campaign.amount(1, 4, 40)):
            names = [*CHANGES, *REPLACEMENTS]
            source = random.Random(f"{campaign.SEED} {kind}")
            for name in source.sample(names, campaign.amount(6, len(names), len(names))):
                with tally.trial(f"{name} {number}") as wanted:
                    if wanted:
                        root = trial_box / "store"
                        shutil.copytree(victim.root, root, symlinks=True)
                        damage(root / relative, name, random.Random(f"{campaign.SEED} {number}"))
                        try:
                            judge_damage(victim, root, launcher, kind, name)
                        finally:
                            shutil.rmtree(root)
                    tally.fired += 1


def damage(path: Path, name: str, source: random.Random) -> None:
    if name in CHANGES:
        _replace(path, CHANGES[name](path.read_bytes(), source))
    else:
        _instead(path, REPLACEMENTS[name])


def judge_damage(victim: Victim, root: Path, launcher: Launcher, kind: str, name: str) -> None:
    """Judge reading, then check, repair and importing again by the command line."""
    if (kind, name) != ("view", "deleted"):  # then nothing says that there was a view
        judge_reading(victim, root, kind, always_found=True)
    for words in (
        ["check", "--read-data"],
        ["check", "--repair"],
        ["check", "--rebuild-index"],
        ["check", "--repair"],
    ):
        done = launcher.run(root, *words)
        if not done.typed:
            raise BrokenPromiseError(f"{words} ended with {done.code}: {done.err}")
    if kind == "config.toml" and not (root / "config.toml").is_file():
        raise BrokenPromiseError("repair made no config.toml")
    lost_whole_images = kind in MUST_BE_FOUND or (kind, name) == ("view", "deleted")
    wrong_or_refused(victim, root, rebuilt=lost_whole_images)
    if kind == "config.toml":
        return
    told = ""
    for words in victim.rerun:
        done = launcher.run(root, *words)
        told += done.err if done.code else ""
        if not done.typed:
            raise BrokenPromiseError(f"{words} ended with {done.code}: {done.err}")
    in_the_way = name == "directory" and kind != "pack"  # nothing of ours removes that
    if kind not in MUST_BE_FOUND or in_the_way:
        return
    done = launcher.run(root, "check", "--read-data")
    if done.code != 0:
        raise BrokenPromiseError(f"after repair and importing again: {done.out}{done.err}")
    with Store.open(root) as store:
        for image, content in victim.content.items():
            try:
                found = oracle.content_of(store, image)
            except LayerstoreError as err:
                raise BrokenPromiseError(f"{image} did not come back: {err!r}; {told}") from err
            if found != content:
                raise BrokenPromiseError(f"{image} came back with other content")


def test_packs_that_trade_places_are_not_read(victim: Victim, trial_box: Path) -> None:
    """Two packs of equal shape: every row of the catalog fits the other one too."""
    with campaign.tally("F11", "swapped packs") as tally, tally.trial("once"):
        tally.fired += 1
        root = trial_box / "store"
        shutil.copytree(victim.root, root, symlinks=True)
        swap_twins(root)
        judge_reading(victim, root, "pack", always_found=True)


def swap_twins(root: Path) -> None:
    """Let the two twins' packs trade names."""
    with Store.open(root) as store:
        paths = []
        for name in ("twin:1", "twin:2"):
            record = store.layer(store.resolve(name).layers[0])
            place = store.catalog.locate(record.tree[0][1])
            assert place is not None
            paths.append(store.paths.pack(place.pack_id))
    os.rename(paths[0], paths[0] + ".aside")
    os.rename(paths[1], paths[0])
    os.rename(paths[0] + ".aside", paths[1])
