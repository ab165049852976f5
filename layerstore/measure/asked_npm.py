"""What images ask npm for: the ranges of their ``package.json``, where no lock file has its say.

Read where it lies in an image, beside ``node_modules``, else in the directory that the image was
built from. Everything here is a stranger's text, and nothing of it is run.

Source: npm's documentation, "package.json" and "package-lock.json".
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, NamedTuple

from layerstore.measure.npm_ranges import allows
from layerstore.measure.versions import version_key

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

_LOCKS: Final = ("npm-shrinkwrap.json", "package-lock.json")
_SECTIONS: Final = ("devDependencies", "dependencies", "optionalDependencies")
"""The last one that names a package counts, as for npm."""


class Project(NamedTuple):
    """What a directory asks npm for.

    Attributes:
        ranges: By the names of packages.
        lock: The file that says which versions it has; empty if none does.
    """

    ranges: Mapping[str, str]
    lock: str = ""


Projects = dict[str, Project]
"""By their directories; those of which nothing can be read are left out."""


def project_in(
    folder: str, read: Callable[[str], bytes | None], has: Callable[[str], bool]
) -> Project | None:
    """Return what a directory asks npm for; None if that cannot be read.

    Args:
        folder: That has ``node_modules``, as an absolute path.
        read: Gives the content of a file by its absolute path; None if there is none.
        has: Says whether the image has a file, however long it is.
    """
    above = folder.rstrip("/")
    for lock in _LOCKS:
        if has(f"{above}/{lock}") or read(f"{above}/{lock}") is not None:
            return Project({}, lock)
    try:
        document = json.loads(read(f"{above}/package.json") or b"")
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    sections = (document.get(section) for section in _SECTIONS)
    ranges = {
        name: wanted
        for named in sections
        if isinstance(named, dict)
        for name, wanted in named.items()
        if isinstance(wanted, str)
    }
    return Project(ranges)


def chosen(name: str, versions: Collection[str], asking: Mapping[str, Sequence[Project]]) -> str:
    """Return which version all could have, or why nobody can say, in words.

    Chosen is the highest that one of them has and that all of their ranges allow.

    Args:
        name: Of a package that they have in different versions.
        versions: These.
        asking: What each of the images asks npm for where it has the package, by their names.
    """
    unread = [image for image, projects in asking.items() if not projects]
    if unread:
        return f"what {_names(unread)} asked for is not known: no package.json can be read"
    every = [(image, project) for image, projects in asking.items() for project in projects]
    locked = [image for image, project in every if project.lock]
    if locked:
        locks = sorted({project.lock for _, project in every if project.lock})
        return f"{' and '.join(locks)} of {_names(locked)} says which"
    unnamed = [image for image, project in every if name not in project.ranges]
    if unnamed:
        return f"no package.json of {_names(unnamed)} names it: it came with another package"
    ranges = [project.ranges[name] for _, project in every]
    keys = {version: version_key("npm", version) for version in versions}
    if None in keys.values():
        return "versions that are none of npm's cannot be put in order"
    for version in sorted(keys, key=lambda each: keys[each], reverse=True):
        answers = [allows(wanted, version) for wanted in ranges]
        if None in answers:
            return "not all ask for it by a range of versions"
        if all(answers):
            return (
                f"the ranges of all package.json allow {version}, which is chosen as the highest "
                "that one of them has"
            )
    return "the ranges of all package.json allow none of these"


def _names(images: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(images))
