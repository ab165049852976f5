"""The applications: 15 MB each, the same for the same seed, in three mixes.

Every application is ``lib/`` (libraries, at most half of it), ``own/`` (its own code and
resources), ``own/main.py`` (the program that runs) and ``own/data/records.csv``, which brings
it to exactly :data:`APP_BYTES`. What two of them share is what the mix says:

``distinct``  nothing. Libraries are chosen as in ``typical``, but all content is disguised.
``typical``   libraries are drawn from the pool, popular ones more often, and are what PyPI and
              npm gave; the rest is disguised.
``versions``  application N is release N of one application: each edits one file in fifty of
              its own, every twentieth also one in fifty of one library.

*Disguised* is a real file with its letters (text) or bytes (binary) exchanged by a
substitution that this application alone has: as long and as compressible as the original,
since compressors see repetition and frequency only, and equal to nothing elsewhere.
"""

from __future__ import annotations

import random
import string
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.bench.seed.pool import Package

APP_BYTES = 15_000_000
MIXES = ("distinct", "typical", "versions")
SEED = 1
MAIN = "own/main.py"
RECORDS = "own/data/records.csv"

_LARGEST = 400_000
"""Bytes of the largest file that ``own/`` has: larger ones are libraries' binaries."""
_LIBRARY_EVERY = 20
_EDITED = 50
_TRIES = 400

Files = dict[str, bytes]
"""Content by path below the application's directory."""

_PROGRAM = '''\
"""Application {name}: reads all it has, says so, and waits."""

import asyncio
import ctypes
import decimal
import email.message
import hashlib
import http.server
import json
import logging.handlers
import signal
import sqlite3
import ssl
import sys
import urllib.request
import xml.etree.ElementTree
from pathlib import Path

NAME = "{name}"
ROOT = Path(__file__).resolve().parent.parent


def main():
    seen = 0
    for path in sorted(ROOT.rglob("*")):
        if path.is_file():
            seen += len(path.read_bytes())
    print("ready", NAME, seen, flush=True)
    Path("/proc/self/comm").write_text("{ready}")
    if "--once" not in sys.argv:
        signal.pause()


main()
'''
READY = "seed-ready"
"""What the program names itself once it has read everything."""


def applications(
    mix: str, pool: Sequence[Package], *, size: int = APP_BYTES, seed: int = SEED
) -> Iterator[Files]:
    """Yield application 0, 1, 2, ... of a mix, without end."""
    if mix == "versions":
        yield from _releases(pool, size, seed)
        return
    number = 0
    while True:
        yield _application(mix, pool, number, size, seed)
        number += 1


