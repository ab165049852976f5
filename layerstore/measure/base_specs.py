"""Specs of proposed bases: a Dockerfile, or a native spec."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from layerstore.measure.placed import NPM, PIP

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from layerstore.measure.placed import Place
    from layerstore.measure.suggest import Base

NAMELESS = "base"
"""In specs, for what images have in common where the store has no image of it under a name."""

_CERTIFICATES = "--mount=type=secret,id=ca-certificates,target=/run/secrets/ca-certificates.crt"
_PIP_MOUNTS = (
    "--mount=type=cache,target=/root/.cache/pip",
    "--mount=type=secret,id=pip.conf,target=/etc/pip.conf",
    _CERTIFICATES,
)
_NPM_MOUNTS = (
    "--mount=type=cache,target=/root/.npm",
    "--mount=type=secret,id=npmrc,target=/root/.npmrc",
    _CERTIFICATES,
)
_NATIVE_VENV = "/opt/venv"
_NATIVE_NPM = "/opt/npm"


def dockerfile_of(base: Base) -> str:
    """Return a Dockerfile that makes a proposed base."""
    text = f"FROM {base.below or NAMELESS}\n"
    if base.packages:
        text += _apt(base.packages)
    for place, packages in base.others.items():
        text += _pip(place, packages) if place.kind == PIP else _npm(place, packages)
    return text


def _apt(packages: tuple[str, ...]) -> str:
    """Install packages of Debian; ``docker-clean`` stays, for what is built over the base.

    It empties the cache mount; without it every apt-get of a spec would leave 80 MB of caches.
    """
    mounts = " \\\n    ".join(
        f"--mount=type=cache,target={path},sharing=locked"
        for path in ("/var/cache/apt", "/var/lib/apt/lists")
    )
    words = " \\\n      ".join(packages)
    return (
        f"RUN {mounts} \\\n"
        "    apt-get update \\\n"
        f" && apt-get install -y --no-install-recommends \\\n      {words} \\\n"
        " && rm -rf /var/log/apt /var/log/dpkg.log /var/cache/ldconfig\n"
    )


def _pip(place: Place, packages: tuple[str, ...]) -> str:
    """Install exact versions; they are all there, so nothing is to be resolved."""
    mounts = " \\\n    ".join(_PIP_MOUNTS)
    words = " \\\n      ".join(packages)
    if place.own:
        pip = f"{place.folder}/bin/pip"
        first = f"([ -x {pip} ] || {place.python} -m venv {place.folder}) \\\n && {pip}"
    else:
        first = f"PIP_BREAK_SYSTEM_PACKAGES=1 {place.python} -m pip"
    return f"RUN {mounts} \\\n    {first} install --no-deps \\\n      {words}\n"


def _npm(place: Place, packages: tuple[str, ...]) -> str:
    mounts = " \\\n    ".join(_NPM_MOUNTS)
    words = " \\\n      ".join(packages)
    command = f"npm install --no-save --no-package-lock --prefix {place.folder}"
    return f"RUN {mounts} \\\n    {command} \\\n      {words}\n"


def native_spec_of(base: Base) -> str:
    """Return a native spec that makes a proposed base.

    It has one virtual environment and one directory for npm; a comment names what it cannot say.
    """
    lines = [f'base = "{base.below or NAMELESS}"', f'tags = ["{base.name}"]', ""]
    if base.packages:
        lines += ["[packages]", "apt = [", *_listed(base.packages), "]"]
    said: set[str] = set()
    for place, packages in base.others.items():
        manager = "pip" if place.kind == PIP else "npm"
        if not place.own or manager in said:
            lines += ["", f"# not as a native spec has it: {manager} into {place.folder}:"]
            lines += [f"#   {each}" for each in packages]
            continue
        said.add(manager)
        lines += ["", f"[packages.{manager}]", *_native_place(place)]
        lines += ["install = [", *_listed(packages), "]"]
    return "\n".join(lines) + "\n"


def _native_place(place: Place) -> Iterator[str]:
    if place.kind == PIP:
        if place.folder != _NATIVE_VENV:
            yield f"venv = {json.dumps(place.folder)}"
        yield f"python = {json.dumps(place.python)}"
    elif place.kind == NPM and place.folder != _NATIVE_NPM:
        yield f"dest = {json.dumps(place.folder)}"


def _listed(packages: tuple[str, ...]) -> list[str]:
    return [f'    "{name}",' for name in packages]


def place_to_json(others: Mapping[Place, tuple[str, ...]]) -> list[dict[str, object]]:
    """Return what pip and npm install, for JSON."""
    return [
        {
            "manager": "pip" if place.kind == PIP else "npm",
            "place": place.folder,
            "python": place.python,
            "packages": list(packages),
        }
        for place, packages in others.items()
    ]
