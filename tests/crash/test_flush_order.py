"""The order of writing, flushing and naming, read from the system calls of every verb.

A power cut on ext4 cannot show every mistake: ext4 flushes its whole journal when any
directory is flushed. So the rules themselves are checked: a file is forced before it
gets its final name; the directory of a new name, and names.log, are forced before the
catalog's commit is; when the command ends, nothing of the store waits to be forced.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.crash.rig import campaign, scenes
from tests.crash.rig.oracle import BrokenPromiseError
from tests.crash.rig.sweeps import Sweep
from tests.crash.rig.tracer import MUTATING, Plan

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.crash.rig.launcher import Launcher
    from tests.crash.rig.scenes import Scene

_WRITES = frozenset({"write", "pwrite64", "writev", "ftruncate", "fallocate"})
_FLUSHES = frozenset({"fsync", "fdatasync"})
_REMOVALS = frozenset({"unlink", "unlinkat", "rmdir"})
_VOLATILE = ("/tmp", "/locks", "/reserve", "/builds")
"""What a crash may take of a store: nobody was promised it, and it is made anew."""


@pytest.mark.parametrize("verb", scenes.VERBS, ids=lambda verb: verb.name)
def test_everything_is_forced_before_something_relies_on_it(
    scene: Scene, launcher: Launcher, trial_box: Path, verb: scenes.Verb
) -> None:
    course = scenes.course_of(scene, verb, launcher, trial_box / "course")
    sweep = Sweep(scene, verb, course, launcher, trial_box / "trials")
    with campaign.tally("order", verb.name) as tally, tally.trial("once"):
        root, out = sweep.prepare()
        words = scene.words(verb, out)
        done = launcher.run(root, *words, plan=Plan(calls=MUTATING), scope=[root.parent])
        assert done.code == 0, done
        tally.fired += bool(done.log)
        wrong = violations(done.log, str(root))
        if wrong:
            raise BrokenPromiseError("; ".join(wrong))


def violations(log: Sequence[tuple[str, str, str]], root: str) -> list[str]:
    """Return what is wrong with the order of a command's calls."""
    return _Order(root).read(log)


class _Order:
    """Files with unforced bytes and directories with unforced names, call by call."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.dirty: set[str] = set()
        self.unnamed: dict[str, set[str]] = {}
        self.wrong: list[str] = []

    def read(self, log: Sequence[tuple[str, str, str]]) -> list[str]:
        for name, place, new_name in log:
            self._call(name, place, new_name)
        self._require_forced("the command ended")
        return self.wrong

    def _call(self, name: str, place: str, new_name: str) -> None:
        if self._is_index(place) and name != "rename":
            if name in _FLUSHES and place.endswith("-wal"):
                self._require_forced("a commit was forced")
        elif name in _WRITES:
            self.dirty.add(place)
        elif name in _FLUSHES:
            self.dirty.discard(place)
            self.unnamed.pop(place, None)
        elif name == "create":
            self._named(place)
        elif name in _REMOVALS:
            self.dirty.discard(place)
            self.unnamed.pop(place, None)
            self.unnamed.get(os.path.dirname(place), set()).discard(place)
        elif name in {"rename", "link"}:
            if place in self.dirty and not self._is_volatile(new_name):
                self.wrong.append(
                    f"{self._short(place)} got the name {self._short(new_name)}"
                    " before its bytes were forced"
                )
            self.dirty.discard(place)
            self._named(new_name)

    def _named(self, place: str) -> None:
        if not self._is_volatile(place):
            self.unnamed.setdefault(os.path.dirname(place), set()).add(place)

    def _require_forced(self, moment: str) -> None:
        for place in sorted(self.dirty):
            if not self._is_volatile(place):
                self.wrong.append(f"{moment} before {self._short(place)}")
        for directory, places in sorted(self.unnamed.items()):
            if places:
                names = ", ".join(os.path.basename(place) for place in sorted(places))
                self.wrong.append(
                    f"{moment} before the directory {self._short(directory)} with {names}"
                )

    def _is_index(self, place: str) -> bool:
        return place.startswith(f"{self.root}/catalog.sqlite")

    def _is_volatile(self, place: str) -> bool:
        return any(f"{place}/".startswith(f"{self.root}{top}/") for top in _VOLATILE)

    def _short(self, place: str) -> str:
        return place.removeprefix(f"{self.root}/")
