"""Whether builders made the same image: names, types, modes, owners, link targets and content."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.bench.builds.builders import Builder

_OF_THE_RUNTIME = (
    ".dockerenv", "dev", "proc", "sys", "run", "etc/hosts", "etc/hostname", "etc/resolv.conf",
    "etc/mtab",
)  # fmt: skip
"""What container engines put into every root for themselves, and exports show or not."""

_OF_THE_CLOCK = (
    "var/log",
    "var/cache/ldconfig",
    "etc/shadow",
    "etc/shadow-",
    "var/lib/apt",
    "var/cache/apt",
)
"""What differs between two builds of the same builder: logs, dates of passwords,
what apt knows of packages by the time of its lists."""


def compare_trees(builders: Sequence[Builder], tag: str, work: Path) -> list[str]:
    """Return how the images of a name differ from the first builder's, a line a difference."""
    work.mkdir()
    try:

        def listed(number: int) -> dict[str, str]:
            archive = work / f"{number}.tar"
            builders[number].export(tag, archive)
            return _listing(archive)

        with ThreadPoolExecutor(max(1, len(builders))) as pool:
            found = pool.map(listed, range(len(builders)))
            listings = {each.name: one for each, one in zip(builders, found, strict=True)}
    finally:
        shutil.rmtree(work)
    if not listings:
        return []
    (first, reference), *others = listings.items()
    return [
        f"{name}: {path}: {listing.get(path)} instead of {first}'s {reference.get(path)}"
        for name, listing in others
        for path in sorted(reference.keys() | listing.keys())
        if reference.get(path) != listing.get(path)
    ]


def _listing(archive: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            path = member.name.removeprefix("./").strip("/")
            if not path or path == "." or _is_below(path, _OF_THE_RUNTIME + _OF_THE_CLOCK):
                continue
            content = ""
            if member.isreg():
                file = tar.extractfile(member)
                assert file is not None
                content = hashlib.sha256(_settled(path, file.read())).hexdigest()[:16]
            elif member.islnk():  # which of its names is the link depends on who wrote the tar
                content = found.get(member.linkname.removeprefix("./").strip("/"), "?")
                found[path] = content
                continue
            target = member.linkname if member.issym() else ""
            kind = {b"0": "file", b"2": "link", b"5": "directory"}.get(member.type, "other")
            found[path] = (
                f"{kind} {member.mode & 0o7777:o} {member.uid}:{member.gid} {target}{content}"
            )
    return found


def _settled(path: str, data: bytes) -> bytes:
    """Return a file's bytes without what the clock put into them."""
    if path.endswith(".pyc"):
        return data[16:]  # after magic, flags, the source's mtime and size
    return data


def _is_below(path: str, tops: Sequence[str]) -> bool:
    return any(path == top or path.startswith(top + "/") for top in tops)
