"""Platforms as ``os/architecture[/variant]``. Pure, but for the question what this host is.

Source: OCI image spec, image-index.md; containerd's platforms package for aliases, for words
that leave something out, and for which variants serve each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.build.dockerfile.errors import SpecError
from layerstore.errors import InputError

if TYPE_CHECKING:
    from layerstore.build.dockerfile.syntax import SourceSpan

LOCAL = "local"
"""The platform of this host, in buildx' words."""

_ALIASES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "i386": ("386", ""),
}
_ARCHITECTURES = {
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64",
    "ppc64le", "riscv64", "s390x", "wasm",
}  # fmt: skip
_SYSTEMS = {
    "aix", "android", "darwin", "freebsd", "linux", "netbsd", "openbsd", "solaris", "wasi",
    "windows",
}  # fmt: skip
_HINT = "write os/architecture, as in linux/amd64"


class Platform(NamedTuple):
    """What an image runs on."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        """Return ``linux/amd64`` or ``linux/arm/v7``."""
        return "/".join(part for part in self if part)

    def serves(self, wanted: Platform) -> bool:
        """Return whether what is for this platform runs where ``wanted`` does.

        Of two variants the lower one does; one that is not given is any.
        """
        if (self.os, self.architecture) != (wanted.os, wanted.architecture):
            return False
        return not (self.variant and wanted.variant) or self.variant <= wanted.variant


def normalized(system: str, architecture: str, variant: str = "") -> Platform:
    """Return a platform in the words that are usual: ``arm64/v8`` is ``arm64``."""
    architecture, implied = _ALIASES.get(architecture, (architecture, ""))
    variant = variant or implied
    if (architecture, variant) in {("amd64", "v1"), ("arm64", "v8")}:
        variant = ""
    return Platform(system, architecture, variant)


def platform_of(text: str, native: Platform) -> Platform:
    """Return the platform that ``text`` names.

    Args:
        text: ``linux/arm64``, ``linux/arm/v7``; ``arm64`` and ``linux`` alone; ``local``.
        native: Of this host, for what is left out.

    Raises:
        InputError: Not one.
    """
    parts = text.strip().lower().split("/")
    if parts == [LOCAL]:
        return native
    if len(parts) == 1 and parts[0] in _SYSTEMS:
        return Platform(parts[0], native.architecture, native.variant)
    if len(parts) == 1 and _ALIASES.get(parts[0], parts)[0] in _ARCHITECTURES:
        return normalized("linux", parts[0])
    if not 2 <= len(parts) <= 3 or not all(part.isascii() and part for part in parts):
        raise InputError(f"{text!r} is not a platform", hint=_HINT)
    return normalized(*parts)


def parse_platform(text: str, span: SourceSpan, native: Platform) -> Platform:
    """Return the platform that ``text`` in a Dockerfile names; see :func:`platform_of`.

    Raises:
        SpecError: Not one.
    """
    try:
        return platform_of(text, native)
    except InputError as err:
        raise SpecError(err.message, span, hint=err.hint) from err


def platform_args(build: Platform, target: Platform) -> dict[str, str]:
    """Return the predefined arguments that describe the platforms."""
    values: dict[str, str] = {}
    for prefix, platform in (("BUILD", build), ("TARGET", target)):
        values |= {
            f"{prefix}PLATFORM": str(platform),
            f"{prefix}OS": platform.os,
            f"{prefix}ARCH": platform.architecture,
            f"{prefix}VARIANT": platform.variant,
        }
    return values


def native_platform() -> Platform:
    """Return what runs on this host without help."""
    from layerstore.image.images import host_platform

    return normalized("linux", *host_platform())