def write(files: Files, place: Path) -> None:
    """Write an application below a directory; modes and times are the same for all."""
    for path, content in files.items():
        target = place / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def _application(mix: str, pool: Sequence[Package], number: int, size: int, seed: int) -> Files:
    name = f"{mix}-{number}"
    disguise = Disguise(random.Random(f"{seed}/{name}/disguise"))
    of_libraries = Disguise(random.Random(f"{seed}/{name}/disguise of libraries"))
    files: Files = {}
    for package in _libraries(random.Random(f"{seed}/{name}/lib"), pool, size // 2):
        for path, _ in package.files:
            content = package.read(path)
            files[f"lib/{package.name}/{path}"] = (
                of_libraries.of(content) if mix == "distinct" else content
            )
    files |= _own(random.Random(f"{seed}/{name}/own"), pool, disguise, size - _size(files))
    files[MAIN] = _PROGRAM.format(name=name, ready=READY).encode()
    files[RECORDS] = _records(random.Random(f"{seed}/{name}/data"), size - _size(files))
    return files


def _size(files: Files) -> int:
    return sum(map(len, files.values()))


def _libraries(rng: random.Random, pool: Sequence[Package], room: int) -> list[Package]:
    """Draw packages until ``room`` is nearly full; the r-th of the pool has weight 1/r."""
    ranked = list(pool)
    random.Random("popularity").shuffle(ranked)
    weights = [1 / rank for rank in range(1, len(ranked) + 1)]
    chosen: dict[str, Package] = {}
    for package in rng.choices(ranked, weights, k=_TRIES):
        if package.project not in chosen and package.size <= room:
            chosen[package.project] = package
            room -= package.size
    return list(chosen.values())


def _own(rng: random.Random, pool: Sequence[Package], disguise: Disguise, room: int) -> Files:
    """Disguise different files of the pool until one does not fit, or few are left."""
    files: Files = {}
    taken: set[bytes] = set()
    room -= _LARGEST // 4  # the program and some records
    missed = 0
    while missed < _TRIES:
        package = rng.choice(pool)
        path, size = rng.choice(package.files)
        missed += 1
        if size > _LARGEST:
            continue
        if size > room:
            return files
        content = package.read(path)
        if content in taken:
            continue  # versions of one library have most files in common
        taken.add(content)
        missed = 0
        suffix = path.rpartition("/")[2].rpartition(".")[2][:8]
        files[f"own/src/{len(files) // 40:02}/{len(files):04}.{suffix}"] = disguise.of(content)
        room -= size
    return files


class Disguise:
    """The substitution of one application: a table for text, one for binary content."""

    def __init__(self, rng: random.Random) -> None:
        letters, digits = list(string.ascii_lowercase), list(string.digits)
        rng.shuffle(letters)
        rng.shuffle(digits)
        to = "".join(letters)
        self._text = bytes.maketrans(
            (string.ascii_letters + string.digits).encode(),
            (to + to.upper() + "".join(digits)).encode(),
        )
        every = list(range(256))
        rng.shuffle(every)
        self._binary = bytes(every)

    def of(self, content: bytes) -> bytes:
        """Return the content as only this application has it."""
        is_text = b"\0" not in content[:8192]
        return content.translate(self._text if is_text else self._binary)


def _records(rng: random.Random, size: int) -> bytes:
    """Return lines of a table, cut at so many bytes."""
    lines, length = [], 0
    while length < size:
        number = rng.getrandbits(32)
        line = f"{len(lines)},{number:08x},{number % 9973 / 100},2026-{number % 12 + 1:02}\n"
        lines.append(line)
        length += len(line)
    return "".join(lines).encode()[:size]


def _releases(pool: Sequence[Package], size: int, seed: int) -> Iterator[Files]:
    files = _application("versions", pool, 0, size, seed)
    yield dict(files)
    number = 0
    while True:
        number += 1
        rng = random.Random(f"{seed}/versions/{number}/edits")
        own = [path for path in files if path.startswith("own/src/")]
        _edit_some(rng, files, own)
        if number % _LIBRARY_EVERY == 0:
            libraries = sorted({path.split("/")[1] for path in files if path.startswith("lib/")})
            beginning = f"lib/{rng.choice(libraries)}/"
            _edit_some(rng, files, [path for path in files if path.startswith(beginning)])
        files[MAIN] = _PROGRAM.format(name=f"versions-{number}", ready=READY).encode()
        room = size - _size(files) + len(files[RECORDS])
        files[RECORDS] = _records(random.Random(f"{seed}/versions-0/data"), room)
        yield dict(files)


def _edit_some(rng: random.Random, files: Files, paths: Sequence[str]) -> None:
    for path in rng.sample(sorted(paths), max(1, len(paths) // _EDITED)):
        files[path] = _edited(rng, files[path])


def _edited(rng: random.Random, content: bytes) -> bytes:
    """Replace up to 80 bytes at a random place."""
    at = rng.randrange(len(content) + 1)
    is_text = b"\0" not in content[:8192]
    new = f"changed {rng.getrandbits(64):x}\n".encode() if is_text else rng.randbytes(40)
    return content[:at] + new + content[at + rng.randrange(80) :]
