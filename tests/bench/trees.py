"""Where the benchmarks' trees come from: a directory, a tar, or a fresh Debian."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.bench.harness import say

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

_KEEP = ("--numeric-owner", "--xattrs", "--xattrs-include=*")


def bootstrap(work: Path) -> Path:
    """Make a Debian root file system with mmdebstrap and return its tar."""
    say("no --tree and no --tar: making a Debian root file system with mmdebstrap")
    tar = work / "bookworm.tar"
    subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", "bookworm", str(tar)], check=True)
    return tar


def unpack(tar: Path, tree: Path) -> None:
    """Unpack a tar into the new directory ``tree`` with all that GNU tar can keep."""
    tree.mkdir()
    subprocess.run(["tar", "-C", str(tree), *_KEEP, "-p", "-xf", str(tar)], check=True)


def pack(tree: Path, target: Path) -> None:
    """Write the tar of a tree."""
    options = ["--format=pax", *_KEEP, "--sparse"]
    subprocess.run(["tar", "-C", str(tree), *options, "-cf", str(target), "."], check=True)


def copy(tree: Path, target: Path) -> None:
    """Copy a tree with everything it holds."""
    subprocess.run(["cp", "-a", str(tree), str(target)], check=True)


def unpack_or_copy(given: argparse.Namespace, work: Path, tree: Path) -> None:
    """Fill ``tree`` as ``--tree`` or ``--tar`` say, or with a fresh Debian."""
    if given.tree:
        copy(given.tree, tree)
    else:
        unpack(given.tar or bootstrap(work), tree)
