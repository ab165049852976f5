"""Make the benchmark's corpora from Debian, PyPI and npm packages.

    python -m tests.bench.corpora DIR [CORPUS ...]

``related``  eleven root file systems of one organisation: a base, what is built on it, and the
             next release; each is a copy of its parent in which packages were installed.
``updates``  a Debian 11 root file system as released, and the same tree after its updates.
``wheels-PROJECT``  ten consecutive releases of a binary wheel, unpacked; four projects.

Trees are directories below DIR/CORPUS, in the order of their names; DIR/CORPUS/NAME.json
describes each (packages with versions, files, bytes). A tree appears when it is complete, so
an interrupted run is resumed by the next. Versions of what is installed by pip and npm are
pinned at the top; Debian gives what its suites hold on the day. Needs root (dpkg runs in the
trees), mmdebstrap, npm and the network that apt, pip and npm are set up for.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench import debian
from tests.bench.harness import grid, megabytes, say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PYTHON = ("python3", "python3-venv", "ca-certificates")
APP_1 = ("numpy==1.26.3", "pandas==2.1.4", "flask==3.0.0", "gunicorn==21.2.0")
APP_2 = ("numpy==1.26.4", "pandas==2.2.3", "flask==3.0.3", "gunicorn==22.0.0")
NODE_APP = (
    "express@4.19.2",
    "react@18.3.1",
    "react-dom@18.3.1",
    "typescript@5.4.5",
    "webpack@5.91.0",
    "eslint@8.57.0",
    "lodash@4.17.21",
    "moment@2.30.1",
    "axios@1.6.8",
    "@babel/core@7.24.5",
    "jest@29.7.0",
    "core-js@3.37.0",
)
SERVER = (
    "apache2",
    "bind9-dnsutils",
    "ca-certificates",
    "curl",
    "git",
    "gnupg",
    "imagemagick",
    "less",
    "libxml2-utils",
    "nginx",
    "openssh-server",
    "openssl",
    "perl",
    "php-cli",
    "postgresql-client",
    "python3",
    "python3-venv",
    "rsync",
    "sudo",
    "vim",
)
"""What a server's image may hold: the tree whose updates are applied."""

WHEELS = {
    "cryptography": "45.0.5 45.0.6 45.0.7 46.0.0 46.0.1 46.0.2 46.0.3 46.0.4 46.0.5 46.0.6",
    "lxml": "5.2.2 5.3.0 5.3.1 5.3.2 5.4.0 6.0.0 6.0.1 6.0.2 6.0.3 6.0.4",
    "numpy": "2.2.4 2.2.5 2.2.6 2.3.0 2.3.1 2.3.2 2.3.3 2.3.4 2.3.5 2.4.0",
    "pydantic-core": "2.39.0 2.40.0 2.40.1 2.41.0 2.41.1 2.41.2 2.41.4 2.41.5 2.42.0 2.45.0",
}
"""Ten releases each, consecutive among those that were not withdrawn and have this wheel."""


WHEELS_OF_311 = (
    "--only-binary=:all:",
    "--implementation=cp",
    "--python-version=3.11",
    "--platform=manylinux2014_x86_64",
    "--platform=manylinux_2_27_x86_64",
    "--platform=manylinux_2_28_x86_64",
)
"""What pip takes: bookworm's Python, whichever Python runs this."""


@dataclass(frozen=True)
class Recipe:
    """One tree: how to fill the directory that does not exist yet.

    Attributes:
        parent: The tree it begins as a copy of, or none.
        make: What is done then.
    """

    name: str
    make: Callable[[Path], None]
    parent: str | None = None


def _packages(*names: str) -> Callable[[Path], None]:
    return lambda tree: debian.install(tree, names)


def pip_app(*requirements: str) -> Callable[[Path], None]:
    """Install wheels for the tree's Python, compiled there as pip would do inside."""

    def make(tree: Path) -> None:
        site = tree / "opt" / "app" / "lib" / "python3.11" / "site-packages"
        command = [sys.executable, "-m", "pip", "--quiet", "install", "--no-compile"]
        command += [*WHEELS_OF_311, "--target", str(site)]
        subprocess.run([*command, *requirements], check=True)
        inside = f"/{site.relative_to(tree)}"
        debian.run_in(tree, "/usr/bin/python3.11", "-m", "compileall", "-q", inside)

    return make


def _npm_app(*packages: str) -> Callable[[Path], None]:
    """Install npm packages without running their scripts."""

    def make(tree: Path) -> None:
        app = tree / "srv" / "app"
        app.mkdir(parents=True)
        (app / "package.json").write_text('{"name": "app", "version": "1.0.0", "private": true}\n')
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        subprocess.run([*command, *packages], check=True, cwd=app, stdout=sys.stderr)

    return make


def _bootstrap(suite: str) -> Callable[[Path], None]:
    return lambda tree: debian.bootstrap_tree(suite, tree)


