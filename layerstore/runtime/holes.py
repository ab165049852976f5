"""Known holes of OCI runtimes, and whether the one that is installed still has them.

A version alone does not tell: distributions mend old versions. What a package mended, its
own changelog says by name; where a runtime belongs to a package that has none, nobody here
knows, and builds say nothing. Why these, and what is said where: docs/decisions/0168.

Source: release notes and advisories of runc and crun, as of November 2026.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import subprocess
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

_Version = tuple[int, int, int, int]

_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?(?:[-~.]?rc\.?(\d+))?")
_RELEASED = 1 << 30
"""In the place of the number of a release candidate."""

_PACKAGED = ("/usr/bin", "/usr/sbin", "/bin", "/sbin")
_DPKG_LISTS = "/var/lib/dpkg/info"
_CHANGELOGS = "/usr/share/doc"
_TEXT_MAX_BYTES = 4 << 20
_TIMEOUT_S = 10


class Hole(NamedTuple):
    """A hole, and the versions that mended it: the first one of each branch that was mended.

    Attributes:
        name: By which changelogs call it.
        what: It allows.
        mended: One version a branch; branches after the last never had it.
        by_image_alone: An image or a Dockerfile gets out of its container by it, with nothing
            else on its side. The others need steps that race each other over shared mounts,
            or a place that steps of ours do not have.
    """

    name: str
    what: str
    mended: tuple[str, ...]
    by_image_alone: bool = False


_HOLES = {
    "runc": (
        Hole("CVE-2019-5736", "a step overwrites runc", ("1.0.0-rc7",), by_image_alone=True),
        Hole("CVE-2021-30465", "mounts are led out by a race", ("1.0.0-rc95",)),
        Hole("CVE-2024-21626", "WORKDIR leads to the host", ("1.1.12",), by_image_alone=True),
        Hole("CVE-2024-45310", "empty files appear on the host", ("1.1.14", "1.2.0-rc3")),
        *(
            Hole(name, "writes to /proc are led astray by a race", ("1.2.8", "1.3.3", "1.4.0-rc3"))
            for name in ("CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881")
        ),
        Hole("CVE-2026-41579", "a symlink /dev is followed", ("1.3.6", "1.4.3", "1.5.0-rc3")),
    ),
    "crun": (
        Hole("CVE-2019-18837", "symlinks lead to the host", ("0.10.5",), by_image_alone=True),
        Hole("CVE-2026-88264", "a symlink /dev/console is followed", ("1.30",)),
        Hole("CVE-2026-88265", "a symlink /dev/null is followed", ("1.30",)),
    ),
}


class RuntimeFixes(NamedTuple):
    """What is known of an installed runtime.

    Attributes:
        version: What it says of itself, or its package where that matters; "" if it says none.
        holes: That its version has and its package does not say it mended.
        is_certain: False if it came in a package that says nothing of what it mended.
    """

    version: str
    holes: tuple[Hole, ...]
    is_certain: bool

    @property
    def severe(self) -> tuple[Hole, ...]:
        """What an image alone gets out by, for certain."""
        return tuple(hole for hole in self.holes if hole.by_image_alone and self.is_certain)


def fixes_of(path: str, name: str) -> RuntimeFixes:
    """Return what is known of a runtime; starts it once, to ask its version.

    Args:
        path: Of the program.
        name: ``runc`` or ``crun``.
    """
    version = _own_version(path)
    numbers = _parsed(version)
    if numbers is None:
        return RuntimeFixes("", (), is_certain=False)
    holes = tuple(hole for hole in _HOLES.get(name, ()) if not _is_mended(hole, numbers))
    changelog = _changelog(path, name) if holes else None
    if changelog is None:
        return RuntimeFixes(version, holes, is_certain=True)
    head = re.match(r"\S+ \(([^)\s]+)\)", changelog)
    holes = tuple(hole for hole in holes if not re.search(rf"{hole.name}\b", changelog))
    return RuntimeFixes(head[1] if head else version, holes, is_certain=bool(changelog))


def described(holes: Iterable[Hole]) -> str:
    """Return a phrase that names holes, those that allow the same together."""
    names: dict[str, list[str]] = {}
    for hole in holes:
        names.setdefault(hole.what, []).append(hole.name)
    return "; ".join(f"{', '.join(named)} ({what})" for what, named in names.items())


def mended_by(name: str) -> str:
    """Return which versions of a runtime have none of the holes known here."""
    last = _HOLES[name][-1].mended
    return " or ".join(version for version in last if "rc" not in version)


def _own_version(path: str) -> str:
    """Return the version that a runtime says it has, "" if it says none."""
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, check=False, timeout=_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    words = done.stdout[:200].decode("utf-8", "replace").partition("\n")[0].split()
    return words[2] if len(words) > 2 and words[1] == "version" else ""


def _parsed(version: str) -> _Version | None:
    found = _VERSION.match(version)
    if found is None:
        return None
    major, minor, patch, candidate = (
        None if part is None else int(part) for part in found.groups()
    )
    assert major is not None
    assert minor is not None
    return major, minor, patch or 0, _RELEASED if candidate is None else candidate


def _is_mended(hole: Hole, version: _Version) -> bool:
    branches = [fixed for fixed in map(_parsed, hole.mended) if fixed is not None]
    own = [fixed for fixed in branches if fixed[:2] == version[:2]]
    return version >= (own[0] if own else max(branches))


def _changelog(path: str, name: str) -> str | None:
    """Return the changelog of the Debian package a program is from.

    None if nobody mended it but its authors, "" if it is in a package that says nothing.
    """
    real = os.path.realpath(path)
    if os.path.dirname(real) not in _PACKAGED or _lists("containerd.io", name):
        return None  # docker's own package has what was released, unchanged
    if _lists(name, name):
        with contextlib.suppress(OSError, EOFError):
            return _text(f"{_CHANGELOGS}/{name}/changelog.Debian.gz")
    return ""  # stripped, or of another kind of package, whose changelog takes a tool to read


def _lists(package: str, name: str) -> bool:
    """Whether a package of this name is installed and has a program of that name."""
    with contextlib.suppress(OSError):
        return f"bin/{name}" in {
            line[-len(name) - 4 :] for line in _text(f"{_DPKG_LISTS}/{package}.list").splitlines()
        }
    return False


def _text(path: str) -> str:
    with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
        return file.read(_TEXT_MAX_BYTES).decode("utf-8", "replace")
