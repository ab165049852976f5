"""Fetch the packages whose real files the simulation learns from: a sample, into a cache.

    python -m tests.bench.registry fetch CACHE

Debian's packages that the model's images hold most bytes of, some at random from the rest,
and the previous version of those that have one in the index; pip's wheels and npm's packages
that the catalogue names, with what they need. Everything through apt-get, pip and npm as they
are set up here. What is there already is not fetched again.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.bench.corpora import WHEELS_OF_311
from tests.bench.harness import say
from tests.bench.registry.catalogue import NPM, PIP
from tests.bench.registry.index import Package, Resolver, read_index
from tests.bench.registry.packages import apt_rank, weights_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BUDGET_BYTES = 200_000_000
"""Of archives of Debian, most useful first."""
HEAD = 60  # of those with most bytes; then those at random, then the rest
AT_RANDOM = 80
OLDER = 60
_LARGEST_BYTES = 15_000_000


def fetch_all(cache: Path) -> None:
    """Fill the cache."""
    fetch_debian(cache / "deb")
    fetch_wheels(cache / "pip")
    fetch_npm(cache / "npm")


def fetch_debian(place: Path) -> None:
    """Fetch Debian's sample; ``chosen.json`` says what and why."""
    place.mkdir(parents=True, exist_ok=True)
    index = read_index()
    chosen = choose(index)
    older = [n for n in chosen if index[n].older and index[n].size < _LARGEST_BYTES][:OLDER]
    _download(place, [f"{name}={index[name].version}" for name in chosen])
    _download(place, [f"{name}={index[name].older[0]}" for name in older])
    (place / "chosen.json").write_text(
        json.dumps({"chosen": chosen, "older": older}, indent=1) + "\n"
    )


def choose(index: dict[str, Package]) -> list[str]:
    """Return names: by how many bytes of the model's images are theirs, then at random."""
    resolver = Resolver(index)
    weights = weights_of(index, resolver, apt_rank(index))
    ranked = sorted(weights, key=lambda n: (-weights[n] * index[n].installed, n))
    source = random.Random("sample")
    others = sorted(set(index) - set(ranked))
    taken, spent = [], 0
    rest = source.sample(ranked[HEAD:], AT_RANDOM // 2) + source.sample(others, AT_RANDOM // 2)
    for name in dict.fromkeys([*ranked[:HEAD], *rest, *ranked[HEAD:]]):
        if index[name].size < _LARGEST_BYTES and spent + index[name].size < BUDGET_BYTES:
            taken.append(name)
            spent += index[name].size
    return taken[:420]


def _download(place: Path, wanted: Sequence[str]) -> None:
    done = place / "fetched.json"
    had = set(json.loads(done.read_text())) if done.exists() else set()
    missing = [item for item in wanted if item not in had]
    for start in range(0, len(missing), 50):
        batch = missing[start : start + 50]
        command = ["apt-get", "-o", "APT::Sandbox::User=root", "-qq", "download", *batch]
        subprocess.run(command, check=True, cwd=place)
        had.update(batch)
        done.write_text(json.dumps(sorted(had)))
        say(f"{len(had)} packages of Debian in {place.name}")


def fetch_wheels(place: Path) -> None:
    """Fetch the current release of every project with what it needs, then older ones alone."""
    _pip(place / "current", [f"{name}=={v.split()[-1]}" for name, v in PIP.items()], deps=True)
    older = [f"{name}=={v}" for name, versions in PIP.items() for v in versions.split()[:-1]]
    for item in older:
        _pip(place / "older", [item], deps=False)


def _pip(place: Path, wanted: list[str], *, deps: bool) -> None:
    stamp = place / f".{wanted[0]}" if not deps else place / ".current"
    if stamp.exists():
        return
    place.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "--quiet", "download", *WHEELS_OF_311]
    command += ["--dest", os.fspath(place), *wanted, *([] if deps else ["--no-deps"])]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        say(f"pip did not give {', '.join(wanted)[:200]}: {done.stderr[-400:]}")
        if deps:
            raise SystemExit(1)
        return
    stamp.touch()


def fetch_npm(place: Path) -> None:
    """Install everything current into one project, and older releases each into its own."""
    current = [f"{name}@{versions.split()[-1]}" for name, versions in NPM.items()]
    _npm(place / "current", current)
    for name, versions in NPM.items():
        for version in versions.split()[:-1]:
            _npm(place / "older" / f"{name.replace('/', '+')}@{version}", [f"{name}@{version}"])


def _npm(place: Path, wanted: Sequence[str]) -> None:
    if (place / "package-lock.json").exists():
        return
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    (place / "package.json").write_text('{"name": "app", "version": "1.0.0", "private": true}\n')
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
    subprocess.run([*command, *wanted], check=True, cwd=place, stdout=sys.stderr)