RELATED = (
    Recipe("01-base", _bootstrap("bookworm")),
    Recipe("02-python", _packages(*PYTHON), "01-base"),
    Recipe("03-app-1", pip_app(*APP_1), "02-python"),
    Recipe("04-app-2", pip_app(*APP_2), "02-python"),
    Recipe("05-node", _packages("nodejs", "ca-certificates"), "01-base"),
    Recipe("06-node-app", _npm_app(*NODE_APP), "05-node"),
    Recipe("07-nginx", _packages("nginx"), "01-base"),
    Recipe("08-jre", _packages("openjdk-17-jre-headless"), "01-base"),
    Recipe("09-gcc", _packages("gcc", "g++", "make"), "01-base"),
    Recipe("10-trixie", _bootstrap("trixie")),
    Recipe("11-trixie-python", _packages(*PYTHON), "10-trixie"),
)

UPDATES = (
    Recipe(
        "1-released",
        lambda tree: debian.bootstrap_tree("bullseye", tree, include=SERVER, as_released=True),
    ),
    Recipe("2-updated", debian.upgrade, "1-released"),
)


def _wheel(project: str, version: str) -> Callable[[Path], None]:
    def make(tree: Path) -> None:
        with tempfile.TemporaryDirectory() as download:
            command = [sys.executable, "-m", "pip", "--quiet", "download", "--no-deps"]
            command += [*WHEELS_OF_311, "--dest", download, f"{project}=={version}"]
            subprocess.run(command, check=True)
            (found,) = Path(download).glob("*.whl")
            with zipfile.ZipFile(found) as archive:
                archive.extractall(tree)

    return make


def _series(project: str, versions: str) -> tuple[Recipe, ...]:
    return tuple(
        Recipe(f"{number:02}-{project}-{version}", _wheel(project, version))
        for number, version in enumerate(versions.split(), 1)
    )


CORPORA = {
    "related": RELATED,
    "updates": UPDATES,
    **{f"wheels-{project}": _series(project, versions) for project, versions in WHEELS.items()},
}


def make_corpus(cache: Path, corpus: str) -> list[Path]:
    """Make what is missing of a corpus below ``cache`` and return its trees in order."""
    place = cache / corpus
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one maker at a time, whoever comes second uses it
        for recipe in CORPORA[corpus]:
            if not (place / f"{recipe.name}.json").exists():
                say(f"making {corpus}/{recipe.name}")
                _make(place, recipe)
    return trees_of(cache, corpus)


def trees_of(cache: Path, corpus: str) -> list[Path]:
    """Return the trees of a corpus in order, as far as they are made."""
    place = cache / corpus
    return [
        place / recipe.name
        for recipe in CORPORA[corpus]
        if (place / f"{recipe.name}.json").exists()
    ]


def _make(place: Path, recipe: Recipe) -> None:
    tree, part = place / recipe.name, place / f"{recipe.name}.part"
    for old in (tree, part):
        shutil.rmtree(old, ignore_errors=True)
    if recipe.parent is not None:
        debian.derive(place / recipe.parent, part)
    recipe.make(part)
    part.rename(tree)
    files, size = count(tree)
    described = {"parent": recipe.parent, "files": files, "logical_bytes": size}
    if (tree / "var" / "lib" / "dpkg" / "status").exists():
        described["packages"] = debian.packages_of(tree)
    (place / f"{recipe.name}.json").write_text(json.dumps(described, indent=1) + "\n")


def count(tree: Path) -> tuple[int, int]:
    """Return (entries, bytes of regular files with hard links counted once) of a tree."""
    entries = size = 0
    seen: set[int] = set()
    for host, folders, names in os.walk(tree):
        entries += len(folders) + len(names)
        for name in names:
            info = os.lstat(os.path.join(host, name))
            if stat.S_ISREG(info.st_mode) and info.st_ino not in seen:
                seen.add(info.st_ino)
                size += info.st_size
    return entries + 1, size


def describe(cache: Path, corpora: Sequence[str]) -> str:
    """Return a table of what there is."""
    rows = []
    for corpus in corpora:
        described = [
            (tree.name, json.loads(tree.with_name(tree.name + ".json").read_text()))
            for tree in trees_of(cache, corpus)
        ]
        rows += [
            (f"{corpus}/{name}", f"{one['files']:,}", megabytes(one["logical_bytes"]))
            for name, one in described
        ]
        files = sum(one["files"] for _, one in described)
        size = sum(one["logical_bytes"] for _, one in described)
        rows.append((f"{corpus}, all", f"{files:,}", megabytes(size)))
    return grid(("tree", "entries", "logical MB"), rows)


def add_corpora(parser: argparse.ArgumentParser, cache_help: str) -> None:
    """Declare the arguments CACHE and CORPUS."""
    parser.add_argument("cache", type=Path, help=cache_help)
    parser.add_argument(
        "corpora",
        nargs="*",
        type=_corpus,
        metavar="CORPUS",
        help=f"of {', '.join(CORPORA)}; default: all",
    )


def _corpus(name: str) -> str:
    if name not in CORPORA:
        raise argparse.ArgumentTypeError(f"no such corpus: {name}")
    return name


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests.bench.corpora", description=__doc__.splitlines()[0]
    )
    add_corpora(parser, "directory that keeps the corpora (about 5 GB)")
    return parser.parse_args()


def main() -> int:
    given = parse_arguments()
    chosen = given.corpora or list(CORPORA)
    for corpus in chosen:
        make_corpus(given.cache.absolute(), corpus)
    print(describe(given.cache.absolute(), chosen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
