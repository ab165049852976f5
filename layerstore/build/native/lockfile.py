"""``layerstore.lock``: what a spec's names were resolved to, and when that still holds.

Entries are found by what was asked for, and over what: the base's layers and the package sets
below. A change of anything else in a spec leaves them valid. One set of entries has one text.

Reference: docs/format/lock.md (normative).
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from layerstore.build.native.limits import MAX_LOCK_BYTES
from layerstore.errors import FormatError, UnsupportedVersionError
from layerstore.formats import strict_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from layerstore.build.dockerfile.syntax import SourceSpan
    from layerstore.build.graph import RunOp, Vertex
    from layerstore.digest import DiffId

VERSION = 2
_WITHOUT_DIGESTS = 1
"""A version that is still read: its bases have no digests."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DEB = re.compile(r"[A-Za-z0-9][A-Za-z0-9%+._~-]{0,250}\.deb")
_URI = re.compile(r"(?:https?|file|copy)://?[\x21-\x7e]{1,2000}")
_PIP_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+!_~:-]*")


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all records of a lock file share."""


class AptPackage(Entry, frozen=True, kw_only=True):
    """A package file of a Debian archive.

    Attributes:
        name: The package's.
        version: Of the package, epoch included.
        file: Name of the file in apt's cache.
        uri: Where it was found.
        size: Bytes.
        sha256: Of the file.
    """

    name: str
    version: str
    file: str
    uri: str
    size: int
    sha256: str


class PipPackage(Entry, frozen=True, kw_only=True):
    """A distribution of a Python package.

    Attributes:
        sha256: Of the one file that was chosen.
    """

    name: str
    version: str
    sha256: str


class Base(Entry, frozen=True, kw_only=True):
    """A base image.

    Attributes:
        name: As the spec has it.
        layers: Chain ID of its layers.
        digest: What the name meant in its registry, a manifest's or an index's; empty for an
            image that comes from elsewhere.
    """

    name: str
    layers: str
    digest: str = ""


class Apt(Entry, frozen=True, kw_only=True):
    """A package set of apt."""

    over: str
    packages: tuple[str, ...]
    install: tuple[AptPackage, ...]


class Pip(Entry, frozen=True, kw_only=True):
    """A package set of pip.

    Attributes:
        requirements: The text that pip was given.
    """

    over: str
    requirements: str
    install: tuple[PipPackage, ...]


class Npm(Entry, frozen=True, kw_only=True):
    """A package set of npm.

    Attributes:
        lock: The package-lock.json.
    """

    over: str
    packages: tuple[str, ...]
    lock: dict[str, Any]


class Lock(Entry, frozen=True, kw_only=True):
    """A whole lock file."""

    version: int = VERSION
    bases: tuple[Base, ...] = ()
    apt: tuple[Apt, ...] = ()
    pip: tuple[Pip, ...] = ()
    npm: tuple[Npm, ...] = ()


class Wish(msgspec.Struct, frozen=True):
    """A package set that a lock file may answer.

    Attributes:
        over: What lies below, see :func:`lineage`.
        packages: The set; for pip the requirements' text alone.
        resolve: The step that finds out; runs over ``vertex``.
        span: Where the spec asks.
    """

    over: str
    packages: tuple[str, ...]
    resolve: RunOp
    vertex: Vertex
    span: SourceSpan


class Locks(Protocol):
    """Answers wishes; None means that the newest will do."""

    def pinned(self, name: str) -> Base | None:
        """Return which image a base was; None if its registry does not decide that."""

    def base(self, base: Base, span: SourceSpan) -> None:
        """Hear of a base image that is used."""

    def apt(self, wish: Wish) -> tuple[AptPackage, ...] | None:
        """Return the packages of a set."""

    def pip(self, wish: Wish) -> tuple[PipPackage, ...] | None:
        """Return the packages of a set."""

    def npm(self, wish: Wish) -> str | None:
        """Return the package-lock.json of a set."""


def lineage(parts: Sequence[str]) -> str:
    """Return the name of what lies below a package set: base layers and earlier sets."""
    return "sha256:" + hashlib.sha256("\n".join(parts).encode()).hexdigest()


def chain_text(layers: Sequence[DiffId]) -> str:
    """Return how a lock file names a base's layers."""
    from layerstore.digest import chain_id

    return str(chain_id(layers)) if layers else "scratch"


