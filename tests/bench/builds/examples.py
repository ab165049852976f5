"""Dockerfile-examples/ in words that docker's old builders know.

Cache mounts, ``--link`` and ``--chmod`` are left out, for everybody alike; secrets that lead
package managers to a mirror become files that are copied. What then is left and not known to all
(here-documents, ``--parents``, ``--exclude``, bind mounts) is not compared.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.builds.project import Project
from tests.bench.harness import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.builds.packages import PackageCache

EXAMPLES = Path(__file__).parents[3] / "Dockerfile-examples"

_MOUNT = re.compile(r"--mount=(\S+)\s*(?:\\\n\s*)?")
_FILES = {"pip.conf": "/etc/pip.conf", "npmrc": "/root/.npmrc"}
_NOT_FOR_ALL = re.compile(r"<<-?['\"]?\w|--parents|--exclude|--mount=type=bind|# syntax=", re.ASCII)


def examples(work: Path, packages: PackageCache) -> Iterator[Project]:
    """Yield those of the examples that every builder understands, copied and rewritten."""
    for source in sorted(EXAMPLES.iterdir()):
        dockerfile = source / "Dockerfile"
        if not dockerfile.is_file():
            continue
        text = _rewritten(dockerfile.read_text())
        if _NOT_FOR_ALL.search(text) or not text.count("FROM debian:bookworm"):
            say(f"{source.name}: not in words that all builders know")
            continue
        target = work / source.name
        shutil.copytree(source, target)
        (target / "Dockerfile").write_text(text)
        (target / "pip.conf").write_bytes(packages.pip_configuration())
        (target / "npmrc").write_bytes(packages.npm_configuration())
        file = _a_copied_file(text, target)
        if file is None:
            say(f"{source.name}: takes no file of its own that could change")
            continue
        yield Project(source.name, target, file)


def _rewritten(text: str) -> str:
    """Return a Dockerfile without what changes no image."""
    lines = []
    for instruction in re.split(r"(?m)^(?=[A-Z]+ )", text):
        copied = [name for name in _FILES if f"id={name}," in instruction]
        lines += [f"COPY {name} {_FILES[name]}\n" for name in copied]
        kept = _MOUNT.sub(
            lambda found: found[0] if found[1].startswith("type=bind") else "", instruction
        )
        lines.append(re.sub(r" --(link|chmod=\S+)(?= )", "", kept) if "COPY" in kept[:5] else kept)
    return "".join(lines)


def _a_copied_file(text: str, context: Path) -> Path | None:
    """Return a file that the last COPY from the context takes; None if there is none."""
    for line in reversed(text.splitlines()):
        words = line.split()
        if words[:1] != ["COPY"] or any(word.startswith("--from") for word in words):
            continue
        sources = [word for word in words[1:-1] if not word.startswith("--")]
        for name in sources:
            path = context / name
            files = [path] if path.is_file() else sorted(path.rglob("*"))
            for file in files:
                if file.is_file():
                    return file
    return None
