"""Package lists in one form, so that equal wishes are equal steps.

Each list of a spec is a *set*: sorted, without repetitions, names in the manager's own
normal form. What an earlier set has, a later one leaves out. Pure.

Source: Debian policy 5.6.1 (names); PEP 503 (normal form of names), PEP 508 (requirements);
npm's package name rules.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.native.limits import MAX_PACKAGE_SETS, MAX_PACKAGES, limit_exceeded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from layerstore.build.dockerfile.syntax import SourceSpan
    from layerstore.build.native.reader import Node

PackageSet = tuple[str, ...]

_APT = re.compile(
    r"[a-z0-9][a-z0-9+.-]+(?::[a-z0-9-]+)?(?:=[A-Za-z0-9.+:~-]+|/[A-Za-z0-9.+_-]+)?", re.ASCII
)
_PIP = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*([\[<>=!~;@(\s].*)?", re.ASCII)
_NPM = re.compile(
    r"((?:@[a-z0-9~-][a-z0-9._~-]*/)?[a-z0-9~-][a-z0-9._~-]*)(?:@([^\0\n]*))?", re.ASCII
)
_NPM_NEWEST = "latest"


def apt_sets(items: Sequence[str | tuple[str, ...]], node: Node | None) -> list[PackageSet]:
    """Return the sets that apt installs, in order.

    Raises:
        SpecError: Something is no package name.
    """
    return _sets(items, node, _apt_name)


def pip_sets(items: Sequence[str | tuple[str, ...]], node: Node | None) -> list[PackageSet]:
    """Return the sets of requirements that pip installs, in order.

    Raises:
        SpecError: Something is no requirement.
    """
    return _sets(items, node, _pip_requirement)


def npm_sets(items: Sequence[str | tuple[str, ...]], node: Node | None) -> list[PackageSet]:
    """Return the sets that npm installs, in order.

    Raises:
        SpecError: Something is no package.
    """
    return _sets(items, node, _npm_package)


def npm_parts(package: str) -> tuple[str, str]:
    """Return name and wanted version of a normal form of :func:`npm_sets`."""
    found = _NPM.fullmatch(package)
    assert found is not None
    return found[1], found[2] or _NPM_NEWEST


def _sets(
    items: Sequence[str | tuple[str, ...]],
    node: Node | None,
    normal: Callable[[str, SourceSpan], str],
) -> list[PackageSet]:
    assert node is not None or not items
    if not items or node is None:
        return []
    loose = [index for index, item in enumerate(items) if isinstance(item, str)]
    if loose and len(loose) != len(items):
        raise SpecError(
            "a list of packages holds either names or lists of names", node.span_of(loose[0]),
            hint='put it in a list of its own: ["..."]',
        )  # fmt: skip
    wanted: list[list[tuple[str, SourceSpan]]] = []
    if loose:
        wanted.append([(str(item), node.span_of(index)) for index, item in enumerate(items)])
    else:
        wanted += [
            [(name, node.span_of(index, inner)) for inner, name in enumerate(item)]
            for index, item in enumerate(items)
        ]
    if len(wanted) > MAX_PACKAGE_SETS:
        raise limit_exceeded(node.key_span, "too many sets of packages", MAX_PACKAGE_SETS)
    count = sum(map(len, wanted))
    if count > MAX_PACKAGES:
        raise limit_exceeded(node.key_span, "too many packages", MAX_PACKAGES)
    made: list[PackageSet] = []
    seen: set[str] = set()
    for group in wanted:
        names = {normal(name, span) for name, span in group} - seen
        seen |= names
        if names:
            made.append(tuple(sorted(names)))
    return made


def _apt_name(text: str, span: SourceSpan) -> str:
    name = text.strip()
    if not _APT.fullmatch(name):
        raise SpecError(
            f"{text!r} is not a Debian package", span,
            hint="write a name, name=version or name/release",
        )  # fmt: skip
    return name


def _pip_requirement(text: str, span: SourceSpan) -> str:
    found = _PIP.fullmatch(text.strip())
    if found is None or "\n" in text or "\r" in text or " --" in text:
        raise SpecError(
            f"{text!r} is not a requirement", span,
            hint="write name, name==1.0 or name[extra]>=1,<2; options go to a requirements file",
        )  # fmt: skip
    name = re.sub(r"[-_.]+", "-", found[1]).lower()
    rest = " ".join((found[2] or "").split())
    if rest.startswith("@"):
        rest = f" {rest}"
    return name + rest


def _npm_package(text: str, span: SourceSpan) -> str:
    name = text.strip()
    found = _NPM.fullmatch(name)
    if found is None or len(found[1]) > 214:
        raise SpecError(
            f"{text!r} is not an npm package", span, hint="write name, name@^1.0 or @scope/name@1"
        )
    return f"{found[1]}@{found[2] or _NPM_NEWEST}"
