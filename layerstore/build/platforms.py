"""Platforms as ``os/architecture[/variant]``. Pure.

Source: OCI image spec, image-index.md; containerd's platforms package for the aliases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.build.dockerfile.errors import SpecError

if TYPE_CHECKING:
    from layerstore.build.dockerfile.syntax import SourceSpan

_ALIASES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "i386": ("386", ""),
}


class Platform(NamedTuple):
    """What an image runs on."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        """Return ``linux/amd64`` or ``linux/arm/v7``."""
        return "/".join(part for part in self if part)


def parse_platform(text: str, span: SourceSpan) -> Platform:
    """Return the platform that ``text`` names.

    Raises:
        SpecError: Not one.
    """
    parts = text.lower().split("/")
    if not 2 <= len(parts) <= 3 or not all(part.isascii() and part for part in parts):
        raise SpecError(
            f"{text!r} is not a platform", span, hint="write os/architecture, as in linux/amd64"
        )
    architecture, variant = _ALIASES.get(parts[1], (parts[1], ""))
    if len(parts) == 3:
        variant = parts[2]
    if (architecture, variant) in {("amd64", "v1"), ("arm64", "v8")}:
        variant = ""
    return Platform(parts[0], architecture, variant)
