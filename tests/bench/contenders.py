"""Who takes part in the ingest benchmark: each puts a tree into a place of its own.

Everybody compresses with zstd at about level 3, which is layerstore's, and the peers' default
where they have one. Repositories are made before the clock starts. No peer is slowed down:
no scrubbing, no encryption where it can be left out (restic has no such switch), no cache of
earlier runs. layerstore, restic and borg fsync what they store; tar, casync and mksquashfs do not.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.bench.harness import Cost, fresh, run_costed, version_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class Contender:
    """One way to store trees.

    Attributes:
        ingest: Given the repository, a tree and a name, the command that stores the tree.
        prepare: Given the repository, commands that make it (not measured).
        version: Command whose first line tells the version.
        reads_tar: Wants the tar of the tree (``<tree>.tar``) instead of the tree.
    """

    name: str
    ingest: Callable[[Path, Path, str], list[str]]
    version: tuple[str, ...]
    prepare: Callable[[Path], list[list[str]]] = field(default=lambda _repo: [])
    env: tuple[tuple[str, str], ...] = ()
    reads_tar: bool = False

    def start(self, repo: Path) -> None:
        """Make an empty repository."""
        fresh(repo)
        for command in self.prepare(repo):
            subprocess.run(command, check=True, capture_output=True, env=self._environment())

    def put(self, repo: Path, source: Path, name: str) -> Cost:
        """Store one tree and return what it took."""
        return run_costed(self.ingest(repo, source, name), env=dict(self.env))

    def found_version(self) -> str | None:
        """Return the version, or None when the tool is not on this machine."""
        return version_of(self.version)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **dict(self.env)}


def _layerstore(*words: str) -> list[str]:
    return [sys.executable, "-m", "layerstore", *words]


def _import(repo: Path, source: Path, name: str) -> list[str]:
    return _layerstore("--store", str(repo / "store"), "import", str(source), "-t", f"{name}:1")


def _bare_import(repo: Path, source: Path, name: str) -> list[str]:
    words = ["--store", str(repo / "store"), "import", str(source), "-t", f"{name}:1"]
    return [sys.executable, "-m", "tests.bench.bare_import", *words]


def _tar_zstd(repo: Path, tree: Path, name: str) -> list[str]:
    script = 'set -o pipefail; tar -C "$1" -c . | zstd -3 -q -o "$2"'
    return ["bash", "-c", script, "bash", str(tree), str(repo / f"{name}.tar.zst")]


def _casync(repo: Path, tree: Path, name: str) -> list[str]:
    index, store = repo / f"{name}.caidx", repo / "default.castr"
    return ["casync", "make", "--compression=zstd", f"--store={store}", str(index), str(tree)]


def _restic(repo: Path, tree: Path, name: str) -> list[str]:
    where = ["restic", "--quiet", "--no-cache", "--repo", str(repo / "restic")]
    return [*where, "backup", "--host", "bench", "--tag", name, str(tree)]


def _borg(repo: Path, tree: Path, name: str) -> list[str]:
    return ["borg", "create", "--compression", "zstd,3", f"{repo / 'borg'}::{name}", str(tree)]


def _mksquashfs(repo: Path, tree: Path, name: str) -> list[str]:
    options = ["-comp", "zstd", "-Xcompression-level", "3", "-noappend", "-no-progress", "-quiet"]
    return ["mksquashfs", str(tree), str(repo / f"{name}.squashfs"), *options]


REFERENCE = "tar | zstd -3"

CONTENDERS = (
    Contender(REFERENCE, _tar_zstd, ("zstd", "--version")),
    Contender(
        "layerstore import DIR",
        _import,
        (sys.executable, "-m", "layerstore", "version"),
    ),
    Contender(
        "layerstore import TAR",
        _import,
        (sys.executable, "-m", "layerstore", "version"),
        reads_tar=True,
    ),
    Contender(
        "bare import DIR",
        _bare_import,
        (sys.executable, "-m", "layerstore", "version"),
    ),
    Contender(
        "bare import TAR",
        _bare_import,
        (sys.executable, "-m", "layerstore", "version"),
        reads_tar=True,
    ),
    Contender("casync", _casync, ("casync", "--version")),
    Contender(
        "restic",
        _restic,
        ("restic", "version"),
        prepare=lambda repo: [["restic", "--repo", str(repo / "restic"), "init"]],
        env=(("RESTIC_PASSWORD", "bench"),),
    ),
    Contender(
        "borg",
        _borg,
        ("borg", "--version"),
        prepare=lambda repo: [["borg", "init", "--encryption", "none", str(repo / "borg")]],
        env=(("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes"),),
    ),
    Contender("mksquashfs", _mksquashfs, ("mksquashfs", "-version")),
)
