"""Resolving: asking the image's own package managers what they would install.

Each package set is resolved over the very root that it will be installed over, by a step that
writes its answer into a file of a layer that nothing uses afterwards. Sets in front of it are
installed as they were just resolved.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol

import msgspec

from layerstore.build.errors import BuildStepError
from layerstore.build.graph import Vertex
from layerstore.build.native.installing import RESOLVED
from layerstore.build.native.lockfile import (
    Apt,
    AptPackage,
    Base,
    Lock,
    Npm,
    Pip,
    PipPackage,
    npm_lock_text,
)
from layerstore.errors import FormatError, LayerstoreError
from layerstore.formats import strict_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from layerstore.build.dockerfile.syntax import SourceSpan
    from layerstore.build.native.lockfile import Wish
    from layerstore.digest import DiffId
    from layerstore.store.store import Store

MAX_ANSWER_BYTES = 32 << 20
_NONCE = "LAYERSTORE_RESOLVED_AT"


class Solve(Protocol):
    """Solves one vertex."""

    def __call__(self, vertex: Vertex) -> tuple[DiffId, ...]:
        """Return the layers of its result."""


class ResolvingLocks:
    """Answers wishes by asking the package managers, and remembers the answers.

    Args:
        solve: Runs steps.
        read: Returns the content of a file in the root file system that layers make.
        nonce: Different each time, so that no answer comes from the build cache.
    """

    def __init__(
        self,
        solve: Solve,
        read: Callable[[tuple[DiffId, ...], str], bytes],
        nonce: str,
    ) -> None:
        self._solve = solve
        self._read = read
        self._nonce = nonce
        self._vertices: list[Vertex] = []  # kept: solvers know vertices by identity
        self._bases: dict[str, Base] = {}
        self._apt: dict[tuple[str, tuple[str, ...]], Apt] = {}
        self._pip: dict[tuple[str, tuple[str, ...]], Pip] = {}
        self._npm: dict[tuple[str, tuple[str, ...]], Npm] = {}

    def lock(self) -> Lock:
        """Return everything that was asked for."""
        return Lock(
            bases=tuple(self._bases.values()),
            apt=tuple(self._apt.values()),
            pip=tuple(self._pip.values()),
            npm=tuple(self._npm.values()),
        )

    def pinned(self, name: str) -> None:
        """Take what the name means today."""

    def base(self, base: Base, span: SourceSpan) -> None:  # noqa: ARG002 - protocol's
        """Remember a base."""
        self._bases[base.name] = base

    def apt(self, wish: Wish) -> tuple[AptPackage, ...]:
        """Ask apt.

        Raises:
            BuildError: It cannot install them.
        """
        key = (wish.over, wish.packages)
        if key not in self._apt:
            lines = self._answer(wish).decode("utf-8", "replace").splitlines()
            packages = sorted(
                (_apt_package(line, wish) for line in lines), key=lambda each: each.file
            )
            self._apt[key] = Apt(over=wish.over, packages=wish.packages, install=tuple(packages))
        return self._apt[key].install

    def pip(self, wish: Wish) -> tuple[PipPackage, ...]:
        """Ask pip.

        Raises:
            BuildError: It cannot install them, or not from files with a digest.
        """
        key = (wish.over, wish.packages)
        if key not in self._pip:
            report = self._json(wish)
            found = report.get("install")
            items = found if isinstance(found, list) else []
            packages = sorted((_pip_package(item, wish) for item in items), key=lambda e: e.name)
            self._pip[key] = Pip(
                over=wish.over, requirements=wish.packages[0], install=tuple(packages)
            )
        return self._pip[key].install

    def npm(self, wish: Wish) -> str:
        """Ask npm.

        Raises:
            BuildError: It cannot install them.
        """
        key = (wish.over, wish.packages)
        if key not in self._npm:
            # Sorted, as the lock file has it: the step's key must be the same from there.
            lock = json.loads(json.dumps(self._json(wish), sort_keys=True))
            self._npm[key] = Npm(over=wish.over, packages=wish.packages, lock=lock)
        return npm_lock_text(self._npm[key].lock)

    def _answer(self, wish: Wish) -> bytes:
        op = msgspec.structs.replace(
            wish.resolve, env=(*wish.resolve.env, f"{_NONCE}={self._nonce}")
        )
        what = f"resolve {' '.join(' '.join(wish.packages).split())}"
        vertex = Vertex(op, (wish.vertex,), wish.span, f"[lock] {what}", what)
        self._vertices.append(vertex)
        return self._read(self._solve(vertex), RESOLVED)

    def _json(self, wish: Wish) -> dict[str, object]:
        try:
            answer = strict_json.decode(
                self._answer(wish), "the package manager's answer", limit_bytes=MAX_ANSWER_BYTES
            )
        except FormatError as err:
            raise _strange(err.message, wish) from err
        if not isinstance(answer, dict):
            raise _strange("the package manager's answer is no JSON object", wish)
        return answer


def file_reader(store: Store) -> Callable[[tuple[DiffId, ...], str], bytes]:
    """Return how to read a file that a step left."""
    from layerstore.image.trees.stack import load_root, resolve

    def read(layers: tuple[DiffId, ...], path: str) -> bytes:
        _, node = resolve(load_root(store, layers), path.encode())
        if node is None or node.children is not None or node.entry.size > MAX_ANSWER_BYTES:
            raise LayerstoreError(f"the resolving step left no {path}, or too large a one")
        refs = tuple((size, chunk) for size, chunk in node.entry.extents if chunk is not None)
        return store.read_refs(refs) if refs else b""

    return read


def _apt_package(line: str, wish: Wish) -> AptPackage:
    words = line.split(" ")
    parts = words[1].removesuffix(".deb").split("_") if len(words) == 4 else []
    if len(parts) != 3 or not words[2].isdigit():
        raise _strange(f"apt's answer has the line {line[:200]!r}", wish)
    return AptPackage(
        name=parts[0],
        version=parts[1].replace("%3a", ":"),
        file=words[1],
        uri=words[0],
        size=int(words[2][:20]),
        sha256=words[3],
    )


class _ArchiveInfo(msgspec.Struct):
    hashes: dict[str, str] = {}
    hash: str = ""


class _DownloadInfo(msgspec.Struct):
    archive_info: _ArchiveInfo | None = None


class _Metadata(msgspec.Struct):
    name: str
    version: str


class _Install(msgspec.Struct):
    """An item of pip's installation report. Source: pip, Installation Report, version 1."""

    metadata: _Metadata
    download_info: _DownloadInfo


def _pip_package(item: object, wish: Wish) -> PipPackage:
    try:
        found = msgspec.convert(item, _Install)
    except msgspec.ValidationError as err:
        raise _strange(f"pip's answer is strange: {err}", wish) from err
    info = found.download_info.archive_info or _ArchiveInfo()
    digest = info.hashes.get("sha256") or info.hash.removeprefix("sha256=")
    if len(digest) != 64:
        raise _strange(
            f"{found.metadata.name} {found.metadata.version} has no digest: "
            "only packages from an index can be locked", wish,
        )  # fmt: skip
    return PipPackage(
        name=found.metadata.name.lower(), version=found.metadata.version, sha256=digest
    )


def _strange(reason: str, wish: Wish) -> BuildStepError:
    return BuildStepError(reason, wish.span, "[lock]")
