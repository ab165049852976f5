"""Debian's index of packages as apt has it: names, versions, sizes, dependencies.

Read through apt's own lists, whatever mirror filled them. Versions compare by Debian policy,
section 5.6.12. Popularity is not in the index: what many packages depend on counts as popular.
"""

from __future__ import annotations

import functools
import re
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

RELEASE_WEEKS = 180
"""Age of the release at the time of the index that the kept samples come from: bookworm is of
June 2023. ``+deb12uN`` of a package's version counts its updates in that time."""

NOT_INSTALLED = frozenset(
    [
        "debug",
        "doc",
        "metapackages",
        "kernel",
        "localization",
        "games",
        "gnome",
        "kde",
        "x11",
        "xfce",
        "education",
        "embedded",
        "hamradio",
        "otherosfs",
        "electronics",
        "news",
        "zope",
        "gnustep",
        "tasks",
        "debian-installer",
        "gnu-r",
    ]
)
"""Sections whose packages nobody puts into an image by name."""

_RELEASE_ITSELF = "_dists_bookworm_"
_FIELDS = re.compile(
    r"^(Package|Version|Installed-Size|Size|Depends|Pre-Depends|Provides|Section|Priority"
    r"|Essential|Filename): (.*)$",
    re.MULTILINE,
)
_INDEX_ONLY = re.compile(
    r"^(Filename|Size|MD5sum|SHA1|SHA256|Tag|Description-md5): .*\n", re.MULTILINE
)
_PARTS = re.compile(r"\d+|\D+")


@dataclass(slots=True)
class Package:
    """One binary package in one version.

    Attributes:
        installed: Bytes it takes by its maintainer's word (Installed-Size), KiB exact.
        size: Bytes of the archive.
        depends: Each a tuple of alternatives by name.
        stanza: Bytes that dpkg's status file holds of it, nearly.
        older: Other versions in the index, newest first.
        released: The version in the release itself, without what its other suites update.
    """

    name: str
    version: str
    installed: int
    size: int
    section: str
    priority: str
    essential: bool
    depends: tuple[tuple[str, ...], ...]
    provides: tuple[str, ...]
    stanza: int
    older: list[str] = field(default_factory=list)
    released: str = ""

    @property
    def updates(self) -> int:
        """Updates since the release, by the number in the version."""
        found = re.search(r"[+~]deb\d+u(\d+)", self.version)
        return int(found.group(1)) if found else 0


def _order(char: str) -> int:
    if char == "~":
        return -1
    return ord(char) if char.isalpha() else ord(char) + 256


def _key(part: str) -> tuple[object, ...]:
    """Return what sorts one of upstream version and revision as dpkg does."""
    key: list[object] = []
    pieces = _PARTS.findall(part)
    if pieces and pieces[0].isdigit():
        pieces.insert(0, "")
    for place, piece in enumerate(pieces):
        key.append(int(piece) if place % 2 else (*map(_order, piece), 0))
    if len(key) % 2 == 1:
        key.append(0)
    key.append((0,))
    return tuple(key)


@functools.cache
def version_key(version: str) -> tuple[object, ...]:
    """Return what sorts versions as dpkg does."""
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "0")
    return int(epoch), _key(upstream), _key(revision)


def read_index() -> dict[str, Package]:
    """Return the newest version of each package that apt's lists have, older ones noted."""
    ask = ["apt-get", "indextargets", "--format", "$(FILENAME)", "Created-By: Packages"]
    files = subprocess.run(ask, check=True, capture_output=True, text=True).stdout.split()
    found: dict[str, Package] = {}
    for file in sorted(file for file in files if "debian" in file):
        text = subprocess.run(
            ["/usr/lib/apt/apt-helper", "cat-file", file], check=True, capture_output=True
        ).stdout.decode("utf-8", "replace")
        for package in parse(text):
            _add(found, package)
            if _RELEASE_ITSELF in file:
                found[package.name].released = package.version
    return found


def _add(found: dict[str, Package], package: Package) -> None:
    known = found.get(package.name)
    if known is None:
        found[package.name] = package
        return
    if package.version == known.version or package.version in known.older:
        return
    if version_key(package.version) > version_key(known.version):
        package.older = [known.version, *known.older]
        package.released = known.released
        found[package.name] = package
    else:
        known.older.append(package.version)


def parse(text: str) -> Iterator[Package]:
    """Yield the packages of an index file."""
    for stanza in text.split("\n\n"):
        values = dict(_FIELDS.findall(stanza))
        if "Package" not in values:
            continue
        yield Package(
            name=values["Package"],
            version=values["Version"],
            installed=int(values.get("Installed-Size", 0)) * 1024,
            size=int(values.get("Size", 0)),
            section=values.get("Section", "").rpartition("/")[2],
            priority=values.get("Priority", "optional"),
            essential=values.get("Essential") == "yes",
            depends=_relations(f"{values.get('Pre-Depends', '')}, {values.get('Depends', '')}"),
            provides=tuple(group[0] for group in _relations(values.get("Provides", ""))),
            stanza=len(_INDEX_ONLY.sub("", stanza + "\n")) + len("Status: install ok installed\n"),
        )


def _relations(text: str) -> tuple[tuple[str, ...], ...]:
    groups = []
    for group in text.split(","):
        names = [re.split(r"[\s(:\[]", word.strip(), maxsplit=1)[0] for word in group.split("|")]
        if names[0]:
            groups.append(tuple(name for name in names if name))
    return tuple(groups)


class Resolver:
    """What installing packages brings along, without recommendations: first alternative first."""

    def __init__(self, index: dict[str, Package]) -> None:
        self._index = index
        self._providers: dict[str, list[str]] = {}
        for package in index.values():
            for name in package.provides:
                self._providers.setdefault(name, []).append(package.name)
        self._closures: dict[str, frozenset[str]] = {}

    def base(self) -> frozenset[str]:
        """Return what a minimal root file system holds: essential, required, and apt."""
        names = [p.name for p in self._index.values() if p.essential or p.priority == "required"]
        return self.closure([*names, "apt"])

    def closure(self, names: Iterable[str], there: frozenset[str] = frozenset()) -> frozenset[str]:
        """Return ``names`` and all they need that is not ``there``."""
        found: set[str] = set()
        todo = [name for name in names if name not in there]
        while todo:
            name = todo.pop()
            if name in found or name not in self._index:
                continue
            found.add(name)
            for group in self._index[name].depends:
                choice = self._choose(group, found, there)
                if choice is not None:
                    todo.append(choice)
        return frozenset(found)

    def _choose(self, group: tuple[str, ...], found: set[str], there: frozenset[str]) -> str | None:
        real: list[str] = []
        for name in group:
            options = [name] if name in self._index else []
            options += sorted(self._providers.get(name, ()))
            if any(option in found or option in there for option in options):
                return None
            real += options
        return real[0] if real else None


def by_dependants(index: dict[str, Package]) -> list[str]:
    """Return what images may install by name, the one with the most dependants first."""
    count = dict.fromkeys(index, 0)
    for package in index.values():
        for name in {name for group in package.depends for name in group}:
            if name in count:
                count[name] += 1
    chosen = [p.name for p in index.values() if p.section not in NOT_INSTALLED]
    return sorted(chosen, key=lambda name: (-count[name], name))
