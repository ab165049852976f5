"""The root file system in layers, as a Dockerfile leaves it that installs one thing after another.

The first layer is what every Debian has and what that depends on, then come three of other
packages, the Python packages, and the C sources. Every installation writes dpkg's database and
the linker's cache again.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

INSTALLATIONS = 3
_OF_EVERY_DEBIAN = frozenset({"required", "important"})
_REWRITTEN = ("var/lib/dpkg/status", "var/lib/dpkg/status-old", "etc/ld.so.cache")
_LAST = ("opt", "usr/src")
"""What is no package's, a layer each."""


def installed_layers(tree: Path) -> Sequence[list[str]]:
    """Return the paths of each layer, directories above them included, lowest layer first."""
    owners = _owners(tree)
    installed = 1 + INSTALLATIONS
    layers: list[set[str]] = [set() for _ in range(installed + len(_LAST))]
    for host, folders, names in os.walk(tree):
        below = os.path.relpath(host, tree)
        for name in [*folders, *names]:
            path = name if below == "." else f"{below}/{name}"
            own = [n for n, top in enumerate(_LAST) if f"{path}/".startswith(f"{top}/")]
            number = installed + own[0] if own else owners.get(_real(path), 0)
            layers[number].update(_with_parents(path))
    for layer in layers[1:installed]:
        for path in _REWRITTEN:
            if (tree / path).exists():
                layer.update(_with_parents(path))
    return [sorted(layer) for layer in layers]


def _owners(tree: Path) -> dict[str, int]:
    """Return in which installation the files of packages beyond every Debian's came."""
    database = tree / "var/lib/dpkg"
    added = sorted(_added_packages((database / "status").read_text()))
    owners = {}
    for place, package in enumerate(added):
        number = 1 + place * INSTALLATIONS // len(added)
        for name in (f"{package}.list", f"{package}:amd64.list"):
            listed = database / "info" / name
            if listed.exists():
                owners[f"var/lib/dpkg/info/{name}"] = number
                for line in listed.read_text().splitlines():
                    path = line.lstrip("/")
                    if "/" in path and ((tree / path).is_symlink() or not (tree / path).is_dir()):
                        owners[_real(path)] = number
    return owners


def _added_packages(status: str) -> list[str]:
    """Return the packages that nothing every Debian has depends on."""
    needs: dict[str, list[str]] = {}
    pending = []
    for paragraph in filter(None, status.split("\n\n")):
        lines = [line for line in paragraph.splitlines() if ": " in line and line[0] != " "]
        fields = dict(line.split(": ", 1) for line in lines)
        wanted = f"{fields.get('Depends', '')},{fields.get('Pre-Depends', '')}"
        needs[fields["Package"]] = re.findall(r"[,|] *([a-z0-9][a-z0-9.+-]+)", f",{wanted}")
        if fields.get("Priority") in _OF_EVERY_DEBIAN:
            pending.append(fields["Package"])
    base: set[str] = set()
    while pending:
        package = pending.pop()
        if package not in base:
            base.add(package)
            pending += needs.get(package, [])
    return [package for package in needs if package not in base]


def _real(path: str) -> str:
    """Return where a file of a package is in a Debian whose /bin and /lib are links to /usr."""
    top = path.partition("/")[0]
    return f"usr/{path}" if top in ("bin", "sbin", "lib", "lib64") and "/" in path else path


def _with_parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