def encode(lock: Lock) -> bytes:
    """Return the file's bytes: the same for the same entries in any order."""
    ordered = Lock(
        bases=tuple(sorted(lock.bases, key=lambda each: each.name)),
        apt=tuple(sorted(lock.apt, key=lambda each: (each.over, each.packages))),
        pip=tuple(sorted(lock.pip, key=lambda each: (each.over, each.requirements))),
        npm=tuple(sorted(lock.npm, key=lambda each: (each.over, each.packages))),
    )
    plain = msgspec.to_builtins(ordered)
    return (json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def decode(data: bytes, what: str) -> Lock:
    """Return a lock file's entries.

    Args:
        data: The file's bytes.
        what: Its name, for messages.

    Raises:
        FormatError: Not a lock file, or one that holds what no resolver writes.
        UnsupportedVersionError: Of a newer layerstore.
    """
    value = strict_json.decode(data, what, limit_bytes=MAX_LOCK_BYTES)
    version = value.get("version") if isinstance(value, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise UnsupportedVersionError(
            f"{what} has version {version}, this layerstore knows {VERSION}",
            hint="use a newer layerstore, or make it again: layerstore lock",
        )
    try:
        lock = msgspec.convert(value, Lock, strict=True)
        if lock.version not in (VERSION, _WITHOUT_DIGESTS):
            raise msgspec.ValidationError(f"its version is {lock.version}")
    except msgspec.ValidationError as err:
        raise _damaged(what, str(err)) from err
    _check(lock, what)
    if lock.version == _WITHOUT_DIGESTS and any(each.digest for each in lock.bases):
        raise _damaged(what, "bases have no digests in version 1")
    return msgspec.structs.replace(lock, version=VERSION)


def _check(lock: Lock, what: str) -> None:
    """Refuse words that would mean something else on a command line or to a shell."""
    for base in lock.bases:
        if base.digest and not _DIGEST.fullmatch(base.digest):
            raise _damaged(what, f"the base {base.name!r} has a strange digest")
    for apt in lock.apt:
        for each in apt.install:
            if not (
                _DEB.fullmatch(each.file)
                and _URI.fullmatch(each.uri)
                and _SHA256.fullmatch(each.sha256)
            ):
                raise _damaged(what, f"the Debian package {each.name!r} has a strange file or uri")
    for pip in lock.pip:
        for found in pip.install:
            if not (
                _PIP_NAME.fullmatch(found.name)
                and _VERSION.fullmatch(found.version)
                and _SHA256.fullmatch(found.sha256)
            ):
                raise _damaged(what, f"the Python package {found.name!r} has a strange version")
    _check_unique(what, [("base", each.name) for each in lock.bases])
    _check_unique(what, [("apt", each.over, each.packages) for each in lock.apt])
    _check_unique(what, [("pip", each.over, each.requirements) for each in lock.pip])
    _check_unique(what, [("npm", each.over, each.packages) for each in lock.npm])


def _check_unique(what: str, keys: Iterable[tuple[object, ...]]) -> None:
    seen = set()
    for key in keys:
        if key in seen:
            raise _damaged(what, f"two entries answer one question: {key[0]} {key[-1]}")
        seen.add(key)


def _damaged(what: str, reason: str) -> FormatError:
    return FormatError(
        f"{what} is damaged: {reason[:1].lower()}{reason[1:]}",
        hint="make it again: layerstore lock",
    )


class NoLocks:
    """No lock file: the newest of everything."""

    def pinned(self, name: str) -> None:
        """Take what the name means today."""

    def base(self, base: Base, span: SourceSpan) -> None:
        """Take any."""

    def apt(self, wish: Wish) -> None:
        """Take the newest."""

    def pip(self, wish: Wish) -> None:
        """Take the newest."""

    def npm(self, wish: Wish) -> None:
        """Take the newest."""


class FileLocks:
    """Answers from a lock file and remembers what it had no answer for.

    Attributes:
        missing: What the file does not answer, with the place in the spec.

    Args:
        lock: The file's entries.
    """

    def __init__(self, lock: Lock) -> None:
        self._bases = {each.name: each for each in lock.bases}
        self._apt = {(each.over, each.packages): each.install for each in lock.apt}
        self._pip = {(each.over, each.requirements): each.install for each in lock.pip}
        self._npm = {(each.over, each.packages): each.lock for each in lock.npm}
        self.missing: dict[str, SourceSpan] = {}

    def pinned(self, name: str) -> Base | None:
        """Return the locked image, if its registry has a digest for it."""
        known = self._bases.get(name)
        return known if known is not None and known.digest else None

    def base(self, base: Base, span: SourceSpan) -> None:
        """Compare a base with what it was."""
        known = self._bases.get(base.name)
        if known is None:
            self.missing[f"the base {base.name} is not in the lock file"] = span
        elif known.layers != base.layers:
            self.missing[f"the base {base.name} has other layers than in the lock file"] = span

    def apt(self, wish: Wish) -> tuple[AptPackage, ...] | None:
        """Return the locked packages."""
        found = self._apt.get((wish.over, wish.packages))
        if found is None:
            self._miss("apt", wish)
        return found

    def pip(self, wish: Wish) -> tuple[PipPackage, ...] | None:
        """Return the locked packages."""
        found = self._pip.get((wish.over, wish.packages[0]))
        if found is None:
            self._miss("pip", wish)
        return found

    def npm(self, wish: Wish) -> str | None:
        """Return the locked package-lock.json."""
        found = self._npm.get((wish.over, wish.packages))
        if found is None:
            self._miss("npm", wish)
            return None
        return npm_lock_text(found)

    def _miss(self, manager: str, wish: Wish) -> None:
        words = " ".join(" ".join(wish.packages).split())
        self.missing[f"{manager} {words[:200]} is not in the lock file"] = wish.span


def npm_lock_text(lock: dict[str, Any]) -> str:
    """Return a package-lock.json as npm writes it."""
    return json.dumps(lock, indent=2, ensure_ascii=False) + "\n"
