"""Who takes part in the benchmarks: each puts a tree into a place of its own.

Everybody compresses with zstd at about level 3, which is layerstore's, and the peers' default
where they have one. Repositories are made before the clock starts. No peer is slowed down:
no scrubbing, no encryption where it can be left out (restic has no such switch), no cache of
earlier runs. layerstore, restic and borg fsync what they store; tar, casync and mksquashfs do not.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tests.bench.docker_load import DockerLoad
from tests.bench.harness import Cost, fresh, run_costed, version_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path


@dataclass(frozen=True)
class Contender:
    """One way to store trees.

    Attributes:
        ingest: Given the repository, a tree and a name, the command that stores the tree.
        prepare: Given the repository, commands that make it (not measured).
        version: Command whose first line tells the version.
        reads_tar: Wants the tar of the tree (``<tree>.tar``) instead of the tree.
        restore: Given the repository, a tree that was stored, its name, and a new empty
            directory, the command that puts the tree back there.
        restores_path: The tree comes back below its whole original path.
    """

    name: str
    ingest: Callable[[Path, Path, str], list[str]]
    version: tuple[str, ...]
    prepare: Callable[[Path], list[list[str]]] = field(default=lambda _repo: [])
    env: tuple[tuple[str, str], ...] = ()
    reads_tar: bool = False
    restore: Callable[[Path, Path, str, Path], list[str]] | None = None
    restores_path: bool = False

    def start(self, repo: Path) -> None:
        """Make an empty repository."""
        fresh(repo)
        for command in self.prepare(repo):
            subprocess.run(command, check=True, capture_output=True, env=self._environment())

    def put(self, repo: Path, source: Path, name: str) -> Cost:
        """Store one tree and return what it took."""
        return run_costed(self.ingest(repo, source, name), env=dict(self.env))

    def get(self, repo: Path, source: Path, name: str, target: Path) -> tuple[Cost, Path]:
        """Restore a stored tree below ``target``; return what it took and where the tree is."""
        assert self.restore is not None
        fresh(target)
        cost = run_costed(self.restore(repo, source, name, target), env=dict(self.env))
        return cost, target / source.relative_to("/") if self.restores_path else target

    def finish(self, repo: Path) -> None:
        """Stop what :meth:`start` began; the repository stays."""

    def found_version(self) -> str | None:
        """Return the version, or None when the tool is not on this machine."""
        return version_of(self.version)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **dict(self.env)}


def found(contenders: Iterable[Contender]) -> tuple[list[Contender], dict[str, str], list[str]]:
    """Return who of them is on this machine, their versions, and who is missing."""
    versions = {contender: contender.found_version() for contender in contenders}
    present = {one: version for one, version in versions.items() if version is not None}
    missing = [one.name for one, version in versions.items() if version is None]
    return list(present), {one.name: version for one, version in present.items()}, missing


def _layerstore(*words: str) -> list[str]:
    return [sys.executable, "-m", "layerstore", *words]


def _init(repo: Path) -> list[list[str]]:
    return [_layerstore("--store", str(repo / "store"), "init")]


def _import(repo: Path, source: Path, name: str) -> list[str]:
    return _layerstore("--store", str(repo / "store"), "import", str(source), "-t", f"{name}:1")


def _export(repo: Path, _source: Path, name: str, target: Path) -> list[str]:
    script = (
        'set -o pipefail; "$@" | tar -C "$0" --numeric-owner --xattrs --xattrs-include="*" -xpf -'
    )
    export = _layerstore("--store", str(repo / "store"), "export", f"{name}:1")
    return ["bash", "-c", script, str(target), *export]


def _bare_import(repo: Path, source: Path, name: str) -> list[str]:
    words = ["--store", str(repo / "store"), "import", str(source), "-t", f"{name}:1"]
    return [sys.executable, "-m", "tests.bench.bare_import", *words]


def _tar_zstd(repo: Path, tree: Path, name: str) -> list[str]:
    script = 'set -o pipefail; tar -C "$1" -c . | zstd -3 -q -o "$2"'
    return ["bash", "-c", script, "bash", str(tree), str(repo / f"{name}.tar.zst")]


def _casync(repo: Path, tree: Path, name: str) -> list[str]:
    index, store = repo / f"{name}.caidx", repo / "default.castr"
    return ["casync", "make", "--compression=zstd", f"--store={store}", str(index), str(tree)]


def _casync_extract(repo: Path, _source: Path, name: str, target: Path) -> list[str]:
    index, store = repo / f"{name}.caidx", repo / "default.castr"
    return ["casync", "extract", f"--store={store}", "--seed-output=no", str(index), str(target)]


def _restic(repo: Path, tree: Path, name: str) -> list[str]:
    where = ["restic", "--quiet", "--no-cache", "--repo", str(repo / "restic")]
    return [*where, "backup", "--host", "bench", "--tag", name, str(tree)]


def _restic_restore(repo: Path, source: Path, name: str, target: Path) -> list[str]:
    where = ["restic", "--quiet", "--no-cache", "--repo", str(repo / "restic")]
    return [
        *where,
        "restore",
        "latest",
        "--tag",
        name,
        "--path",
        str(source),
        "--target",
        str(target),
    ]


def _borg_at(compression: str) -> Callable[[Path, Path, str], list[str]]:
    def ingest(repo: Path, tree: Path, name: str) -> list[str]:
        archive = f"{repo / 'borg'}::{name}"
        return ["borg", "create", "--compression", compression, archive, str(tree)]

    return ingest


def _borg_extract(repo: Path, _source: Path, name: str, target: Path) -> list[str]:
    # borg extracts into the working directory.
    script = 'cd "$0" && exec borg --lock-wait 600 extract --numeric-ids "$1"'
    return ["bash", "-c", script, str(target), f"{repo / 'borg'}::{name}"]


def _mksquashfs(repo: Path, tree: Path, name: str) -> list[str]:
    options = ["-comp", "zstd", "-Xcompression-level", "3", "-noappend", "-no-progress", "-quiet"]
    return ["mksquashfs", str(tree), str(repo / f"{name}.squashfs"), *options]


REFERENCE = "tar | zstd -3"

_CASYNC = Contender("casync", _casync, ("casync", "--version"), restore=_casync_extract)
_RESTIC = Contender(
    "restic",
    _restic,
    ("restic", "version"),
    prepare=lambda repo: [["restic", "--repo", str(repo / "restic"), "init"]],
    env=(("RESTIC_PASSWORD", "bench"),),
    restore=_restic_restore,
    restores_path=True,
)
_BORG = Contender(
    "borg",
    _borg_at("zstd,3"),
    ("borg", "--version"),
    prepare=lambda repo: [["borg", "init", "--encryption", "none", str(repo / "borg")]],
    env=(("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes"),),
    restore=_borg_extract,
    restores_path=True,
)
LAYERSTORE = Contender(
    "layerstore import DIR",
    _import,
    (sys.executable, "-m", "layerstore", "version"),
    prepare=_init,
    restore=_export,
)

CONTENDERS = (
    Contender(REFERENCE, _tar_zstd, ("zstd", "--version")),
    LAYERSTORE,
    Contender(
        "layerstore import TAR",
        _import,
        (sys.executable, "-m", "layerstore", "version"),
        prepare=_init,
        reads_tar=True,
    ),
    Contender(
        "bare import DIR",
        _bare_import,
        (sys.executable, "-m", "layerstore", "version"),
        prepare=_init,
    ),
    Contender(
        "bare import TAR",
        _bare_import,
        (sys.executable, "-m", "layerstore", "version"),
        prepare=_init,
        reads_tar=True,
    ),
    _CASYNC,
    _RESTIC,
    _BORG,
    Contender("mksquashfs", _mksquashfs, ("mksquashfs", "-version")),
)


def _squashfs_append(*options: str) -> Callable[[Path, Path, str], list[str]]:
    """All trees in one image: duplicate files of earlier trees are found when one is appended."""

    def ingest(repo: Path, tree: Path, _name: str) -> list[str]:
        image = str(repo / "all.squashfs")
        quiet = ["-keep-as-directory", "-no-progress", "-quiet"]
        return ["mksquashfs", str(tree), image, "-comp", "zstd", *options, *quiet]

    return ingest


def _unsquashfs(repo: Path, source: Path, _name: str, target: Path) -> list[str]:
    # It restores below the directory that the tree was stored as; it lifts it out.
    script = (
        'rm -r "$0" && unsquashfs -quiet -no-progress -d "$0.all" "$1" "$2" '
        '&& mv "$0.all/$2" "$0" && rm -r "$0.all"'
    )
    return ["bash", "-c", script, str(target), str(repo / "all.squashfs"), source.name]


def _harder(contender: Contender, name: str, *options: str) -> Contender:
    """The same tool with more effort, to stand beside the optimized store."""

    def ingest(repo: Path, tree: Path, tree_name: str) -> list[str]:
        command = contender.ingest(repo, tree, tree_name)
        return [*command[:-1], *options, command[-1]]

    return replace(contender, name=name, ingest=ingest)


def _mkfs_erofs(repo: Path, tree: Path, name: str) -> list[str]:
    image = str(repo / f"{name}.erofs")
    return ["mkfs.erofs", "-zlz4hc,9", "-C65536", "--preserve-mtime", "--quiet", image, str(tree)]


def _erofs_extract(repo: Path, _source: Path, name: str, target: Path) -> list[str]:
    extract = f"--extract={target}"
    return ["fsck.erofs", extract, "--overwrite", "--preserve", str(repo / f"{name}.erofs")]


_SQUASHFS = Contender(
    "squashfs",
    _squashfs_append("-Xcompression-level", "3"),
    ("mksquashfs", "-version"),
    restore=_unsquashfs,
)

ARCHIVES: tuple[Contender | DockerLoad, ...] = (
    _CASYNC,
    _RESTIC,
    _BORG,
    _SQUASHFS,
    Contender("erofs lz4hc", _mkfs_erofs, ("fsck.erofs", "-V"), restore=_erofs_extract),
    DockerLoad(),
)
"""Who keeps several trees in one place and gives each back."""

HARDER = (
    _harder(_RESTIC, "restic max", "--compression", "max"),
    replace(_BORG, name="borg zstd-15", ingest=_borg_at("zstd,15")),
    replace(
        _SQUASHFS,
        name="squashfs zstd-15 1 MiB",
        ingest=_squashfs_append("-Xcompression-level", "15", "-b", "1M"),
    ),
)
"""The same tools with all the effort they offer, to stand beside the optimized store."""
