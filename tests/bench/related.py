"""Make a second tree that is related to the first, as an updated image is to the old one.

Deterministic, and modelled on a security update: of the regular files, one in twenty has
bytes inserted in the middle and its first bytes changed (a rebuilt program), one in fifty
has another name (a moved directory), one in a hundred is gone, and 8 MB of new files with
contents of their own appear. Everything else is the same.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

NEW_FILES = 80
NEW_FILE_BYTES = 100_000


def make_related(tree: Path, target: Path) -> None:
    """Write the related tree to ``target``, which must not exist."""
    subprocess.run(["cp", "-a", str(tree), str(target)], check=True)
    for path in _regular_files(target):
        name = os.path.relpath(path, target)
        _vary(path, hashlib.sha256(os.fsencode(name)).digest())
    added = target / "opt" / "added"
    added.mkdir(parents=True, exist_ok=True)
    chance = random.Random(7)
    for number in range(NEW_FILES):
        # half noise, half text: about as compressible as a program
        noise = chance.randbytes(NEW_FILE_BYTES // 2)
        text = (b"%d," % chance.getrandbits(16)) * (NEW_FILE_BYTES // 12)
        (added / f"file-{number}").write_bytes(noise + text)


def _regular_files(tree: Path) -> list[str]:
    found = []
    for host, _, names in os.walk(tree):
        found += [os.path.join(host, name) for name in names]
    return sorted(path for path in found if os.path.isfile(path) and not os.path.islink(path))


def _vary(path: str, lot: bytes) -> None:
    number = int.from_bytes(lot[:4], "big")
    if number % 100 == 7:
        os.unlink(path)
    elif number % 50 == 3:
        shutil.move(path, path + ".moved")
    elif number % 20 == 1:
        with open(path, "rb") as file:
            old = file.read()
        middle = len(old) // 2
        with open(path, "wb") as file:
            file.write(lot[:8] + old[8:middle] + lot + old[middle:])
