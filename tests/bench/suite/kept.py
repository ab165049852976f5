"""Results as they are kept: what a program measured, and how, when and where it was run.

One JSON file a benchmark and kind of run, below the directory of results:

    NAME.json         a full run
    NAME.quick.json   one with fewer rounds; shown where there is no full one

A full one may be *transcribed*: taken from what an earlier page said of a run, medians only. It
says from what, and any run by the suite replaces it.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from tests.bench.result import Result, as_text, result_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Kind = Literal["full", "quick", "transcribed"]
_KINDS: dict[Kind, tuple[int, str]] = {
    "full": (0, ".json"),
    "quick": (1, ".quick.json"),
    "transcribed": (2, ".json"),
}
"""How much each says (less is more), and the end of its file's name."""


@dataclass(frozen=True)
class Run:
    """How a result came to be.

    Attributes:
        benchmark: Its name in the suite's table.
        kind: Full, quick, or transcribed from an earlier page.
        command: What was run, below the project's directory.
        commit: layerstore's; empty where that is not known.
        at: When it began, in UTC.
        seconds: How long it took.
        load_before: The load average of the last minute when it began; None if not known.
        load_after: And when it ended.
        source: Of a transcribed one: what it was taken from.
    """

    benchmark: str
    kind: Kind
    command: str
    commit: str
    at: str
    seconds: float
    load_before: float | None
    load_after: float | None
    source: str = ""


@dataclass(frozen=True)
class Kept:
    """A result with the run that gave it."""

    run: Run
    result: Result


def keep(place: Path, kept: Kept) -> Path:
    """Write a result; a reader sees the old file or the new one, whole. Return its path."""
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{kept.run.benchmark}{_KINDS[kept.run.kind][1]}"
    part = path.with_suffix(".part")
    part.write_text(as_text({"run": asdict(kept.run), **kept.result.document()}))
    part.replace(path)
    return path


def read_kept(path: Path) -> Kept:
    """Read a kept result.

    Raises:
        ValueError: It is none; the message names the file.
    """
    try:
        document = json.loads(path.read_text())
        return Kept(Run(**document["run"]), result_of(document))
    except (KeyError, TypeError, ValueError) as err:
        raise ValueError(f"{path}: {err}") from err


def best_of(place: Path, names: Iterable[str]) -> dict[str, Kept]:
    """Return for each benchmark the result that says most: full, else quick, else transcribed.

    Raises:
        ValueError: A file is no kept result.
    """
    found: dict[str, Kept] = {}
    for name in names:
        ends = dict.fromkeys(end for _, end in _KINDS.values())
        there = [read_kept(path) for end in ends if (path := place / f"{name}{end}").exists()]
        if there:
            found[name] = min(there, key=lambda kept: _KINDS[kept.run.kind][0])
    return found


def strangers(place: Path, names: Iterable[str]) -> list[str]:
    """Return files of results that belong to no benchmark of the table."""
    known = {f"{name}{end}" for name in names for _, end in _KINDS.values()}
    return sorted(path.name for path in place.glob("*.json") if path.name not in known)


_VERSION = re.compile(r"\d+(?:\.\d+)+[\w.+~-]*")


def short_version(said: str) -> str:
    """Return the number in what a program says of its version, or all of it."""
    found = _VERSION.search(said)
    return found[0].rstrip(",") if found else said.strip()


def load() -> float:
    """Return the load average of the last minute."""
    return round(os.getloadavg()[0], 2)
