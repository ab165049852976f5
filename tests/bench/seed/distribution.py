"""The distribution: a Debian root file system of about 800 MB, made once and kept."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING

from tests.bench import debian
from tests.bench.harness import say

if TYPE_CHECKING:
    from pathlib import Path

SUITE = "bookworm"
PACKAGES = (
    "ca-certificates",
    "g++",
    "gcc",
    "make",
    "nginx-light",
    "nodejs",
    "openjdk-17-jre-headless",
    "openssl",
    "python3",
    "python3-venv",
)
"""What a house's common base may hold: every language its applications are written in."""


def make_distribution(place: Path) -> Path:
    """Return the root of the distribution below ``place``, made if it is not there."""
    root, described = place / "root", place / "distribution.json"
    if described.exists():
        return root
    say(f"making the distribution: {SUITE} with {', '.join(PACKAGES)}")
    shutil.rmtree(root, ignore_errors=True)
    place.mkdir(parents=True, exist_ok=True)
    debian.bootstrap_tree(SUITE, root, include=PACKAGES)
    described.write_text(json.dumps({"packages": debian.packages_of(root)}, indent=1) + "\n")
    return root


def allocated(*places: Path) -> int:
    """Return the bytes that directories take on the disk, as ``du`` counts: links once.

    What is mounted below them is not theirs.
    """
    words = ["du", "--summarize", "--total", "--one-file-system", "--block-size=1"]
    words += map(str, places)
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return int(done.stdout.splitlines()[-1].split()[0])
