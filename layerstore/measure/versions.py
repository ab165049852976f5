"""Which of two versions of a package is the later one, by the rules of who made the package.

Rules are known of dpkg, pip and npm; versions of others are never put in order, for a wrong order
would say "not affected". Neither are those that their own rules do not allow.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_PIECES = re.compile(r"(\D*)(\d*)", re.ASCII)
_SEMVER = re.compile(
    r"v?(\d{1,16})\.(\d{1,16})\.(\d{1,16})(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?", re.ASCII
)
_VERSION_MAX_CHARACTERS = 256

_PartKey = tuple[tuple[tuple[int, ...], int], ...]


def version_key(kind: str, version: str) -> Any:  # noqa: ANN401 -- compares with its kind alone
    """Return what versions of packages of one kind sort by, None if that is not known.

    Args:
        kind: Of the package, as lists of packages have it: ``deb``, ``pypi``, ``npm``.
        version: As its package manager tells it.
    """
    key = _KEYS.get(kind)
    if key is None or len(version) > _VERSION_MAX_CHARACTERS:
        return None
    return key(version)


def deb_key(version: str) -> tuple[int, _PartKey, _PartKey]:
    """Return what versions of Debian's packages sort by.

    Source: deb-version(7), "Sorting algorithm".
    """
    epoch, colon, rest = version.partition(":")
    if not colon or not (epoch.isascii() and epoch.isdigit()):
        epoch, rest = "0", version
    upstream, _, revision = rest.rpartition("-")
    if not upstream:
        upstream, revision = rest, ""
    return int(epoch), _part_key(upstream), _part_key(revision or "0")


def _part_key(text: str) -> _PartKey:
    return tuple(
        # The end sorts after a tilde and before everything else: it is told as 0.
        ((*(_weight(sign) for sign in words), 0), int(digits or "0"))
        for words, digits in _PIECES.findall(text)
    )


def _weight(sign: str) -> int:
    if sign == "~":
        return -1
    return ord(sign) if sign.isascii() and sign.isalpha() else ord(sign) + 256


def _pypi_key(version: str) -> object:
    """Source: PEP 440."""
    from packaging.version import InvalidVersion, Version  # lazily: who asks of dpkg's needs none

    try:
        return Version(version)
    except InvalidVersion:
        return None


def _npm_key(version: str) -> object:
    """Source: Semantic Versioning 2.0.0, 11."""
    match = _SEMVER.fullmatch(version)
    if match is None:
        return None
    *numbers, before = match.groups()
    words = before.split(".") if before else []
    # One that comes before a release sorts before it; numbers before words, fewer before more.
    order = tuple((0, int(word), "") if word.isdigit() else (1, 0, word) for word in words)
    return (*map(int, numbers), not words, order)


_KEYS: dict[str, Callable[[str], object]] = {"deb": deb_key, "pypi": _pypi_key, "npm": _npm_key}
