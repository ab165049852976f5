"""What a case of the corpus is, and the place it acts in.

A case belongs to an entry of the list and goes through one or several entrances of the
product, each with its own verdict: ``R`` refused with a typed error, ``L`` refused by a
limit that the error names, ``S`` accepted and safe.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from layerstore.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path


class Place(NamedTuple):
    """Where a case acts. What is beside ``scratch`` and ``store`` must stay as it is.

    Attributes:
        scratch: An empty directory of this case.
        store_root: A store that the cases of a batch share.
        canaries: Files of the host; none is opened, changed or joined by another.
    """

    scratch: Path
    store_root: Path
    canaries: Path

    def store(self) -> Store:
        """Return the shared store, opened."""
        return Store.open(self.store_root)

    def canary(self, name: str) -> bytes:
        """Return the path of a canary, absolute."""
        return os.fsencode(self.canaries / name)


Act = Callable[[Place], object]


class Way(NamedTuple):
    """One entrance: what is done there, and what must come of it.

    Attributes:
        verdict: ``R``, ``S`` or ``L``.
        says: A regular expression that the error's message matches.
    """

    entrance: str
    verdict: str
    act: Act
    says: str = ""


class Case(NamedTuple):
    """One hostile input.

    Attributes:
        long: Only in the long tier.
        needs: What the host must have: ``root``, ``runc``.
        memory: Bytes that may be used at most, where a decision allows more than all get.
        seconds: CPU time it may take, where a decision allows more than all get.
        archive: The tar that it is about, if it is about one that does not depend on the
            place; seed of fuzzing.
    """

    entry: str
    name: str
    ways: tuple[Way, ...]
    long: bool = False
    needs: tuple[str, ...] = ()
    memory: int = 256 << 20
    seconds: int = 10
    archive: bytes | None = None


def case(entry: str, name: str, verdict: str, act: Act, *, entrance: str = "library",
         says: str = "", **more: object) -> Case:  # fmt: skip
    """Return a case with one entrance."""
    return Case(entry, name, (Way(entrance, verdict, act, says),), **more)  # type: ignore[arg-type]


CANARIES = {
    "file": (stat.S_IFREG | 0o644, b"untouched\n"),
    "setuid": (stat.S_IFREG | 0o4755, b"#!/bin/sh\n"),
    "secret": (stat.S_IFREG | 0o600, b"secret of the host\n"),
    "fifo": (stat.S_IFIFO | 0o600, b""),
    "directory": (stat.S_IFDIR | 0o755, b""),
}


def make_canaries(directory: Path) -> None:
    """Put the canaries into a new directory."""
    directory.mkdir()
    for name, (mode, content) in CANARIES.items():
        path = directory / name
        if stat.S_ISDIR(mode):
            path.mkdir()
        elif stat.S_ISFIFO(mode):
            os.mkfifo(path)
        else:
            path.write_bytes(content)
        path.chmod(stat.S_IMODE(mode))
    (directory / "link").symlink_to(directory / "file")
