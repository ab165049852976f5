"""What tests fetch once and keep between runs: under .cache, gone with `make clean`."""

from __future__ import annotations

import contextlib
import fcntl
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def cache_directory() -> Path:
    """Return the directory of this checkout; nobody else can put programs there."""
    directory = Path(__file__).parents[2] / ".cache" / "tests"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@contextlib.contextmanager
def made_by_one(name: str) -> Iterator[Path]:
    """Yield where ``name`` lies or should; the other workers wait until it is there."""
    with (cache_directory() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield cache_directory() / name
