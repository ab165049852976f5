"""Packages as items that images have in common, and those that they cannot have in common.

Two images have an item in common if one base can give it to both: of dpkg the same version, of pip
and npm the same version at the same place, installed by the same packages of dpkg. Since an item of
pip or npm names what installs it, images that have it in common have that in common, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.measure.asked import agreed
from layerstore.measure.asked_npm import chosen
from layerstore.measure.placed import NO_TOOL, PIP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from layerstore.measure.asked import Asked
    from layerstore.measure.asked_npm import Project, Projects
    from layerstore.measure.placed import Place, Placed

VERSIONS_DIFFER = "differ in their version"
WORD = {"pypi": "pip", "npm": "npm"}


class Item(NamedTuple):
    """A package of pip or npm that a base could have.

    Attributes:
        key: Equal for what images have in common.
        asked: What its package manager is asked for: the exact version.
        place: Where.
        makers: Packages of dpkg that install it; none if they are below all images.
    """

    key: str
    asked: str
    place: Place
    makers: tuple[str, ...]


class Refused(NamedTuple):
    """Packages that several images have and that no base could give them.

    Attributes:
        manager: ``pip`` or ``npm``.
        names: Of the packages.
        why: Their versions, places or Pythons, or what else stands against it.
        images: Which have them.
    """

    manager: str
    names: tuple[str, ...]
    why: str
    images: tuple[str, ...]


def item_of(placed: Placed, maker_of: Callable[[bytes], str | None]) -> Item | str:
    """Return the item that a package is, or why it is none.

    Args:
        placed: A package.
        maker_of: Gives the package of dpkg that a file is of, an empty word for one that lies
            below all images, None for one that is not there or is nobody's.
    """
    if placed.place is None:
        return placed.refusal
    makers = []
    for alternatives in placed.tools:
        known = [maker for path in alternatives if (maker := maker_of(path)) is not None]
        if not known:
            return NO_TOOL
        makers.append(min(known))
    separator = "==" if placed.kind == PIP else "@"
    asked = f"{placed.name}{separator}{placed.version}"
    place = placed.place
    words = (place.kind, place.folder, place.python, asked, *makers, *placed.inside)
    return Item(" ".join(words), asked, place, tuple(sorted({*makers} - {""})))


class Told(NamedTuple):
    """What one image has of a package: its item, or why it is none."""

    placed: Placed
    item: Item | str


def refused(
    images: Mapping[str, Iterable[Told]],
    asked: Mapping[str, Asked],
    projects: Mapping[str, Projects],
) -> tuple[Refused, ...]:
    """Return what several images have of one name, no two of them in common.

    Args:
        images: By their names, what they have of pip and npm.
        asked: By the same, what they ask pip for.
        projects: By the same, what they ask npm for.
    """
    names: dict[tuple[str, str], dict[str, list[Told]]] = {}
    for image, packages in images.items():
        for told in packages:
            key = told.placed.kind, told.placed.name
            names.setdefault(key, {}).setdefault(image, []).append(told)
    found: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for (kind, name), holders in sorted(names.items()):
        why = _why(holders) if len(holders) > 1 else ""
        if why.startswith(VERSIONS_DIFFER):
            versions = {told.placed.version for some in holders.values() for told in some}
            if kind == PIP:
                version = agreed(name, versions, [asked[image] for image in holders])
                why += f"; what all of them ask for allows {version}" if version else ""
            else:
                why += f"; {chosen(name, versions, _asking(holders, projects))}"
        if why:
            found.setdefault((WORD[kind], why, tuple(holders)), []).append(name)
    return tuple(
        Refused(manager, tuple(some), why, images) for (manager, why, images), some in found.items()
    )


def _asking(
    holders: Mapping[str, Iterable[Told]], projects: Mapping[str, Projects]
) -> dict[str, list[Project]]:
    """Return what each image asks npm for in the directories where it has a package."""
    found: dict[str, list[Project]] = {}
    for image, some in holders.items():
        folders = {told.placed.place.folder for told in some if told.placed.place is not None}
        known = projects[image]
        found[image] = [known[folder] for folder in sorted(folders & known.keys())]
    return found


def _why(holders: Mapping[str, list[Told]]) -> str:
    """Return why no base can have a package for all who have it; empty if one can."""
    every = [told for some in holders.values() for told in some]
    reasons = {told.item for told in every if isinstance(told.item, str)}
    if reasons:
        return "; ".join(sorted(reasons))
    items = [told.item for told in every if isinstance(told.item, Item)]
    if len({item.key for item in items}) == 1:
        return ""
    for title, values in (
        ("version", {told.placed.version for told in every}),
        ("Python", {item.place.python for item in items}),
        ("place", {item.place.folder for item in items}),
        ("package of Debian below", {" ".join(item.makers) or "(none)" for item in items}),
        ("packages inside", {" ".join(told.placed.inside) for told in every}),
    ):
        if len(values) > 1:
            shown = "" if title == "packages inside" else ": " + ", ".join(sorted(values))
            return f"differ in their {title}{shown}"
    return ""
