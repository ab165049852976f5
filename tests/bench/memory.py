"""A place in memory for what is written only to be read once, as restored trees are.

A disk would be kept busy writing back what is removed a moment later, and removing it again takes
as long as writing it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from layerstore.errors import LayerstoreError
from layerstore.linux import mounts, namespaces
from tests.bench.harness import say

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def place_in_memory(beside: Path, size: int) -> Iterator[tuple[Path, bool]]:
    """Give an empty directory and whether it is in memory; it and all below it go in the end.

    It is an ordinary directory where mounting is not permitted, or where ``size`` bytes would not
    leave as many free. The calling process gets a mount table of its own, so that nothing stays
    mounted however it ends: call it before threads start.

    Args:
        beside: A directory for it.
        size: Bytes that it holds at most.
    """
    with tempfile.TemporaryDirectory(dir=beside, prefix="memory-") as made:
        mounted = size * 2 <= available_bytes() and _mounted(made, size)
        if not mounted:
            say("restored trees lie on the disk: memory is short, or mounting not permitted")
        try:
            yield Path(made), mounted
        finally:
            if mounted:
                mounts.unmount(made, lazy=True)


def _mounted(place: str, size: int) -> bool:
    if os.geteuid() != 0:
        return False
    try:
        namespaces.unshare(namespaces.CLONE_NEWNS)
        mounts.set_propagation("/", mounts.MS_SLAVE)
        mounts.mount("tmpfs", place, "tmpfs", data=f"mode=700,size={size}")
    except LayerstoreError:
        return False
    return True


def available_bytes() -> int:
    """Return how much memory the kernel could give (proc(5), MemAvailable)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
