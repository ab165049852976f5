"""What pip's and npm's libraries bring along, from the metadata of what was fetched."""

from __future__ import annotations

import json
import re
import zipfile
from email.parser import Parser
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_REQUIRES = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
_NEVER = re.compile(
    r"extra\s*==|sys_platform\s*==\s*['\"]win|platform_system\s*==\s*['\"]Windows"
    r"|python_version\s*<|python_full_version\s*<|implementation_name\s*==\s*['\"]pypy"
    r"|platform_python_implementation\s*==\s*['\"]PyPy"
)


def canonical(name: str) -> str:
    """Return a project's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def wheels(place: Path) -> dict[str, Path]:
    """Return the wheels of a directory by ``name==version``."""
    found = {}
    for path in sorted(place.glob("*.whl")):
        name, version = path.name.split("-")[:2]
        found[f"{canonical(name)}=={version}"] = path
    return found


def wheel_needs(place: Path) -> dict[str, set[str]]:
    """Return what each project of a directory of wheels requires on Linux, by name."""
    needs = {}
    for key, path in wheels(place).items():
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
            headers = Parser().parsestr(archive.read(name).decode("utf-8", "replace"))
        lines = [line for line in headers.get_all("Requires-Dist") or () if not _NEVER.search(line)]
        matches = (_REQUIRES.match(line) for line in lines)
        needs[key.partition("==")[0]] = {canonical(m.group(1)) for m in matches if m}
    return needs


def lock_needs(project: Path) -> dict[str, set[str]]:
    """Return what each directory of packages of an npm project requires, by those directories."""
    lock = json.loads((project / "package-lock.json").read_text())["packages"]
    needs = {}
    for path, package in lock.items():
        if path and (project / path).is_dir():
            wanted = {*package.get("dependencies", ()), *package.get("optionalDependencies", ())}
            needs[path] = {found for name in wanted if (found := _resolve(lock, path, name))}
    return needs


def _resolve(lock: dict[str, object], path: str, name: str) -> str | None:
    """Return where Node finds a package that one in ``path`` requires."""
    while True:
        candidate = f"{path}/node_modules/{name}" if path else f"node_modules/{name}"
        if candidate in lock:
            return candidate
        if not path:
            return None
        path = path.rpartition("/node_modules/")[0] if "/node_modules/" in path else ""


def closure(needs: dict[str, set[str]], names: Iterable[str]) -> frozenset[str]:
    """Return names and all they need, as far as it is known."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name in needs and name not in found:
            found.add(name)
            todo.extend(needs[name])
    return frozenset(found)


class Needs:
    """Closures of libraries out of the cache of fetched packages."""

    def __init__(self, cache: Path) -> None:
        self._needs = {
            "pip": wheel_needs(cache / "pip" / "current"),
            "npm": lock_needs(cache / "npm" / "current"),
        }
        self._found: dict[tuple[str, str], frozenset[str]] = {}

    def __call__(self, ecosystem: str, name: str) -> frozenset[str]:
        """Return a library and what comes with it; an invented one comes alone."""
        key = ecosystem, name
        if key not in self._found:
            own = f"node_modules/{name}" if ecosystem == "npm" else name
            names = closure(self._needs[ecosystem], [own])
            self._found[key] = frozenset(n.removeprefix("node_modules/") for n in names) | {name}
        return self._found[key]
